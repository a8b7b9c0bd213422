"""What cells show: tables as text and HTML, sizes, progress, and a printer that is bounded."""

from __future__ import annotations

import io
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.cells import Printer
from vmcontainer_kernel.display import Progress, Table, size_text, steps_table
from vmcontainer_kernel.run import Captured


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (256 << 20, "256.0 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_for_people(count: float | None, text: str) -> None:
    assert size_text(count) == text


def test_a_table_as_text_and_html() -> None:
    table = Table(("name", "state"), [("web", None), ("<script>", 3)])
    assert repr(table).splitlines() == ["name      state", "web       -", "<script>  3"]
    html = table._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<tr>") == 3


def test_an_empty_table_says_so() -> None:
    table = Table(("name",), [], "no <machines>")
    assert repr(table) == "no <machines>"
    assert table._repr_html_() == "<p>no &lt;machines&gt;</p>"


def test_steps_are_numbered() -> None:
    step = {"step": "mount", "call": "mount(…)", "why": "a /proc", "source": "mount(2)"}
    assert [row[0] for row in steps_table([step, step]).rows] == ["1", "2"]


def test_progress_is_printed_after_a_while_once_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(patience_s=0.0)
    progress.report("boot", 0.5)
    assert capsys.readouterr().err == ""  # reporting prints nothing: it may come from another thread
    progress.show()
    progress.show()
    assert capsys.readouterr().err.count("boot") == 1


def test_work_that_is_over_is_not_announced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that runs long in a machine that came at once: nothing is being made while it does."""
    monkeypatch.delenv("VMCONTAINER_PATIENCE_S", raising=False)
    progress = Progress(patience_s=0.0)
    progress.report("waking", 0.9)
    progress.report("", 1.0)
    progress.show()
    assert capsys.readouterr().err == ""


def test_quick_work_prints_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMCONTAINER_PATIENCE_S", raising=False)
    progress = Progress(patience_s=60)
    thread = threading.Thread(target=progress.report, args=("boot", 0.1))
    thread.start()
    thread.join()
    progress.show()
    assert capsys.readouterr().err == ""


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_a_printer_decodes_across_chunks(data: bytes, cuts: list[int]) -> None:
    target = io.StringIO()
    printer = Printer(target)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for a, b in itertools.pairwise(edges):
        printer.add(data[a:b])
    printer.end()
    assert target.getvalue() == data.decode("utf-8", "replace")


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 100))
def test_a_printer_is_bounded_and_says_how_much_is_missing(chunks: list[bytes], limit: int) -> None:
    target = io.StringIO()
    printer = Printer(target, limit)
    for chunk in chunks:
        printer.add(chunk)
    printer.end()
    total = sum(map(len, chunks))
    if total > limit:
        assert f"[{total - limit} more bytes" in target.getvalue()
    else:
        assert "more bytes" not in target.getvalue()


def test_what_is_captured_is_bounded_and_marked() -> None:
    kept = Captured(5)
    for chunk in (b"abc", b"d\xff", b"gone", b""):
        kept.add(chunk)
    assert kept.kept_bytes == 5
    assert kept.text().startswith("abcd\N{REPLACEMENT CHARACTER}\n[4 more bytes")
