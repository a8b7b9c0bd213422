"""A session with machines of the real agent, for tests: what cells do, without cells."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vmcontainer_kernel.node import Request
from vmcontainer_kernel.session import Session

T = TypeVar("T")
LIMIT_S = 120.0

# Counts, each 20 ms, and notes the number and its own clock; its pages are checked, all of them, each time.
COUNTER = """
import time
pages, number, wrong = bytearray(2000 * 4096), 0, 0
out = open("/tmp/count", "a")
while True:
    wrong += pages[::4096] != bytes([number % 251]) * 2000
    number += 1
    pages[::4096] = bytes([number % 251]) * 2000
    out.write("%d %.4f %d\\n" % (number, time.monotonic(), wrong))
    out.flush()
    time.sleep(0.02)
"""


class Lab:
    """A session; `sh` is a cell."""

    def __init__(self) -> None:
        self.session = Session()
        self.states = self.session.states

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.session.wait(coroutine, LIMIT_S)

    def start(self, name: str, command: str, keep: Callable[[bytes], None] = lambda data: None) -> Request:
        """Begin a command in a machine, made if it is not there."""

        async def begin() -> Request:
            node = (await self.session.machines.ensure(name)).node

            def on_data(stream: int, data: bytes) -> None:
                keep(data)
                request.consumed(stream, len(data))

            request = node.start("exec", {"argv": ["/bin/sh", "-c", command]}, on_data=on_data)
            return request

        return self.wait(begin())

    def sh(self, name: str, command: str) -> str:
        """Return what a command writes."""
        got: list[bytes] = []
        request = self.start(name, command, got.append)

        async def end() -> None:
            await request.done

        self.wait(end())
        return b"".join(got).decode().strip()

    def count(self, name: str) -> None:
        """Let a machine count in the background."""
        self.sh(name, f"cat > /tmp/count.py <<'END'\n{COUNTER}\nEND\npython3 /tmp/count.py >/dev/null 2>&1 &")
        self.sh(name, "until [ -s /tmp/count ]; do usleep 20000; done")

    def counted(self, name: str) -> list[tuple[int, float]]:
        """Return what was counted: (number, seconds); no page of the counter may have been wrong."""
        rows = [line.split() for line in self.sh(name, "cat /tmp/count").splitlines()]
        rows = [row for row in rows if len(row) == 3]  # the last one may be half written
        assert {wrong for _, _, wrong in rows} == {"0"}, "memory is not as the guest wrote it"
        return [(int(number), float(at)) for number, at, _ in rows]

    def close(self) -> None:
        self.session.close()
