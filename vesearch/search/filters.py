"""Say which entities of the collection are wanted, whatever they look like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime

import numpy as np

from vesearch.errors import VesearchError
from vesearch.question import Where, period_of
from vesearch.records import Int64
from vesearch.store.catalog_rows import KnownImage
from vesearch.store.lookup import Named
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot


class Filter:
    """What a question's Where lets through; it remembers what it has said of an image."""

    def __init__(self, snapshot: Snapshot, where: Where) -> None:
        self._catalog = snapshot.catalog
        self._where = where
        self._places = [Named(os.path.abspath(place)) for place in where.places]
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
        if not self.is_needed:
            return True
        return self._allows_entity(image, rank) and self._allows_image(image)

    def ids(self) -> Int64:
        """Return the ids of all that is wanted, sorted; every image that may be is looked at."""
        found = [
            image.image_id * RANKS + rank
            for image in self._images_there()
            if image.entities is not None and self._allows_image(image)
            for rank in range(len(image.entities))
            if self._allows_entity(image, rank)
        ]
        return np.array(sorted(found), np.int64)

    def _images_there(self) -> Iterator[KnownImage]:
        """Yield live images, at least all that are wanted."""
        if not self._places:
            yield from self._catalog.live(self._since, self._until)
            return
        images = {
            place.image_id
            for named in self._places
            for path, place in self._catalog.known(named.root)
            if place.image_id >= 0 and named.holds(path)
        }
        for image_id in sorted(images):
            image = self._catalog.image(image_id)
            if image is not None and image.paths:
                yield image

    def _allows_entity(self, image: KnownImage, rank: int) -> bool:
        assert image.entities is not None
        where, entity = self._where, image.entities[rank]
        if not where.stuff and entity["is_stuff"]:
            return False
        if where.label is not None and image.labels[rank] != where.label:
            return False
        pixels = image.shot.width * image.shot.height
        return float(entity["area"]) >= where.min_area * pixels

    def _allows_image(self, image: KnownImage) -> bool:
        if not (self._places or self._since or self._until):
            return True
        if image.image_id not in self._images:
            self._images[image.image_id] = self._is_where(image) and self._is_when(image)
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
