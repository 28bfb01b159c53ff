"""Which image is where now, and what is known of it: the tables folded, in a file that is opened.

It is a cache in SQLite, made anew from the sealed tables whenever it does not fit them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vesearch.errors import CatalogDamagedError, StoreDamagedError, StoreError, StoreMissingError
from vesearch.store import folding
from vesearch.store.catalog_rows import ABOUT, SHARDS, TABLES
from vesearch.store.database import Database
from vesearch.store.folding import Look
from vesearch.store.lookup import Lookup
from vesearch.store.rows import EntityRows, ImageRows
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


class Catalog(Lookup):
    """What is asked, and how it is opened, made and changed."""

    def __init__(self, database: Database, store: Store | None = None) -> None:
        super().__init__(database)
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
                if catalog._is_up_to_date(store):
                    return catalog
                if catalog._follow(store):
                    catalog._stamp_now(store)
                    return catalog
            except CatalogDamagedError:
                pass
            database.close()
        with Database.new(store.path / FILE, TABLES) as made:
            cls(made)._follow(store)
        remove(store.path / "catalog.h5")  # what earlier versions kept
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
            _, generation, folders, _ = self.about()
        except CatalogDamagedError:
            return False
        if count is None or abs(count - generation) > 1:
            return False
        return count % 2 == 1 or folders == _folders(store)

    def _is_up_to_date(self, store: Store) -> bool:
        """Tell the same to a writer, who wants the tables themselves."""
        return store.is_changing or (store.generation() is not None and self._is_in_step(store))

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
        if not self.about()[3]:
            lost += [(ImageRows.KIND, shard) for shard in {*known} - {*log}]
        gone = {shard for shard, row in known.items() if row[3] >= 0} - {*entities}
        if store.held is None and not self.about()[3]:  # a writer makes them anew
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
