"""A shard's work as a value: contents in, tables out; it touches no log and no store.

So it runs wherever the photos can be read. One coordinator, in pipeline, tells what is new, gives
ids and commits; an executor (executors/) maps this over shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vesearch.config import Config
from vesearch.describe import cut_crops, embed_crops, find_entities
from vesearch.errors import ModelError
from vesearch.job import Job
from vesearch.records import Crop, Frame
from vesearch.stages.contents import Content, Looked, decoded_ahead
from vesearch.store.entities import Detected, to_rows
from vesearch.store.rows import CropRows, EmbeddingRows, EntityRows
from vesearch.system.ahead import ahead, batched
from vesearch.system.threads import cores, one_for_products

Contents = tuple[Content, ...]  # a task: what is new in a shard, each once


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What a shard's work makes of its contents.

    looked: one per content. entities: of those that are images, whose ids are not known here:
        image_ids are places among the contents. crops, embeddings: as the entity rows.
    """

    looked: tuple[Looked, ...]
    entities: EntityRows
    crops: CropRows
    embeddings: EmbeddingRows

    def with_ids(self, contents: Sequence[Content], ids: dict[str, int]) -> Tables:
        """Return the same with the ids of the images; ids: by digest."""
        places = self.entities.image_ids.tolist()
        image_ids = np.array([ids[contents[place].digest] for place in places], np.int64)
        return replace(self, entities=replace(self.entities, image_ids=image_ids))


@dataclass(frozen=True)
class Order:
    """Work for another process: its settings, and what the models there must be.

    models: as Job.models() tells of them here.
    """

    config: Config
    models: tuple[tuple[str, str], ...]

    def work(self, on_done: Callable[[int], object] | None = None) -> Work:
        """Return this process's work by these settings; its models are made once.

        Raises ModelError, also where they are others than those that are asked for.
        """
        if self not in _KEPT:
            job = Job(self.config, at_once=cores())
            _refuse_others(dict(self.models), job.models())
            _KEPT[self] = job
        return Work(_KEPT[self], on_done)


class Work:
    """Describe the contents of a shard with a job's models.

    It may be sent to another process, as its order: models are made there, once.
    on_done: called with how many contents were done since; it is not sent.
    """

    def __init__(self, job: Job, on_done: Callable[[int], object] | None = None) -> None:
        self._job = job
        self._on_done = on_done

    def __reduce__(self) -> tuple[Callable[[Order], Work], tuple[Order]]:
        return Order.work, (self.order(),)

    @property
    def device(self) -> str:
        """The --device value that it was asked for with."""
        return self._job.config.run.device

    def order(self, device: str | None = None) -> Order:
        """Return what another process needs to do this; device: its own, if it is another."""
        config = self._job.resolved()
        if device is not None:
            config = replace(config, run=replace(config.run, device=device))
        return Order(config, tuple(sorted(self._job.models().items())))

    def tell(self, done: int) -> None:
        """Note that so many more contents are done."""
        if self._on_done is not None:
            self._on_done(done)

    def __call__(self, contents: Sequence[Content]) -> Tables:
        """Detect and crop one batch while the crops of the batch before are embedded."""
        job, looked = self._job, list[Looked]()
        whole = _Described([], [])
        if not contents:
            none = EmbeddingRows(np.zeros((0, 0), np.float16))
            return Tables((), to_rows([]), CropRows(()), none)
        embeddings = [np.zeros((0, job.embedder.dim), np.float16)]
        # each thread with a photo of its own, where the detector takes that; else one, with several
        threads = getattr(job.detector, "at_once", 1)
        size = job.batch_size("detect") if threads == 1 else 1
        threads += (
            threads > 1
        )  # who is not in a network meanwhile: 94 of 100 % of two cores, not 89
        with ThreadPoolExecutor(threads) as pool, one_for_products():
            batches = batched(self._frames(contents, looked), size)
            for batch in ahead(pool, self._detect_and_cut, batches, depth=2 * threads):
                whole.images.extend(batch.images)
                whole.crops.extend(batch.crops)
                embeddings.append(embed_crops(job.embedder, batch.crops, job.config.crop.size))
                self.tell(len(batch.images))
        entities, embedded = to_rows(whole.images), EmbeddingRows(np.concatenate(embeddings))
        return Tables(tuple(looked), entities, CropRows.of(whole.crops), embedded)

    def _frames(
        self, contents: Sequence[Content], looked: list[Looked]
    ) -> Iterator[tuple[int, Frame]]:
        """Yield the place and pixels of the contents that are images; fill looked with all."""
        depth = self._job.config.run.workers + self._job.batch_size("detect")
        for place, (frame, look) in enumerate(decoded_ahead(self._job, contents, depth=depth)):
            looked.append(look)
            if frame is not None:
                yield place, frame
            else:
                self.tell(1)

    def _detect_and_cut(self, batch: Sequence[tuple[int, Frame]]) -> _Described:
        found = find_entities(self._job.detector, [frame for _, frame in batch])
        made = _Described([], [])
        for (place, frame), entities in zip(batch, found, strict=True):
            made.images.append(Detected(place, entities))
            made.crops.extend(cut_crops(frame, entities, self._job.config.crop))
        return made


class _Described(NamedTuple):
    """A batch of images with their entities, and the crops of all of them."""

    images: list[Detected]
    crops: list[Crop]


_KEPT: dict[Order, Job] = {}


def _refuse_others(wanted: dict[str, str], own: dict[str, str]) -> None:
    for key in sorted(wanted.keys() | own):
        if wanted.get(key) != own.get(key):
            raise ModelError(
                f"{key} is {own.get(key)} there, and {wanted.get(key)} here: every machine needs "
                "the same version of vesearch, packages and weights"
            )
