"""Build the course: one English source and one catalogue a language become one notebook a lesson and language.

    src/LESSON.md ──extract──▶ locale/LANG/LC_MESSAGES/LESSON.po
         │                                 │
         ├────────────generate─────────────┴──▶ LANG/LESSON.ipynb
         └──execute, once for all languages──▶ its outputs

The source is Jupytext Markdown. A message (gettext's msgid) is one block of prose: a heading, a paragraph, a list.
Code is never translated, so every language holds the same code cells, the same cell ids and the same outputs.

    python course/build.py              extract, generate and execute all lessons
    python course/build.py 01-welcome   one of them
    python course/build.py --text       extract and generate; keep stored outputs, run nothing (after a change of prose)
    python course/build.py --teacher D  write the teachers' edition, with all answers, to folder D; run nothing
    python course/build.py --check      change nothing; say what is not as the sources would make it
"""

# mypy: disallow-untyped-calls=False, warn-return-any=False
# nbformat and jupytext annotate only part of their functions.

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import nbformat
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from nbclient import NotebookClient
from nbformat import NotebookNode, v4
from places import anonymous, leaks
from references import wrong_references

from vmcontainer_kernel.messages import say as own_words
from vmcontainer_kernel.teaching import Lesson
from vmcontainer_kernel.teaching.edition import expand, named_in, teacher_notes
from vmcontainer_kernel.teaching.lesson import load, texts

__all__ = ["check", "generate", "lessons", "main", "prepare", "read_lesson"]

ROOT = Path(__file__).parent
LANGUAGES = ("en", "ko")
SOURCE_LANGUAGE = "en"
KERNEL = {"display_name": "VM & Container Lab", "language": "python", "name": "vmcontainer"}
CELL_TIMEOUT_S = 120
# Outputs are equal in all languages of the course, so they are English whatever the computer speaks; and on a busy
# computer a clone may take long enough for a progress line.
# And nobody is there to predict and to solve exercises (docs/teaching-form.md).
QUIET = {"LAB_LANGUAGE": "en", "VMCONTAINER_PATIENCE_S": "600", "VMCONTAINER_UNATTENDED": "1"}
CODE_WIDTH = 88
# nbval knows more tags, and comments in cells that say the same; they would leave out a cell, and nobody would notice.
KNOWN_TAGS = re.compile(r"silent|raises-exception|nbval-ignore-output|claim:[VCD]\d+|replay:[\w-]+")
UNSEEN = re.compile(r"#\s*(NBVAL|PYTEST)_")
IGNORED_SHARE = 0.1  # of the code cells may have outputs that nbval does not compare
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
PO_HEADER = """\
# {language}: course/src/{lesson}.md
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


def lessons() -> list[str]:
    """Return the names of all lessons, in the order of the course."""
    return sorted(path.stem for path in (ROOT / "src").glob("*.md"))


def read_lesson(lesson: str) -> list[NotebookNode]:
    """Read a lesson's source as cells without outputs; ids depend on the content only."""
    source = jupytext.read(ROOT / "src" / f"{lesson}.md", fmt="md")
    seen: dict[str, int] = {}
    return [_stable_cell(cell, seen) for cell in source.cells]


def _stable_cell(cell: NotebookNode, seen: dict[str, int]) -> NotebookNode:
    key = f"{cell.cell_type}\n{cell.source}"
    seen[key] = seen.get(key, 0) + 1
    cell_id = hashlib.sha256(f"{seen[key]}\n{key}".encode()).hexdigest()[:12]
    make = v4.new_code_cell if cell.cell_type == "code" else v4.new_markdown_cell
    return make(cell.source, id=cell_id, metadata=dict(cell.metadata))


def blocks(text: str) -> Iterator[str]:
    """Split prose at blank lines, but not inside a fence."""
    block: list[str] = []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if line.strip() or fenced:
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _has_words(block: str) -> bool:
    return re.search(r"[A-Za-z]", re.sub(r"<[^>]*>", "", block)) is not None


def messages(cells: Iterable[NotebookNode], asked: Lesson | None = None) -> list[str]:
    """Return every block of prose that has words, once, in order; then what the lesson's exercises say."""
    prose = (block for cell in cells if cell.cell_type == "markdown" for block in blocks(cell.source))
    return list(dict.fromkeys([*(block for block in prose if _has_words(block)), *(texts(asked) if asked else [])]))


