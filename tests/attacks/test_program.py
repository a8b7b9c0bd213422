"""CVE-2019-5736 on the host: a container gets hold of the agent's program and writes it once nobody runs it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.test_agent import Bench
from vmcontainer_kernel import host_agent
from vmcontainer_kernel.container import linux, sealing
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox

HOLD = """#!/proc/self/exe
import os, socket
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("%s/socket")
    socket.send_fds(sock, [b"+"], [os.open("/proc/self/exe", os.O_RDONLY)])
"""


def open_plain(program: str) -> int:
    return os.open(program, os.O_PATH | os.O_CLOEXEC)


def forbidden(*_: object) -> int:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class Theft:
    """A copy of Python, `program`, which an agent may be started as, and a script that sends what it has open of it."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "python"
        shutil.copy(Path(sys.executable).resolve(), self.program)
        self.folder = folder / "attack"
        self.folder.mkdir()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.folder / "socket"))
        self.socket.listen()
        self.socket.settimeout(20)

    def script(self, place: str) -> Path:
        """Write the script, for who finds its folder at `place`."""
        path = self.folder / "script"
        path.write_text(HOLD % place)
        path.chmod(0o755)
        return path

    def receive(self) -> int:
        with self.socket.accept()[0] as connection:
            return socket.recv_fds(connection, 1, 1)[1][0]

    def write(self, held: int) -> None:
        """Write the program, now that nobody runs it."""
        try:
            with open(f"/proc/self/fd/{held}", "r+b") as stream:
                stream.write(b"attacked")
        finally:
            os.close(held)

    @property
    def done(self) -> bool:
        return self.program.read_bytes().startswith(b"attacked")


@pytest.fixture
def theft(tmp_path: Path) -> Iterator[Theft]:
    one = Theft(tmp_path)
    yield one
    one.socket.close()


def run_and_write(theft: Theft, open_program: Callable[[str], int]) -> None:
    """Start the program, as the agent is started; keep what it has of its own file; write that when it has ended."""
    fd = open_program(str(theft.program))
    command = [str(theft.program), "-S", str(theft.script(str(theft.folder)))]
    subprocess.run(command, executable=f"/proc/{os.getpid()}/fd/{fd}", check=True, timeout=20)
    os.close(fd)
    theft.write(theft.receive())


def test_a_sealed_program_cannot_be_written(theft: Theft, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount stops it; so does a sealed copy, for who may make no mounts; else it is written."""
    if os.geteuid() == 0:
        with pytest.raises(OSError, match="Read-only file system"):
            run_and_write(theft, sealing.open_sealed)
    monkeypatch.setattr(linux, "open_tree", forbidden)
    with pytest.raises(PermissionError):
        run_and_write(theft, sealing.open_sealed)
    assert not theft.done
    run_and_write(theft, open_plain)
    assert theft.done


@pytest.mark.needs("containers-on-host")
@pytest.mark.parametrize(("open_program", "done"), [(sealing.open_sealed, False), (open_plain, True)])
def test_a_container_cannot_write_the_agents_program(
    theft: Theft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_program: Callable[[str], int], done: bool
) -> None:
    """``#!/proc/self/exe`` runs the node's Python in the container: the link leads to what the process that enters is
    still running. Neither closed descriptors nor dumpable 0 prevent that; only that the file cannot be written.
    """
    monkeypatch.setattr(host_agent, "open_sealed", lambda _: open_program(str(theft.program)))
    build_busybox(Store(tmp_path / "images"))
    theft.script("/attack")
    libraries = [f"{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64", sys.base_prefix) if Path(path).is_dir()]
    options = {"argv": ["/attack/script"], "volumes": [*dict.fromkeys(libraries), f"{theft.folder}:/attack"]}
    bench = Bench(tmp_path / "run" / "program", tmp_path / "images")
    try:
        result = bench.wait(bench.collect("container.run", name="", options=options))
    finally:
        bench.close()
    assert result.answer["status"] == 0, result
    with contextlib.suppress(OSError):
        theft.write(theft.receive())
    assert theft.done is done
