"""Say which entities of the collection are wanted, whatever they look like."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice

import numpy as np

from vesearch.errors import VesearchError
from vesearch.question import Where, period_of
from vesearch.records import Bool, Int64
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.lookup import Named
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot
from vesearch.system.objects import absolute

_FEW = 20_000  # paths: looking at all of them takes less than half a second


class Filter:
    """What a question's Where lets through; it remembers what it has said of an image.

    unwanted: ids of entities that it does not let through.
    """

    def __init__(
        self, snapshot: Snapshot, where: Where, unwanted: frozenset[int] = frozenset()
    ) -> None:
        self._catalog = snapshot.catalog
        self._unwanted = unwanted
        self._where = where
        self._places = [Named(absolute(place)) for place in where.places]
        self._since = period_of(where.since)[0] if where.since else None
        self._until = period_of(where.until)[1] if where.until else None
        self._images: dict[int, bool] = {}
        for place, named in zip(where.places, self._places, strict=True):
            if not any(named.holds(path) for path, _ in self._catalog.known(named.root)):
                raise VesearchError(f"{place}: no photo of the collection is there")

    @property
    def is_needed(self) -> bool:
        """Whether anything is left out."""
        return self._where.is_filtered

    def allows(self, image: KnownImage, rank: int) -> bool:
        """Tell whether an image's entity, counting from 0, is wanted; False for one it has not."""
        if image.entities is None or rank >= len(image.entities):
            return False
        if image.image_id * RANKS + rank in self._unwanted:
            return False
        return not self.is_needed or bool(self._entities(image)[rank] and self._allows_image(image))

    def is_narrow(self) -> bool:
        """Tell whether little is left to be looked at: the places hold few paths."""
        if not self._places:
            return False
        known = chain.from_iterable(self._catalog.known(named.root) for named in self._places)
        return sum(1 for _ in islice(known, _FEW)) < _FEW

    def ids(self) -> Int64:
        """Return the ids of all that is wanted, sorted; every image that may be is looked at."""
        found = [np.zeros(0, np.int64)]
        for image in self._images_there():
            wanted = np.flatnonzero(self._entities(image))
            if len(wanted) and self._allows_image(image):
                found.append(image.image_id * RANKS + wanted)
        return np.unique(np.concatenate(found))

    def _images_there(self) -> Iterator[KnownImage]:
        """Yield live images, at least all that are wanted."""
        if self._places:
            for named in self._places:
                yield from self._catalog.live_below(named.root)
        else:
            labelled = self._where.label is not None
            yield from self._catalog.live(since=self._since, until=self._until, labelled=labelled)

    def _entities(self, image: KnownImage) -> Bool:
        """Tell which of an image's (n,) entities are wanted, whatever the image."""
        if image.entities is None:
            return np.zeros(0, bool)
        where, entities = self._where, image.entities
        wanted: Bool = entities["area"] >= where.min_area * image.shot.width * image.shot.height
        if not where.stuff:
            wanted &= ~entities["is_stuff"]
        if where.label is not None:
            wanted &= np.array([label == where.label for label in image.labels], bool)
        return wanted

    def _allows_image(self, image: KnownImage) -> bool:
        if not (self._places or self._since or self._until):
            return True
        if image.image_id not in self._images:
            self._images[image.image_id] = self._is_when(image) and self._is_where(image)
        return self._images[image.image_id]

    def _is_where(self, image: KnownImage) -> bool:
        if not self._places:
            return True
        paths = self._catalog.paths_of(image.image_id)
        return any(named.holds(path) for path in paths for named in self._places)

    def _is_when(self, image: KnownImage) -> bool:
        if not (self._since or self._until):
            return True
        taken = image.shot.taken or self._written(image)
        if taken is None:
            return False
        return (self._since or taken) <= taken <= (self._until or taken)

    def _written(self, image: KnownImage) -> str | None:
        """Return when an image's first file was written, by this machine's clock."""
        for path in self._catalog.paths_of(image.image_id):
            place = self._catalog.place(path)
            if place is not None:
                time = datetime.fromtimestamp(place.mtime_ns / 1e9)
                return time.isoformat(timespec="seconds")
        return None
