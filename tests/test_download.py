"""Downloads against a server of our own: continued, checked, and whole or not there at all."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webserver import Server, serving
from vesearch.errors import DigestError, DownloadError
from vesearch.weights import download, remote
from vesearch.weights.download import fetch, size_text

BODY = hashlib.shake_256(b"weights").digest(1_000_000)
OTHER = hashlib.shake_256(b"other weights").digest(900_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


@pytest.fixture
def site() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pth"


def left(path: Path) -> list[str]:
    """Return the names of all files beside path, path included."""
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


def failing(site: Server, path: Path, **options: str) -> str:
    """Fetch in vain; the error is one line, and path is not there."""
    with pytest.raises(DownloadError) as caught:
        fetch(f"{site.url}model.pth", path, **options)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


def test_a_file_arrives_whole(site: Server, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert path.read_bytes() == BODY and left(path) == ["model.pth"]
    said = capsys.readouterr()
    assert said.out == ""
    for words in ("fetching model.pth, 1.0 MB", f"from {site.url}model.pth", f"to   {path}"):
        assert words in said.err
    (request,) = site.requests
    assert request.headers["Accept-Encoding"] == "identity" and "Range" not in request.headers


def test_an_empty_file_is_a_file(site: Server, path: Path) -> None:
    site.add("/model.pth", b"")
    fetch(f"{site.url}model.pth", path)
    assert path.read_bytes() == b"" and left(path) == ["model.pth"]


def test_an_old_file_stays_until_the_new_one_is_whole(site: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"old")
    site.add("/model.pth", BODY, cuts=[1000] * 9, ranges=False)
    with pytest.raises(DownloadError):
        fetch(f"{site.url}model.pth", path)
    assert path.read_bytes() == b"old"
    site.add("/model.pth", BODY)
    fetch(f"{site.url}model.pth", path)
    assert path.read_bytes() == BODY


def test_a_cut_connection_is_continued(
    site: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("/model.pth", BODY, cuts=[300_000, 1, 200_000])
    assert fetch(f"{site.url}model.pth", path, sha256=SHA256) == SHA256
    assert site.codes() == [200, 206, 206, 206]
    assert site.ranges() == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]
    assert all(r.headers.get("If-Range") == '"1"' for r in site.requests[1:])
    assert "continuing after 0.3 MB" in capsys.readouterr().err
    assert left(path) == ["model.pth"]


def test_new_bytes_earn_new_attempts_but_standing_still_does_not(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY, cuts=[100_000] * 9)
    fetch(f"{site.url}model.pth", path)
    assert len(site.requests) == 10
    site.requests.clear()
    site.add("/model.pth", OTHER, etag='"2"', cuts=[500_000, 0, 0, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match="broke off at 500,000 of 900,000 bytes; the same"):
        fetch(f"{site.url}model.pth", path.with_name("other.pth"))
    assert len(site.requests) == 1 + len(download.PAUSES_S)


def test_the_next_call_continues(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY, cuts=[400_000, 0, 0, 0, 0])
    assert "the same command continues" in failing(site, path)
    assert left(path) == ["model.pth.part", "model.pth.part.json"]
    assert path.with_name("model.pth.part").read_bytes() == BODY[:400_000]
    site.requests.clear()
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path, sha256=SHA256) == SHA256
    assert site.ranges() == ["bytes=400000-"] and site.codes() == [206]
    assert left(path) == ["model.pth"]


def test_a_date_continues_too(site: Server, path: Path) -> None:
    dated = {"etag": None, "modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    site.add("/model.pth", BODY, cuts=[400_000], **dated)
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [200, 206]
    assert site.requests[1].headers["If-Range"] == dated["modified"]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_validator_it_starts_over(
    site: Server, path: Path, etag: str | None
) -> None:
    site.add("/model.pth", BODY, etag=etag, cuts=[400_000])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.ranges() == [None, None]


def test_a_changed_file_starts_over(
    site: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("/model.pth", OTHER, cuts=[400_000, 0, 0, 0])
    failing(site, path)
    site.requests.clear()
    site.add("/model.pth", BODY, etag='"2"')
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.ranges() == ["bytes=400000-"] and site.codes() == [200]
    assert "has changed, so from the beginning" in capsys.readouterr().err


def test_a_file_that_changes_behind_its_etag_is_not_glued(site: Server, path: Path) -> None:
    site.add("/model.pth", OTHER, cuts=[400_000, 0, 0, 0])
    failing(site, path)
    site.add("/model.pth", BODY)  # the same ETag, but another size
    assert fetch(f"{site.url}model.pth", path) == SHA256


def test_a_part_of_another_file_is_not_glued(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY[::-1], cuts=[400_000, 0, 0, 0])
    failing(site, path)
    site.requests.clear()
    site.add("/model.pth", BODY, etag='"2"', careless=True)  # as long, and sent as a part
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [206, 200]


def test_another_url_does_not_continue(site: Server, path: Path) -> None:
    site.add("/model.pth", OTHER, cuts=[400_000, 0, 0, 0])
    failing(site, path)
    site.requests.clear()
    site.add("/mirror/model.pth", BODY)
    assert fetch(f"{site.url}mirror/model.pth", path) == SHA256
    assert site.ranges() == [None]


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"url": 1}', '{"nonsense": 1}'])
def test_a_damaged_note_starts_over(site: Server, path: Path, kept: str) -> None:
    path.parent.mkdir()
    path.with_name("model.pth.part").write_bytes(OTHER[:5000])
    path.with_name("model.pth.part.json").write_text(kept)
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.ranges() == [None]


def test_a_server_without_ranges_starts_over(
    site: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("/model.pth", BODY, ranges=False, cuts=[400_000])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [200, 200] and site.ranges()[1] == "bytes=400000-"
    assert "cannot continue, so from the beginning" in capsys.readouterr().err


def test_more_than_the_server_has_starts_over(site: Server, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("model.pth.part").write_bytes(b"x" * (len(BODY) + 5))
    note = {"url": f"{site.url}model.pth", "validator": '"1"', "size": None, "md5": None}
    path.with_name("model.pth.part.json").write_text(json.dumps(note))
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [416, 200]


def test_what_was_whole_but_not_yet_named_needs_no_server(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("model.pth.part").write_bytes(BODY)
    note = {"url": "http://127.0.0.1:9/m", "validator": '"1"', "size": len(BODY), "md5": MD5}
    path.with_name("model.pth.part.json").write_text(json.dumps(note))
    assert fetch("http://127.0.0.1:9/m", path) == SHA256


@pytest.mark.parametrize("expected", [{"sha256": SHA256[:8]}, {"sha256": SHA256}, {"md5": MD5[:6]}])
def test_a_right_digest_or_its_beginning(
    site: Server, path: Path, expected: dict[str, str]
) -> None:
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path, **expected) == SHA256


@pytest.mark.parametrize("expected", [{"sha256": "73cbd019"}, {"md5": "c10459"}])
def test_a_wrong_digest_removes_the_download(
    site: Server, path: Path, expected: dict[str, str]
) -> None:
    site.add("/model.pth", BODY)
    line = failing(site, path, **expected)
    (name, digest), actual = *expected.items(), SHA256 if "sha256" in expected else MD5
    assert f"{name} is {actual}, expected {digest}…" in line and site.url in line
    assert left(path) == []


def test_the_md5_that_google_storage_sends_is_checked(site: Server, path: Path) -> None:
    def hashes(body: bytes) -> dict[str, str]:
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        return {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}

    site.add("/model.pth", BODY, headers=hashes(BODY))
    assert fetch(f"{site.url}model.pth", path, md5=MD5[:6]) == SHA256
    path.unlink()
    site.add("/model.pth", BODY, headers=hashes(OTHER), cuts=[400_000])
    with pytest.raises(DigestError, match="md5 is"):
        fetch(f"{site.url}model.pth", path)
    assert left(path) == []


@pytest.mark.parametrize("code", [404, 403, 410])
def test_what_is_not_there_is_one_line(site: Server, path: Path, code: int) -> None:
    site.add("/model.pth", failing=[code])
    line = failing(site, path)
    assert f"{site.url}model.pth: HTTP {code}" in line and left(path) == []
    assert len(site.requests) == 1


def test_a_busy_server_is_asked_again(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY, failing=[503, 429])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    site.add("/model.pth", BODY, failing=[503] * 9)
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch(f"{site.url}model.pth", path.with_name("again.pth"))


def test_a_log_in_page_is_not_the_file(site: Server, path: Path) -> None:
    site.add("/model.pth", b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})
    assert "web page" in failing(site, path)
    assert left(path) == []


def test_a_body_whose_end_cannot_be_told_is_refused(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY, has_length=False)
    assert "how large" in failing(site, path)


@pytest.mark.parametrize("advice", ["", "put it there"])
def test_offline_says_how_to_go_on(path: Path, advice: str) -> None:
    with socket.socket() as taken:  # bound, but nobody listens: refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model.pth"
        for ask in (lambda: fetch(url, path, advice=advice), lambda: remote.size_of(url)):
            with pytest.raises(DownloadError) as caught:
                ask()
            line = str(caught.value)
            assert "cannot reach 127.0.0.1:" in line and "offline?" in line and "\n" not in line
            assert f"fetch {url} on another machine" in line
    assert left(path) == []


def test_an_unknown_host_is_offline_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*asked: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match=r"cannot reach no-such-host\.invalid \(.+\): offline"):
        fetch("https://no-such-host.invalid/model.pth", path)


def test_a_silent_server_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DownloadError, match="timed out"),
    ):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/model.pth", path)
    assert left(path) == []


def test_redirects_are_followed_and_keep_the_range(site: Server, path: Path) -> None:
    site.add("/model.pth", redirect="/moved/model.pth")
    site.add("/moved/model.pth", BODY, cuts=[400_000])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [302, 200, 302, 206]


def test_no_redirect_gives_up_encryption_or_leaves_the_web() -> None:
    handler = remote._Redirects()
    request = urllib.request.Request("https://example.org/model.pth")
    for target in ("http://example.org/model.pth", "ftp://example.org/model.pth"):
        with pytest.raises(DownloadError, match="without encryption"):
            handler.redirect_request(request, None, 302, "Found", {}, target)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/m", "model.pth", "http:"])
def test_only_the_web_is_fetched(path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only http"):
        fetch(url, path)
    assert left(path) == []


def test_a_full_disk_is_told_before(
    site: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    site.add("/model.pth", BODY)
    assert "1.0 MB to fetch, but only 1,000 bytes are free" in failing(site, path)


def test_a_folder_that_cannot_be_made(site: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in failing(site, tmp_path / "file" / "model.pth")


def test_two_processes_do_not_write_one_file(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY)
    with download._locked(path.with_name("model.pth.part")):
        assert "another process is fetching it" in failing(site, path)
    assert fetch(f"{site.url}model.pth", path) == SHA256


def test_ctrl_c_leaves_what_has_arrived(site: Server, path: Path) -> None:
    """A real process, interrupted while the server has stopped sending."""
    with socket.create_server(("127.0.0.1", 0)) as slow:
        url = f"http://127.0.0.1:{slow.getsockname()[1]}/model.pth"
        code = "import sys; from pathlib import Path; from vesearch.weights.download import fetch; "
        code += "fetch(sys.argv[1], Path(sys.argv[2]))"
        process = subprocess.Popen([sys.executable, "-c", code, url, path], stderr=subprocess.PIPE)
        connection, _ = slow.accept()
        with connection:
            connection.recv(10_000)
            head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(BODY)}\r\n\r\n'
            connection.sendall(head.encode() + BODY[:500_000])
            part, until = path.with_name("model.pth.part"), time.monotonic() + 20
            while not (part.exists() and part.stat().st_size > 100_000):
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) != 0
    kept = part.read_bytes()
    assert 100_000 < len(kept) < len(BODY) and BODY.startswith(kept) and not path.exists()
    note = path.with_name("model.pth.part.json")
    note.write_text(note.read_text().replace(url, f"{site.url}model.pth"))
    site.add("/model.pth", BODY)
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.ranges() == [f"bytes={len(kept)}-"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(940, "940 bytes"), (2_500_000, "2.5 MB"), (94_244_608, "94 MB"), (3_180_941_440, "3.2 GB")],
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert size_text(size) == text
