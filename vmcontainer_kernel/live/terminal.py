"""Terminals: a shell in a container or a guest, or a machine's serial port, shown by xterm.js in the page.

    pty ──▶ agent ──64 KiB under way──▶ Scroll ──pieces──▶ page ──▶ xterm.js
     ▲                                    ▲ drawn: {page, at} ─┘ (and only then the agent is let go on)
     └────────── feed ◀──────────────── keys ◀── typed

A page's message says all that is to be known of it, so that none is missed if one is: its name, how far it has drawn,
its size, and keys. Nobody looks: the source goes on at a bounded speed, and its last 256 KiB are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import LabError, UserError
from ..node import Node
from ..session import Session
from ..vm.console import readable
from .base import Source as ViewSource
from .base import Wanted, join
from .lines import Serial, Shell, Source
from .scroll import WINDOW_BYTES, Pace, Pages, Scroll

__all__ = ["container_terminal", "guest_terminal", "serial_terminal"]

SHELL: Final = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash -i || exec /bin/sh -i")
ENVIRONMENT: Final = {"TERM": "xterm-256color"}
TICK_S: Final = 0.02
BYTES_PER_S: Final = 500_000
UNSEEN_BYTES_PER_S: Final = 1_000_000
AWAY_S: Final = 10.0  # how long a closed view may be away: a cell may be moved, or a tab opened again
MOST_WAITING_BYTES: Final = 1 << 20
MOST_KEYS: Final = 64 << 10
MOST_SIDE: Final = 1000
SHOWN_BYTES: Final = 4 << 10  # of a recording's picture
RECORDED_S: Final = 1.0

# One for all terminals of this process: they share the server's limit.
_pace = Pace(BYTES_PER_S, WINDOW_BYTES)


@dataclass(frozen=True)
class Message:
    """What a page says: nothing of it is believed until it is read."""

    page: str
    drawn: int
    rows: int
    columns: int
    number: int
    gone: bool
    lost: bool

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Message | None:
        """Return it if it makes sense."""
        page, numbers = content.get("page"), [content.get(name) for name in ("drawn", "rows", "columns", "number")]
        if not isinstance(page, str) or not all(type(one) is int for one in numbers):
            return None
        drawn, rows, columns, number = (int(one) for one in numbers if one is not None)
        rows, columns = (min(max(1, side), MOST_SIDE) for side in (rows, columns))
        gone, lost = content.get("gone") is True, content.get("lost") is True
        return cls(page[:40], drawn, rows, columns, number, gone, lost)


class Terminal:
    """One terminal and its view. Everything here runs on the session's loop, but `hear`."""

    def __init__(self, session: Session, view: Any, make: Callable[[], Source], facts: Mapping[str, Any]) -> None:
        self._session, self._view, self._make, self._facts = session, view, make, facts
        self._source: Source | None = None
        self._document = {"kind": "terminal", "version": 1, **facts, "state": "waiting", "status": None}
        self._scroll = Scroll()
        self._pages = Pages(self._scroll)
        self._credited = 0
        self._size = (24, 80)
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting_bytes = 0
        self._answers: dict[str, int] = {}
        self._wake, self._changed = asyncio.Event(), asyncio.Event()
        self._unseen = Pace(UNSEEN_BYTES_PER_S, WINDOW_BYTES)
        self._left_s: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._open = asyncio.Event()
        self._begun = self._closed = False
        view.on_stream(self.hear)
        view.on_close(self.end)
        view.observe(lambda _: session.loop.call_soon_threadsafe(self._wake.set), "watched")

    # -- called from any thread

    def hear(self, content: dict[str, Any], keys: bytes) -> None:
        """Take a page's message; one that makes no sense is no page's of ours."""
        message = Message.read(content)
        if message:
            self._session.loop.call_soon_threadsafe(self._take, message, keys[:MOST_KEYS])

    def end(self) -> None:
        """The view is closed for good."""
        self._closed = True
        self._session.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._close()))

    # -- on the loop

    def _take(self, message: Message, keys: bytes) -> None:
        now_s, name = time.monotonic(), message.page
        self._wake.set()
        if self._closed:
            return
        if message.gone:
            self._pages.leave(name)
            self._left_s = now_s
            return
        self._pages.hear(name, message.drawn, now_s, lost=message.lost)
        self._resize(message.rows, message.columns)
        if not self._begun:
            self._begin()
        if message.number:
            self._answers[name] = message.number
        if keys and self._document["state"] != "ended" and self._waiting_bytes < MOST_WAITING_BYTES:
            self._waiting_bytes += len(keys)
            self._typed.put_nowait(keys)

    def _resize(self, rows: int, columns: int) -> None:
        if (rows, columns) == self._size:
            return
        self._size = rows, columns
        if self._source:
            self._spawn(self._told(self._source.resize(rows, columns)))

    def _spawn(self, work: Any) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.ensure_future(work))

    async def _told(self, work: Awaitable[None]) -> None:
        """Do something whose failure the view is to tell."""
        try:
            await work
        except LabError as error:
            self._set(state="ended", error=error.told())

    def _set(self, **facts: Any) -> None:
        self._document = {**self._document, **facts}
        self._changed.set()

    def _begin(self) -> None:
        self._begun = True
        self._spawn(self._live())
        self._spawn(self._send())
        self._spawn(self._type())

    async def _live(self) -> None:
        """One life of what runs in the terminal."""
        self._source = source = self._make()
        self._credited = self._scroll.total
        self._set(state="waiting", status=None, error="")
        try:
            await source.start(self._written, *self._size)
            self._open.set()
            self._set(state="running")
            self._set(state="ended", **(await source.wait()))
        except LabError as error:
            self._set(state="ended", error=error.told())
        finally:
            self._open.clear()
            self._source = None

    def _written(self, data: bytes) -> None:
        self._scroll.add(data)
        self._wake.set()

    async def _type(self) -> None:
        while True:
            await self._open.wait()
            keys = await self._typed.get()
            with contextlib.suppress(LabError):  # its end is told by `_live`
                if self._source:
                    await self._source.feed(keys)
            self._waiting_bytes -= len(keys)

    async def _send(self) -> None:
        """Send what there is, at most fifty times a second, and let the source go on as far as it was drawn."""
        while self._view.comm is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience_s())
            self._wake.clear()
            now_s = time.monotonic()
            if self._view.watched:
                self._send_pieces(now_s)
            self._let_go_on(now_s)
            if self._left_s is not None and not len(self._pages) and now_s - self._left_s > AWAY_S:
                break
            await asyncio.sleep(TICK_S)
        await self._close()

    def _patience_s(self) -> float | None:
        """How long to wait for news: nothing is to be done meanwhile but to let a flood go on that nobody sees."""
        if self._left_s is not None and not len(self._pages):
            return AWAY_S / 4
        if self._credited < self._scroll.total or (self._view.watched and self._pages.behind()):
            return TICK_S
        return None

    def _send_pieces(self, now_s: float) -> None:
        answers, self._answers = self._answers, {}
        for piece in self._pages.pieces(now_s, _pace):
            number = answers.pop(piece.page, 0)
            about = {"page": piece.page, "start": piece.start, "anew": piece.anew, "old": piece.old, "number": number}
            self._view.stream(about, piece.data)
        for page, number in answers.items():
            self._view.stream({"page": page, "number": number})

    def _let_go_on(self, now_s: float) -> None:
        if self._source is None or not self._source.held:
            self._credited = self._scroll.total
            return
        taken = self._pages.taken(now_s) if self._view.watched else None
        waiting = self._scroll.total - self._credited
        count = self._unseen.take(waiting, now_s) if taken is None else max(0, taken - self._credited)
        if count:
            self._source.consumed(count)
        self._credited += count

    async def documents(self, wanted: Wanted) -> AsyncIterator[dict[str, Any]]:
        """Yield what the view says about the terminal, each time it changes."""
        self._changed.set()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RECORDED_S)
            if self._view.recording or self._changed.is_set():
                self._changed.clear()
                shown = {"shown": readable(self._scroll.last(SHOWN_BYTES))} if self._view.recording else {}
                yield {**self._document, **shown, "time_s": time.time()}

    async def hang_up(self) -> str:
        """End what runs in it (the view's button)."""
        source = self._source
        if source is None:
            raise UserError("nothing runs in this terminal any more", hint="start it again")
        await source.close()
        return ""

    async def again(self) -> str:
        """Start it again, once it has ended (the view's button)."""
        if self._source is not None:
            raise UserError("this terminal is open already")
        self._written(b"\x1bc")  # RIS of ECMA-48: a reset, also of what the last program left set
        self._spawn(self._live())
        return ""

    async def _close(self) -> None:
        source, self._source = self._source, None
        if source:
            with contextlib.suppress(LabError):  # the node is gone, and what ran in it as well
                await source.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._begun, self._left_s = False, None  # a page that comes back after all begins anew
        if self._document["state"] == "running":
            self._set(state="ended")


