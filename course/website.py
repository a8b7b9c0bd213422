"""Build the course's site: every lesson as a page in every language, the documents, and a search; all of it files.

    en/LESSON.ipynb ─┐                       ┌─▶ en/LESSON.html, ko/LESSON.html, docs/NAME.html
    ko/LESSON.ipynb ─┼─nbconvert─▶ fragments ┼─▶ assets/search-LANG.js
    docs/NAME.md   ──┘                       └─▶ en/index.html, ko/index.html, index.html

Nothing runs: a page shows the outputs that the notebooks hold. A code cell with the tag ``replay:NAME`` shows the
recording ``recordings/NAME.recording.json`` in place of its still view. A page loads nothing from another host, and
the same sources give the same bytes.

    python course/website.py [FOLDER]     into FOLDER (default: .lab/site)
"""

# mypy: disallow-untyped-calls=False, warn-return-any=False
# nbformat, nbconvert and plotly annotate only part of their functions.

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

import nbformat
from answers import quiz_answers
from bs4 import BeautifulSoup, Tag  # type: ignore[import-not-found, unused-ignore]
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbformat import NotebookNode, v4
from plotly.offline import get_plotlyjs
from traitlets.config import Config
from vmcontainer_widgets import replay_html
from vmcontainer_widgets.recording import read_recording
from vmcontainer_widgets.views import VIEWS

__all__ = ["Broken", "Page", "build", "main"]

ROOT = Path(__file__).resolve().parent
LOOK: Final = Path(__file__).resolve().parent / "look"
COURSE: Final = "VM & Container Lab"
LANGUAGES: Final = {"en": "English", "ko": "한국어"}
PLOTLY_MIME: Final = "application/vnd.plotly.v1+json"
HEADINGS: Final = ("h1", "h2", "h3", "h4")
ADDRESSES: Final = (("a", "href"), ("img", "src"), ("source", "srcset"))
NARROW: Final = 30  # letters; a telephone shows no more of a line, and a keyboard must reach what scrolls
MARK: Final = "assets/search.js"  # a folder that has it is a site and may be made anew
# What Plotly calls the types of numbers that it packs, and `array` calls them.
PACKED: Final = {"f8": "d", "f4": "f", "i4": "i", "i2": "h", "i1": "b", "u4": "I", "u2": "H", "u1": "B"}

WORDS: Final = json.loads((LOOK / "words.json").read_text("utf-8"))


class Broken(Exception):
    """Something in a lesson or document leads nowhere; the message names it and says where."""


@dataclass(frozen=True)
class Page:
    """A page, before and after its links are made: what it is made of, and where it goes."""

    source: Path
    target: str  # from the site's folder, as en/01-welcome.html
    language: str
    soup: BeautifulSoup
    title: str = ""
    contents: tuple[tuple[str, str], ...] = ()  # of second headings: anchor, text
    anchors: Mapping[str, str] = field(default_factory=dict)  # as Jupyter and GitHub name them: as they are here

    @property
    def name(self) -> str:
        """Its file's name."""
        return self.target.rpartition("/")[2]

    @property
    def has_charts(self) -> bool:
        """Whether it needs the library that draws them."""
        return self.soup.find(class_="chart") is not None


# ── notebooks to HTML ────────────────────────────────────────────────────────────────────────────────────────────


def exporter() -> HTMLExporter:
    """Return nbconvert's exporter with our template: cells only, no scripts, shell cells in the shell's colours."""
    shells = {"%%vm": "bash", "%%container": "bash"}
    settings = {
        "HTMLExporter": {"exclude_anchor_links": True},
        "TemplateExporter": {"extra_template_basedirs": [str(LOOK.parent)], "template_name": LOOK.name},
        "HighlightMagicsPreprocessor": {"languages": shells},
    }
    return HTMLExporter(config=Config(settings))


