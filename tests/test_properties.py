"""Random lives of a collection, compared with a model that is a few dictionaries in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import colours
from tests.colours import about, draw
from tests.crashing import Crash, FileLayer
from tests.tally import TORTURE, tally
from vesearch import pipeline
from vesearch.care import compact
from vesearch.care.repair import verify
from vesearch.errors import VesearchError
from vesearch.job import Job
from vesearch.search import Searcher
from vesearch.stages import forget
from vesearch.store import builds
from vesearch.store.catalog import Catalog
from vesearch.store.rows import RANKS
from vesearch.store.shards import Store

NAMES = st.sampled_from([f"{folder}{name}.png" for folder in ("", "sub/") for name in "abcdef"])
SEEDS = st.integers(0, 9)  # contents: few, so that copies and returns of old ones are common


class Collection(RuleBasedStateMachine):
    """The model: which content each file has, which the store should have, and which is indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(Job, "embedder", colours.Colours())
        self.home = Path(tempfile.mkdtemp(prefix="vesearch-life-"))
        self.config = colours.settings(self.home / "store")
        self.store = Store(self.home / "store")
        self.clock = 0
        self.files: dict[str, int] = {}  # on the disk: name -> content
        self.known: dict[str, int] = {}  # in the store: name -> content
        self.ids: dict[int, int] = {}  # content -> image id, while it is not compacted away
        self.used: set[int] = set()  # all image ids there ever were
        self.built: dict[int, int] | None = None  # of the index: image id -> content

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.home)
        tally("random lives of a collection")

    # --- the disk -------------------------------------------------------------------------------

    @initialize(name=NAMES, seed=SEEDS)
    def first(self, name: str, seed: int) -> None:
        self.write(name, seed)
        self.ingest("no", None)

    @rule(name=NAMES, seed=SEEDS)
    def write(self, name: str, seed: int) -> None:
        """Add a file, or change one."""
        self.clock += 1
        draw(self.home / "photos" / name, seed, mtime_s=self.clock)
        self.files[name] = seed

    @precondition(lambda self: self.files)
    @rule(data=st.data(), name=NAMES)
    def move(self, data: st.DataObject, name: str) -> None:
        old = data.draw(st.sampled_from(sorted(self.files)))
        (self.home / "photos" / name).parent.mkdir(exist_ok=True, parents=True)
        (self.home / "photos" / old).rename(self.home / "photos" / name)
        self.files[name] = self.files.pop(old)

    @precondition(lambda self: len(self.files) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.home / "photos" / name).unlink()
        del self.files[name]

    # --- the commands ---------------------------------------------------------------------------

    @rule(sync=st.sampled_from(["no", "forced"]), crash=st.none() | st.integers(0, 90))
    def ingest(self, sync: pipeline.Sync, crash: int | None) -> None:
        photos = [self.home / "photos"]
        if self._dies(crash, lambda: pipeline.ingest(self.config, photos, sync=sync)):
            pipeline.ingest(self.config, photos, sync=sync)
        before = dict(self.known)
        self.known |= self.files
        moved = {seed for name, seed in self.files.items() if before.get(name) != seed}
        for name, seed in before.items():  # gone: moved where its content turned up anew
            if name not in self.files and (sync == "forced" or seed in moved):
                del self.known[name]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), crash=st.none() | st.integers(0, 12))
    def remove(self, data: st.DataObject, crash: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        patterns = [str(self.home / "photos" / name)]
        if self._dies(crash, lambda: forget.remove_named(Job(self.config), patterns)):
            with suppress(VesearchError):  # the run that died had removed it
                forget.remove_named(Job(self.config), patterns)
        del self.known[name]

    @rule(crash=st.none() | st.integers(0, 40))
    def compact(self, crash: int | None) -> None:
        if self._dies(crash, lambda: compact.compact_store(Job(self.config))):
            compact.compact_store(Job(self.config))
        live = set(self.known.values())
        self.ids = {seed: image for seed, image in self.ids.items() if seed in live}

    @precondition(lambda self: self.known)
    @rule(refit=st.booleans(), crash=st.none() | st.integers(0, 60))
    def build(self, refit: bool, crash: int | None) -> None:
        stages = ("fit-pca", "build-ngt")
        if self._dies(crash, lambda: pipeline.run_stages(self.config, stages, (), refit=refit)):
            pipeline.run_stages(self.config, stages, (), refit=refit)
        self.built = {self._image(name): seed for name, seed in self.known.items()}

    def _dies(self, at: int | None, command: object) -> bool:
        """Run a command, dying at a change of the disk if it comes so far; tell whether it did."""
        assert callable(command)
        try:
            with FileLayer(at).armed():
                command()
        except Crash:
            tally("crashes in random lives survived")
            return True
        return False

    def _image(self, name: str) -> int:
        return Catalog.of(self.store).place(os.fsencode(self.home / "photos" / name)).image_id

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        if not self.store.exists():
            return
        catalog = Catalog.of(self.store)
        found: dict[str, int] = {}
        for image, paths in catalog.paths_by_image().items():
            found |= {str(Path(path).relative_to(self.home / "photos")): image for path in paths}
        assert found.keys() == self.known.keys()
        by_content: dict[int, int] = {}
        for name, seed in self.known.items():
            assert by_content.setdefault(seed, found[name]) == found[name]  # copies share an image
            if seed in self.ids:
                assert self.ids[seed] == found[name]  # ids are for life
            else:
                assert found[name] not in self.used  # and never used twice
        self.ids |= by_content
        self.used |= set(by_content.values())

    @invariant()
    def verify_finds_nothing(self) -> None:
        if self.store.exists():
            problems = verify(Job(self.config)).found
            assert not problems, problems

    @precondition(lambda self: self.built is not None and self.files)
    @invariant()
    def a_query_serves_what_is_indexed_and_still_there(self) -> None:
        assert self.built is not None
        photo = self.home / "photos" / min(self.files)
        found = Searcher(self.config).answer(about(photo, top=50, include_self=True)).matches
        live = set(Catalog.of(self.store).paths_by_image())
        assert {match.entity_id // RANKS for match in found} == self.built.keys() & live
        for match in found:
            paths = {match.image, *match.also_at}
            seeds = {self.known[str(Path(p).relative_to(self.home / "photos"))] for p in paths}
            assert seeds == {self.built[match.entity_id // RANKS]}
        assert set((builds.load(self.store).entity_ids // RANKS).tolist()) == self.built.keys()


Collection.TestCase.settings = settings(
    max_examples=100 if TORTURE else 12,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=not TORTURE,
    suppress_health_check=list(HealthCheck),
)
TestCollection = Collection.TestCase
TestCollection.pytestmark = [pytest.mark.slow]
