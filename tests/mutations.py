"""Break the evidence for a claim in a copy of the sources, and see which cell of the lesson notices.

    python -m tests.mutations              every mutant of `tests.mutants`
    python -m tests.mutations C1 V4        those of some claims

A mutant is one replacement in one file of the product: without the process-number namespace, say, or with a pause that
does not pause. The lesson's cells run on that copy, in order, up to the last one that shows the claim. A cell that
shows it has to fail, by an assertion of its own: an earlier cell, or another error, would prove only that the product
is broken. The table says which one, and what it said. Before that the same cells run on a copy in which nothing is
broken, and none may fail: otherwise what fails later proves nothing. The program's status is 1 if a mutant survives or
is noticed by chance, or if a lesson is red without one.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode, v4

from tests.lessons import in_columns
from tests.mutants import MUTANTS, Mutant
from tests.profiles import COURSE, Profile, entered
from vmcontainer_kernel.paths import cache_dir

import build  # isort: skip  (tests.lessons has made course/ importable)

__all__ = ["Finding", "cells_of", "sabotage", "try_mutant"]

ROOT = COURSE.parent
CELL_TIMEOUT_S = 120
MESSAGE = 90
HEAD = ("claim", "what is broken", "lesson", "noticed by", "which said")


@dataclass(frozen=True)
class Finding:
    """What a lesson did with a mutant; without a cell the mutant survived."""

    mutant: Mutant
    cell: NotebookNode | None = None
    number: int = 0
    error: str = ""
    said: str = ""

    @property
    def is_as_it_should_be(self) -> bool:
        """Whether what is broken was noticed by what the claim's own cell asserts, and nothing else was."""
        if self.mutant.old == self.mutant.new:
            return self.cell is None
        return self.cell is not None and not self.aside

    @property
    def aside(self) -> str:
        """What is to be said of a cell that noticed, if the claim's own assertion did not."""
        if self.cell is None:
            return ""
        if f"claim:{self.mutant.claim}" not in build.tags(self.cell):
            return " (before the claim)"
        return "" if self.error == "AssertionError" else " (no assertion)"

    @property
    def row(self) -> tuple[str, ...]:
        """Return its line of the table."""
        where = "nobody" if self.cell is None else f"[{self.number}] {self.cell.source.splitlines()[0][:40]}"
        return self.mutant.claim, self.mutant.broken, self.mutant.lesson, where + self.aside, self.said


def sabotage(mutant: Mutant, tree: Path) -> None:
    """Make the replacement in a tree of sources; it must fit in exactly one place."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.claim}: {mutant.file} has {text.count(mutant.old)} places, not one: {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new))


def cells_of(mutant: Mutant) -> list[NotebookNode]:
    """Return the code cells of the lesson up to the last one that shows the claim."""
    code = [cell for cell in build.read_lesson(mutant.lesson) if cell.cell_type == "code"]
    showing = [index for index, cell in enumerate(code) if f"claim:{mutant.claim}" in build.tags(cell)]
    return code[: showing[-1] + 1] if showing else []


def control_of(mutants: list[Mutant]) -> Mutant:
    """Return a mutant in which nothing is broken, for the longest way that one of these goes through its lesson."""
    longest = max(mutants, key=lambda one: len(cells_of(one)))
    return replace(longest, broken="nothing", new=longest.old)


def try_mutant(mutant: Mutant, profile: Profile) -> Finding:
    """Run the lesson on broken sources."""
    tree = profile.folder / "sources"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("vmcontainer_kernel", "widgets"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    sabotage(mutant, tree)
    notebook = v4.new_notebook(cells=cells_of(mutant), metadata={"kernelspec": build.KERNEL})
    failed: list[tuple[NotebookNode, int]] = []
    resources: dict[str, Any] = {"metadata": {"path": str(profile.course / build.SOURCE_LANGUAGE)}}
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT_S, store_widget_state=False, resources=resources)
    client.on_cell_error = lambda cell, cell_index, execute_reply: failed.append((cell, cell_index + 1))
    own = {"PYTHONPATH": f"{tree}:{tree / 'widgets'}", "VMCONTAINER_RUN": str(profile.run_folder("mutant"))}
    try:
        client.execute(env={**profile.environment, **build.QUIET, **own}, stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        cell, number = failed[-1]  # those before it were announced
        return Finding(mutant, cell, number, error.ename, _in_short(error, cell))
    return Finding(mutant)


def _in_short(error: CellExecutionError, cell: NotebookNode) -> str:
    said = f"{error.ename}: {error.evalue}".splitlines()[0]
    if error.ename == "AssertionError" and not error.evalue:
        # The line that IPython points at.
        traceback = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
        found = re.search(r"^-+> ?\d+ (.*)$", re.sub(r"\x1b\[[\d;]*m", "", traceback), re.MULTILINE)
        said = found[1].strip() if found else said
    return said[:MESSAGE]


@contextmanager
def _workshop() -> Iterator[Profile]:
    """Give a profile with a cache of its own: what is broken in the engine is broken in the guests built from it."""
    with entered("here") as profile:
        cache = profile.folder / "cache"
        cache.mkdir()
        for part in ("guests", "payloads", "runtimes"):  # large, and never written to: other names for the same files
            if (cache_dir() / part).exists():
                subprocess.run(["cp", "-al", str(cache_dir(part)), str(cache / part)], check=True)
        for part in ("filters", "images", "probes", "sectors", "templates"):
            if (cache_dir() / part).exists():
                subprocess.run(["cp", "-a", "--sparse=always", str(cache_dir(part)), str(cache / part)], check=True)
        yield replace(profile, cache=cache)


def main(argv: list[str] | None = None) -> int:
    """Try mutants and print a table; return 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("claim", nargs="*", help="claims, such as C1 (default: all)")
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if unknown := set(asked.claim) - {mutant.claim for mutant in MUTANTS}:
        parser.error(f"there is no mutant for {', '.join(sorted(unknown))}")
    chosen = [one for one in MUTANTS if not asked.claim or one.claim in asked.claim]
    findings: list[Finding] = []
    with _workshop() as profile:
        for lesson in sorted({one.lesson for one in chosen}):
            mutants = [one for one in chosen if one.lesson == lesson]
            for mutant in (control_of(mutants), *mutants):
                findings.append(try_mutant(mutant, profile))
                print(*findings[-1].row, sep="  ", file=sys.stderr)
    broken = [one for one in findings if one.mutant.broken != "nothing"]
    print("\n".join(in_columns([HEAD, *(one.row for one in findings)])))
    print(f"{sum(one.cell is not None for one in broken)} of {len(broken)} were noticed")
    return 0 if all(one.is_as_it_should_be for one in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
