"""Near-copies of a photo are one match that says how many they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.colours import SIDE, draw, settings
from tests.photos import photo
from vesearch import Collection, alike
from vesearch.cli.main import main
from vesearch.config import Config
from vesearch.drawing.answers import draw_answer
from vesearch.question import Numbered, Question, Stored, Where
from vesearch.records import Float32, Shot
from vesearch.search.matches import Found
from vesearch.search.nearest import Picked
from vesearch.store.catalog_rows import ENTITY, KnownImage
from vesearch.store.rows import RANKS
from vesearch.store.shards import Store
from vesearch.store.snapshot import Snapshot

FRAMES, OTHERS = 12, 5


def frame(path: Path, seed: int, number: int) -> None:
    """Write a picture as colours.draw does, with a little noise of its own."""
    grid = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels = grid.repeat(8, 0).repeat(8, 1).astype(int)
    noise = np.random.default_rng(1_000 + number).integers(-6, 7, pixels.shape)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path / "store", "index.backend=exact", "run.shard_size=8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(FRAMES):
        frame(folder / f"burst_{number:02}.png", 0, number)
    for number in range(OTHERS):
        draw(folder / f"other_{number}.png", 10 + number)
    return folder


@pytest.fixture
def known(colours: None, config: Config, photos: Path) -> Collection:
    collection = Collection.of(config)
    collection.ingest(photos, index=True)
    return collection


def test_a_burst_is_one_match_that_says_how_many(known: Collection, photos: Path) -> None:
    answer = known.query(photos / "burst_00.png", entity=1)
    first, *others = answer.matches
    assert Path(first.image).name.startswith("burst") and len(first.alike) == FRAMES - 2
    assert {Path(match.image).name for match in others} == {f"other_{i}.png" for i in range(OTHERS)}
    assert all(not match.alike for match in others)
    assert [match.rank for match in answer.matches] == list(range(1, OTHERS + 2))
    for path, ids in zip(first.alike, first.alike_ids, strict=True):
        assert ids == (known._searcher.look(Path(path)).seen.image_id * RANKS,)
    shown = {first.image, *first.alike}
    assert shown == {str(photos / f"burst_{number:02}.png") for number in range(1, FRAMES)}


def test_a_burst_elsewhere_is_one_match(known: Collection, photos: Path) -> None:
    answer = known.query(photos / "other_0.png", entity=1, top=3)
    folded = [match for match in answer.matches if match.alike]
    assert len(answer.matches) == 3
    assert [len(match.alike) for match in folded] in ([FRAMES - 1], [])
    everything = known.query(photos / "other_0.png", entity=1)
    assert sorted(len(match.alike) for match in everything.matches) == [0] * 4 + [FRAMES - 1]


def test_copies_of_what_is_wrong_are_no_matches(known: Collection, photos: Path) -> None:
    of = Numbered(photos / "other_0.png", 1)
    matches = known.ask(Question((of,), top=50)).matches
    (burst,) = (match for match in matches if match.alike)
    wrong = Question((of,), negatives=(Stored(burst.entity_id),), top=50)
    left = known.ask(wrong).matches
    assert {m.entity_id for m in left} == {m.entity_id for m in matches if m is not burst}
    unfolded = known.ask(replace(wrong, where=Where(fold=False))).matches
    assert len(unfolded) == len(left) + FRAMES - 1  # each by itself is another one
    assert burst.entity_id not in {match.entity_id for match in unfolded}


def test_all_copies_lifts_it(known: Collection, photos: Path, config: Config) -> None:
    answer = known.query(photos / "burst_00.png", entity=1, all_copies=True)
    assert len(answer.matches) == 10 and not any(match.alike for match in answer.matches)
    asked = ["query", str(photos / "burst_00.png"), "--entity", "1", "--store", config.run.store]
    text = CliRunner().invoke(main, asked).output
    assert text.count("burst") == 2 and f"(+{FRAMES - 2} alike)" in text
    found = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)["matches"]
    assert len(found[0]["alike"]) == len(found[0]["alike_ids"]) == FRAMES - 2
    (entity_id,) = found[0]["alike_ids"][0]  # leads on to that photo
    assert known.query(entity_id=entity_id).seen.name == found[0]["alike"][0]
    assert CliRunner().invoke(main, [*asked, "--all-copies"]).output.count("burst") == 11


def test_the_picture_says_it_too(known: Collection, photos: Path) -> None:
    answer = known.query(photos / "burst_00.png", entity=1, top=1)
    plain = replace(answer, matches=tuple(replace(m, alike=()) for m in answer.matches))
    decoders = known._searcher.job.decoders
    pictures = [np.asarray(draw_answer(each, decoders)) for each in (answer, plain)]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()


def test_a_frame_that_was_removed_is_not_counted(known: Collection, photos: Path) -> None:
    known.remove(photos / "burst_05.png")
    first = known.query(photos / "burst_00.png", entity=1).matches[0]
    assert len(first.alike) == FRAMES - 3 and str(photos / "burst_05.png") not in first.alike


def test_real_frames_are_folded_and_other_photos_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    cat = Image.open(photo("chelsea.png")).convert("RGB")
    for i in range(4):
        cat.crop((i, i % 2, 440 + i, 290 + i % 2)).save(folder / f"burst_{i}.jpg", quality=85 + i)
    for name in ("coffee.png", "astronaut.png", "rocket.jpg", "china.jpg"):
        Image.open(photo(name)).convert("RGB").save(folder / name)
    given = {"run.device": "cpu", "index.backend": "exact"}
    collection = Collection(tmp_path / "store", settings=given)
    collection.ingest(folder, index=True)
    matches = collection.query(folder / "burst_0.jpg", entity=1).matches
    assert len(matches[0].alike) == 2 and not any(match.alike for match in matches[1:])


def test_a_time_lapse_of_many_shards_is_one_match(
    colours: None,
    tmp_path: Path,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """60 frames in eight shards; the vectors are the index's own, no table is read for them."""
    (tmp_path / "photos").mkdir()
    for number in range(60):
        frame(tmp_path / "photos" / f"lapse_{number:02}.png", 0, number)
    for number in range(OTHERS):
        draw(tmp_path / "photos" / f"other_{number}.png", 10 + number)
    collection = Collection.of(config)
    collection.ingest(tmp_path / "photos", index=True)
    read: list[str] = []

    def noted(store: Store, kind: type[Any], shard: int, *columns: str) -> Any:
        read.append(kind.KIND)
        return reading(store, kind, shard, *columns)

    reading = Store.read
    monkeypatch.setattr(Store, "read", noted)
    matches = collection.query(tmp_path / "photos" / "lapse_00.png", entity=1).matches
    assert [len(match.alike) for match in matches] == [58] + [0] * OTHERS
    assert "vectors" not in read


