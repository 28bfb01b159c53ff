"""Answers as a page of their own and as a table."""

from __future__ import annotations

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from tests.colours import draw, run
from vesearch import Collection, VesearchError
from vesearch.config import Config
from vesearch.photos.ours import is_ours

ODD = "<b>&\"'\n\udcff.png"


class Page(HTMLParser):
    """The links, pictures and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.links += [given["href"] or ""] if tag == "a" else []
        self.pictures += [given["src"] or ""] if tag == "img" else []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.png", ODD)):
        draw(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def known(colours: None, config: Config, photos: Path) -> Collection:
    collection = Collection.of(config)
    collection.ingest(photos, index=True)
    return collection


def test_a_page_needs_no_other_file_and_leads_to_the_photos(
    known: Collection, photos: Path, tmp_path: Path
) -> None:
    answer = known.query(photos / "a.png", entity=1)
    answer.save(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.pictures) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.pictures)
    linked = {unquote_to_bytes(urlsplit(link).path) for link in page.links}
    assert linked == {os.fsencode(photos / name) for name in ("b.png", ODD)}
    assert not {"script", "b>"} & page.tags and '<b>&"' not in text
    assert "prefers-color-scheme: dark" in text and not re.search(r"https?://", text)
    assert f"{answer.matches[0].similarity:.2f} similar" in text


def test_a_page_of_a_photo_has_its_entities_alone(
    known: Collection, photos: Path, tmp_path: Path
) -> None:
    known.query(photos / "a.png").save(tmp_path / "e.html")
    page = Page((tmp_path / "e.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 1 and page.links == []


def test_a_table_says_what_the_json_does(known: Collection, photos: Path, config: Config) -> None:
    out = photos.parent / "r.csv"
    result = run(config, "query", photos / "a.png", "--entity", "1", "--json", "--out", out)
    matches = json.loads(result.stdout)["matches"]
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(matches) == 2
    for row, match in zip(rows, matches, strict=True):
        assert row["image"] == match["image"] and Path(row["image"]).is_file()
        assert int(row["entity_id"]) == match["entity_id"] and int(row["rank"]) == match["rank"]
        assert float(row["similarity"]) == match["similarity"]
        assert [float(row[key]) for key in ("x0", "y0", "x1", "y1")] == match["box"]
        assert (row["stale"], row["alike"], row["also_at"]) == ("false", "", "")
    run(config, "query", photos / "a.png", "--out", photos.parent / "e.csv")
    with (photos.parent / "e.csv").open(encoding="utf-8", newline="") as file:
        (entity,) = csv.DictReader(file)
    assert entity["entity"] == "1" and float(entity["x1"]) == 32


@pytest.mark.parametrize("ending", ["html", "csv"])
def test_what_we_wrote_is_written_over_and_nothing_else(
    known: Collection, photos: Path, tmp_path: Path, ending: str
) -> None:
    for answer in (known.query(photos / "a.png"), known.query(photos / "a.png", entity=1)):
        for _ in range(2):
            answer.save(tmp_path / f"r.{ending}")
            assert is_ours(tmp_path / f"r.{ending}")
    mine = tmp_path / f"mine.{ending}"
    mine.write_text("<!doctype html><p>rank,similarity,percentile,image,")
    with pytest.raises(VesearchError, match="did not draw it"):
        answer.save(mine)
    answer.save(mine, force=True)
    assert is_ours(mine)


def test_other_endings_are_refused_at_once(known: Collection, photos: Path, config: Config) -> None:
    result = run(config, "query", photos / "a.png", "--entity", "1", "--out", "r.pdf")
    assert result.exit_code == 2
    assert "can be one of .png, .jpg, .jpeg, .webp, .html, .csv" in result.output
