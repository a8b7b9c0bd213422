"""What a terminal has written, kept within bounds, and how far each page that shows it has got.

    source ──add──▶ [ … kept … ]          page a: sent ─── drawn ─┐
                                          page b: sent ─ drawn ───┴─▶ taken(): so far the source may be let go on

Positions count the bytes since the terminal's beginning. Nothing here does anything: `live.terminal` sends and asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["KEPT_BYTES", "PATIENCE_S", "WINDOW_BYTES", "Pace", "Page", "Pages", "Piece", "Scroll"]

KEPT_BYTES: Final = 256 << 10
WINDOW_BYTES: Final = 64 << 10  # sent to a page that has not said it has drawn it
PIECE_BYTES: Final = 32 << 10
MOST_PAGES: Final = 8
PATIENCE_S: Final = 5.0  # then a page that says nothing holds nobody up
FORGET_S: Final = 120.0  # it may come back until then, and later it only has to say that it is there


class Scroll:
    """The last bytes of a terminal, and how many there were in all."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = kept_bytes
        self._kept = bytearray()
        self.total = 0

    @property
    def first(self) -> int:
        """Position of the first byte that is kept."""
        return self.total - len(self._kept)

    def add(self, data: bytes) -> None:
        """Take what was written."""
        self.total += len(data)
        self._kept += data
        del self._kept[: -self._most_bytes]

    def read(self, position: int, most_bytes: int) -> bytes:
        """Return what is kept from a position on."""
        at = max(0, position - self.first)
        return bytes(self._kept[at : at + most_bytes])

    def last(self, most_bytes: int) -> bytes:
        """Return the end of it."""
        return bytes(self._kept[-most_bytes:])


@dataclass
class Page:
    """One page that shows the terminal: what it was sent, what it says it has drawn, when it was last heard of."""

    sent: int
    drawn: int
    heard_s: float
    fresh: bool  # it shows nothing, or something else, until it is told to begin anew

    def waits(self, now_s: float) -> bool:
        """Whether it is still drawing what it was sent."""
        return self.drawn < self.sent and now_s - self.heard_s < PATIENCE_S


@dataclass(frozen=True)
class Piece:
    """What a page is to be sent. With `anew` it forgets what it shows; what comes before `old` was written earlier."""

    page: str
    start: int
    data: bytes
    anew: bool
    old: int


class Pace:
    """So many bytes a second, and a burst: the notebook's server drops what comes faster than 1 MB/s
    (jupyter_server, ``iopub_data_rate_limit``), of all terminals and cells together.
    """

    def __init__(self, bytes_per_s: float, burst_bytes: int) -> None:
        self._bytes_per_s, self._burst_bytes = bytes_per_s, burst_bytes
        self._saved_bytes, self._at_s = float(burst_bytes), 0.0

    def take(self, wanted_bytes: int, now_s: float) -> int:
        """Return how many of these bytes may go now."""
        gained = max(0.0, now_s - self._at_s) * self._bytes_per_s
        self._saved_bytes, self._at_s = min(self._burst_bytes, self._saved_bytes + gained), now_s
        granted = min(wanted_bytes, int(self._saved_bytes))
        self._saved_bytes -= granted
        return granted


class Pages:
    """The pages that show one terminal, by the names they gave themselves."""

    def __init__(self, scroll: Scroll) -> None:
        self._scroll = scroll
        self._pages: dict[str, Page] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def hear(self, name: str, drawn: int, now_s: float, *, lost: bool = False) -> None:
        """A page says how far it has drawn (-1: nothing yet); `lost`: what it was sent after that did not arrive.

        One that is not known is new, or was forgotten.
        """
        page = self._pages.get(name)
        if page is not None and not lost:
            page.drawn, page.heard_s = min(max(drawn, page.drawn), page.sent), now_s
            return
        kept = self._scroll.first <= drawn <= self._scroll.total
        at = drawn if kept else self._scroll.first
        self._pages[name] = Page(at, at, now_s, fresh=not kept)
        while len(self._pages) > MOST_PAGES:
            del self._pages[min(self._pages, key=lambda one: self._pages[one].heard_s)]

    def leave(self, name: str) -> None:
        """A page is closed."""
        self._pages.pop(name, None)

    def pieces(self, now_s: float, pace: Pace) -> list[Piece]:
        """Return what to send now, and count it as sent; pages not heard of for long are forgotten."""
        scroll = self._scroll
        self._pages = {
            name: page
            for name, page in self._pages.items()
            if page.drawn == page.sent or now_s - page.heard_s < FORGET_S
        }
        found = []
        for name, page in self._pages.items():
            if page.sent < scroll.first:  # it was too slow, and what it lacks is no longer kept
                page.sent = page.drawn = scroll.first
                page.fresh = True
            room = min(scroll.total - page.sent, page.drawn + WINDOW_BYTES - page.sent, PIECE_BYTES)
            data = scroll.read(page.sent, pace.take(max(0, room), now_s))
            if data or (page.fresh and room <= 0):
                found.append(Piece(name, page.sent, data, page.fresh, scroll.total))
                page.sent += len(data)
                page.fresh = False
        return found

    def behind(self) -> bool:
        """Whether a page could be sent more at once."""
        return any(page.sent < min(self._scroll.total, page.drawn + WINDOW_BYTES) for page in self._pages.values())

    def taken(self, now_s: float) -> int | None:
        """Return how far the quickest page that is there has drawn, or None if all that are there say nothing."""
        there = [page for page in self._pages.values() if page.drawn == page.sent or page.waits(now_s)]
        return max((page.drawn for page in there), default=None)
