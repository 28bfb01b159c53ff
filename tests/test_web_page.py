"""The page in a real browser, as people use it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests import photos as pictures
from tests.served import Serving
from vesearch import pipeline
from vesearch.cli.main import main
from vesearch.config import load_config
from vesearch.store.shards import Store

CHROMIUM = shutil.which("chromium")
AXE = os.environ.get("VESEARCH_AXE")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here"
)
LEFT, RIGHT = "motorcycle_left.png", "motorcycle_right.png"
_MOST = 3_000_000  # bytes of an upload, so that one that is too large is quickly made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    pictures.collect(made / "photos")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    config = load_config(overrides=[f"run.store={folder / 'store'}", "run.device=cpu"])
    pipeline.ingest(config, [folder / "photos"], index=True)
    with Serving(config, most_bytes=_MOST) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Any]:
    """Open a page; afterwards nothing may have been wrong, and nobody else asked."""
    faults: list[str] = []
    opened: list[BrowserContext] = []

    def open_it(address: str = "", *, at: str = server, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(20_000)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda fault: faults.append(str(fault)))
        page.on("console", lambda m: _heard(m, faults))
        page.on("request", lambda r: _asked(r.url, at, faults))
        page.goto(at + address)
        return page

    yield open_it
    for context in opened:
        context.close()
    assert faults == []


def _heard(message: Any, faults: list[str]) -> None:
    # a refused request is an error to the browser, and told on the page
    if message.type == "error" and "Failed to load resource" not in message.text:
        faults.append(message.text)


def _asked(url: str, at: str, faults: list[str]) -> None:
    if not url.startswith((at, "blob:" + at, "data:")):
        faults.append(f"asked {url}")


def show(page: Page, file: Path) -> None:
    page.set_input_files("#file", str(file))
    page.wait_for_selector(".entity")


def accessible(page: Page) -> None:
    """Assert that axe finds nothing wrong (WCAG 2.2 AA)."""
    if AXE is None:
        return
    expect(page.locator("#cards.old")).to_have_count(0)
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run(document, {runOnly: tags})", tags)
    faults = [(v["id"], v["nodes"][0]["html"][:120]) for v in found["violations"]]
    assert faults == []


# --- the way through it -------------------------------------------------------------------------


def test_from_a_photo_to_what_is_alike_and_on_and_back(open_page: Any, folder: Path) -> None:
    page = open_page()
    expect(page.locator("#collection")).to_contain_text("photos")
    expect(page.locator("#some a")).to_have_count(8)
    accessible(page)
    show(page, folder / "photos" / LEFT)
    expect(page.locator("#told")).to_contain_text("pick the one")
    accessible(page)
    page.locator('[data-number="1"]').click()
    expect(page.locator(".card")).to_have_count(1)
    card = page.locator(".card").first
    expect(card).to_contain_text("the same")
    expect(card).to_contain_text(RIGHT)
    expect(page.locator("#told")).to_contain_text("left out")
    accessible(page)
    first = page.url
    assert re.search(r"\?photo=[\w-]+&e=1$", first)
    card.locator(".go").click()
    expect(page.locator("#photo-title")).to_contain_text(RIGHT)
    expect(page.locator(".card").first).to_contain_text(LEFT)
    assert re.search(r"\?image=\d+&e=1$", page.url)
    expect(page.locator("#trail a")).to_have_count(1)
    page.go_back()
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    assert page.url == first
    page.reload()
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    page.go_forward()
    expect(page.locator(".card").first).to_contain_text(LEFT)
    page.locator("#trail a").first.click()
    expect(page.locator(".card").first).to_contain_text(RIGHT)


def test_an_address_is_shared_and_names_everything(open_page: Any, server: str) -> None:
    page = open_page()
    page.locator(f'#some a:has(img[alt$="{LEFT}"])').click()
    page.wait_for_selector(".entity")
    page.keyboard.press("1")
    page.wait_for_selector(".card")
    page.locator("#more summary").click()
    page.locator("[name=nostuff]").check()
    page.locator("[name=explain]").check()
    page.locator("#sure").fill("0")
    # the first that is explained loads a network
    expect(page.locator(".card")).to_have_count(7, timeout=20_000)
    expect(page.locator("#photo .spot").first).to_be_visible()
    expect(page.locator(".card .spot").first).to_be_visible()
    accessible(page)
    other = open_page(page.url.removeprefix(server))
    expect(other.locator(".card")).to_have_count(7)
    assert (
        other.locator("[name=nostuff]").is_checked() and other.locator("#sure").input_value() == "0"
    )


def test_right_and_wrong_refine_and_selected_photos_are_taken_along(
    open_page: Any, folder: Path
) -> None:
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(f'#some a:has(img[alt$="{LEFT}"])').click()
    page.wait_for_selector(".entity")
    page.keyboard.press("1")
    page.locator("#sure").fill("0")
    expect(page.locator(".card")).to_have_count(7)
    mark = page.locator(".card").nth(1).get_by_text("Wrong")
    marked = f'#cards [data-key="{mark.get_attribute("data-key")}"]'
    mark.click()
    expect(page.locator("#marks .wrong svg")).to_have_count(1)
    expect(page.locator("#marks .wrong")).to_be_focused()
    expect(page.locator(marked)).to_have_count(0)  # it is no match any more
    accessible(page)
    assert "wrong=" in page.url
    page.reload()
    expect(page.locator("#marks .wrong svg")).to_have_count(1)
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    for row in (0, 2):
        page.locator(".card input").nth(row).check()
    expect(page.locator("#chosen-count")).to_have_text("2 selected")
    page.locator("#copy-paths").click()
    expect(page.locator("#copy-paths")).to_have_text("Copied")
    assert str(folder / "photos" / RIGHT) in page.evaluate("navigator.clipboard.readText()")
    page.locator("#copy-command").click()
    expect(page.locator("#copy-command")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert f"{LEFT} --entity 1 --not " in command
    same = answers(command)  # the command finds what the page shows
    assert same == [Path(name).name for name in page.locator(".card .path").all_inner_texts()]
    with page.expect_download() as taken:
        page.locator("#zip").click()
    assert taken.value.suggested_filename == "photos.zip"
    page.locator("#marks button").click()
    expect(page.locator("#marks")).to_be_empty()
    expect(page.locator(marked)).to_have_count(1)
    page.locator(".card").nth(1).get_by_text("Right").click()
    expect(page.locator("#marks .right svg")).to_have_count(1)
    expect(page.locator("#cards.old")).to_have_count(0)
    expect(page.locator("#copy-command")).to_have_text("Copy command")
    page.locator("#copy-command").click()
    expect(page.locator("#copy-command")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert f"{LEFT}#1' --id " in command
    assert answers(command)[0] == Path(page.locator(".card .path").first.inner_text()).name


def answers(command: str) -> list[str]:
    """Return the names of the photos that a command line finds."""
    done = CliRunner().invoke(main, [*shlex.split(command)[1:], "--json"])
    assert done.exit_code == 0, done.output
    return [Path(match["image"]).name for match in json.loads(done.stdout)["matches"]]


def test_several_things_at_once_and_the_whole_photo(open_page: Any, folder: Path) -> None:
    page = open_page()
    show(page, folder / "photos" / LEFT)
    things = page.locator("#things a")
    assert things.count() == page.locator(".entity").count() > 2
    things.nth(1).hover()
    expect(page.locator('[data-entity="2"].hot')).to_have_count(1)
    accessible(page)
    things.nth(0).click()
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    expect(things.first).to_be_hidden()
    page.locator('[data-number="2"]').click(modifiers=["Shift"])
    page.wait_for_url(re.compile("e=1%2C2"))
    expect(page.locator(".entity.chosen")).to_have_count(2)
    expect(page.locator("#hint")).to_contain_text("all of these")
    page.locator("#sure").fill("0")
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    expect(page.locator(".card").first.get_by_text("Right", exact=True)).to_have_count(0)
    expect(page.locator(".card").first.locator(".peak.dark")).to_have_count(2)
    page.keyboard.press("Shift+Digit2")  # once more: without it
    page.wait_for_url(re.compile("e=1&"))
    page.locator("#add").click()
    expect(page.locator("#add")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("3")
    page.wait_for_url(re.compile("e=1%2C3"))
    page.reload()
    expect(page.locator(".entity.chosen")).to_have_count(2)
    page.locator(".card .go").first.click()
    page.wait_for_url(re.compile(r"image=\d+&e=\d+%2C\d+"))
    page.go_back()
    page.locator("#whole").click()
    page.wait_for_url(re.compile("whole=1"))
    expect(page.locator("#whole")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    accessible(page)
    page.locator("#clear").click()
    expect(things.first).to_be_visible()


def test_what_is_nearest_is_shown_where_nothing_is_alike(open_page: Any, folder: Path) -> None:
    page = open_page()
    show(page, folder / "photos" / "coffee.png")
    page.keyboard.press("1")
    expect(page.locator("#told")).to_contain_text("Nothing is alike")
    accessible(page)
    page.get_by_role("button", name="Show what is nearest").click()
    expect(page.locator(".card")).to_have_count(7)
    assert page.locator("#sure").input_value() == "0"
    expect(page.locator("#next")).to_be_hidden()
    page.goto(page.url + "&top=3")
    expect(page.locator(".card")).to_have_count(3)
    page.locator("#next").click()
    expect(page.locator(".card")).to_have_count(7)


def _drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    shown = page.locator("#photo svg").bounding_box()
    assert shown is not None
    points = [
        (shown["x"] + x * shown["width"], shown["y"] + y * shown["height"]) for x, y in (start, end)
    ]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=6)
    page.mouse.up()


def _box(page: Page) -> list[float]:
    page.wait_for_url(re.compile("box="))
    return [
        float(n) for n in page.url.split("box=")[1].split("&")[0].replace("%2C", ",").split(",")
    ]


def _no_more(page: Page, box: list[float]) -> None:
    """Wait until the box is another one."""
    script = "box => String(box) !== String(new URLSearchParams(location.search).get('box'))"
    page.wait_for_function(script, arg=box)


def test_a_box_is_drawn_moved_and_resized(open_page: Any, folder: Path) -> None:
    page = open_page()
    show(page, folder / "photos" / LEFT)
    _drag(page, (0.2, 0.25), (0.9, 0.9))
    page.wait_for_selector(".card")
    drawn = _box(page)
    assert drawn == pytest.approx([0.2 * 741, 0.25 * 500, 0.9 * 741, 0.9 * 500], abs=6)
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    _drag(page, (0.5, 0.5), (0.45, 0.45))  # inside: it moves
    _no_more(page, drawn)
    moved = _box(page)
    assert moved[2] - moved[0] == pytest.approx(drawn[2] - drawn[0], abs=1)
    assert moved[0] == pytest.approx(drawn[0] - 0.05 * 741, abs=6)
    corner = moved[2] / 741, moved[3] / 500
    _drag(page, corner, (0.7, 0.7))  # a corner: it changes its size
    _no_more(page, moved)
    assert _box(page)[2:] == pytest.approx([0.7 * 741, 0.7 * 500], abs=6)
    accessible(page)
    page.locator("#clear").click()
    page.locator("#draw").focus()  # without a mouse
    page.keyboard.press("Enter")
    assert _box(page) == pytest.approx([185, 125, 556, 375], abs=1)
    expect(page.locator("[data-own=move]")).to_be_focused()
    before = _box(page)
    page.keyboard.press("ArrowRight")
    _no_more(page, before)
    assert _box(page)[0] > before[0]


def _empty(page: Page) -> tuple[float, float]:
    """Return a place on the photo, in shares of it, where no entity is near."""
    script = """() => {
      const {x, y, width, height} = document.querySelector("#photo svg").getBoundingClientRect();
      const at = (u, v) => document.elementFromPoint(x + u * width, y + v * height);
      const free = (u, v) => [-0.02, 0, 0.02].every((d) => [-0.02, 0, 0.02].every(
        (e) => at(u + d, v + e)?.tagName === "image"));
      for (let v = 0.1; v < 0.9; v += 0.02)
        for (let u = 0.1; u < 0.9; u += 0.02) if (free(u, v)) return [u, v];
    }"""
    x, y = page.evaluate(script)
    return x, y


def test_what_was_not_found_is_pointed_at(open_page: Any, folder: Path) -> None:
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(f'#some a:has(img[alt$="{LEFT}"])').click()
    page.wait_for_selector(".entity")
    x, y = _empty(page)
    _drag(page, (x, y), (x, y))  # a click
    page.wait_for_url(re.compile(r"image=\d+&point="))
    query = page.url.split("point=")[1].replace("%2C", ",").split(",")
    assert [float(n) for n in query] == pytest.approx([x * 741, y * 500], abs=1.5)
    outline = page.locator(".grown .area")
    expect(outline).to_have_count(1)
    drawn = outline.get_attribute("d") or ""
    assert drawn.count("Q") > 8  # grown, not a box
    expect(page.locator(".aim")).to_have_count(1)
    page.locator("#sure").fill("0")
    expect(page.locator(".card")).to_have_count(7)
    expect(outline).to_have_count(1)
    accessible(page)
    page.locator(".card input").first.check()
    page.locator("#copy-command").click()
    expect(page.locator("#copy-command")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert " --point " in command
    assert answers(command) == [
        Path(name).name for name in page.locator(".card .path").all_inner_texts()
    ]
    page.reload()
    expect(outline).to_have_attribute("d", drawn)
    page.locator('[data-number="1"]').click()
    expect(page.locator(".entity.chosen:not(.grown)")).to_have_count(1)
    expect(page.locator(".aim, .grown")).to_have_count(0)
    before = page.url
    _drag(page, (x, y), (x + 0.005, y))  # with Shift, or where one more is picked: a slip
    page.wait_for_url(re.compile("point="))
    page.go_back()
    page.wait_for_url(before)
    page.keyboard.down("Shift")
    _drag(page, (x, y), (x, y))
    page.keyboard.up("Shift")
    assert page.url == before
    page.go_back()
    expect(outline).to_have_attribute("d", drawn)


def test_a_point_is_steered_with_the_keys(open_page: Any, folder: Path) -> None:
    page = open_page()
    show(page, folder / "photos" / LEFT)
    page.locator("#point").focus()
    page.keyboard.press("Enter")
    aim = page.locator(".aim")
    expect(aim).to_be_focused()
    expect(page.locator("#point")).to_have_attribute("aria-pressed", "true")
    assert "point=" not in page.url  # nothing is asked yet
    page.keyboard.press("Escape")
    expect(aim).to_have_count(0)
    expect(page.locator("#point")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#point")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowDown")
    expect(aim).to_have_attribute("aria-label", re.compile("48 % from the left, 47 % from the top"))
    accessible(page)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("photo=.*point=355.7%2C236.7$"))
    expect(page.locator(".grown")).to_have_count(1)
    expect(aim).to_be_focused()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("point=740.9%2C236.7$"))  # it stays in the photo
    expect(page.locator("#told.bad")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(aim).to_have_count(0)
    expect(page.locator("#point")).to_be_focused()
    page.go_back()
    expect(aim).to_have_count(1)


def test_near_copies_are_opened(open_page: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "photos", tmp_path / "photos")
    with Image.open(folder / "photos" / RIGHT) as image:
        for i in range(3):
            near = image.convert("RGB").crop((i, i, image.width - 3 + i, image.height - 3 + i))
            near.save(tmp_path / "photos" / f"burst_{i}.jpg", quality=90)
    shutil.copytree(folder / "store", tmp_path / "store")
    config = load_config(overrides=[f"run.store={tmp_path / 'store'}", "run.device=cpu"])
    pipeline.ingest(config, [tmp_path / "photos"], index=True)
    with Serving(config, most_bytes=_MOST) as address:
        page = open_page(at=address)
        show(page, folder / "photos" / LEFT)
        page.keyboard.press("1")
        more = page.locator(".card").first.locator(".more")
        expect(more).to_have_text("+3 alike")
        expect(more).to_have_attribute("aria-expanded", "false")
        links = page.locator(".copies a")
        expect(links).to_have_count(0)
        more.focus()
        page.keyboard.press("Enter")
        expect(more).to_have_attribute("aria-expanded", "true")
        expect(links).to_have_count(3)
        expect(page.locator(".copies img").first).to_have_js_property("complete", True)
        assert page.locator(".copies img").first.evaluate("image => image.naturalWidth") > 0
        accessible(page)
        page.locator("#sure").fill("0.4")  # it stays open
        page.wait_for_url(re.compile("sure=0.4"))
        expect(page.locator("#cards.old")).to_have_count(0)
        expect(links).to_have_count(3)
        named = links.nth(1).inner_text()
        links.nth(1).click()
        expect(page.locator("#photo-title")).to_have_text(named)
        page.wait_for_url(re.compile(r"image=\d+&e=\d+"))
        expect(page.locator(".card").first).to_be_visible()
        page.go_back()
        more.click()
        expect(links).to_have_count(3)
        more.click()
        expect(links.first).to_be_hidden()


def test_keys_alone(open_page: Any, folder: Path) -> None:
    page = open_page()
    page.locator(f'#some a:has(img[alt$="{LEFT}"])').focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".entity")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset?.entity") is not None:
            break
    focused = page.evaluate("document.activeElement.dataset.entity")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(f"e={focused}"))
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile(r"image=\d+$"))
    page.locator("#things a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator('[data-entity="1"]')).to_be_focused()
    expect(page.locator(".card")).to_have_count(1)
    page.locator("#told button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#told")).to_be_focused()
    expect(page.locator(".card")).to_have_count(7)
    right = page.locator(".card").first.get_by_text("Right", exact=True)
    right.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#marks .right")).to_be_focused()  # its photo is an example now
    page.keyboard.press("Enter")
    expect(page.locator("#marks")).to_be_empty()
    expect(page.locator("#told")).to_be_focused()
    expect(page.locator(".card").first).to_contain_text(RIGHT)
    page.locator(".card .go").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#photo-title")).to_contain_text(RIGHT)


def test_a_phone_in_the_dark(open_page: Any, folder: Path) -> None:
    page = open_page(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    show(page, folder / "photos" / LEFT)
    page.locator('[data-number="1"]').tap()
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(22, 24, 27)"
    accessible(page)
    touch = page.context.new_cdp_session(page)
    shown = page.locator("#photo svg").bounding_box()
    assert shown is not None

    def at(x: float, y: float) -> list[dict[str, float]]:
        return [{"x": shown["x"] + x * shown["width"], "y": shown["y"] + y * shown["height"]}]

    def send(kind: str, points: list[dict[str, float]]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", at(0.2, 0.25))  # hold, then draw
    page.wait_for_timeout(500)
    for step in range(1, 8):
        send("touchMove", at(0.2 + 0.1 * step, 0.25 + 0.09 * step))
    send("touchEnd", [])
    drawn = _box(page)
    assert drawn[2] > 0.8 * 741
    page.wait_for_selector(".card")
    shown = page.locator("#photo svg").bounding_box()
    assert shown is not None
    send("touchStart", at(0.5, 0.5))  # in the box: it moves, and the page does not
    for step in range(1, 6):
        send("touchMove", at(0.5, 0.5 - 0.02 * step))
    send("touchEnd", [])
    _no_more(page, drawn)
    moved = _box(page)
    assert moved[1] == pytest.approx(drawn[1] - 0.1 * 500, abs=8) and moved[0] == drawn[0]
    assert page.evaluate("scrollY") == 0
    x, y = moved[2] / 741, moved[3] / 500
    send("touchStart", at(x + 0.02, y + 0.02))  # beside a corner, as fingers are
    for step in range(1, 6):
        send("touchMove", at(x - 0.04 * step, y - 0.04 * step))
    send("touchEnd", [])
    _no_more(page, moved)
    assert _box(page)[:2] == moved[:2] and _box(page)[2] < moved[2] - 50


# --- what goes wrong ----------------------------------------------------------------------------


def test_what_is_no_photo_is_told(open_page: Any, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * 500)
    page.set_input_files("#file", str(tmp_path / "broken.jpg"))
    expect(page.locator("#told.bad")).to_contain_text("broken.jpg cannot be searched: not an image")
    accessible(page)
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff" + b"\0" * (_MOST + 10))
    page.set_input_files("#file", str(tmp_path / "large.jpg"))
    expect(page.locator("#told.bad")).to_contain_text("at most 3 MB")
    page.get_by_role("button", name="Back", exact=True).click()
    expect(page.locator("#start")).to_be_visible()
    page.goto(page.url.split("?")[0] + "?image=123456&e=1")
    expect(page.locator("#told.bad")).to_contain_text("no photo 123456")


def test_what_the_browser_cannot_read_the_server_may(open_page: Any, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    with Image.open(pictures.photo(LEFT)) as image:
        image.convert("RGB").save(tmp_path / "phone.heic")
    page = open_page()
    show(page, tmp_path / "phone.heic")
    href = page.locator("#photo image").get_attribute("href") or ""
    assert href.startswith("/api/uploads/")
    page.keyboard.press("1")
    expect(page.locator(".card").first).to_contain_text("motorcycle")


def test_no_index_yet_and_then_there_is_one(open_page: Any, folder: Path, tmp_path: Path) -> None:
    config = load_config(overrides=[f"run.store={tmp_path / 'store'}", "run.device=cpu"])
    with Serving(config, most_bytes=_MOST) as address:
        page = open_page(at=address)
        expect(page.locator("#collection")).to_contain_text("vesearch ingest")
        accessible(page)
        shutil.copytree(folder / "store", tmp_path / "store")
        page.reload()
        expect(page.locator("#collection")).to_contain_text("photos")
        page.locator(f'#some a:has(img[alt$="{LEFT}"])').click()
        page.wait_for_selector(".entity")
        page.keyboard.press("1")
        expect(page.locator(".card").first).to_contain_text(RIGHT)
        pipeline.run_stages(config, ("build-ngt",), (), refit=True)
        page.keyboard.press("Escape")
        page.keyboard.press("1")
        expect(page.locator(".card").first).to_contain_text(RIGHT)
    page.locator("#sure").fill("0.1")
    expect(page.locator("#offline")).to_be_visible()
    expect(page.locator("#told.bad")).to_contain_text("does not answer")
    page.set_input_files("#file", str(folder / "photos" / LEFT))
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#photo image")).to_be_visible()  # the photo is there all the same


def test_a_token_is_asked_for(open_page: Any, folder: Path) -> None:
    config = load_config(overrides=[f"run.store={folder / 'store'}", "run.device=cpu"])
    with Serving(config, most_bytes=_MOST, token="a-long-secret") as address:
        page = open_page("/?image=1&e=1", at=address)
        expect(page.get_by_role("heading")).to_have_text("A token is needed")
        assert page.evaluate("getComputedStyle(document.querySelector('form')).display") == "grid"
        accessible(page)
        field = page.get_by_label("Token, or the whole address")
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading")).to_have_text("The token is wrong")
        accessible(page)
        field.fill(f"{address}/?token=a-long-secret")
        page.get_by_role("button", name="Open").click()
        expect(page.locator(".card, #told button").first).to_be_visible()
        assert page.url == f"{address}/?image=1&e=1"


def test_an_ingest_is_followed(open_page: Any, folder: Path) -> None:
    store = Store(folder / "store")
    with store.lock():
        store._lock._told = 0.0
        store.tell(3, 10)
        page = open_page()
        expect(page.locator("#collection")).to_contain_text("Being added: 3 of 10 photos")
        assert page.locator("progress").get_attribute("value") == "3"
        accessible(page)
        store._lock._told = 0.0
        store.tell(5, 10)
        expect(page.locator("#collection")).to_contain_text("5 of 10")
    expect(page.locator("#collection")).not_to_contain_text("Being added")


def test_photos_that_are_gone_or_changed_are_told(
    open_page: Any, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "<img src=x onerror=alert(1)>.jpg").write_bytes(b"no photo")
    (tmp_path / "photos" / "draft.psd").write_bytes(b"8BPS" + bytes(60))
    config = load_config(overrides=[f"run.store={tmp_path / 'store'}", "run.device=cpu"])
    pipeline.ingest(config, [tmp_path / "photos"], index=True)
    (tmp_path / "photos" / RIGHT).unlink()
    shutil.copy(tmp_path / "photos" / "coffee.png", tmp_path / "photos" / LEFT)
    with Serving(config, most_bytes=_MOST) as address:
        page = open_page(at=address)
        page.locator("#collection summary").click()
        expect(page.locator("#collection li")).to_have_count(2)
        expect(page.locator("#collection")).to_contain_text("1 file of the format PSD")
        expect(page.locator("#collection")).to_contain_text("<img src=x onerror=alert(1)>.jpg: ")
        show(page, folder / "photos" / LEFT)
        page.keyboard.press("1")
        card = page.locator(".card").filter(has_text=RIGHT)
        expect(card.locator(".missing")).to_have_text("This photo is not there any more")
        page.locator("#sure").fill("0")
        other = page.locator(".card").filter(has_text="rocket")
        other.locator(".go").click()
        page.keyboard.press("1")
        changed = page.locator(".card").filter(has_text=LEFT)
        expect(changed).to_contain_text("changed since ingest")
        changed.locator(".go").click()
        expect(page.locator("#photo-title")).to_contain_text("changed since")
        expect(page.locator("#photo .missing")).to_be_visible()
        expect(page.locator(".card").first).to_be_visible()  # its things are known still


def test_odd_photos_fit(open_page: Any, tmp_path: Path) -> None:
    for name, size in (("панорама 写真.png", (1200, 90)), ("tall.png", (60, 900))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name)
        page = open_page(viewport={"width": 390, "height": 700})
        show(page, tmp_path / name)
        shown = page.locator("#photo").bounding_box()
        assert shown is not None and shown["width"] <= 390 and shown["height"] < 600
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(page.locator("#photo-title")).to_have_text(name)