# --- by hand --------------------------------------------------------------------------------------


@dataclass
class Vectors:
    """Stands for a snapshot that has vectors by image id; counts how often it is asked."""

    of: dict[int, Float32]
    asked: list[int] = field(default_factory=list)

    def vectors_of(self, image: KnownImage) -> Float32:
        self.asked.append(image.image_id)
        count = 0 if image.entities is None else len(image.entities)
        return self.of.get(image.image_id, np.zeros((count, 2), np.float32))


def image(image_id: int, *boxes: tuple[float, ...], taken: str | None = None) -> KnownImage:
    """Return an image of 100 x 100 pixels with entities that fill their boxes."""
    entities = np.zeros(len(boxes), ENTITY)
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        entities[row]["box_xyxy"], entities[row]["area"] = (x0, y0, x1, y1), (x1 - x0) * (y1 - y0)
    labels = (None,) * len(boxes)
    return KnownImage(image_id, None, Shot(100, 100, taken), 1, 0, entities, labels)


LEFT, RIGHT, THIRD = (0.0, 0.0, 40.0, 40.0), (50.0, 50.0, 60.0, 60.0), (0.0, 60.0, 30.0, 90.0)
FAR = (90.0, 90.0, 100.0, 100.0)
SAME = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]


def like(one: KnownImage, other: KnownImage, *vectors: list[list[float]]) -> bool:
    of = {i: np.array(rows, np.float32) for i, rows in enumerate(vectors)}
    copies = alike.NearCopies(cast(Snapshot, Vectors(of)))
    return copies.are(alike.Layout(one), alike.Layout(other))


