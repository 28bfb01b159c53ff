"""The groups of a collection, as commands and from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.colours import SIDE, draw, run, settings
from tests.test_report import ODD, Page
from vesearch import Collection, VesearchError
from vesearch.config import Config
from vesearch.errors import ArgumentError
from vesearch.groups.records import Group
from vesearch.job import Job
from vesearch.photos.ours import is_ours
from vesearch.store.shards import Store

_MODEL, _EXIF_IFD, _TAKEN = 0x0110, 0x8769, 0x9003  # DateTimeOriginal, in the IFD


def save(path: Path, pixels: Any, taken: str | None = None) -> None:
    exif = Image.Exif()
    if taken is not None:
        exif[_MODEL] = "camera"  # without a tag of the first directory none is written
        exif.get_ifd(_EXIF_IFD)[_TAKEN] = taken
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, exif=exif)


def grid(seed: int) -> Any:
    cells = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3))
    return cells.repeat(8, 0).repeat(8, 1)


def noise(seed: int) -> Any:
    return np.random.default_rng(1_000 + seed).integers(-6, 7, (8 * SIDE, 8 * SIDE, 3))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A burst of three, an edited copy, exact copies, a thing that is in two photos, others."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for frame in range(3):
        time = f"2024:05:31 12:30:0{9 - 4 * frame}"
        save(folder / f"burst_{frame}.png", grid(0) + noise(frame), time)
    save(folder / "plain.png", grid(1))
    save(folder / "edited.png", grid(1) + noise(4))
    draw(folder / "one.png", 2)
    draw(folder / "again" / "one.png", 2)
    draw(folder / "again" / "two.png", 2)
    save(folder / "mug.png", grid(3))
    save(folder / "mug_elsewhere.png", 0.7 * grid(3) + 0.3 * grid(50))
    for seed in range(10, 18):
        draw(folder / f"other_{seed}.png", seed)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path / "store", "index.backend=exact")


@pytest.fixture
def known(colours: None, config: Config, photos: Path) -> Collection:
    collection = Collection.of(config)
    collection.ingest(photos, index=True)
    return collection


def names(group: Group) -> list[str]:
    return [Path(path).name for path in group.paths()]


# --- similar --------------------------------------------------------------------------------------


def test_a_collection_falls_into_groups(known: Collection) -> None:
    found = known.similar()
    assert [(group.number, group.kind) for group in found.groups] == [
        (1, "copies"),
        (2, "burst"),
        (3, "near-copies"),
        (4, "the same thing"),
    ]
    copies, burst, edited, mug = found.groups
    assert sorted(names(copies)) == ["one.png", "one.png", "two.png"]
    assert names(burst) == ["burst_2.png", "burst_1.png", "burst_0.png"]  # as they were taken
    assert names(edited) == ["edited.png", "plain.png"]
    assert sorted(names(mug)) == ["mug.png", "mug_elsewhere.png"]
    assert found.photos == 16 and found.left_out == 0


def test_what_is_told_of_a_thing(known: Collection, photos: Path) -> None:
    first, second = known.similar(kinds=("the same thing",)).groups[0].members
    assert first.spot is not None and second.spot is not None
    assert first.size_wh == (32, 32) and first.spot.box_xyxy == (0, 0, 32, 32)
    assert first.similarity == pytest.approx(1, abs=1e-5)
    again = known.query(entity_id=first.spot.entity_id).matches[0]
    assert again.entity_id == second.spot.entity_id and again.image == second.image
    assert again.similarity == pytest.approx(second.similarity, abs=1e-5)
    assert again.confidence == pytest.approx(second.confidence, abs=1e-4)
    assert (second.confidence or 0) >= 0.85


def test_of_near_copies_one_stands_for_all(known: Collection, photos: Path) -> None:
    save(photos / "burst_elsewhere.png", 0.65 * grid(0) + 0.35 * grid(60))
    known.ingest(photos, index=True)
    groups = known.similar(kinds=("the same thing",)).groups
    burst = next(group for group in groups if "burst_elsewhere.png" in names(group))
    assert [len(member.alike) for member in burst.members] in ([2, 0], [0, 2])
    assert len(burst.members) == 2 and len(list(burst.paths())) == 4


def test_kinds_and_top(known: Collection) -> None:
    assert [g.kind for g in known.similar(kinds=("copies",)).groups] == ["copies"]
    everything = known.similar(min_confidence=0.5, kinds=("the same thing",)).groups
    draw(Path(known.config.run.store).parent / "photos" / "copy.png", 10)
    known.ingest(Path(known.config.run.store).parent / "photos", index=True)
    found = known.similar(kinds=("copies",), top=1)
    assert len(found.groups) == 1 and len(names(found.groups[0])) == 3 and found.left_out == 1
    assert len(everything) >= 1


def test_an_unknown_kind_is_told(known: Collection) -> None:
    with pytest.raises(ArgumentError, match="no kind of groups 'burts'; did you mean 'burst'"):
        known.similar(kinds=("burts",))  # type: ignore[arg-type]


def test_a_time_lapse_is_one_group_and_no_table_is_opened(
    colours: None,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 40 frames each is asked for twelve; groups are told from catalogue and index alone."""
    (tmp_path / "photos").mkdir()
    for frame in range(40):
        save(tmp_path / "photos" / f"lapse_{frame:02}.png", grid(0) + noise(frame))
    for seed in range(10, 16):
        draw(tmp_path / "photos" / f"other_{seed}.png", seed)
    collection = Collection.of(config)
    collection.ingest(tmp_path / "photos", index=True)

    def refused(*_: object) -> None:
        raise AssertionError("a table is read")

    monkeypatch.setattr(Store, "read", refused)
    assert [len(group.members) for group in collection.similar().groups] == [40]
    assert collection.browse().things == ()