def read_exercises(lesson: str) -> Lesson:
    """Read what a lesson asks; a lesson that has no file of exercises asks nothing."""
    path = ROOT / "exercises" / f"{lesson}.py"
    return load(path) if path.exists() else Lesson(lesson)


# ── catalogues (gettext) ─────────────────────────────────────────────────────────────────────────────────────────


def catalogue_path(lesson: str, language: str) -> Path:
    """Return where a lesson's catalogue of one language is."""
    return ROOT / "locale" / language / "LC_MESSAGES" / f"{lesson}.po"


def read_catalogue(lesson: str, language: str) -> Catalog:
    """Read a catalogue; one that is not there is empty."""
    path = catalogue_path(lesson, language)
    if not path.exists():
        return Catalog(locale=language)
    with path.open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


def extract(lesson: str, language: str, cells: list[NotebookNode]) -> None:
    """Bring a catalogue up to date: new messages are empty, changed ones fuzzy, old ones kept as obsolete."""
    template = Catalog()
    for text in messages(cells, read_exercises(lesson)):
        template.add(text)
    catalogue = read_catalogue(lesson, language)
    catalogue.update(template)
    body = BytesIO()
    write_po(body, catalogue, width=0, omit_header=True)
    path = catalogue_path(lesson, language)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PO_HEADER.format(language=language, lesson=lesson) + body.getvalue().decode().lstrip())


def translate(text: str, catalogue: Catalog) -> str:
    """Translate a cell of prose block by block; what has no translation stays as it is."""
    return "\n\n".join(_translation(block, catalogue) or block for block in blocks(text))


def _translation(block: str, catalogue: Catalog) -> str:
    message = catalogue.get(block)
    return str(message.string) if message is not None and not message.fuzzy else ""


# ── notebooks ────────────────────────────────────────────────────────────────────────────────────────────────────


def notebook_path(lesson: str, language: str) -> Path:
    """Return where a lesson's notebook of one language is."""
    return ROOT / language / f"{lesson}.ipynb"


def generate(lesson: str, language: str, cells: list[NotebookNode], *, teacher: bool = False) -> NotebookNode:
    """Make a lesson's notebook, without outputs; the teachers' edition has the answers in it."""
    result = v4.new_notebook(metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})
    result.nbformat_minor = 5
    result.metadata["vmcontainer"] = {"source": f"course/src/{lesson}.md", "language": language}
    result.cells = [NotebookNode(cell) for cell in nbformat.from_dict({"cells": cells})["cells"]]
    asked, catalogue = read_exercises(lesson), read_catalogue(lesson, language)
    say = partial(_said, catalogue=catalogue) if language != SOURCE_LANGUAGE else str
    word = partial(own_words, chosen=language)
    for cell in result.cells:
        if cell.cell_type == "markdown":
            text = translate(cell.source, catalogue) if language != SOURCE_LANGUAGE else cell.source
            cell.source = expand(text, asked, say, word, teacher=teacher)
    if teacher and (notes := teacher_notes(asked, say, word)):
        result.cells.append(v4.new_markdown_cell(notes, id="notes"))
    return result


def _said(text: str, catalogue: Catalog) -> str:
    return _translation(text, catalogue) or text


def prepare() -> None:
    """Boot each size of machine that the lessons use, once: a lesson's times are to be those of clones."""
    subprocess.run([sys.executable, "-m", "vmcontainer_kernel.cli", "setup", "--course"], check=True, timeout=900)


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in a fresh kernel; an error in a cell that does not announce one is raised (nbclient)."""
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name=KERNEL["name"],
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, **QUIET})
    return notebook


def stored_outputs(cell: NotebookNode) -> list[Any]:
    """Return a cell's outputs as they are kept: a live widget leaves its picture, not its model's id, and no paths."""
    for output in cell.outputs:
        data = output.get("data", {})
        if len(data) > 1:
            data.pop(WIDGET_MIME, None)
    text = anonymous(json.dumps(_merged(cell.outputs), ensure_ascii=False))
    return list(nbformat.from_dict(json.loads(text)))


def _merged(outputs: list[Any]) -> list[Any]:
    """Join neighbouring chunks of a stream: where one ended was a matter of time."""
    result: list[Any] = []
    for output in outputs:
        if result and output.output_type == "stream" and output.name == result[-1].get("name"):
            result[-1].text += output.text
        else:
            result.append(NotebookNode(output))
    return result


def keep_outputs(notebook: NotebookNode, executed: NotebookNode) -> None:
    """Give a notebook's code cells the outputs of the same cells in another one (matched by id)."""
    others = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in others:
            cell.execution_count = others[cell.id].execution_count
            cell.outputs = stored_outputs(others[cell.id])