def read_page(source: Path, target: str, language: str, export: HTMLExporter) -> Page:
    """Read a notebook or a Markdown file as a page whose headings have no anchors yet."""
    if source.suffix == ".ipynb":
        notebook = nbformat.read(source, as_version=4)
    else:
        notebook = v4.new_notebook(cells=[v4.new_markdown_cell(source.read_text("utf-8"), id="text")])
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_drawable(output, language) for output in cell.outputs]
            _put_replay(cell, source, language)
            _put_answers(cell, source, language)
    soup = BeautifulSoup(export.from_notebook_node(notebook)[0], "html.parser")
    for table in soup.find_all("table"):
        _let_scroll(table, soup, language)
    for text in soup.select("pre"):
        if max(map(len, text.get_text().split("\n"))) > NARROW:
            text["tabindex"] = "0"
    return Page(source.resolve(), target, language, soup)


def _put_replay(cell: NotebookNode, source: Path, language: str) -> None:
    """Put the recording that a cell's tag names in place of its still views."""
    tag = next((tag for tag in cell.metadata.get("tags", []) if tag.startswith("replay:")), "")
    if not tag:
        return
    file = ROOT / "recordings" / f"{tag.partition(':')[2]}.recording.json"
    try:
        html = replay_html(read_recording(file, frozenset(VIEWS)), language, name=f"replay-{cell.id}")
    except (OSError, ValueError) as error:
        raise Broken(f"{source.name}: the recording of the tag {tag}: {error}") from None
    kept = [output for output in cell.outputs if "text/html" not in output.get("data", {})]
    cell.outputs = [*kept, v4.new_output("display_data", {"text/html": html})]


def _put_answers(cell: NotebookNode, source: Path, language: str) -> None:
    """Put what a reader can use in place of questions that nobody hears: a page has no buttons to choose with."""
    words = WORDS[language]
    if cell.source.startswith("%predict"):
        text = f'<p lang="{language}">{words["predict"]}</p>'
    elif cell.source == "%quiz":
        lines = quiz_answers(ROOT, source.stem, language)
        text = f'<details lang="{language}"><summary>{words["answers"]}</summary>\n\n{lines}\n\n</details>'
    else:
        return
    cell.outputs = [v4.new_output("display_data", {"text/markdown": text})]


def _let_scroll(table: Tag, soup: BeautifulSoup, language: str) -> None:
    """Put a table into a box that scrolls, and that a keyboard can reach to do so."""
    for empty in table.find_all("th"):  # Markdown has no other way to leave a corner free
        if not _text(empty):
            empty.name = "td"
            del empty["scope"]
    caption = table.find("caption") or table.find("th")
    label = f"{WORDS[language]['table']}: {_text(caption)}" if caption and _text(caption) else WORDS[language]["table"]
    box = soup.new_tag("div", attrs={"class": "table", "role": "region", "tabindex": "0", "aria-label": label})
    table.wrap(box)


def _drawable(output: NotebookNode, language: str) -> NotebookNode:
    """Turn a chart's data into HTML that charts.js draws, with its numbers as a table; leave others as they are."""
    figure = output.get("data", {}).get(PLOTLY_MIME)
    if figure is None:
        return output
    title = figure["layout"].get("title", {}).get("text", "")
    # Nothing in a script element may look like an element's end.
    data = json.dumps({"data": figure["data"], "layout": figure["layout"]}, sort_keys=True).replace("<", "\\u003c")
    axes = [axis for axis in ("x", "y") if any(trace.get(axis) for trace in figure["data"])]
    head = "".join(f'<th scope="col">{axis}</th>' for axis in axes)
    rows = "".join(_chart_row(trace, axes) for trace in figure["data"])
    html = (
        f'<figure class="chart"><script type="application/json">{data}</script>'
        f'<div role="img" aria-label="{escape(title)}"></div>'
        f'<details lang="{language}"><summary>{WORDS[language]["numbers"]}</summary><table><caption>{escape(title)}'
        f"</caption><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></details></figure>"
    )
    return v4.new_output("display_data", {"text/html": html})


def _chart_row(trace: Mapping[str, Any], axes: Iterable[str]) -> str:
    numbers = (", ".join(map(_figure, _values(trace.get(axis)))) for axis in axes)
    name = escape(str(trace.get("name", "")))
    return f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{escape(one)}</td>" for one in numbers) + "</tr>"


def _values(axis: Any) -> list[Any]:
    if isinstance(axis, dict):
        return list(array(PACKED[axis["dtype"]], base64.b64decode(axis["bdata"])))
    return list(axis or ())


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(element: Tag) -> str:
    return " ".join(element.get_text().split())


