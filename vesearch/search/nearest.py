"""Find the entities that are nearest to a vector, and may be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesearch.alike import Layout, NearCopies, in_one_place
from vesearch.projection import normalised
from vesearch.question import Question
from vesearch.records import Float32, Int64
from vesearch.search.filters import Filter
from vesearch.search.matches import Found
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot

_LOOKED_AT = 8
_FOLDED = 400  # entities that are looked at for each match, where most of them are near-copies
_COPIES_WITHIN = 0.1  # of the similarity of what is shown: a near-copy is hardly less similar
_FILTERED = 4000  # nearest entities that are tried before all that a filter lets through are listed

_UNWANTED = 0.35  # what is not wanted counts so much of what is; see docs/retrieval.md


def vector_of(wanted: Sequence[Float32], unwanted: Sequence[Float32]) -> Float32:
    """Return the (1, k) vector to look for, of examples' vectors, (1, k) each."""
    away = np.concatenate(unwanted) if unwanted else np.zeros((0, 1), np.float32)
    return refined(np.concatenate(wanted), away)


def refined(wanted: Float32, unwanted: Float32, weight: float = _UNWANTED) -> Float32:
    """Return the (1, k) mean of (n, k) vectors, less so much of the mean of (m, k) others.

    J. Rocchio, Relevance feedback in information retrieval, 1971.
    """
    vector = wanted.mean(axis=0, keepdims=True)
    if len(unwanted):
        vector = vector - weight * unwanted.mean(axis=0, keepdims=True)
    return normalised(vector)


class Asking:
    """Asks the index for ever more of what is nearest, until it is enough.

    What a filter lets through is listed at once where that is little, and the index asked for it
    alone. Else the nearest of all are tried first, and it is listed where they are not enough.
    """

    FIRST = 20  # entities that are asked for at first, beside four for each match

    def __init__(self, snapshot: Snapshot, wanted: Filter, question: Question) -> None:
        self._index = snapshot.build.index
        self._wanted = wanted
        self._top = question.top
        self._allowed: Int64 | None = None
        self._total = len(self._index)
        self.asked = min(self._total, self._top * 4 + self.FIRST)
        if wanted.is_narrow():
            self._narrow()

    def _narrow(self) -> None:
        self._allowed = self._wanted.ids()
        self._total = min(self._total, len(self._allowed))
        self.asked = min(self._total, self._top * 4 + self.FIRST)

    def nearest(self, vectors: Float32) -> tuple[Int64, Float32]:
        """Return ids and similarities, (q, asked), of (q, dim) vectors."""
        return self._index.search(vectors, self.asked, self._allowed)

    @property
    def may_have_more(self) -> bool:
        """Whether not all has been asked for yet."""
        return self.asked < self._total

    def goes_on(self, shown: int) -> bool:
        """Say whether there may be more than are shown, and ask for more the next time."""
        if shown >= self._top or not self.may_have_more:
            return False
        if self._wanted.is_needed and self._allowed is None and self.asked * 4 > _FILTERED:
            self._narrow()
            return self._total > 0
        # of a time-lapse there may be no end: what folds is not looked for for ever
        if shown and self.asked >= self._top * _FOLDED:
            return False
        self.asked = min(self._total, self.asked * 4)
        return True


def nearest(
    snapshot: Snapshot, vector: Float32, own: set[int], wanted: Filter, question: Question
) -> list[Found]:
    """Return the best entities that may be shown; vector: (1, dim)."""
    if not vector.any():  # nothing of the crop lies in the projection's directions
        return []
    asking = Asking(snapshot, wanted, question)
    while True:
        ids, similarities = asking.nearest(vector)
        near = similarities[0] >= question.where.min_similarity
        picked = Picked(snapshot, own, question)
        candidates = zip(ids[0, near].tolist(), similarities[0, near].tolist(), strict=True)
        for entity_id, similarity in candidates:
            image_id, rank = divmod(entity_id, RANKS)
            layout = picked.layout_of(image_id)
            if layout is not None and wanted.allows(layout.image, rank):
                picked.add(Found(layout, entity_id, similarity))
                if picked.is_enough:
                    break
        if not near.all() or not asking.goes_on(len(picked.shown)):
            return picked.shown


class Picked:
    """What is shown of entities that come best first: at most as many as were asked for.

    Near-copies of what is shown are told with it, also those that come soon after the last; those
    of what is not wanted are not shown.
    """

    def __init__(self, snapshot: Snapshot, own: set[int], question: Question) -> None:
        self.shown: list[Found] = []
        self._snapshot = snapshot
        self._question = question
        self._copies = NearCopies(snapshot)
        self._unwanted = [
            Found(Layout(image), entity_id, -1.0)
            for entity_id in question.unwanted_ids
            if (image := snapshot.image(entity_id // RANKS)) and image.entities is not None
        ]
        self._seen = set(own)
        self._after = 0

    @property
    def is_enough(self) -> bool:
        """Whether what comes next would change nothing."""
        fold = self._question.where.fold
        full = len(self.shown) == self._question.top
        return full and self._after >= (_LOOKED_AT if fold else 0)

    def layout_of(self, image_id: int) -> Layout | None:
        """Return an image whose entities may be shown; None also where it is shown already."""
        image = None if image_id in self._seen else self._snapshot.image(image_id)
        # removed since it was indexed, or its shard was made anew without it
        return None if image is None or image.entities is None else Layout(image)

    def add(self, new: Found) -> None:
        """Take one more, the next best."""
        where, image_id = self._question.where, new.image.image_id
        if where.fold and (wrong := _like(new, self._unwanted, self._copies)) is not None:
            self._leave_out(new, wrong)
            return
        first = _like(new, self.shown, self._copies) if where.fold else None
        if first is not None:
            self._seen.add(image_id)
            first.alike.append(new)
        elif len(self.shown) < self._question.top:
            if where.per_image:
                self._seen.add(image_id)
            self.shown.append(new)
        else:
            self._after += 1

    def _leave_out(self, new: Found, wrong: Found) -> None:
        """Count one to what is wrong: else of a burst each frame would have to be told so."""
        wrong.alike.append(new)
        if not self._after:  # what came before the frame that links it is found out now
            unwanted, copies = self._unwanted, self._copies
            self.shown = [one for one in self.shown if _like(one, unwanted, copies) is None]


def _like(new: Found, shown: Sequence[Found], copies: NearCopies) -> Found | None:
    """Return what is shown already, of the same thing, of whose image another is a near-copy."""
    for found in shown:
        if found.similarity - new.similarity > _COPIES_WITHIN:
            continue
        one = found.image.image_id == new.image.image_id
        if one or not in_one_place(found.place, new.place):
            continue
        near = (found, *found.alike[-_LOOKED_AT:])  # of a long burst, those of its end
        if any(copies.are(new.layout, other.layout) for other in near):
            return found
    return None
