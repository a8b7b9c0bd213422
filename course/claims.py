"""Which cells show which claim of the source text, and which assertions would fail without the evidence.

    python course/claims.py           write docs/claims.md
    python course/claims.py --check   say whether it is what the lessons make

A code cell with the tag claim:ID shows the claim ID. The evidence is measured or read in that run, and an assertion in
the cell fails where it is missing; `python -m tests.mutations` breaks the evidence and looks whether it does.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import build
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

__all__ = ["CLAIMS", "Evidence", "document", "evidence", "python_of"]

TARGET = Path(__file__).parent.parent / "docs" / "claims.md"
GROUPS = {"V": "Virtual machines", "C": "Containers", "D": "The difference"}
CLAIMS = {
    "V1": "The host is the computer whose hardware runs the virtual machines.",
    "V2": "A hypervisor divides that hardware and gives each virtual machine its share.",
    "V3": "A hypervisor of type 1 runs on the bare hardware.",
    "V4": "A hypervisor of type 2 runs as a program of an operating system.",
    "V5": "A virtual machine has a processor, memory and a disk of its own, and its own operating system.",
    "V6": "Hardware is shown to the guest as virtual devices.",
    "V7": "The guest runs as if it had the hardware for itself.",
    "V8": "Each virtual machine has its own operating system, and different ones run at the same time.",
    "V9": "The hypervisor weighs virtual machines against each other, and keeps them apart.",
    "V10": "For it: one virtual machine's fault is no other's.",
    "V11": "For it: any operating system can run beside any other.",
    "V12": "For it: it is reached by the means there are for any computer.",
    "V13": "Against it: it takes more memory and more processor time.",
    "V14": "Against it: it takes longer to start.",
    "V15": "Against it: there is much to know about it.",
    "C1": "A container is isolated by the operating system: it is a process of its host.",
    "C2": "A container brings what its program needs, and runs alike everywhere.",
    "C3": "The operating system below a container is its host's.",
    "C4": "An engine makes containers and looks after them.",
    "C5": "An image holds program, libraries and settings, and does not change.",
    "C6": "A container is an image that runs, with processes, a network and files of its own.",
    "C7": "All containers share the kernel of their host.",
    "C8": "Namespaces keep processes, networks, users and files apart.",
    "C9": "Control groups limit and count processor time, memory and what is read and written.",
    "C10": "A container starts and ends fast.",
    "C11": "For it: it takes little.",
    "C12": "For it: it can be taken elsewhere.",
    "C13": "For it: there can be more of it at any moment.",
    "C14": "For it: building, testing and delivering go well with it.",
    "C15": "Against it: a fault of the kernel hits all containers.",
    "C16": "Against it: it runs no other operating system.",
    "C17": "Against it: its walls are thinner, which matters where strangers share a computer.",
    "D1": "They differ in the level of isolation.",
    "D2": "They differ in what they take.",
    "D3": "They differ in how long they take to start.",
    "D4": "They differ in what they are good for.",
}
HEAD = """\
# Claims and their evidence

Each statement about virtual machines and containers that the course is made for, the cells that show it, and the
assertions that fail where the evidence is missing. Nothing of this is stored: each run measures or reads it anew.
`python course/claims.py` makes this page from the lessons; `python -m tests.mutations` breaks the evidence in a copy of
the sources, claim by claim, and shows which cell notices.
"""


@dataclass(frozen=True)
class Evidence:
    """A cell that shows claims."""

    lesson: str
    title: str
    heading: str
    number: int
    claims: tuple[str, ...]
    source: str

    @property
    def assertions(self) -> list[str]:
        """Return its assertions, each on one line."""
        found = [node for node in ast.walk(ast.parse(python_of(self.source))) if isinstance(node, ast.Assert)]
        return [f"assert {ast.unparse(node.test)}" for node in sorted(found, key=lambda node: node.lineno)]


def python_of(source: str) -> str:
    """Return a Python cell as Python reads it, without the line that keeps it from running before its prediction."""
    cell = "\n".join(line for line in source.splitlines() if not line.startswith("%%after "))
    return TransformerManager().transform_cell(cell)


def evidence() -> Iterator[Evidence]:
    """Return all cells that show claims, in the order of the course."""
    for lesson in build.lessons():
        yield from _in_lesson(lesson, build.read_lesson(lesson))


def _in_lesson(lesson: str, cells: list[NotebookNode]) -> Iterator[Evidence]:
    title = heading = ""
    number = 0
    for cell in cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    heading = line.lstrip("# ")
                    title = title or heading
            continue
        number += 1
        claims = tuple(tag.partition(":")[2] for tag in build.tags(cell) if tag.startswith("claim:"))
        if claims:
            yield Evidence(lesson, title, heading, number, claims, cell.source)


def document() -> str:
    """Return the page."""
    cells = list(evidence())
    parts = [HEAD]
    for letter, group in GROUPS.items():
        ids = [id for id in CLAIMS if id.startswith(letter)]
        parts.append(f"## {group}\n\n| claim | lesson | cell | what it asserts |\n|---|---|---|---|")
        parts[-1] += "".join(f"\n{row}" for id in ids for row in _rows(id, cells)) + "\n"
    return "\n".join(parts)


def _rows(id: str, cells: list[Evidence]) -> Iterator[str]:
    claim = f"**{id}** {CLAIMS[id]}"
    for one in cells:
        if id in one.claims:
            link = f"[{one.lesson[:2]} {one.title}](../course/en/{one.lesson}.ipynb)"
            asserts = "<br>".join(f"`` {text} ``".replace("|", "\\|") for text in one.assertions)
            yield f"| {claim} | {link} | [{one.number}] {one.heading} | {asserts} |"
            claim = ""
    if claim:
        yield f"| {claim} | | | |"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    page = document()
    if arguments == ["--check"]:
        same = TARGET.exists() and TARGET.read_text() == page
        print("" if same else "docs/claims.md is not what the lessons make; run python course/claims.py", end="\n")
        return 0 if same else 1
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