# ── headings and links ───────────────────────────────────────────────────────────────────────────────────────────


def _prose_headings(soup: BeautifulSoup) -> list[Tag]:
    return [heading for heading in soup.find_all(HEADINGS) if heading.find_parent(class_="cell") is None]


def slugs(headings: Iterable[str]) -> list[str]:
    """Return an anchor for each heading, made as GitHub makes them: small letters, no signs, a number if used."""
    result: list[str] = []
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        count = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", one) is not None for one in result)
        result.append(f"{slug}-{count}" if count else slug)
    return result


def with_anchors(page: Page, anchors: list[str]) -> Page:
    """Return a page whose headings have these anchors: a translation has those of the lesson that it translates."""
    headings = _prose_headings(page.soup)
    texts = [_text(heading) for heading in headings]
    if len(anchors) != len(headings):
        raise Broken(f"{page.target} has {len(headings)} headings, its original {len(anchors)}")
    known: dict[str, str] = {}
    for heading, text, anchor in zip(headings, texts, anchors, strict=True):
        heading["id"] = anchor
        known |= {anchor: anchor, text.replace(" ", "-"): anchor}
    known |= {str(tag["id"]): str(tag["id"]) for tag in page.soup.find_all(id=True)}
    seconds = [(str(tag["id"]), _text(tag)) for tag in headings if tag.name == "h2"]
    return Page(page.source, page.target, page.language, page.soup, next(iter(texts), page.name), tuple(seconds), known)


def make_links(page: Page, pages: Mapping[Path, Page]) -> Iterator[Path]:
    """Lead a page's links to pages of the site; yield the pictures that it needs.

    A link to a file of the project which is no page becomes text, and so does a picture on another host (a badge).
    Raises Broken for a link to nothing.
    """
    for tag, attribute in ADDRESSES:
        for element in page.soup.find_all(tag, attrs={attribute: True}):
            address = str(element[attribute])
            if re.match(r"[a-z]+:|//", address):
                if tag != "a" and not address.startswith("data:"):
                    element.replace_with(str(element.get("alt") or ""))
                continue
            path, _, fragment = address.partition("#")
            file = (page.source.parent / path).resolve() if path else page.source
            if file in pages:
                element[attribute] = _link(page, pages[file], fragment)
            elif not file.exists():
                raise Broken(f"{page.source.name}: a link to {address}, which is not there")
            elif tag == "a":
                element.unwrap()
            else:
                yield file


def _link(page: Page, other: Page, fragment: str) -> str:
    if fragment and fragment not in other.anchors:
        raise Broken(f"{page.source.name}: a link to #{fragment}, which {other.target} does not have")
    here = "" if other is page else os.path.relpath(other.target, Path(page.target).parent)
    return here + (f"#{other.anchors[fragment]}" if fragment else "") or other.name


# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────


def sections(page: Page) -> Iterator[tuple[str, str, str, str]]:
    """Yield what can be found on a page, section by section: address, the page's title, heading, prose."""
    address, heading, prose = page.target, page.title, list[str]()
    for element in page.soup.find_all(True, recursive=False):
        if element.name in HEADINGS:
            if prose:
                yield address, page.title, heading, " ".join(prose)
            address, heading, prose = f"{page.target}#{element['id']}", _text(element), []
        elif "cell" not in (element.get("class") or ()):
            prose.append(_text(element))
    if prose:
        yield address, page.title, heading, " ".join(prose)


def search_index(pages: Iterable[Page]) -> str:
    """Return the script that holds what can be found on these pages."""
    lines = [json.dumps(section, ensure_ascii=False) for page in pages for section in sections(page)]
    return "window.searchIndex = [\n" + ",\n".join(lines) + "\n];\n"


# ── the site ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read_pages() -> list[Page]:
    """Read all lessons in all languages, and the documents, with their headings' anchors."""
    export, (original, *_) = exporter(), LANGUAGES
    pages: list[Page] = []
    for source in sorted((ROOT / original).glob("*.ipynb")):
        anchors: list[str] = []
        for language in LANGUAGES:
            target = f"{language}/{source.stem}.html"
            page = read_page(ROOT / language / source.name, target, language, export)
            anchors = anchors or slugs(map(_text, _prose_headings(page.soup)))
            pages.append(with_anchors(page, anchors))
    for source in sorted((ROOT.parent / "docs").glob("*.md")):
        page = read_page(source, f"docs/{source.stem}.html", original, export)
        pages.append(with_anchors(page, slugs(map(_text, _prose_headings(page.soup)))))
    return pages


