"""The files of docs/deploy: linted, verified, and tried as far as that goes without a server."""

from __future__ import annotations

import fnmatch
import os
import shutil
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from benchmarks.serve import serving
from vesearch.cli.main import main

TOP = Path(__file__).parent.parent
DEPLOY = TOP / "docs" / "deploy"
TOKEN = "a-token-of-the-tests"
NAME = "photos.example.org"


def tool(name: str) -> str:
    """Return a program; a test is skipped where it is not there, but never by .ci/run."""
    # what pip installed lies beside this Python, whatever PATH says
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"no {name} here")
    assert found is not None, f"no {name} here"
    return found


def run(*arguments: str | Path) -> str:
    """Run a program that succeeds; return all that it says."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_dockerfile_has_no_fault_that_hadolint_finds() -> None:
    assert run(tool("hadolint"), "--no-color", DEPLOY / "Dockerfile") == ""


def test_what_the_image_copies_is_the_whole_package(tmp_path: Path) -> None:
    first, *kept = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert first == "*"
    for name in kept:
        source, place = TOP / name.removeprefix("!"), tmp_path / "src" / name.removeprefix("!")
        place.parent.mkdir(exist_ok=True)
        if source.is_dir():
            left = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, place, symlinks=True, ignore=left)
        else:
            shutil.copy(source, place)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, tmp_path / "src")
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    tracked = run("git", "-C", TOP, "ls-files", "vesearch", "configs", "pipelines").split()
    wanted = [name for name in tracked if (TOP / name).is_file() and "README" not in name]
    missing = [name for name in wanted if not fnmatch.filter(packed, f"*{name}")]
    assert not missing


def test_the_service_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "vesearch.service").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    program, command, *options = line.removeprefix("ExecStart=").split()
    assert Path(program).name == "vesearch"
    asked = CliRunner().invoke(main, [command, *options, "--help"])
    assert asked.exit_code == 0, asked.output
    unit = tmp_path / "vesearch.service"
    unit.write_text(text.replace(program, sys.executable))  # only what is there is accepted
    assert run(tool("systemd-analyze"), "verify", unit) == ""


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of a server behind nginx, which has the configuration that docs/deploy shows."""
    nginx, openssl = tool("nginx"), tool("openssl")
    key, certificate, config = (tmp_path / name for name in ("key", "pem", "nginx.conf"))
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={NAME}"]
    made += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(certificate)]
    run(openssl, "req", *made)
    os.environ["VESEARCH_TOKEN"] = TOKEN
    try:
        with serving("--store", str(tmp_path / "store"), "--allow-host", NAME) as (address, _):
            listening = tmp_path / "listening"
            text = (DEPLOY / "nginx.conf").read_text()
            for shown, here in (
                ("listen 443 ssl", f"listen unix:{listening} ssl"),
                ("/etc/ssl/photos.pem", str(certificate)),
                ("/etc/ssl/photos.key", str(key)),
                ("http://127.0.0.1:8000", address),
            ):
                assert text.count(shown) == 1, shown
                text = text.replace(shown, here)
            places = "".join(
                f"{kind}_temp_path {tmp_path / kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            log = f"access_log {tmp_path / 'access.log'};\nerror_log {tmp_path / 'error.log'};\n"
            whole = f"pid {tmp_path / 'pid'};\nevents {{}}\nhttp {{\n{log}{places}{text}}}\n"
            config.write_text(whole)
            run(nginx, "-e", str(tmp_path / "error.log"), "-t", "-c", config)
            settings = [nginx, "-e", str(tmp_path / "error.log"), "-c", str(config)]
            with subprocess.Popen([*settings, "-g", "daemon off;"]) as proxy:
                while not listening.exists():
                    time.sleep(0.05)
                knows = ssl.create_default_context(cafile=str(certificate))
                way = httpx.HTTPTransport(uds=str(listening), verify=knows)
                with httpx.Client(base_url=f"https://{NAME}", transport=way, timeout=60) as client:
                    yield client, tmp_path
                proxy.terminate()
    finally:
        del os.environ["VESEARCH_TOKEN"]


def test_the_page_behind_nginx(behind_nginx: tuple[httpx.Client, Path]) -> None:
    client, _ = behind_nginx
    assert client.get("/").status_code == 401
    opened = client.get("/", params={"token": TOKEN})
    assert opened.status_code == 303
    cookie = opened.headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get(opened.headers["location"]).status_code == 200
    own = {"origin": f"https://{NAME}", "sec-fetch-site": "same-origin"}
    asked = client.post("/api/search", json={"positives": [{"entity_id": 0}]}, headers=own)
    assert asked.status_code == 503, asked.text  # there is no store, which it could tell
    foreign = client.post("/api/entities", content=b"x", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
