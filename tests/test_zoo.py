"""Where weights lie: the hub's cache, what a setting means, and what is fetched on use."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.publishing import BODY, MASK_RCNN, SHA256, run
from tests.webserver import Server
from vesearch.errors import DigestError, ModelError
from vesearch.weights import download, zoo

R50 = "simclr:r50_1x_sk1"
R50_FILES = ("model.ckpt-250228.index", "model.ckpt-250228.data-00000-of-00001")
COMMIT = "1234567890" * 4
pytestmark = pytest.mark.usefixtures("home")


def refused(*arguments: object, code: int = 1) -> str:
    """Run a command that fails: one line on stderr after what it tells, nothing on stdout."""
    result = run(*arguments, code=code)
    last = result.stderr.splitlines()[-1]
    assert result.stdout == "" and last.startswith("Error: ")
    assert "Traceback" not in result.output
    return last


def published(name: str) -> zoo.Weights:
    found = zoo.find(name)
    assert found is not None
    return found


# --- timm -------------------------------------------------------------------------------------


def test_timm_models_come_through_the_hubs_client(site: Server, home: Path) -> None:
    name, place = "resnet18.a1_in1k", "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    site.add(place, BODY, etag=f'"{SHA256}"', headers={"X-Repo-Commit": COMMIT})
    result = run("pull", f"timm:{name}")
    path = (
        home / f".cache/huggingface/hub/models--timm--{name}/snapshots/{COMMIT}/model.safetensors"
    )
    assert result.stdout == f"{path}\n" and path.read_bytes() == BODY
    for words in (f"fetching timm:{name}, 0.1 MB", f"from {site.url[:-1]}{place}", "to   "):
        assert words in result.stderr
    assert zoo.timm_files() == {name: path}
    assert f"timm:{name}" in run("list").stdout
    site.requests.clear()
    assert run("pull", f"timm:{name}").stdout == f"{path}\n" and site.requests == []


@pytest.mark.parametrize("why", ["RepoNotFound", "EntryNotFound", "GatedRepo", None])
def test_a_timm_model_that_the_hub_does_not_give(site: Server, why: str | None) -> None:
    place = "/timm/resnet18.nonsense/resolve/main/model.safetensors"
    headers = {"X-Error-Code": why} if why else {}
    site.add(place, failing=[403 if why == "GatedRepo" else 404] * 9, headers=headers)
    is_unknown = why in ("RepoNotFound", "EntryNotFound")
    line = refused("pull", "timm:resnet18.nonsense", code=2 if is_unknown else 1)
    words = {"GatedRepo": "terms", None: "404"}.get(why, "no such model")
    assert place in line and words in line and "cannot reach" not in line


def test_the_hub_may_be_switched_off(site: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused("pull", "timm:resnet18.a1_in1k")
    assert site.requests == []


# --- locate -----------------------------------------------------------------------------------


def test_locate_takes_a_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "own.pth").write_bytes(BODY)
    monkeypatch.chdir(home)
    assert zoo.locate("torchvision", "~/own.pth") == home / "own.pth"
    assert zoo.locate("simclr", "own.pth") == Path("own.pth")


def test_locate_says_what_is_wrong(home: Path) -> None:
    (home / "folder").mkdir()
    for family, weights, words in (
        (
            "simclr",
            "r50_1x_sk0",
            "simclr:r50_1x_sk0 is not pulled yet: vesearch models pull simclr",
        ),
        ("simclr", "r50_1x_sk", "no weights file 'r50_1x_sk'; did you mean 'r50_1x_sk"),
        ("simclr", MASK_RCNN, "no weights file 'torchvision:maskrcnn"),
        ("torchvision", "r50_1x_sk0", "no weights file 'r50_1x_sk0'"),
        ("simclr", str(home / "folder"), "no weights file"),
        ("mine", "gone.pth", "no weights file 'gone.pth'"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            zoo.locate(family, weights)
        assert "\n" not in str(caught.value)


# --- cached, as the models themselves fetch ---------------------------------------------------


def test_cached_fetches_once_and_checks(site: Server, home: Path) -> None:
    model = published(MASK_RCNN)
    url = model.url(model.files[0])
    assert download.cached(url, model.path) == model.path
    assert download.cached(url, model.path).read_bytes() == BODY
    assert len(site.requests) == 1
    site.add("/torchvision/other.pth", b"one")
    download.cached(f"{site.url}torchvision/other.pth", home / "other.pth").unlink()
    site.add("/torchvision/other.pth", b"two")
    with pytest.raises(DigestError, match="first pulled"):
        download.cached(f"{site.url}torchvision/other.pth", home / "other.pth")


def test_two_pulls_at_once_forget_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    read = zoo._first_pulls

    def slowly() -> dict[str, str]:
        found = read()
        time.sleep(0.1)  # the other pull, unless it waits, writes between reading and writing
        return found

    monkeypatch.setattr(zoo, "_first_pulls", slowly)
    urls = [f"https://example.org/{number}" for number in range(3)]
    with ThreadPoolExecutor(len(urls)) as pool:
        list(pool.map(zoo.remember_digest, urls, ["ab", "cd", "ef"]))
    assert read() == dict(zip(urls, ["ab", "cd", "ef"], strict=True))