def container_terminal(
    session: Session,
    find: Callable[[], Awaitable[Node]],
    name: str,
    language: str,
    argv: Sequence[str] = (),
    *,
    reader: bool = False,
) -> Any:
    """Return a TerminalView of a program (a shell) in a running container of the node that `find` gives."""
    options = {"argv": list(argv or SHELL), "env": ENVIRONMENT, "tty": True}
    return _show(
        *(session, language, lambda: Shell(find, "container.exec", {"name": name, "options": options})),
        {"of": "container", "name": name, "reader": reader},
    )


def guest_terminal(
    session: Session, name: str, language: str, argv: Sequence[str] = (), *, reader: bool = False
) -> Any:
    """Return a TerminalView of a program (a shell) in a machine."""

    async def find() -> Node:
        guest = session.machines.guest(name)
        if guest.paused:
            raise UserError(f"machine {name} is paused", hint=f"%vm resume {name}")
        return guest.node

    arguments = {"argv": list(argv or SHELL), "env": ENVIRONMENT, "tty": True}
    facts = {"of": "machine", "name": name, "reader": reader}
    return _show(session, language, lambda: Shell(find, "exec", arguments), facts)


def serial_terminal(session: Session, name: str, language: str, *, reader: bool = False) -> Any:
    """Return a TerminalView of a machine's first serial port."""
    facts = {"of": "console", "name": name, "reader": reader}
    return _show(session, language, lambda: Serial(session, name), facts)


def _show(session: Session, language: str, make: Callable[[], Source], facts: Mapping[str, Any]) -> Any:
    from vmcontainer_widgets import TerminalView

    view = TerminalView(document={"kind": "terminal", "version": 1, **facts, "state": "waiting"}, language=language)

    async def begin() -> Terminal:
        return Terminal(session, view, make, facts)

    terminal = session.wait(begin())
    actions = {"hang_up": terminal.hang_up, "again": terminal.again}
    join(session, view, ViewSource(terminal.documents, actions))
    return view
