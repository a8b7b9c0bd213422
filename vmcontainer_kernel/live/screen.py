"""A machine's screen as a picture in the page, and the page's keyboard and pointer as the machine's.

    screendump ──another than the last──▶ {"picture": n, width, height} + PNG ──▶ page ── {"drawn": n}
    page ── {"events": [["key", "KeyA", true], …]} ──▶ input-send-event, in order

QEMU holds all virtual CPUs up while it makes a picture, so it is asked at most four times a second, for at most a tenth
of the time, and only while somebody looks.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from ..errors import LabError
from ..session import Session
from ..vm import inputs
from .base import Action, Source, Wanted, join

if TYPE_CHECKING:
    from ..vm.screen import Picture, Screen

__all__ = ["screen_view"]

PERIOD_S: Final = 0.25
AFTER_INPUT_S: Final = 0.06
DRAWN_LIMIT_S: Final = 3.0  # a page that does not say it has drawn one is sent the next
BYTES_PER_S: Final = 500_000  # of pictures: the server drops what comes faster than 1 MB/s
MOST_BYTES: Final = 2 << 20
RECORDED_BYTES: Final = 200_000  # of a picture in a recording
MOST_WAITING: Final = 256


class LiveScreen:
    """One machine's screen and its view. Everything runs on the session's loop, but `hear`."""

    def __init__(self, session: Session, view: Any, name: str, picture: Picture) -> None:
        self._session, self._view, self._name = session, view, name
        self._last, self._digest = picture, b""
        self._number = self._drawn = 0
        self._sent_s = 0.0
        self._told: asyncio.Queue[object] = asyncio.Queue(MOST_WAITING)
        self._held = inputs.Held()
        self._touched, self._news = asyncio.Event(), asyncio.Event()
        self._typing = asyncio.ensure_future(self._type())
        view.on_stream(self.hear)
        view.on_close(lambda: session.loop.call_soon_threadsafe(self._typing.cancel))
        view.observe(self._seen, "watched")

    @property
    def screen(self) -> Screen:
        """The screen; of the machine that has the name now."""
        from ..vm.screen import Screen

        return Screen(self._session.machines.guest(self._name).machine)

    def hear(self, content: dict[str, Any], _data: bytes) -> None:
        """Take a page's message; called from any thread."""
        self._session.loop.call_soon_threadsafe(self._take, content)

    def _seen(self, change: Any) -> None:
        """Let all keys go when nobody looks any more, who could."""
        if not change["new"]:
            self.hear({"events": None}, b"")

    def _take(self, content: dict[str, Any]) -> None:
        if content.get("hello") is True and self._number:
            self._send()
        elif type(content.get("drawn")) is int:
            self._drawn = max(self._drawn, min(content["drawn"], self._number))
            self._news.set()
        elif "events" in content:
            with contextlib.suppress(asyncio.QueueFull):  # the machine takes nothing more
                self._told.put_nowait(content["events"])

    async def _type(self) -> None:
        """Do what was told, one after the other; None: nobody is there any more who could let a key go."""
        while True:
            told = await self._told.get()
            size = self._last.width, self._last.height
            events = self._held.release() if told is None else inputs.read_events(told, *size)
            self._held.note(events)
            # A machine that is gone, or asleep, is told by what looks at it.
            with contextlib.suppress(LabError):
                if events:
                    machine = self._session.machines.guest(self._name).machine
                    await machine.execute("input-send-event", events=events)
            self._touched.set()

    async def documents(self, wanted: Wanted) -> AsyncIterator[dict[str, Any]]:
        """Look again and again, and yield what the view's document says of it."""
        while True:
            begin_s = time.monotonic()
            picture = await self.screen.picture()
            cost_s = time.monotonic() - begin_s
            digest = hashlib.sha256(picture.png).digest()
            if digest != self._digest:
                self._digest, self._last = digest, picture
                self._number += 1
                if len(picture.png) <= MOST_BYTES:
                    self._send()
            yield self._document()
            await self._pause(cost_s)

    def _document(self) -> dict[str, Any]:
        picture = self._last
        document = described(self._name, picture)
        if self._view.recording and len(picture.png) <= RECORDED_BYTES:
            document["picture"] = base64.b64encode(picture.png).decode()
        return document

    def _send(self) -> None:
        picture, self._sent_s = self._last, time.monotonic()
        about = {"picture": self._number, "width": picture.width, "height": picture.height}
        self._view.stream(about, picture.png)

    async def _pause(self, cost_s: float) -> None:
        """Wait until the page has drawn the last picture and the next is due, which is soon after a key."""
        least_s = max(10 * cost_s, len(self._last.png) / BYTES_PER_S)
        await asyncio.sleep(min(least_s, DRAWN_LIMIT_S))
        while self._drawn < self._number and time.monotonic() - self._sent_s < DRAWN_LIMIT_S:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), DRAWN_LIMIT_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._touched.wait(), PERIOD_S)
            await asyncio.sleep(AFTER_INPUT_S)
        self._touched.clear()

    def _press(self, *names: str) -> Action:
        async def press() -> None:
            await self.screen.press(names)
            self._touched.set()

        return press

    @property
    def actions(self) -> dict[str, Action]:
        """What the view's buttons do."""
        return {"ctrl_alt_delete": self._press("ctrl", "alt", "delete")}


def described(name: str, picture: Picture) -> dict[str, Any]:
    """Return the view's document: the picture's size and its words, not the picture."""
    size = {"width": picture.width, "height": picture.height}
    return {"kind": "screen", "version": 1, "name": name, **size, "text": picture.text}


def screen_view(session: Session, name: str, language: str) -> Any:
    """Return a ScreenView of a machine that has a screen."""
    from vmcontainer_widgets import ScreenView

    from ..vm.screen import Screen

    async def look() -> Picture:
        return await Screen(session.machines.guest(name).machine).picture()

    picture = session.wait(look())
    view = ScreenView(document=described(name, picture), language=language)

    async def begin() -> LiveScreen:
        return LiveScreen(session, view, name, picture)

    live = session.wait(begin())
    join(session, view, Source(live.documents, live.actions))
    return view
