"""The second ``./lab``: a real one, from the command to a page that is served."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import now_s

ROOT = Path(__file__).parent.parent
TOKEN = "start"
START_LIMIT_S = 5.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}?token={TOKEN}", timeout=10) as answer:
        return bytes(answer.read())


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[int, float]]:
    """A second start: the port it serves on, and the seconds until it did."""
    subprocess.run([ROOT / "lab", "setup"], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    port = free_port()
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    with (tmp_path / "log").open("wb") as log:
        start_s = now_s()
        server = subprocess.Popen([ROOT / "lab", *options], env=environment, stdout=log, stderr=log)
        try:
            yield port, wait_until_served(server, port, start_s)
        finally:
            server.terminate()
            server.wait(20)


def wait_until_served(server: subprocess.Popen[bytes], port: int, start_s: float) -> float:
    while now_s() - start_s < 60:
        assert server.poll() is None, "it ended"
        try:
            get(port, "lab")
            return now_s() - start_s
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise AssertionError("nothing is served after a minute")


@pytest.mark.alone
def test_the_second_start_is_quick_and_serves_the_course(started: tuple[int, float]) -> None:
    port, seconds = started
    kernels = json.loads(get(port, "api/kernelspecs"))["kernelspecs"]
    assert kernels["vmcontainer"]["spec"]["display_name"] == "VM & Container Lab"
    lessons = json.loads(get(port, "api/contents/en"))["content"]
    assert [lesson["name"] for lesson in lessons if lesson["name"].startswith("01-")]
    assert seconds < START_LIMIT_S
