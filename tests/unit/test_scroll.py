"""A terminal's bytes on their way to pages: kept within bounds, sent as fast as they are drawn, never misplaced."""

from __future__ import annotations

import random

import pytest

from vmcontainer_kernel.live.scroll import FORGET_S, MOST_PAGES, PATIENCE_S, WINDOW_BYTES, Pace, Pages, Scroll
from vmcontainer_kernel.live.terminal import MOST_SIDE, Message

FAST = 1 << 30


def pages_of(text: bytes = b"", kept_bytes: int = 1000) -> tuple[Scroll, Pages, Pace]:
    scroll = Scroll(kept_bytes)
    scroll.add(text)
    return scroll, Pages(scroll), Pace(FAST, FAST)


def test_only_the_end_is_kept() -> None:
    scroll = Scroll(10)
    for part in (b"hello ", b"big ", b"world"):
        scroll.add(part)
    assert (scroll.total, scroll.first, scroll.last(5)) == (15, 5, b"world")
    assert scroll.read(0, 99) == b" big world"
    assert scroll.read(11, 2) == b"or"
    assert scroll.read(99, 9) == b""


def test_a_new_page_is_told_all_there_is_and_what_of_it_is_old() -> None:
    scroll, pages, pace = pages_of(b"before")
    pages.hear("a", -1, 0)
    (piece,) = pages.pieces(0, pace)
    assert (piece.page, piece.start, piece.data, piece.anew, piece.old) == ("a", 0, b"before", True, 6)
    assert pages.pieces(0, pace) == []
    scroll.add(b" after")
    (piece,) = pages.pieces(0, pace)
    assert (piece.start, piece.data, piece.anew) == (6, b" after", False)


def test_an_empty_terminal_says_at_least_that_it_is_there() -> None:
    _, pages, pace = pages_of()
    pages.hear("a", -1, 0)
    (piece,) = pages.pieces(0, pace)
    assert (piece.data, piece.anew) == (b"", True)
    assert pages.pieces(0, pace) == []


def test_no_more_is_under_way_than_a_window() -> None:
    _, pages, pace = pages_of(bytes(10 * WINDOW_BYTES), 10 * WINDOW_BYTES)
    pages.hear("a", -1, 0)
    sent = sum(len(piece.data) for _ in range(20) for piece in pages.pieces(0, pace))
    assert sent == WINDOW_BYTES
    assert not pages.behind()
    assert pages.taken(0) == 0
    pages.hear("a", 5000, 0)
    assert pages.behind()
    assert pages.taken(0) == 5000
    assert sum(len(piece.data) for _ in range(20) for piece in pages.pieces(0, pace)) == 5000


def test_the_quickest_page_lets_the_source_go_on_and_a_silent_one_holds_nobody_up() -> None:
    _, pages, pace = pages_of(b"x" * 100)
    pages.hear("quick", -1, 0)
    pages.hear("slow", -1, 0)
    pages.pieces(0, pace)
    pages.hear("quick", 60, 1)
    assert pages.taken(1) == 60
    assert pages.taken(1 + PATIENCE_S) is None
    assert Pages(Scroll()).taken(0) is None


def test_a_page_that_was_too_slow_begins_anew() -> None:
    scroll, pages, pace = pages_of(b"", 100)
    pages.hear("a", -1, 0)
    pages.pieces(0, pace)
    scroll.add(bytes(500))
    (piece,) = pages.pieces(0, pace)
    assert (piece.start, len(piece.data), piece.anew, piece.old) == (400, 100, True, 500)


def test_what_was_lost_on_the_way_is_sent_again() -> None:
    scroll, pages, pace = pages_of(b"one")
    pages.hear("a", -1, 0)
    pages.pieces(0, pace)
    scroll.add(b"two")
    pages.pieces(0, pace)
    pages.hear("a", 3, 0, lost=True)
    (piece,) = pages.pieces(0, pace)
    assert (piece.start, piece.data, piece.anew) == (3, b"two", False)
    pages.hear("a", -1, 0, lost=True)
    assert pages.pieces(0, pace)[0].anew


def test_a_page_that_was_forgotten_goes_on_where_it_was() -> None:
    scroll, pages, pace = pages_of(b"x" * 50)
    pages.hear("a", -1, 0)
    pages.pieces(0, pace)
    assert pages.pieces(FORGET_S + 1, pace) == []
    assert len(pages) == 0
    pages.hear("a", 50, FORGET_S + 2)
    scroll.add(b"more")
    (piece,) = pages.pieces(FORGET_S + 2, pace)
    assert (piece.start, piece.data, piece.anew) == (50, b"more", False)


@pytest.mark.parametrize("drawn", [-5, 10**12, -1])
def test_what_a_page_claims_is_not_believed(drawn: int) -> None:
    _, pages, pace = pages_of(b"x" * 50)
    pages.hear("a", -1, 0)
    pages.pieces(0, pace)
    pages.hear("a", drawn, 0)
    assert pages.taken(0) in (0, 50)
    pages.hear("b", drawn, 0)
    assert b"".join(piece.data for piece in pages.pieces(0, pace)) == b"x" * 50


def test_pages_are_bounded_and_leave() -> None:
    _, pages, _ = pages_of()
    for number in range(100):
        pages.hear(str(number), -1, number)
    assert len(pages) == MOST_PAGES
    pages.leave("99")
    pages.leave("unknown")
    assert len(pages) == MOST_PAGES - 1


def test_what_pages_are_sent_is_what_was_written_whatever_happens() -> None:
    chance = random.Random(7)
    scroll, pages, pace = pages_of(b"", 600)
    written, shown = b"", {name: (0, b"", -1) for name in "ab"}  # where what it shows begins, what, how far it says
    for now_s in range(3000):
        data = bytes(chance.choices(b"abcdef", k=chance.randrange(80)))
        written += data
        scroll.add(data)
        for name in "ab":
            if chance.random() < 0.5:
                pages.hear(name, shown[name][2], now_s)
        for piece in pages.pieces(now_s, pace):
            start, text, _ = shown[piece.page]
            if piece.anew:
                start, text = piece.start, b""
            elif piece.start != start + len(text):
                pytest.fail("a gap")
            text += piece.data
            shown[piece.page] = (start, text, start + len(text))
            assert text == written[start : start + len(text)]


def test_the_pace_is_so_many_bytes_a_second() -> None:
    pace = Pace(1000, 500)
    assert pace.take(2000, 10) == 500
    assert pace.take(2000, 10.125) == 125
    assert pace.take(50, 20) == 50
    assert pace.take(2000, 20) == 450
    assert pace.take(2000, 5) == 0  # a clock that jumps back gives nothing


GOOD = {"page": "p", "drawn": 1, "rows": 24, "columns": 80, "number": 0}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, "x", 1.5, True, [], {}])
def test_a_message_that_makes_no_sense_is_none(name: str, value: object) -> None:
    message = Message.read({**GOOD, name: value})
    assert message is None or (name == "page" and value == "x")


def test_a_message_is_read_within_bounds() -> None:
    message = Message.read({**GOOD, "page": "x" * 99, "rows": -3, "columns": 10**9, "gone": "yes", "lost": True})
    assert message is not None
    assert (len(message.page), message.rows, message.columns) == (40, 1, MOST_SIDE)
    assert (message.gone, message.lost) == (False, True)
