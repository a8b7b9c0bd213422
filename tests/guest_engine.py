"""The engine's driver inside a guest: for what needs version 2 control groups, or root on a kernel that may be harmed.

    def test_it(guest_engine):
        guest_engine.out("cat /sys/fs/cgroup/memory.max", memory_bytes=1 << 26)   # a container in the guest
        guest_engine.run_python("import os; print(os.getpid())").out              # a program of the guest's node

One guest for all tests that ask for it, begun by the first. It has the calls of `tests.node.engine.Engine`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.node.engine import Engine
from vmcontainer_kernel.errors import from_json

if TYPE_CHECKING:
    from vmcontainer_kernel.node import Node, Request
    from vmcontainer_kernel.session import Session

NAME = "engine"
BASE = "/run/engine"
PACKAGE = "/usr/lib/vmcontainer"
IMAGES = "/usr/share/vmcontainer/images"
DRIVER = Path(__file__).parent / "node" / "engine_driver.py"
LIMIT_S = 60.0


@dataclass(frozen=True)
class Result:
    """A program of the guest that has ended; `status` as a shell counts (128 + N for signal N)."""

    status: int
    out: str
    err: str


class GuestEngine(Engine):
    """A machine, and a driver in it."""

    def __init__(self) -> None:
        from vmcontainer_kernel.session import Session

        self.session: Session = Session()
        self.base = Path(BASE)
        self._begin()

    @property
    def node(self) -> Node:
        """The guest's node; its verbs are coroutines for `session.wait`."""
        return self.session.machines.guest(NAME).node

    @property
    def alive(self) -> bool:
        return not self._driver.done.done() and not self.node.lost.is_set()

    def _begin(self) -> None:
        self.session.wait(self.session.machines.ensure(NAME))
        script = f"mkdir -p {BASE}/run && ln -sfn {IMAGES} {BASE}/store"
        assert self.exec(["/bin/sh", "-c", script]).status == 0
        self.put(DRIVER.read_bytes(), f"{BASE}/engine_driver.py")
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._errors = bytearray()
        self._driver: Request = self.session.wait(self._start_driver())

    async def _start_driver(self) -> Request:
        from vmcontainer_kernel.agent.protocol import Kind

        rest = b""

        def take(stream: int, data: bytes) -> None:
            nonlocal rest
            request.consumed(stream, len(data))
            if stream == Kind.STDERR:
                self._errors.extend(data)
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._lines.put_nowait(line)

        argv = ["/usr/bin/python3", "-S", "-B", f"{BASE}/engine_driver.py", BASE]
        call = {"argv": argv, "env": {"PYTHONPATH": PACKAGE}, "cwd": "/", "stdin": True}
        request = self.node.start("exec", call, on_data=take)
        return request

    def restore(self) -> None:
        """Begin anew where a test has ended the driver or the whole guest."""
        if self.alive:
            return
        if self.node.lost.is_set():
            self.session.wait(self.session.machines.remove(NAME))
        self._begin()

    def __call__(self, op: str, **arguments: Any) -> Any:
        return self.session.wait(self._ask({"op": op, **arguments}), LIMIT_S)

    async def _ask(self, request: dict[str, Any]) -> Any:
        await self._driver.feed(json.dumps(request).encode() + b"\n")
        line = asyncio.ensure_future(self._lines.get())
        await asyncio.wait((line, self._driver.done), return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            line.cancel()
            raise AssertionError(f"the driver has ended: {self._driver.done}\n{self._errors.decode()}")
        answer = json.loads(line.result())
        if "failed" in answer:
            raise from_json(answer["failed"])
        return answer["ok"]

    def exec(
        self, argv: Sequence[str], *, user: str = "", env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> Result:
        """Run a program on the guest's node, outside every container."""
        return self.session.wait(self._exec(list(argv), user, dict(env or {}), stdin), LIMIT_S)

    async def _exec(self, argv: list[str], user: str, env: dict[str, str], stdin: bytes) -> Result:
        from vmcontainer_kernel.agent.protocol import Kind

        parts: dict[int, bytearray] = {Kind.STDOUT: bytearray(), Kind.STDERR: bytearray()}

        def take(stream: int, data: bytes) -> None:
            parts[stream] += data
            request.consumed(stream, len(data))

        call = {"argv": argv, "env": env, "cwd": "/", "user": user, "stdin": bool(stdin)}
        request = self.node.start("exec", call, on_data=take)
        if stdin:
            await request.feed(stdin)
            request.end_input()
        answer = await request.done
        out, err = (bytes(data).decode(errors="replace") for data in parts.values())
        return Result(int(answer["status"]), out, err)

    def run_python(self, source: str, *, user: str = "") -> Result:
        """Run Python in the guest, as root or as `user` (``uid[:gid]``); the guest's own copy of the package is
        importable.
        """
        return self.exec(["/usr/bin/python3", "-S", "-B", "-c", source], user=user, env={"PYTHONPATH": PACKAGE})

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file in the guest."""
        self.session.wait(self.node.put(data, path, mode), LIMIT_S)

    def groups(self) -> list[Path]:
        return [Path(path) for path in self("groups")]

    def close(self) -> None:
        self.session.close()


@pytest.fixture(scope="session")
def _guest_engine() -> Iterator[GuestEngine]:
    engine = GuestEngine()
    yield engine
    engine.close()


@pytest.fixture
def guest_engine(_guest_engine: GuestEngine) -> Iterator[GuestEngine]:
    """The engine in a guest; mark the test with ``needs("qemu")``. After it no container, group or child is left."""
    _guest_engine.restore()
    yield _guest_engine
    if not _guest_engine.alive:
        return
    for name in _guest_engine("list"):
        _guest_engine("remove", name=name, force=True)
    assert _guest_engine.groups() == []
    assert _guest_engine("children") == ""
