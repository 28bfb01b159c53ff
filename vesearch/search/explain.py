"""Find the spots of matches that look most like what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vesearch.config import CropSettings
from vesearch.describe import cover_at, cut_crops, enlarged, point_of, read_covers
from vesearch.embedders import Embedder, MappedEmbedder
from vesearch.errors import VesearchError
from vesearch.records import Bool, Crop, Entities, Float32, Frame, Int64, Match, Spot
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot

_LETTERS = "abcd"
_SIDE = 448  # px, of a crop: twice what is embedded, so that the map is as fine as its cover
_APART = 0.22  # of the crop's side, between two spots of what was asked for
_LEAST = 0.35  # similarity below which a place of a match is none of them
_BACK = 0.15  # of the crop's side, by which what a spot is most like may miss where it came from
_INSIDE = 0.5  # cover from which a cell is the entity's


def with_spots(
    matches: Sequence[Match],
    example: tuple[Frame, Entities],
    embedder: Embedder,
    snapshot: Snapshot,
    settings: CropSettings,
) -> tuple[Match, ...]:
    """Return matches with the spots that look most like an entity, one of a photo's.

    The same places of the entity for all of them, those that agree best with all. Raises
    VesearchError for an embedder that tells of no places.
    """
    if not isinstance(embedder, MappedEmbedder):
        raise VesearchError("this embedder tells of no places: --explain needs builtin or simclr")
    crops = [cut_crops(*example, settings)[0]]
    crops += [snapshot.crop_of(match.entity_id) or Crop(b"") for match in matches]
    cells = [_Cells.of(crop, embedder) for crop in crops]
    found = _spots(cells[0], cells[1:])
    frame, entities = example
    size = frame.width, frame.height
    explained = []
    for match, spots in zip(matches, found, strict=True):
        known = snapshot.catalog.image(match.entity_id // RANKS)
        own: list[Spot] = []
        if known is not None:
            wide, high = known.shot.width, known.shot.height
            box = np.array(match.box_xyxy, np.float32)
            own = [
                Spot(
                    _LETTERS[letter],
                    point_of(box, settings, (wide, high), there),
                    point_of(entities.boxes_xyxy[0], settings, size, here),
                    similarity,
                )
                for letter, here, there, similarity in spots
            ]
        explained.append(replace(match, spots=tuple(own)))
    return tuple(explained)


_Found = tuple[int, tuple[float, float], tuple[float, float], float]


class _Cells:
    """The local features of a crop's entity.

    features: (n, c), normalised. places: (n, 2), the centre of each, in units of the crop's side.
    """

    def __init__(self, features: Float32, places: Float32) -> None:
        self.features = features
        self.places = places

    @classmethod
    def of(cls, crop: Crop, embedder: MappedEmbedder) -> _Cells:
        """Return those of a crop; none where there is no picture."""
        if not crop.jpeg:
            return cls(np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
        grid = embedder.maps(enlarged(crop, _SIDE)[None])[0]  # (h, w, c)
        height, width = grid.shape[:2]
        inside = _inside(read_covers([crop])[0], (height, width))
        features = grid[inside]
        # what every cell has in common tells nothing of places
        features = features - grid.mean((0, 1))
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
        y, x = np.nonzero(inside)
        places = np.stack([(x + 0.5) / width, (y + 0.5) / height], 1).astype(np.float32)
        return cls(features, places)


def _inside(cover: Float32, size_hw: tuple[int, int]) -> Bool:
    """Return which cells of a map lie in the mask; all where the mask is next to nothing."""
    inside: Bool = cover_at(cover, size_hw) >= _INSIDE
    return inside if inside.sum() >= len(_LETTERS) else np.ones(size_hw, bool)


def _spots(asked: _Cells, matches: Sequence[_Cells]) -> list[list[_Found]]:
    """Return for each match the letters, both places, and similarities of its spots."""
    there = [cells for cells in matches if len(cells.features)]
    if not there or not len(asked.features):
        return [[] for _ in matches]
    agreement = np.mean([(asked.features @ c.features.T).max(1) for c in there], 0)  # (n,)
    anchors = _apart(asked.places, agreement)
    return [_of_match(asked, cells, anchors) if len(cells.features) else [] for cells in matches]


def _apart(places: Float32, agreement: Float32) -> list[int]:
    """Return the cells that agree best, none too near to a better one."""
    chosen: list[int] = []
    for cell in np.argsort(-agreement, kind="stable").tolist():
        distances = np.linalg.norm(places[chosen] - places[cell], axis=1)
        if (distances >= _APART).all():
            chosen.append(cell)
        if len(chosen) == len(_LETTERS):
            break
    return chosen


def _of_match(asked: _Cells, cells: _Cells, anchors: Sequence[int]) -> list[_Found]:
    similarities = asked.features @ cells.features.T  # (n, m)
    best: Int64 = similarities[list(anchors)].argmax(1)
    found: list[_Found] = []
    for letter, (anchor, cell) in enumerate(zip(anchors, best.tolist(), strict=True)):
        similarity = float(similarities[anchor, cell])
        back = int(similarities[:, cell].argmax())  # of what was asked for, most like that cell
        missed = float(np.linalg.norm(asked.places[back] - asked.places[anchor]))
        if similarity >= _LEAST and missed <= _BACK:
            here, spot = asked.places[anchor].tolist(), cells.places[cell].tolist()
            found.append((letter, (here[0], here[1]), (spot[0], spot[1]), similarity))
    return found
