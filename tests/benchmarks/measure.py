"""How a time is taken: from the call to the first byte of output, the same for a cell and for a program."""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass
class Series:
    """Times of one thing, in milliseconds."""

    times_ms: list[float] = field(default_factory=list)

    def take(self, measure: Callable[[], float]) -> None:
        self.times_ms.append(measure())

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def least_ms(self) -> float:
        return min(self.times_ms)


class Row(NamedTuple):
    """A line of the table; `beside` is what it is compared with, `goal` a ratio to it or else milliseconds."""

    what: str
    series: Series
    beside: tuple[str, Series] | None = None
    goal: float | None = None

    def text(self) -> str:
        """Write it as a line of a Markdown table."""
        measured, ratio, wanted = self.series.p50_ms, "", f"{self.goal or 0:g}"
        if self.beside:
            measured /= self.beside[1].p50_ms
            ratio, wanted = f"{measured:.2f} × {self.beside[0]}", f"{wanted} × {self.beside[0]}"
        verdict = f"≤ {wanted}: {'yes' if measured <= self.goal else 'no'}" if self.goal else ""
        numbers = f"{self.series.p50_ms:8.1f} | {self.series.least_ms:8.1f} | {len(self.series.times_ms):3}"
        return f"| {self.what:<46} | {numbers} | {ratio:<13} | {verdict:<18} |"


class FirstWrite(io.TextIOBase):
    """A standard output that notes when something is first written to it."""

    def __init__(self) -> None:
        self.at_s: float | None = None

    def write(self, text: str) -> int:
        if text and self.at_s is None:
            self.at_s = time.perf_counter()
        return len(text)


class Notebook:
    """An IPython shell in this process, with the extension loaded."""

    def __init__(self) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        self._shell = InteractiveShell.instance()
        self._shell.run_line_magic("load_ext", "vmcontainer_kernel")

    def cell_ms(self, magic: str, line: str, text: str = "echo hi") -> float:
        """Run a cell; return the time to the first byte it shows. Raises what the cell raises."""
        output = FirstWrite()
        with contextlib.redirect_stdout(output):
            begin_s = time.perf_counter()
            self.run(magic, line, text)
        assert output.at_s is not None, f"%%{magic} {line} showed nothing"
        return (output.at_s - begin_s) * 1e3

    def run(self, magic: str, line: str, text: str) -> None:
        """Run a cell; raises what it raises."""
        self._shell.run_cell_magic(magic, line, text)

    def line(self, magic: str, line: str) -> None:
        """Run a magic of one line."""
        self._shell.run_line_magic(magic, line)

    @property
    def variables(self) -> dict[str, Any]:
        """The notebook's variables."""
        return self._shell.user_ns


def program_ms(argv: Sequence[str]) -> float:
    """Run a program; return the time to the first byte it writes."""
    begin_s = time.perf_counter()
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        first = process.stdout.read(1)
        passed_ms = (time.perf_counter() - begin_s) * 1e3
        if not first:
            raise OSError(f"{argv[0]}: {process.stderr.read().decode(errors='replace')[-300:]}")
        process.stdout.read()
    return passed_ms