def test_a_photo_that_was_removed_is_in_no_group(known: Collection, photos: Path) -> None:
    known.remove(photos / "mug.png", photos / "burst_1.png", photos / "again")
    found = {group.kind: names(group) for group in known.similar().groups}
    assert found == {
        "burst": ["burst_2.png", "burst_0.png"],
        "near-copies": ["edited.png", "plain.png"],
    }


def test_a_slow_series_is_no_burst(colours: None, config: Config, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for minute in range(3):
        time = f"2024:05:31 12:3{minute}:00"
        save(tmp_path / "photos" / f"{minute}.png", grid(0) + noise(minute), time)
    for seed in range(10, 16):
        draw(tmp_path / "photos" / f"other_{seed}.png", seed)
    collection = Collection.of(config)
    collection.ingest(tmp_path / "photos", index=True)
    assert [g.kind for g in collection.similar().groups] == ["near-copies"]


def test_a_photo_that_changed_since_is_marked(known: Collection, photos: Path) -> None:
    draw(photos / "mug.png", 99)
    members = known.similar(kinds=("the same thing",)).groups[0].members
    assert {Path(m.image).name: m.stale for m in members} == {
        "mug.png": True,
        "mug_elsewhere.png": False,
    }
    (photos / "again" / "two.png").unlink()
    copies = known.similar(kinds=("copies",)).groups[0].members[0]
    assert Path(copies.image).exists() and not copies.stale and len(copies.also_at) == 2


def test_similar_as_text(known: Collection, config: Config) -> None:
    done = run(config, "similar")
    assert done.exit_code == 0, done.output
    parts = done.stdout.rstrip("\n").split("\n\n")
    assert [part.splitlines()[0] for part in parts] == [
        "1  copies, one photo at 3 paths",
        "2  burst, 3 photos",
        "3  near-copies, 2 photos",
        "4  the same thing, 2 photos",
    ]
    assert [len(part.splitlines()) for part in parts] == [4, 4, 3, 3]
    assert "id " in parts[3] and "0.9" in parts[3] and "id " not in parts[1]
    top = run(config, "similar", "--top", 1, "--kind", "burst")
    assert top.stdout.startswith("1  burst, 3 photos\n")


def test_similar_as_json(known: Collection, config: Config) -> None:
    told = json.loads(run(config, "similar", "--json").stdout)
    assert told.keys() == {"groups", "photos", "left_out"}
    kinds = {group["kind"]: group["photos"] for group in told["groups"]}
    about = {"image", "also_at", "alike", "stale", "width", "height", "taken"}
    assert kinds["burst"][0].keys() == about
    assert kinds["burst"][0]["taken"] == "2024-05-31T12:30:01"
    of_thing = {"entity_id", "box", "peak", "similarity", "confidence"}
    assert kinds["the same thing"][0].keys() == about | of_thing
    assert len(kinds["copies"]) == 1 and len(kinds["copies"][0]["also_at"]) == 2


def test_similar_as_paths(known: Collection, config: Config) -> None:
    groups = [list(group.paths()) for group in known.similar().groups]
    lines = run(config, "similar", "--paths").stdout
    assert [part.splitlines() for part in lines.split("\n\n")] == groups
    names = run(config, "similar", "-0").stdout
    assert [part.split("\0") for part in names.removesuffix("\0").split("\0\0")] == groups
    best = [f"{thing.best.image}\n" for thing in known.browse().things]
    assert best and run(config, "browse", "--paths").stdout == "".join(best)
    assert run(config, "similar", "--kind", "burst", "--top", 1, "--paths").stdout.count("\n") == 3


def test_copies_need_no_index(
    colours: None,
    config: Config,
    photos: Path,
    tmp_path: Path,
) -> None:
    Collection.of(config).ingest(photos)
    copies = ("similar", "--kind", "copies")
    assert run(config, *copies).stdout.startswith("1  copies, one photo at 3 paths\n")
    for ending in ("png", "html"):
        done = run(config, *copies, "--paths", "--out", tmp_path / f"x.{ending}")
        assert done.exit_code == 0 and done.stdout.count(".png\n") == 3, done.output
    refused = run(config, *copies, "--kind", "burst")
    assert refused.exit_code == 1 and "run: vesearch build-index" in refused.output


def test_nothing_alike_is_a_line(colours: None, config: Config, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.png", 0)
    Collection.of(config).ingest(tmp_path / "photos", index=True)
    assert run(config, "similar").stdout == "nothing is alike in 1 photos\n"
    assert run(config, "browse").stdout == "no thing is in two of 1 photos\n"
    assert run(config, "similar", "--paths").stdout == ""
    for name in ("similar", "browse"):
        assert run(config, name, "--out", tmp_path / f"{name}.png").exit_code == 0
        assert run(config, name, "--out", tmp_path / f"{name}.html").exit_code == 0


# --- browse ---------------------------------------------------------------------------------------


def test_frequent_things_lead_on(known: Collection, config: Config, photos: Path) -> None:
    for seed in range(60, 63):
        save(photos / f"mug_{seed}.png", 0.7 * grid(3) + 0.3 * grid(seed))
    known.ingest(photos, index=True)
    found = known.browse()
    first = found.things[0]
    assert (first.number, first.photos, first.entities) == (1, 5, 5)
    assert Path(first.best.image).name.startswith("mug")
    assert (found.photos, found.entities, found.looked_at) == (19, 19, 19)
    told = json.loads(run(config, "browse", "--json").stdout)
    assert told.keys() == {"things", "photos", "entities", "looked_at"}
    assert told["things"][0]["thing"] == 1 and told["things"][0]["photos"] == 5
    id_ = told["things"][0]["entity_id"]
    assert first.best.spot is not None and first.best.spot.entity_id == id_
    matches = json.loads(run(config, "query", "--id", id_, "--json").stdout)["matches"]
    assert "mug" in matches[0]["image"]
    text = run(config, "browse").stdout.splitlines()
    assert text[0].split() == ["thing", "photos", "entity", "id", "its", "best", "picture"]
    assert text[1].split()[:3] == ["1", "5", str(id_)]
    assert len(known.browse(top=1).things) == 1


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["similar", "browse"])
@pytest.mark.parametrize("ending", ["png", "webp", "html"])
def test_out_writes_what_its_ending_says(
    known: Collection, config: Config, tmp_path: Path, command: str, ending: str
) -> None:
    out = tmp_path / f"x.{ending}"
    done = run(config, command, "--out", out)
    assert done.exit_code == 0, done.output
    assert is_ours(out) and run(config, command, "--out", out).exit_code == 0  # over its own
    if ending == "html":
        page = Page(out.read_text(encoding="utf-8"))
        assert "script" not in page.tags
        assert all(picture.startswith("data:") for picture in page.pictures)
        assert len(page.pictures) == (8 if command == "similar" else 1)


def test_names_of_any_bytes(colours: None, config: Config, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / ODD, 0)
    draw(tmp_path / "photos" / "again" / ODD, 0)
    Collection.of(config).ingest(tmp_path / "photos", index=True)
    for ending in ("png", "html"):
        done = run(config, "similar", "--out", tmp_path / f"x.{ending}")
        assert done.exit_code == 0 and len(done.stdout.splitlines()) == 3
        assert "\udcff" not in done.stdout
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert page.tags >= {"a", "img"} and "<b>" not in str(page.pictures)
    assert run(config, "similar", "--paths").stdout_bytes.count(b"\xff.png\n") == 2
    told = json.loads(run(config, "similar", "--json").stdout)["groups"][0]["photos"][0]
    assert {Path(path).name for path in (told["image"], *told["also_at"])} == {ODD}


@pytest.mark.parametrize("command", ["similar", "browse"])
def test_no_photo_is_drawn_over(
    known: Collection, config: Config, photos: Path, tmp_path: Path, command: str
) -> None:
    before = (photos / "mug.png").read_bytes()
    refused = run(config, command, "--out", photos / "mug.png", "--force")
    assert refused.exit_code == 1 and "is a photo of the collection" in refused.output
    assert (photos / "mug.png").read_bytes() == before
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert run(config, command, "--out", tmp_path / "mine.png").exit_code == 1
    assert run(config, command, "--out", tmp_path / "x.csv").exit_code == 2
    with pytest.raises(VesearchError, match="photo of the collection"):
        known.similar().save(photos / "mug.png", force=True)


def test_photos_that_are_gone_stay_blank(known: Collection, photos: Path) -> None:
    found = known.similar()
    whole = np.asarray(found.picture())
    for file in photos.rglob("*.png"):
        file.unlink()
    blank = np.asarray(found.picture())
    assert whole.shape == blank.shape and (whole != blank).any()
    assert found._repr_png_().startswith(b"\x89PNG") and known.browse().picture().width > 100


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["similar", "browse"])
def test_without_a_store_or_an_index_a_line_says_what_to_run(
    colours: None,
    config: Config,
    photos: Path,
    command: str,
) -> None:
    nothing = run(config, command)
    assert nothing.exit_code == 1 and "with: vesearch ingest" in nothing.output
    Collection.of(config).ingest(photos)
    no_index = run(config, command)
    assert no_index.exit_code == 1 and "run: vesearch build-index" in no_index.output
    for done in (nothing, no_index):
        assert done.stdout == "" and done.output.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("similar", "--top", 0),
        ("similar", "--min-confidence", 0.3),
        ("similar", "--min-confidence", "nan"),
        ("similar", "--kind", "twins"),
        ("browse", "--top", 0),
        ("similar", "--paths", "--json"),
        ("browse", "-0", "--json"),
        ("remove", "x.png", "--paths", "--json"),
    ],
)
def test_wrong_use_is_told(known: Collection, config: Config, wrong: tuple[object, ...]) -> None:
    done = run(config, *wrong)
    assert done.exit_code == 2 and done.stdout == "" and "Error: " in done.output


def test_no_model_is_made(
    known: Collection, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(job: Job) -> None:
        raise AssertionError("a model")

    for name in ("detector", "embedder"):
        monkeypatch.setattr(Job, name, property(refused))
    assert known.similar().groups and run(config, "browse").exit_code == 0


def test_torch_is_not_loaded(known: Collection, config: Config) -> None:
    code = (
        "import sys; from vesearch import Collection; "
        f"c = Collection({config.run.store!r}); c.similar().picture(); c.browse().picture(); "
        "print(sorted({'torch', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
