"""A real notebook kernel for tests, and what must not be left when it is gone."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.patience import now_s

LIMIT_S = 60.0
LOOK_S = 0.5
CGROUPS = Path("/sys/fs/cgroup")


class Cell:
    """A cell under way."""

    def __init__(self, client: BlockingKernelClient, code: str) -> None:
        self._client = client
        self._id = client.execute(code)
        self.began_s, self._began_s = time.monotonic(), now_s()
        self.first_s = self.seconds = 0.0
        self.patient_s = 0.0
        """How long it took by the clock of `tests.patience`: for limits from above."""
        self.out = self.err = ""
        self.data: list[dict[str, str]] = []
        self.messages = 0
        self.error: dict[str, Any] = {}
        self.payload: list[dict[str, Any]] = []
        self._begun = self._idle = False

    def _take(self, timeout_s: float) -> None:
        message = self._client.get_iopub_msg(timeout=timeout_s)
        if message["parent_header"].get("msg_id") != self._id:
            return
        kind, content = message["msg_type"], message["content"]
        if kind in ("stream", "display_data", "execute_result", "error"):
            self.first_s = self.first_s or time.monotonic() - self.began_s
            self.messages += 1
        if kind == "stream" and content["name"] == "stdout":
            self.out += content["text"]
        elif kind == "stream":
            self.err += content["text"]
        elif kind in ("display_data", "execute_result"):
            self.data.append(content["data"])
        elif kind == "error":
            self.error = content
        elif kind == "execute_input":
            self._begun = True
        elif kind == "status":
            self._idle = content["execution_state"] == "idle"

    def _take_until(self, done: Callable[[], bool], limit_s: float) -> Cell:
        deadline_s = now_s() + limit_s
        while not done():
            assert now_s() < deadline_s, f"it did not come about in {limit_s} s: {self.describe()}"
            with contextlib.suppress(queue.Empty):
                self._take(LOOK_S)
        return self

    def begun(self, limit_s: float = LIMIT_S) -> Cell:
        """Wait until the kernel has begun with it: an interrupt before that is nobody's."""
        return self._take_until(lambda: self._begun, limit_s)

    def until(self, text: str, limit_s: float = LIMIT_S) -> Cell:
        """Wait until the output holds `text`."""

        def is_told() -> bool:
            told = text in self.out + self.err
            assert told or not self._idle, self.describe()
            return told

        return self._take_until(is_told, limit_s)

    def finish(self, limit_s: float = LIMIT_S) -> Cell:
        """Wait until the cell has ended."""
        self._take_until(lambda: self._idle, limit_s)
        self.seconds, self.patient_s = time.monotonic() - self.began_s, now_s() - self._began_s
        reply = self._client.get_shell_msg(timeout=LIMIT_S)
        while reply["parent_header"].get("msg_id") != self._id:
            reply = self._client.get_shell_msg(timeout=LIMIT_S)
        self.payload = reply["content"].get("payload", [])
        return self

    def describe(self) -> str:
        return f"out={self.out[-2000:]!r} err={self.err[-2000:]!r} error={self.error}"

    @property
    def failure(self) -> str:
        """The error as a notebook shows it."""
        return "\n".join(self.error.get("traceback", ()))

    @property
    def text(self) -> str:
        """What its last value says as text."""
        return self.data[-1].get("text/plain", "") if self.data else ""


class Notebook:
    """A kernel with the extension loaded; `run` is the folder below which everything of its sessions is."""

    def __init__(self, folder: Path, run: Path, **environment: str) -> None:
        self.manager = KernelManager(kernel_name="python3")
        environment = {**os.environ, "VMCONTAINER_RUN": str(run), "VMCONTAINER_PATIENCE_S": "1e9", **environment}
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_S)
        self.ok("%load_ext vmcontainer_kernel")

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)  # type: ignore[union-attr]

    def start(self, code: str) -> Cell:
        return Cell(self.client, code)

    def cell(self, code: str, limit_s: float = LIMIT_S) -> Cell:
        return self.start(code).finish(limit_s)

    def ok(self, code: str, limit_s: float = LIMIT_S) -> Cell:
        """Run a cell that must not fail."""
        cell = self.cell(code, limit_s)
        assert not cell.error, cell.failure
        return cell

    def fails(self, code: str, name: str, limit_s: float = LIMIT_S) -> str:
        """Run a cell that must fail with an error of ours, and return what is shown."""
        return failed(self.cell(code, limit_s), name)

    def value(self, expression: str) -> str:
        return self.ok(expression).text

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """End the kernel as a crash would: nothing of it runs any more."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()


def failed(cell: Cell, name: str) -> str:
    assert cell.error, cell.describe()
    assert cell.error["ename"] == name, cell.failure
    assert cell.failure.startswith(f"{name}: ")
    assert "Traceback" not in cell.failure
    assert 'File "' not in cell.failure
    return cell.failure


def sessions(run: Path) -> list[str]:
    return [path.name for path in run.iterdir()] if run.exists() else []


def processes(run: Path, session: str = "", *, but: int = 0) -> list[tuple[int, str]]:
    """Every process that works for a run folder: by its command, environment, control group or mounts."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in (but, os.getpid()) and _is_of(folder, run, session):
            command = _read(folder / "cmdline").replace(b"\0", b" ").decode(errors="replace")[:300]
            found.append((int(folder.name), command))
    return found


def _is_of(folder: Path, run: Path, session: str) -> bool:
    if b"State:\tZ" in _read(folder / "status"):
        return False  # it is gone, and its parent has not noticed
    name = str(run).encode()
    if any(name in _read(folder / file) for file in ("cmdline", "environ", "mountinfo")):
        return True
    return bool(session) and f"/vmcontainer/{session}".encode() in _read(folder / "cgroup")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def groups(session: str) -> list[Path]:
    """The control groups of a session, in every tree."""
    trees = [CGROUPS, *CGROUPS.iterdir()] if CGROUPS.exists() else []
    return [tree / "vmcontainer" / session for tree in trees if (tree / "vmcontainer" / session).exists()]


def network_namespaces(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
        except OSError:
            continue
    return found


def files(folder: Path) -> list[str]:
    """Everything below a folder; what is being removed meanwhile is no error, as it is to `Path.rglob`."""
    return [f"{inner}/{name}" for inner, folders, names in os.walk(folder) for name in (*folders, *names)]


def left_behind(run: Path, ids: list[str], *, but: int = 0) -> dict[str, Any]:
    """What is left of sessions: processes, control groups, files, mounts; empty values where nothing is."""
    everything: dict[str, Any] = {
        "processes": [one for name in ids or [""] for one in processes(run, name, but=but)],
        "groups": [path for name in ids for path in groups(name)],
        "files": files(run),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(run) in line],
    }
    return {key: value for key, value in everything.items() if value}


def wait_until_nothing_is_left(run: Path, ids: list[str], limit_s: float, *, but: int = 0) -> float:
    """Return how long it took."""
    began_s = now_s()
    while left := left_behind(run, ids, but=but):
        assert now_s() - began_s < limit_s, left
        time.sleep(0.02)
    return now_s() - began_s
