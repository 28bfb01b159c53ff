"""Which image is where now, and what is known of it: the tables folded, in a file that is opened.

It is a cache in SQLite, made anew from the sealed tables whenever it does not fit them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import cast

import numpy as np

from vesearch.errors import CatalogDamagedError, StoreDamagedError, StoreError, StoreMissingError
from vesearch.records import Bool, Int64
from vesearch.store import folding
from vesearch.store.catalog_rows import (
    ABOUT,
    IMAGES,
    PATHS,
    SHARDS,
    TABLES,
    KnownImage,
    Place,
    image_of,
    place_of,
)
from vesearch.store.database import Database, Row
from vesearch.store.folding import Look
from vesearch.store.rows import RANKS, STRIDE, EntityRows, ImageRows
from vesearch.store.sealed import REPAIR
from vesearch.store.shards import Store
from vesearch.system.files import remove

FILE = "catalog.db"
_TRIES = 100


@dataclass(frozen=True, slots=True)
class _Missing:
    """Tables of shards that a catalogue has not taken in; gone: without their entities now."""

    log: dict[int, Look]
    entities: dict[int, Look]
    gone: tuple[int, ...] = ()


_NOTHING = _Missing({}, {})


class Catalog:
    """The live paths of a store, and the images behind them; safe from several threads.

    Methods raise CatalogDamagedError where the file is not as it was written.
    """

    def __init__(self, database: Database, store: Store | None = None) -> None:
        self._database = database
        self._store = store  # whose file this is; None where it is but in memory

    # --- life ---------------------------------------------------------------------------------

    @classmethod
    def of(cls, store: Store) -> Catalog:
        """Open the catalogue of a store, up to date.

        What is being written just now is not in it: its last commit is the one that counts. Where
        it is behind, a writer brings its file up to date, a reader does so in memory: nobody is
        kept waiting by readers. Raises StoreDamagedError for tables that are damaged or missing.
        """
        if store.held is not None:
            held = store.held.get(FILE)
            if not isinstance(held, Catalog) or not held._is_up_to_date(store):
                held = store.held[FILE] = cls._up_to_date(store)
            return held
        database = Database.open(store.path / FILE, TABLES)
        if database is not None and (catalog := cls(database, store))._is_in_step(store):
            return catalog
        return cls._in_memory(store)

    @classmethod
    def empty(cls) -> Catalog:
        """Return a catalogue of nothing, in memory."""
        return cls(Database.in_memory(TABLES))

    @classmethod
    def fresh(cls, store: Store) -> Catalog:
        """Make a catalogue of the tables alone, in memory, whatever is kept."""
        catalog = cls.empty()
        catalog._follow(store)
        return catalog

    @classmethod
    def kept(cls, store: Store) -> Catalog | None:
        """Open the file as it is, up to date or not; None where there is none.

        Raises CatalogDamagedError where it is none of ours.
        """
        file = store.path / FILE
        database = Database.open(file, TABLES)
        if database is None and file.exists():
            raise CatalogDamagedError(f"{file} is damaged; {REPAIR}")
        return None if database is None else cls(database, store)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Catalog]:
        """Yield a catalogue of nothing, in a file that goes with it."""
        with (
            tempfile.TemporaryDirectory() as folder,
            Database.new(Path(folder) / FILE, TABLES) as database,
        ):
            yield cls(database)

    @staticmethod
    def forget_kept(store: Store) -> None:
        """Remove the file. Raises StoreError."""
        if store.held is not None:
            store.held.pop(FILE, None)
        for name in (f"{FILE}-journal", FILE):
            try:
                remove(store.path / name)
            except OSError as err:
                raise StoreError(f"cannot remove {store.path / name}: {err.strerror}") from err

    @classmethod
    def _up_to_date(cls, store: Store) -> Catalog:
        """Bring the file up to date, with the lock held."""
        database = Database.open(store.path / FILE, TABLES, writes=True)
        if database is not None:
            try:
                catalog = cls(database, store)
                if catalog._follow(store):
                    catalog._stamp_now(store)
                    return catalog
            except CatalogDamagedError:
                pass
            database.close()
        with Database.new(store.path / FILE, TABLES) as made:
            cls(made)._follow(store)
        opened = Database.open(store.path / FILE, TABLES, writes=True)
        assert opened is not None
        catalog = cls(opened, store)
        catalog._stamp_now(store)
        return catalog

    @classmethod
    def _in_memory(cls, store: Store) -> Catalog:
        """Make a catalogue of what is there now, while others may write.

        It is the file where that only seemed to be behind, as in a copied store.
        """
        for _ in range(_TRIES):
            shards = store.shards(ImageRows.KIND)
            try:
                database = Database.open(store.path / FILE, TABLES)
                if database is None:
                    return cls.fresh(store)
                if (kept := cls(database, store))._missing(store) == _NOTHING:
                    return kept
                copy = cls(database.copy())
                return copy if copy._follow(store) else cls.fresh(store)
            except CatalogDamagedError:
                return cls.fresh(store)
            except (StoreMissingError, StoreDamagedError):
                # compacted meanwhile: old and new shards together could bring back what was removed
                if store.shards(ImageRows.KIND) == shards:
                    raise
        return cls.fresh(store)

    def _is_in_step(self, store: Store) -> bool:
        """Tell whether this is the last committed state, going by two counts.

        While tables are being changed, and where a writer was killed at that, they are one apart.
        """
        count = store.count()
        try:
            _, generation, folders, _ = self._about()
        except CatalogDamagedError:
            return False
        if count is None or abs(count - generation) > 1:
            return False
        return count % 2 == 1 or folders == _folders(store)

    def _is_up_to_date(self, store: Store) -> bool:
        """Tell the same to a writer, who wants the tables themselves."""
        return store.is_changing or (store.generation() is not None and self._is_in_step(store))

    def _about(self) -> Row:
        return self._database.get(ABOUT, 0) or (0, -1, "", 0)

    def _stamp(self, store: Store, generation: int, *, compacting: bool = False) -> None:
        self._database.put(ABOUT, [(0, generation, _folders(store), int(compacting))])

    def _stamp_now(self, store: Store) -> None:
        generation = store.generation()
        if generation is not None:
            self._stamp(store, generation)
            return
        with store.changing() as generation:
            self._stamp(store, generation)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change tables and what is said of them here as one: readers see all of it, or nothing.

        The lock must be held.
        """
        assert self._store is not None
        with self._store.changing() as generation, self._database.transaction() as is_outer:
            yield
            if is_outer:
                self._stamp(self._store, generation)

    def _follow(self, store: Store) -> bool:
        """Take in what the tables have and this has not; tell whether that could be done.

        Raises StoreDamagedError for tables that are damaged or missing.
        """
        missing = self._missing(store)
        if missing is None:
            return False
        if missing == _NOTHING:
            return True
        with self._database.transaction():
            for shard, look in missing.log.items():
                self.extend(shard, store.read(ImageRows, shard), look)
            for shard, look in missing.entities.items():
                rows = store.read(EntityRows, shard, *folding.DESCRIBED)
                self.describe(shard, rows, look)
            for shard in missing.gone:
                folding.describe(self._database, shard, None, folding.NO_FILE)
        return True

    def _missing(self, store: Store) -> _Missing | None:
        """Return which tables this has not taken in; None where it was made of other ones."""
        log, entities = (_looks(store, kind.KIND) for kind in (ImageRows, EntityRows))
        known = {row[0]: row for row in self._database.each(SHARDS)}
        lost = [(ImageRows.KIND, shard) for shard in {*entities} - {*log}]
        if not self._about()[3]:
            lost += [(ImageRows.KIND, shard) for shard in {*known} - {*log}]
        gone = {shard for shard, row in known.items() if row[3] >= 0} - {*entities}
        if store.held is None and not self._about()[3]:  # a writer makes them anew
            lost += [(EntityRows.KIND, shard) for shard in gone]
        if lost:
            path = store.shard_path(*min(lost))
            raise StoreDamagedError(f"{path} is missing from the store; {REPAIR}")
        new = {shard: look for shard, look in log.items() if shard not in known}
        if any(Look(*row[1:3]) != log.get(shard) for shard, row in known.items()):
            return None
        if new and known and min(new) < max(known):  # the order of the log is what counts
            return None
        none = folding.NO_FILE
        seen = {shard: Look(*row[3:5]) for shard, row in known.items()}
        others = {shard: look for shard, look in entities.items() if seen.get(shard, none) != look}
        return _Missing(new, others, tuple(gone))

    # --- what is asked ------------------------------------------------------------------------

    def place(self, path: bytes) -> Place | None:
        """Return the last row of a path, None where there was never one."""
        found = self._database.where(PATHS, "path = ?", (path,))
        return place_of(found[0]) if found else None

    def places(self) -> Iterator[tuple[bytes, Place]]:
        """Yield each path's last row, in the order that the paths were added."""
        yield from ((row[1], place_of(row)) for row in self._database.each(PATHS))

    def known(self, root: bytes = b"/") -> Iterator[tuple[bytes, Place]]:
        """Yield the paths at and below a root that were not removed, sorted."""
        first = root.rstrip(b"/")
        among = "(path = ? OR path > ? AND path < ?) AND status <> 'removed'"
        ends = (first, first + b"/", first + b"0")  # 0 comes after /
        for row in self._database.each(PATHS, among, ends, by="path"):
            yield row[1], place_of(row)

    def alike(self, size: int, mtime_ns: int, name: bytes) -> list[bytes]:
        """Return known paths of files that look so, or have that name in whatever case."""
        name = b"/" + name.lower()
        return [
            row[1]
            for row in self._database.where(
                PATHS,
                "status <> 'removed' AND (size = ? AND mtime_ns = ?"
                " OR lower(CAST(substr(path, ?) AS TEXT)) = CAST(? AS TEXT))",
                (size, mtime_ns, -len(name), name),
            )
        ]

    def skipped(self) -> Iterator[tuple[str, Place]]:
        """Yield the paths that are no usable image, and why."""
        for row in self._database.each(PATHS, "image_id = -1 AND status <> 'removed'"):
            yield os.fsdecode(row[1]), place_of(row)

    def image_of(self, digest: str) -> int | None:
        """Return the image that has this content."""
        found = self._database.where(IMAGES, "digest = ?", (digest,))
        return max((row[0] for row in found), default=None)

    def image(self, image_id: int) -> KnownImage | None:
        """Return an image, None where the log does not have it."""
        row = self._database.get(IMAGES, image_id)
        return None if row is None else self._image(row)

    def images(self, shard: int) -> Iterator[KnownImage]:
        """Yield a shard's images in the order of their ids."""
        yield from map(self._image, folding.rows_of(self._database, shard))

    def paths_of(self, image_id: int) -> list[bytes]:
        """Return an image's paths, in the order they were added."""
        with self._database.transaction(writes=False):
            rows = self._database.where(PATHS, "image_id = ? ORDER BY id", (image_id,))
            row = self._database.get(IMAGES, image_id)
        if row is not None and row[4] != len(rows):
            raise self._database.damaged()
        return [row[1] for row in rows]

    def live_images(self, shard: int) -> Int64:
        """Return the ids of a shard's images that have a path, sorted."""
        with self._database.transaction(writes=False):
            summary = self._database.get(SHARDS, shard)
            ids = [row[0] for row in folding.rows_of(self._database, shard) if row[4]]
        if len(ids) != (summary[6] if summary else 0):
            raise self._database.damaged()
        return np.array(ids, np.int64)

    def live_rows(self, shard: int) -> tuple[Int64, Int64]:
        """Return the ids of a shard's live entities, sorted, and their rows in its tables."""
        ids, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for image in self.images(shard):
            if image.paths and image.entities is not None:
                ranks = np.arange(len(image.entities))
                ids.append(image.image_id * RANKS + ranks)
                rows.append(image.start + ranks)
        return np.concatenate(ids), np.concatenate(rows)

    def live_entities(self) -> dict[int, int]:
        """Return for each shard of the log how many entities its live images have."""
        return {row[0]: row[8] for row in self._database.each(SHARDS)}

    def live_seals(self) -> dict[int, int]:
        """Return for each shard of the log what tells which of its images are live."""
        return {row[0]: row[7] for row in self._database.each(SHARDS)}

    def are_live(self, image_ids: Int64) -> Bool:
        """Tell for each image whether it has a path."""
        shards = np.unique(image_ids // STRIDE).tolist()
        live = [self.live_images(shard) for shard in shards if shard >= 0]
        return np.isin(image_ids, np.concatenate([np.zeros(0, np.int64), *live]))

    def paths_by_image(self) -> ImagePaths:
        """Return for each live image its paths, in the order they were added."""
        return ImagePaths(self)

    def row_of(self, path: bytes) -> tuple[int, int] | None:
        """Return the shard of the log, and the row there, that say where a path is."""
        found = self._database.where(PATHS, "path = ?", (path,))
        return divmod(found[0][2], STRIDE) if found else None

    def strangers(self) -> Iterator[tuple[int, int]]:
        """Yield images that paths have and no shard, each with the shard that names it."""
        yield from self._database.all(
            "SELECT image_id, MAX(row) / ? FROM paths WHERE image_id >= 0 AND NOT EXISTS"
            " (SELECT 1 FROM images WHERE images.image_id = paths.image_id) GROUP BY image_id",
            (STRIDE,),
        )

    def twins(self) -> Iterator[tuple[int, str]]:
        """Yield contents that several images have, each with the last such image."""
        yield from self._database.all(
            "SELECT MAX(image_id), digest FROM images WHERE digest IS NOT NULL"
            " GROUP BY digest HAVING COUNT(*) > 1"
        )

    def is_of(self, generation: int | None) -> bool:
        """Tell whether this was made of the tables as they were when they were so counted."""
        return generation is not None and self._about()[1] == generation

    def is_sound(self) -> bool:
        """Tell whether SQLite finds nothing wrong with the file: indexes and tables agree."""
        return self._database.all("PRAGMA integrity_check(1)") == [("ok",)]

    def says_the_same_as(self, other: Catalog) -> bool:
        """Tell whether two catalogues are of the same tables; every row is read."""
        for table, by, first in ((SHARDS, "", 0), (IMAGES, "", 0), (PATHS, "path", 1)):
            rows = (catalog._database.each(table, by=by) for catalog in (self, other))
            for one, two in zip_longest(*rows, fillvalue=()):
                if one[first:] != two[first:]:
                    return False
        return True

    def shards(self) -> list[int]:
        """Return the shards of the log, in order."""
        return [row[0] for row in self._database.each(SHARDS)]

    def needed_shards(self) -> set[int]:
        """Return the shards of the log that there must be, unless a compaction was killed."""
        return set() if self._about()[3] else set(self.shards())

    def counts_of(self, shard: int) -> tuple[int, int]:
        """Return how many images a shard of the log has, and how many of them are live."""
        summary = self._database.get(SHARDS, shard)
        return (0, 0) if summary is None else (summary[5], summary[6])

    def wanted_rows(self) -> dict[int, int]:
        """Return how many rows of each shard of the log say where a file is, or what it is."""
        found = self._database.all(
            "SELECT row / ?, COUNT(*) FROM paths WHERE status <> 'removed' GROUP BY 1", (STRIDE,)
        )
        return dict(cast("list[tuple[int, int]]", found))

    def knows(self, shard: int) -> bool:
        """Tell whether a shard of the log was taken in."""
        return self._database.get(SHARDS, shard) is not None

    def lives_in(self, shard: int) -> bool:
        """Tell whether a shard has an image that has a path."""
        summary = self._database.get(SHARDS, shard)
        return summary is not None and summary[6] > 0

    def count(self) -> tuple[int, int, int]:
        """Return how many live images there are, paths of them, and entities."""
        rows = list(self._database.each(SHARDS))
        ((paths,),) = self._database.all("SELECT COUNT(*) FROM paths WHERE image_id >= 0")
        return sum(row[6] for row in rows), paths, sum(row[8] for row in rows)

    def _image(self, row: Row) -> KnownImage:
        try:
            return image_of(row)
        except ValueError as err:
            raise self._database.damaged() from err

    # --- what is written ----------------------------------------------------------------------

    def extend(self, shard: int, rows: ImageRows, look: Look | None = None) -> None:
        """Append one shard of the log; look: of its file, looked at now unless given."""
        if look is None:
            look = self._look(ImageRows.KIND, shard)
        folding.extend(self._database, shard, rows, look)

    def describe(self, shard: int, rows: EntityRows, look: Look | None = None) -> None:
        """Take in a shard's entities; look: of their file, looked at now unless given."""
        if look is None:
            look = self._look(EntityRows.KIND, shard)
        folding.describe(self._database, shard, rows, look)

    def _look(self, kind: str, shard: int) -> Look:
        return folding.NO_FILE if self._store is None else Look.of(self._store.tail(kind, shard))

    @contextmanager
    def compacting(self) -> Iterator[None]:
        """Let the tables lose what is not live; that is then forgotten here, too."""
        assert self._store is not None
        with self._store.changing() as generation:
            # should this be killed, it is known why tables are gone; the rest stays as it is
            self._stamp(self._store, generation - 2, compacting=True)
            yield
            with self._database.transaction():
                looks = (_looks(self._store, kind.KIND) for kind in (ImageRows, EntityRows))
                for shard in folding.forget_dead(self._database, *looks):
                    rows = self._store.read(ImageRows, shard)
                    folding.put_paths(self._database, shard, rows)
                self._stamp(self._store, generation)


class ImagePaths(Mapping[int, list[str]]):
    """The paths of each live image, in the order they were added."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __getitem__(self, image_id: int) -> list[str]:
        paths = self._catalog.paths_of(image_id) if image_id >= 0 else []
        if not paths:
            raise KeyError(image_id)
        return list(map(os.fsdecode, paths))

    def __contains__(self, image_id: object) -> bool:
        known = self._catalog.image(image_id) if isinstance(image_id, int) else None
        return known is not None and known.paths > 0

    def __len__(self) -> int:
        return self._catalog.count()[0]

    def __iter__(self) -> Iterator[int]:
        for shard in self._catalog.shards():
            yield from self._catalog.live_images(shard).tolist()


def _folders(store: Store) -> str:
    """Return when the folders of the tables that this is made of were written to."""
    times = []
    for kind in (ImageRows, EntityRows):
        try:
            times.append((store.path / kind.KIND).stat().st_mtime_ns)
        except OSError:
            times.append(-1)
    return " ".join(map(str, times))


def _looks(store: Store, kind: str) -> dict[int, Look]:
    return {shard: Look.of(tail) for shard, tail in store.tails(kind).items()}