def test_alike_is_the_same_in_the_same_places() -> None:
    first = image(0, LEFT, RIGHT, THIRD)
    assert like(first, image(1, LEFT, RIGHT, THIRD), SAME, SAME)
    # weights are roots of areas: 40, 10 and 30; what is elsewhere does not count: 70 / 80 = 0.875
    assert like(first, image(1, LEFT, FAR, THIRD), SAME, SAME)
    # of the largest a similarity of 0.7 leaves (0.7 * 40 + 30) / 80 = 0.725
    less = [[0.7, 0.51**0.5], *SAME[1:]]
    assert not like(first, image(1, LEFT, FAR, THIRD), SAME, less)
    # of both ways the less counts: the second image has more that the first has not, 80 / 120
    big = (50.0, 0.0, 90.0, 40.0)
    more = [*SAME, [0.0, 1.0]]
    assert not like(first, image(1, LEFT, RIGHT, THIRD, big), SAME, more)
    assert not like(image(1, LEFT, RIGHT, THIRD, big), first, SAME, more[:3])


@pytest.mark.parametrize(("similarity", "one", "two"), [(0.96, True, True), (0.9, False, True)])
def test_photos_of_few_entities_must_be_more_alike(similarity: float, one: bool, two: bool) -> None:
    other = [[similarity, (1 - similarity**2) ** 0.5]]
    assert like(image(0, LEFT), image(1, LEFT), SAME[:1], other) == one
    pair = image(0, LEFT, RIGHT), image(1, LEFT, RIGHT)
    assert like(*pair, SAME[:2], [*other, [0.0, 1.0]]) == two


def test_less_is_enough_within_seconds() -> None:
    times = ("2024-05-31T12:30:59", "2024-05-31T12:31:01", "2024-05-31T12:31:03")
    rows, other = [[1.0, 0.0]], [[0.6, 0.8]]
    assert like(image(0, LEFT, taken=times[0]), image(1, LEFT, taken=times[1]), rows, other)
    assert not like(image(0, LEFT, taken=times[0]), image(1, LEFT, taken=times[2]), rows, other)
    assert not like(image(0, LEFT), image(1, LEFT, taken=times[2]), rows, other)


def test_what_cannot_be_alike_costs_no_vectors() -> None:
    vectors = Vectors({})
    copies = alike.NearCopies(cast(Snapshot, vectors))

    def are(one: KnownImage, other: KnownImage) -> bool:
        return copies.are(alike.Layout(one), alike.Layout(other))

    assert not are(image(0, LEFT), image(1, FAR))
    assert not are(image(0), image(1)) and not are(image(0, LEFT), image(1))
    assert vectors.asked == []
    assert not are(image(0, LEFT), image(1, LEFT))  # there are none
    assert vectors.asked == [0, 1]


def test_an_images_vectors_are_asked_for_once() -> None:
    vectors = Vectors({i: np.array(SAME[:1], np.float32) for i in range(20)})
    copies = alike.NearCopies(cast(Snapshot, vectors))
    layouts = [alike.Layout(image(i, LEFT)) for i in range(20)]
    assert all(copies.are(layouts[0], layout) for layout in layouts[1:])
    assert vectors.asked == list(range(20))


def test_what_is_linked_to_what_is_wrong_is_left_out_when_the_link_is_found() -> None:
    vectors = Vectors({i: np.array([[np.cos(i / 4), np.sin(i / 4)]], np.float32) for i in range(3)})
    images = [image(i, LEFT) for i in range(3)]
    vectors.image = images.__getitem__  # type: ignore[attr-defined]
    question = Question((Stored(99),), negatives=(Stored(0),))
    picked = Picked(cast(Snapshot, vectors), set(), question)
    ends = Found(alike.Layout(images[2]), 2 * RANKS, 0.9)
    picked.add(ends)
    assert picked.shown == [ends]
    picked.add(Found(alike.Layout(images[1]), 1 * RANKS, 0.8))
    assert picked.shown == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), True),
        ((0, 0, 1, 1), (0, 0, 0.5, 0.5), False),  # a quarter
        ((0, 0, 1, 1), (0, 0, 0.6, 0.6), True),
        ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), False),
    ],
)
def test_one_place(one: alike.Box, other: alike.Box, same: bool) -> None:
    assert alike.in_one_place(one, other) == same
    corners = (np.array([box]).T for box in (one, other))
    assert alike._together(*corners).tolist() == [[same]]
