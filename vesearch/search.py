"""The one query path: a photo's entities, and what is most similar to one of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vesearch.config import Config
from vesearch.describe import embed_boxes, find_entities
from vesearch.errors import ImageError, StoreMissingError, VesearchError
from vesearch.job import Job
from vesearch.records import Entities, Float32, Frame, Int64, Match
from vesearch.store import builds
from vesearch.store.builds import Build
from vesearch.store.catalog import Catalog
from vesearch.store.entities import to_rows
from vesearch.store.rows import RANKS, STRIDE, EntityRows

if TYPE_CHECKING:
    from vesearch.drawing.sheets import MatchPhoto

_TABLES_KEPT = 64  # shards of entities, about 1 MB each


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A query photo and its entities, in pixels of the upright photo."""

    path: str
    frame: Frame
    entities: Entities
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """A query's answer. selected: the chosen entity, 1-based; None when none was chosen."""

    look: Look
    selected: int | None
    matches: tuple[Match, ...]
    timings_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Wish:
    """Which matches are wanted.

    per_image: at most one match per photo; include_self: also those in the query photo itself.
    """

    top: int = 10
    per_image: bool = True
    include_self: bool = False


class Searcher:
    """A store opened for queries; everything is loaded on first use and then kept."""

    def __init__(self, config: Config) -> None:
        self.job = Job(config)
        self._tables: dict[int, tuple[EntityRows, dict[int, int], Int64]] = {}

    def ask(self, path: Path, entity: int | None, wish: Wish) -> Result:
        """Return a photo's entities and, for a chosen one (1-based), its matches."""
        if entity is not None:
            self.warm_up()  # says what is missing before the photo costs any time
        look = self.look(path)
        if entity is None:
            return Result(look, None, (), look.timings_ms)
        return self.search(look, entity, wish)

    def draw(self, result: Result, out: Path) -> None:
        """Draw an answer as a PNG file. Raises VesearchError when it cannot be written."""
        from vesearch.drawing import picture, sheets

        pixels, entities = result.look.frame.pixels, result.look.entities
        if result.selected is None:
            picture.save_png(sheets.draw_entities(pixels, entities), out)
            return
        with ThreadPoolExecutor(self.job.config.run.workers) as threads:
            photos = list(threads.map(self._photo, result.matches))
        sheet = sheets.draw_matches(pixels, entities, result.selected, photos)
        picture.save_png(sheet, out)

    def _photo(self, match: Match) -> MatchPhoto:
        from vesearch.drawing.sheets import MatchPhoto

        try:
            frame = self.job.decoders.read(Path(match.image))
        except ImageError:  # moved or gone since it was ingested
            return MatchPhoto(match, None, match.mask_size_hw)
        return MatchPhoto(match, frame.pixels, (frame.height, frame.width))

    def look(self, path: Path) -> Look:
        """Decode a photo and find its entities. Raises VesearchError when it cannot be read."""
        began = time.perf_counter()
        try:
            frame = self.job.decoders.read(path)
        except ImageError as err:
            raise VesearchError(f"{path}: {err}") from err
        decoded = time.perf_counter()
        entities = find_entities(self.job.detector, [frame])[0]
        timings = {"decode": decoded - began, "detect": time.perf_counter() - decoded}
        return Look(str(path), frame, entities, {k: v * 1e3 for k, v in timings.items()})

    def search(self, look: Look, entity: int, wish: Wish) -> Result:
        """Return the matches of a photo's entity (1-based). Raises VesearchError if none."""
        check_entity(look, entity)
        self._check_store()
        began = time.perf_counter()
        box = look.entities.boxes_xyxy[[entity - 1]]
        embedding = embed_boxes(self.job.embedder, look.frame, box, self.job.config.crop)
        embedded = time.perf_counter()
        vector = self._build.projection.project(embedding)
        matches = self._matches(vector, look.frame.digest, wish)
        timings = {"embed": embedded - began, "search": time.perf_counter() - embedded}
        all_ms = look.timings_ms | {k: v * 1e3 for k, v in timings.items()}
        return Result(look, entity, matches, all_ms)

    def warm_up(self) -> None:
        """Load everything a query needs."""
        self._check_store()
        _ = self._build, self._catalog

    @cached_property
    def _build(self) -> Build:
        return builds.load(self.job.store)

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.of(self.job.store)

    @cached_property
    def _paths(self) -> dict[int, list[str]]:
        return self._catalog.paths_by_image()

    def _check_store(self) -> None:
        self.job.open_for_reading()

    def _matches(self, vector: Float32, digest: str, wish: Wish) -> tuple[Match, ...]:
        """Ask the index for ever more rows until enough of them may be shown."""
        if not vector.any():  # nothing of the crop lies in the projection's directions
            return ()
        own = -1 if wish.include_self else self._catalog.by_digest.get(digest, -1)
        total = len(self._build.index)
        asked = min(total, wish.top * 4 + 20)
        while True:
            rows, similarities = self._build.index.search(vector, asked)
            shown = self._shown(rows[0], own, wish)
            if len(shown) == wish.top or asked == total:
                break
            asked = min(total, asked * 4)
        return tuple(
            self._match(rank, int(rows[0, i]), float(similarities[0, i]))
            for rank, i in enumerate(shown, 1)
        )

    def _shown(self, rows: Int64, own: int, wish: Wish) -> list[int]:
        """Return the positions in rows that are live and wanted, the best wish.top of them."""
        shown: list[int] = []
        seen = {own}
        for position, row in enumerate(rows.tolist()):
            image_id = int(self._build.image_ids[row])
            if image_id in seen or image_id not in self._paths:
                continue
            if self._row_of(int(self._build.entity_ids[row])) is None:
                continue  # its shard was made anew since, without it
            if wish.per_image:
                seen.add(image_id)
            shown.append(position)
            if len(shown) == wish.top:
                break
        return shown

    def _match(self, rank: int, row: int, similarity: float) -> Match:
        entity_id = int(self._build.entity_ids[row])
        image, *also_at = self._paths[int(self._build.image_ids[row])]
        rows, _, image_rows = self._entities(entity_id)
        entity = self._row_of(entity_id)
        assert entity is not None  # only those are shown
        x0, y0, x1, y1 = rows.boxes_xyxy[entity].tolist()
        height, width = rows.mask_sizes_hw[image_rows[entity]].tolist()
        return Match(
            rank=rank,
            image=image,
            also_at=tuple(also_at),
            entity_id=entity_id,
            box_xyxy=(x0, y0, x1, y1),
            peak_xy=(float(rows.peaks_xy[entity, 0]), float(rows.peaks_xy[entity, 1])),
            similarity=similarity,
            percentile=self._percentile(similarity),
            mask=rows.masks[entity],
            mask_size_hw=(height, width),
        )

    def _row_of(self, entity_id: int) -> int | None:
        """Return an entity's row in its shard, None where it is gone since the index was built."""
        rows, places, _ = self._entities(entity_id)
        row = places.get(entity_id)
        # compaction, which may have run since the catalogue was read, leaves blank rows
        return row if row is not None and rows.masks[row] else None

    def _entities(self, entity_id: int) -> tuple[EntityRows, dict[int, int], Int64]:
        """Return an entity's shard: its rows, the row of each id, each row's image.

        It is read once; a few are kept for the next query.
        """
        shard = entity_id // RANKS // STRIDE
        if shard not in self._tables:
            while len(self._tables) >= _TABLES_KEPT:
                self._tables.pop(next(iter(self._tables)))
            rows = self._read_shard(shard)
            places = {entity: row for row, entity in enumerate(rows.entity_ids().tolist())}
            self._tables[shard] = rows, places, rows.image_rows()
        return self._tables[shard]

    def _read_shard(self, shard: int) -> EntityRows:
        """Read a shard's entities; none where it was dropped, as compaction does."""
        try:
            return self.job.store.read(EntityRows, shard)
        except StoreMissingError:
            if Catalog.of(self.job.store).lives_in(shard):
                raise
            return to_rows([])

    def _percentile(self, similarity: float) -> float | None:
        pairs = self._build.pair_similarities
        if not len(pairs):
            return None
        return float(np.searchsorted(pairs, similarity) / len(pairs) * 100)


def check_entity(look: Look, entity: int) -> None:
    """Raise VesearchError unless the photo has an entity of that number."""
    count = len(look.entities)
    if not 1 <= entity <= count:
        has = f"entities 1 to {count}" if count > 1 else f"{count} entity" if count else "no entity"
        raise VesearchError(f"{look.path}: no entity {entity}; the photo has {has}")