def read_notebook(path: Path) -> NotebookNode:
    """Read a generated notebook; one that is not there has no cells."""
    return nbformat.read(path, as_version=4) if path.exists() else v4.new_notebook()


def build(lesson: str, *, run: bool) -> None:
    """Extract a lesson's messages, generate its notebooks and fill in outputs."""
    cells = read_lesson(lesson)
    for language in LANGUAGES:
        if language != SOURCE_LANGUAGE:
            extract(lesson, language, cells)
    made = {language: generate(lesson, language, cells) for language in LANGUAGES}
    folder = ROOT / SOURCE_LANGUAGE
    folder.mkdir(exist_ok=True)
    if run:
        executed = execute(generate(lesson, SOURCE_LANGUAGE, cells), folder)
    else:
        executed = read_notebook(notebook_path(lesson, SOURCE_LANGUAGE))
    for language, notebook in made.items():
        keep_outputs(notebook, executed)
        path = notebook_path(lesson, language)
        path.parent.mkdir(exist_ok=True)
        path.write_text(nbformat.writes(notebook) + "\n")


def write_teachers(lesson: str, folder: Path) -> None:
    """Write a lesson's teachers' edition in each language, with the stored outputs."""
    cells = read_lesson(lesson)
    for language in LANGUAGES:
        notebook = generate(lesson, language, cells, teacher=True)
        keep_outputs(notebook, read_notebook(notebook_path(lesson, SOURCE_LANGUAGE)))
        path = folder / language / f"{lesson}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(nbformat.writes(notebook) + "\n")


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check(lesson: str) -> list[str]:
    """Return what is wrong with a lesson's catalogues and notebooks, one sentence each; an empty list is good."""
    cells = read_lesson(lesson)
    asked = read_exercises(lesson)
    unmet = [*_check_exercises(cells, asked)]  # no notebook can be made of a question that is not declared
    problems = [*_check_source(cells), *unmet]
    problems += wrong_references("\n\n".join(messages(cells, asked)))
    for language in LANGUAGES:
        if language != SOURCE_LANGUAGE:
            problems += _check_catalogue(read_catalogue(lesson, language), messages(cells, asked), language)
        if not unmet:
            stored = read_notebook(notebook_path(lesson, language))
            problems += [f"{language}: {text}" for text in _check_notebook(stored, generate(lesson, language, cells))]
    return [f"{lesson}: {problem}" for problem in problems]


