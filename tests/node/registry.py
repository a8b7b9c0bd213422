"""A registry of our own on loopback: Debian's docker-registry with its own configuration and data folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.patience import now_s

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
ACCESS = "auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}\n"
# Her password is "secret" (bcrypt, at its least cost).
ANN = "ann:$2y$04$lVdLXWl4SarG8dG7wwgiKOm.SuJ.s2Ui8tydVCunetVLOUncOkpeG\n"


def require(program: str) -> None:
    """Fail where a program is missing that tests/apt.txt lists."""
    assert shutil.which(program), f"there is no {program}: apt-get install {program} (tests/apt.txt)"


class Registry:
    """A running registry; `place` is ``127.0.0.1:PORT``, `data` its folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.place, self.data = folder, f"127.0.0.1:{port}", folder / "data"

    def push(self, store: Path, name: str, target: str, *options: str) -> None:
        subprocess.run(
            [
                "skopeo",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                *options,
                f"oci:{store}:{name}",
                f"docker://{self.place}/{target}",
            ],
            check=True,
            timeout=60,
        )

    def blob(self, digest: str) -> Path:
        value = digest.partition(":")[2]
        return self.data / f"docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"


@contextlib.contextmanager
def running(folder: Path, *, private: bool = False) -> Iterator[Registry]:
    """Start a registry and wait until it answers; it ends with the block. A private one knows Ann only."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "users").write_text(ANN)
    (folder / "config.yml").write_text((CONFIG + (ACCESS if private else "")).format(folder=folder, port=port))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OTEL_TRACES_EXPORTER": "none"}
    with subprocess.Popen(
        ["docker-registry", "serve", folder / "config.yml"], env=environment, stderr=(folder / "log").open("wb")
    ) as process:
        try:
            wait_for(port, process)
            yield Registry(folder, port)
        finally:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end_s = now_s() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None and now_s() < end_s
            time.sleep(0.05)