def build(folder: Path) -> None:
    """Make the site anew in a folder. Raises Broken for a link or recording that leads nowhere, or another's folder."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise Broken(f"{folder} holds something else; give a folder that is empty or new")
    pages = read_pages()
    by_source = {page.source: page for page in pages}
    pictures = {picture for page in pages for picture in make_links(page, by_source)}
    files = {page.target: html for page in pages for html in [_whole(page, pages)]}
    for language in LANGUAGES:
        files[f"{language}/index.html"] = _lessons(language, pages)
        files[f"assets/search-{language}.js"] = search_index(page for page in pages if page.language == language)
    files["index.html"] = _front()
    files["assets/plotly.min.js"] = get_plotlyjs()
    files |= {f"assets/{name}": (LOOK / name).read_text("utf-8") for name in ("style.css", "search.js", "charts.js")}
    if folder.exists():
        shutil.rmtree(folder)
    for target, text in files.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for picture in sorted(pictures):
        path = folder / picture.relative_to(ROOT.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, path)


def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(LOOK), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _around(page: Page, pages: list[Page]) -> tuple[Page | None, Page | None]:
    """Return the pages before and after one in its folder."""
    folder = page.target.partition("/")[0]
    row: list[Page | None] = [None, *(one for one in pages if one.target.startswith(f"{folder}/")), None]
    place = row.index(page)
    return row[place - 1], row[place + 1]


def _whole(page: Page, pages: list[Page], body: str = "", others: Mapping[str, str] | None = None) -> str:
    """Return a page's HTML: its text, or `body`, with all that stands around it."""
    before, after = _around(page, pages) if page in pages else (None, None)
    same = {one.language: f"../{one.target}" for one in pages if one.name == page.name and one.target != page.target}
    up = "../" * page.target.count("/")
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            page=page,
            body=Markup(body or str(page.soup)),
            before=before,
            after=after,
            others=(same if others is None else others).items(),
            names=LANGUAGES,
            home=f"{up}{page.language}/index.html",
            up=up,
            course=COURSE,
            w=WORDS[page.language],
        )
    )


def _lessons(language: str, pages: list[Page]) -> str:
    """Return a language's first page: its lessons with their minutes and objectives, and the documents."""
    body = (
        _templates()
        .get_template("lessons.html.j2")
        .render(
            lessons=[_card(page) for page in pages if page.target.startswith(f"{language}/")],
            documents=[page for page in pages if page.target.startswith("docs/")],
            language=language,
            course=COURSE,
            w=WORDS[language],
        )
    )
    page = Page(ROOT, f"{language}/index.html", language, BeautifulSoup("", "html.parser"), COURSE)
    return _whole(page, [], body, {other: f"../{other}/index.html" for other in LANGUAGES if other != language})


def _card(page: Page) -> dict[str, str]:
    """Return what a lesson says of itself before its first cell: title, minutes and objectives."""
    minutes, objectives = page.soup.select_one("p > strong"), page.soup.find("ul")
    told = {"minutes": _text(minutes).rstrip(".") if minutes else "", "objectives": Markup(objectives or "")}
    return {"name": page.name, "title": page.title, **told}


def _front() -> str:
    parts = [
        f'<h2 lang="{language}"><a href="{language}/index.html" hreflang="{language}">{name}</a></h2>'
        f'<p lang="{language}">{escape(WORDS[language]["about"])}</p>'
        for language, name in LANGUAGES.items()
    ]
    page = Page(ROOT, "index.html", next(iter(LANGUAGES)), BeautifulSoup("", "html.parser"), COURSE)
    return _whole(page, [], f"<h1>{escape(COURSE)}</h1>" + "".join(parts), {})


def main(argv: list[str] | None = None) -> int:
    """Build the site; return 0 when all its links lead somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT.parent / ".lab" / "site")
    folder = parser.parse_args(argv).folder
    try:
        build(folder)
    except Broken as error:
        print(f"website: {error}", file=sys.stderr)
        return 1
    print(f"open {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