def tags(cell: NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return list(cell.metadata.get("tags", []))


def _check_source(cells: list[NotebookNode]) -> Iterator[str]:
    code = [cell for cell in cells if cell.cell_type == "code"]
    ignored = [cell for cell in code if "nbval-ignore-output" in tags(cell)]
    if len(ignored) > IGNORED_SHARE * len(code):
        yield f"{len(ignored)} of {len(code)} code cells ignore their output"
    for cell in ignored:
        if not cell.metadata.get("reason"):
            yield f"cell {cell.id} ignores its output and gives no reason"
    for cell in code:
        if unknown := [tag for tag in tags(cell) if not KNOWN_TAGS.fullmatch(tag)]:
            yield f"cell {cell.id} has tags that mean nothing here: {' '.join(unknown)}"
        if UNSEEN.search(cell.source):
            yield f"cell {cell.id} tells nbval something in a comment: {cell.source[:50]!r}"
        if not cell.source.isascii() or max(map(len, cell.source.splitlines()), default=0) > CODE_WIDTH:
            yield f"cell {cell.id} is not ASCII, or wider than {CODE_WIDTH} columns: {cell.source[:50]!r}"


def _check_exercises(cells: list[NotebookNode], asked: Lesson) -> Iterator[str]:
    """What is declared must be asked in the text, and have its cell: otherwise nobody meets it, and nobody tests it."""
    prose = [pair for cell in cells if cell.cell_type == "markdown" for pair in named_in(cell.source)]
    lines = [line.strip() for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    wanted = [(("predict", one.id), (f"%predict {one.id}", f"%%after {one.id}")) for one in asked.predictions]
    wanted += [(("exercise", one.id), (f"%check {one.id}",)) for one in asked.exercises]
    wanted += [(("quiz", ""), ("%quiz",))] if asked.quiz else []
    for pair, needed in wanted:
        if prose.count(pair) != 1:
            yield f"the text should ask once for {' '.join(pair)}, not {prose.count(pair)} times"
        yield from (
            f"there should be one line {line}, not {lines.count(line)}" for line in needed if lines.count(line) != 1
        )
    yield from (f"nothing is declared as {' '.join(pair)}" for pair in prose if pair not in [one for one, _ in wanted])


def _check_catalogue(catalogue: Catalog, wanted: list[str], language: str) -> Iterator[str]:
    for text in wanted:
        message = catalogue.get(text)
        if message is None or not message.string:
            yield f"{language}: no translation of {text[:60]!r}"
        elif message.fuzzy:
            yield f"{language}: the translation is to be reviewed (fuzzy) of {text[:60]!r}"
    surplus = {str(message.id) for message in catalogue if message.id} - set(wanted)
    for text in [*surplus, *map(str, catalogue.obsolete)]:
        yield f"{language}: obsolete translation of {text[:60]!r}"


def _check_notebook(stored: NotebookNode, wanted: NotebookNode) -> Iterator[str]:
    if stored.metadata != wanted.metadata:
        yield "the notebook's metadata is not what the source makes"
    if [cell.id for cell in stored.cells] != [cell.id for cell in wanted.cells]:
        yield "the notebook's cells are not those of the source; run python course/build.py"
        return
    for cell, made in zip(stored.cells, wanted.cells, strict=True):
        if (cell.cell_type, cell.source, cell.metadata) != (made.cell_type, made.source, made.metadata):
            yield f"cell {cell.id} is not what the source makes: {made.source[:50]!r}"
    yield from _check_outputs([cell for cell in stored.cells if cell.cell_type == "code"])


def _is_silent(cell: NotebookNode) -> bool:
    """Tell whether a cell prints nothing: it says so with a tag, or it puts its output into a variable."""
    first = cell.source.partition("\n")[0]
    return "silent" in tags(cell) or (first.startswith("%%") and " --out " in first)


def _check_outputs(code: list[NotebookNode]) -> Iterator[str]:
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "the cells were not run once each, from first to last"
    for cell in code:
        if bool(cell.outputs) == _is_silent(cell):
            yield f"cell {cell.id} {'has an output but should be silent' if cell.outputs else 'has no stored output'}"
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in tags(cell)):
            yield f"cell {cell.id} {'failed' if failed else 'should have failed'}"
        for leak in leaks(json.dumps(cell.outputs, ensure_ascii=False), ROOT.parent):
            yield f"cell {cell.id}: {leak} is in its output"


def main(argv: list[str] | None = None) -> int:
    """Build or check; return 0 when all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lesson", nargs="*", help="lessons, such as 01-welcome (default: all)")
    parser.add_argument("--text", action="store_true", help="run nothing and keep stored outputs")
    parser.add_argument("--teacher", metavar="FOLDER", type=Path, help="write the teachers' edition there; run nothing")
    parser.add_argument("--check", action="store_true", help="change nothing; report what is out of date")
    arguments = parser.parse_args(argv)
    chosen = arguments.lesson or lessons()
    if unknown := set(chosen) - set(lessons()):
        parser.error(f"no such lesson: {', '.join(sorted(unknown))}; there are {', '.join(lessons())}")
    if arguments.teacher:
        for lesson in chosen:
            write_teachers(lesson, arguments.teacher)
        return 0
    if not (arguments.text or arguments.check):
        prepare()
    for lesson in chosen if not arguments.check else []:
        build(lesson, run=not arguments.text)
        print(f"built {lesson}")
    problems = [problem for lesson in chosen for problem in check(lesson)]
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
