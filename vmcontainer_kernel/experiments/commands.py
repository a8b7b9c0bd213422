"""One command on a node, with its times: asked for, started, first byte, end; and one that is held at its end.

    asked ──▶ node ──▶ EVENT started ──▶ first byte ──▶ end
                                                     └─ held: the shell that ran the text waits until it is let go

All on the session's event loop, where the bytes arrive; no thread has to be free for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..agent.protocol import Kind
from ..errors import LabError, ProtocolError, TimeLimit
from ..node import Node
from ..run import Captured

__all__ = ["OUTPUT_BYTES", "Command", "Outcome", "held_text"]

OUTPUT_BYTES = 16 << 10
_KILL_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """A command that has ended; times in milliseconds since it was asked for, None for what did not happen.

    `status`: 128 + N after signal N. `cut_bytes`: how much of its output is not in `out` and `err`.
    """

    status: int
    out: str
    err: str
    cut_bytes: int
    end_ms: float
    started_ms: float | None = None
    first_byte_ms: float | None = None
    pid: int = 0

    def output(self) -> dict[str, Any]:
        """Return the part that a document shows."""
        return {"status": self.status, "out": self.out, "err": self.err, "cut_bytes": self.cut_bytes}


def held_text(text: str, marker: str) -> str:
    """Return `text` for a shell that writes `marker` to its standard error once the text has ended, however it does
    (trap … EXIT of sh(1)), and waits for the end of its standard input. The text reads /dev/null, as in a cell.
    """
    return f"exec 9<&0 </dev/null; trap 'echo {marker} >&2; read -r _ <&9' EXIT\n{text}\n"


class Command:
    """A command that was asked for just now; `begun_s`: if making the place it runs in counts too, when that began."""

    def __init__(
        self, node: Node, verb: str, arguments: Mapping[str, Any], *, begun_s: float | None = None, marker: str = ""
    ) -> None:
        self._begun_s = time.monotonic() if begun_s is None else begun_s
        self._marks: dict[str, float] = {}
        self._kept = {Kind.STDOUT: Captured(OUTPUT_BYTES), Kind.STDERR: Captured(OUTPUT_BYTES)}
        self._marker, self._tails = f"{marker}\n".encode(), {Kind.STDOUT: b"", Kind.STDERR: b""}
        self._watches = bool(marker)
        self.pid = 0
        self.begun, self.held = asyncio.Event(), asyncio.Event()
        self.node = node
        self.request = node.start(verb, arguments, on_data=self._take, on_event=self._note)

    def _mark(self, name: str) -> None:
        self._marks.setdefault(name, round((time.monotonic() - self._begun_s) * 1000, 3))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("event") == "started":
            self._mark("started")
            self.pid = int(event.get("pid") or 0)
            self.begun.set()

    def _take(self, stream: int, data: bytes) -> None:
        self.request.consumed(stream, len(data))
        if self._watches:
            # Redirected or not, and in however many pieces it comes.
            seen = self._tails[stream] + data
            self._tails[stream] = seen[-len(self._marker) :]
            if self._marker in seen:
                self._mark("held")
                self.held.set()
        if data:
            self._mark("first_byte")
        self._kept[stream].add(data)

    @property
    def over(self) -> bool:
        """Whether the text has ended: its shell waits, or is gone."""
        return self.held.is_set() or self.request.done.done()

    def written(self) -> bytes:
        """Return what it has written to its standard output so far."""
        return self._kept[Kind.STDOUT].data()

    async def wait(self, limit_s: float, *, begun: bool = False) -> None:
        """Wait until it is over, or until it has told that it runs (`begun`), at most for so long.

        A command's first bytes may come before its start is told: they are different pipes.
        """
        waiting = asyncio.ensure_future((self.begun if begun else self.held).wait())
        try:
            await asyncio.wait((waiting, self.request.done), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def outcome(self, limit_s: float) -> Outcome:
        """Wait for its end; raises TimeLimit, and what the node answered. Whoever gives up waiting has it killed."""
        try:
            answer = await asyncio.wait_for(asyncio.shield(self.request.done), limit_s)
        except TimeoutError:
            await self._kill()
            raise TimeLimit(
                f"the cell did not end within {limit_s:g} s on {self.node.name}", hint="give it more time: --timeout"
            ) from None
        except asyncio.CancelledError:
            self.node.kill(self.request)
            raise
        if not isinstance(answer.get("status"), int):  # a guest may say anything
            raise ProtocolError(f"{self.node.name} answered without a status", hint="run the cell again")
        self._mark("end")
        return self._result(answer["status"])

    def _result(self, status: int) -> Outcome:
        texts = {kind: kept.text() for kind, kept in self._kept.items()}
        if self._watches:
            texts = {kind: text.replace(self._marker.decode(), "") for kind, text in texts.items()}
        return Outcome(
            status,
            texts[Kind.STDOUT],
            texts[Kind.STDERR],
            sum(kept.dropped_bytes for kept in self._kept.values()),
            self._marks["end"],
            self._marks.get("started"),
            self._marks.get("first_byte"),
            self.pid,
        )

    async def _kill(self) -> None:
        self.node.kill(self.request)
        try:
            await asyncio.wait_for(asyncio.shield(self.request.done), _KILL_S)
        except (LabError, TimeoutError):
            return
