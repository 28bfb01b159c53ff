"""Downloads against a server of our own: checked, and whole or not there at all."""

from __future__ import annotations

import base64
import hashlib
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.webserver import Server, serving
from vesearch.errors import DigestError, DownloadError
from vesearch.weights import download
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


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that sends these bytes, one answer per connection, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for content in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(content)

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/model.pth"


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
    site.add("/model.pth", BODY, cuts=[1000] * 9)
    with pytest.raises(DownloadError):
        fetch(f"{site.url}model.pth", path)
    assert path.read_bytes() == b"old"
    site.add("/model.pth", BODY)
    fetch(f"{site.url}model.pth", path)
    assert path.read_bytes() == BODY


def test_a_cut_connection_is_tried_again(
    site: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("/model.pth", BODY, cuts=[300_000, 0, 200_000])
    assert fetch(f"{site.url}model.pth", path, sha256=SHA256) == SHA256
    assert site.codes() == [200] * 4 and left(path) == ["model.pth"]
    said = capsys.readouterr().err
    assert said.count("fetching") == 1
    assert "broke off at 300,000 of 1,000,000 bytes, so from the beginning" in said


def test_a_connection_that_never_holds_is_given_up(site: Server, path: Path) -> None:
    site.add("/model.pth", BODY, cuts=[500_000] * 9)
    assert "broke off at 500,000 of 1,000,000 bytes; the same command" in failing(site, path)
    assert len(site.requests) == 1 + len(download.PAUSES_S) and left(path) == []


def test_a_body_without_length_must_come_to_its_end(path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head + b"5\r\nwhole\r\n", head + b"5\r\nwhole\r\n0\r\n\r\n") as url:
        fetch(url, path)
    assert path.read_bytes() == b"whole"


def test_what_a_killed_process_left_is_not_glued(site: Server, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("model.pth.part").write_bytes(OTHER[:5000])
    site.add("/model.pth", BODY, cuts=[300_000])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert path.read_bytes() == BODY and left(path) == ["model.pth"]


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


def test_a_server_that_hangs_up_is_asked_again(path: Path) -> None:
    with answering(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile") as url:
        fetch(url, path)
    assert path.read_bytes() == b"file"


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
        for ask in (lambda: fetch(url, path, advice=advice), lambda: download.size_of(url)):
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
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DownloadError, match="timed out"),
    ):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/model.pth", path)
    assert left(path) == []


def test_redirects_are_followed(site: Server, path: Path) -> None:
    site.add("/model.pth", redirect="/moved/model.pth")
    site.add("/moved/model.pth", BODY, cuts=[400_000])
    assert fetch(f"{site.url}model.pth", path) == SHA256
    assert site.codes() == [302, 200, 302, 200]


@pytest.mark.parametrize("target", ["http://example.org/m", "ftp://example.org/m"])
def test_no_redirect_gives_up_encryption_or_leaves_the_web(
    path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def moved(
        adapter: object, request: requests.PreparedRequest, **options: object
    ) -> requests.Response:
        response = requests.Response()
        response.status_code, response.headers["Location"] = 302, target
        response.url, response.raw = str(request.url), io.BytesIO()
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", moved)
    with pytest.raises(DownloadError, match=f"redirects to {target}, without encryption"):
        fetch("https://example.org/model.pth", path)
    assert left(path) == []


def test_tls_that_fails_is_not_called_offline(site: Server, path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1:\d+ safely: ") as caught:
        fetch(f"{site.url.replace('http:', 'https:')}model.pth", path)
    assert "offline" not in str(caught.value) and "\n" not in str(caught.value)
    assert left(path) == []


def test_no_password_is_sent(
    site: Server, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    site.add("/model.pth", redirect="/moved/model.pth")
    site.add("/moved/model.pth", BODY)
    fetch(f"{site.url}model.pth", path)
    assert len(site.requests) == 2
    assert not any("Authorization" in request.headers for request in site.requests)


def test_a_proxy_of_the_environment_is_used(
    site: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", site.url)
    site.add("http://example.invalid/model.pth", BODY)
    assert fetch("http://example.invalid/model.pth", path) == SHA256


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


def test_ctrl_c_leaves_nothing(path: Path) -> None:
    """A real process, interrupted while the server has stopped sending."""
    with socket.create_server(("127.0.0.1", 0)) as slow:
        slow.settimeout(60)
        url = f"http://127.0.0.1:{slow.getsockname()[1]}/model.pth"
        code = "import sys; from pathlib import Path; from vesearch.weights.download import fetch; "
        code += "fetch(sys.argv[1], Path(sys.argv[2]))"
        process = subprocess.Popen([sys.executable, "-c", code, url, path], stderr=subprocess.PIPE)
        connection, _ = slow.accept()
        with connection:
            connection.recv(10_000)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n"
            connection.sendall(head.encode() + BODY[:500_000])
            part, until = path.with_name("model.pth.part"), time.monotonic() + 20
            while not (part.exists() and part.stat().st_size > 100_000):
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) != 0
    assert left(path) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [(940, "940 bytes"), (2_500_000, "2.5 MB"), (94_244_608, "94 MB"), (3_180_941_440, "3.2 GB")],
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert size_text(size) == text
