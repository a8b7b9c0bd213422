"""What people read, in their language: English texts, matched against one gettext catalogue.

    raise NotFound(f"there is no check {name}")     sources hold plain English, and so do the answers of a guest's agent
        │  tests/words.py collects the templates: "there is no check {name}"  ─▶ locale/LANG/LC_MESSAGES/vmcontainer.po
    say("there is no check kvm2")                   where a text is shown: the template that fits ─▶ its translation

What no template fits stays English. A template is matched piece by piece from the left, as a shell matches ``a*b*c``:
no text, however hostile, takes longer than a few passes over it, and what fills a gap is never read as a template's
text. The catalogue is read with the first text that is not to be shown in English.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as `typing` has it, which imports `re`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

__all__ = [
    "LANGUAGES",
    "TEMPLATE",
    "Catalogue",
    "Entry",
    "Template",
    "catalogue",
    "columns",
    "follow",
    "from_locale",
    "help_parts",
    "language",
    "padded",
    "read_po",
    "say",
    "say_document",
    "say_help",
    "say_lines",
    "unescaped",
]

LANGUAGES = ("en", "ko")
TEMPLATE = "python-brace-format"  # gettext's name (GNU gettext manual, "c-format Flag") for a text with {gaps}
LONGEST = 32 * 1024
_DEPTH = 6
_PREDICATES = ("is ", "must ", "has ", "needs ", "holds ", "cannot ", "belongs ")  # said of a field or file
_WORDED = frozenset({"status", "shown_status", "state", "wanted", "kind", "whose", "way", "works", "what", "why"})
_REMEMBERED = 4096
# The places of a view's document that hold sentences of ours.
_TOLD = frozenset(
    {
        "reason",
        "missing",
        "why",
        "description",
        "failure",
        "hint",
        "what",
        "text",
        "title",
        "lacking",
        "locked",
        "source",
    }
)
_LOOKUPS = 100
_WORD = "word"  # a gap of this name holds one: "machine {word}" is a machine, not the beginning of a sentence
_SEPARATORS = ("\n", "  ", "; ", ": ", ", ")


# ---- which language


def from_locale(environment: Mapping[str, str] = os.environ) -> str:
    """Return the language of LAB_LANGUAGE, else of the locale (locale(7)), as far as there is a catalogue of it."""
    wanted = ("LAB_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((environment[name] for name in wanted if environment.get(name)), "")
    short = chosen.replace(".", "_").partition("_")[0].lower()
    return short if short in LANGUAGES else LANGUAGES[0]


_ask: Callable[[], str] = from_locale


def follow(source: Callable[[], str]) -> None:
    """Ask `source` for the language from now on, each time that something is shown."""
    global _ask  # noqa: PLW0603 - a process has one reader
    _ask = source


def language() -> str:
    """Return the language of what is shown now."""
    return _ask()


# ---- one text


class Template:
    """A text with gaps: its literal pieces, and the names of the gaps between them."""

    __slots__ = ("names", "pieces", "weight")

    def __init__(self, text: str) -> None:
        from string import Formatter

        pieces, names = [""], list[str]()
        for literal, name, _, _ in Formatter().parse(text):
            pieces[-1] += literal
            if name is not None:
                names.append(name)
                pieces.append("")
        self.pieces, self.names = tuple(pieces), tuple(names)
        self.weight = sum(map(len, pieces))

    def match(self, text: str) -> dict[str, str] | None:
        """Return what fills the gaps, each as short as it can be but the last one; None if the template does not fit.

        Looking for one piece after the other is complete: where a later place of a piece fits, its first one does.
        """
        start, end = self.pieces[0], self.pieces[-1]
        if len(text) < len(start) + len(end) or not (text.startswith(start) and text.endswith(end)):
            return None
        found: dict[str, str] = {}
        at, limit = len(start), len(text) - len(end)
        for number, (name, piece) in enumerate(zip(self.names, self.pieces[1:], strict=True), 1):
            behind = limit if number == len(self.names) else text.find(piece, at, limit)
            if behind < 0 or found.setdefault(name, text[at:behind]) != text[at:behind]:
                return None
            at = behind + len(piece)
        return found

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with its gaps filled; no value is read as a template."""
        parts = [self.pieces[0]]
        for name, piece in zip(self.names, self.pieces[1:], strict=True):
            parts += [values[name], piece]
        return "".join(parts)


class Entry:
    """One message of a catalogue: `source` in English, `text` in the other language, and the marks on it (`flags`)."""

    __slots__ = ("context", "files", "flags", "source", "text")

    def __init__(self, source: str, text: str = "", context: str = "", flags: Sequence[str] = ()) -> None:
        self.source, self.text, self.context, self.flags = source, text, context, set(flags)
        self.files: list[str] = []


class Catalogue:
    """The messages of one language."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        usable = [one for one in entries if one.text and "fuzzy" not in one.flags]
        self._whole = {(one.context, one.source): one.text for one in usable if TEMPLATE not in one.flags}
        templates = [(Template(one.source), Template(one.text)) for one in usable if TEMPLATE in one.flags]
        # What says most comes first: the gap of another template may hold all of its words.
        self._templates = sorted(templates, key=lambda pair: -pair[0].weight)

    def word(self, context: str, text: str) -> str:
        """Return the translation of a word that is read in a `context` of its own, such as a view; else `text`."""
        return self._whole.get((context, text), text)

    def translate(self, text: str) -> str:
        """Return a text's translation; what is unknown of it stays."""
        return text if len(text) > LONGEST else _Translation(self._whole, self._templates).of(text)


class _Translation:
    """The work on one text, which is bounded: a hostile one may be made of a thousand parts."""

    def __init__(self, whole: Mapping[tuple[str, str], str], templates: Sequence[tuple[Template, Template]]) -> None:
        self._whole, self._templates, self._left = whole, templates, _LOOKUPS

    def of(self, text: str, depth: int = _DEPTH) -> str:
        return self._known(text, depth) or self._parts(text, depth) or text

    def _known(self, text: str, depth: int) -> str | None:
        whole = self._whole.get(("", text))
        self._left -= 1
        if whole is not None or depth == 0 or self._left < 0 or " " not in text:
            return whole
        for source, translation in self._templates:
            found = source.match(text)
            if found is not None and " " not in found.get(_WORD, ""):
                return translation.fill({name: self._gap(name, value, depth - 1) for name, value in found.items()})
        return None

    def _gap(self, name: str, value: str, depth: int) -> str:
        """Return what fills a gap: a single word is a name, but where states and the like stand."""
        ours = " " in value or name.rstrip("0123456789") in _WORDED
        return self.of(value, depth) if ours else value

    def _parts(self, text: str, depth: int) -> str | None:
        """Translate what is known of lines, of a list, and of what stands behind the name of a field or file."""
        separator = next((one for one in _SEPARATORS if one in text), "")
        if depth == 0 or not separator:
            name, _, rest = text.partition(" ")
            told = self._known(rest, depth) if rest.startswith(_PREDICATES) else None
            return f"{name}: {told}" if told else None
        parts = text.split(separator)
        # A single word may be anybody's; it is ours only as the whole of a text or gap.
        said = [self.of(part, depth - 1) if " " in part else part for part in parts]
        return separator.join(said) if said != parts else None


# ---- the catalogue


def unescaped(text: str) -> str:
    """Return what a quoted text of a .po file says (GNU gettext manual, "The Format of PO Files")."""
    import json

    found: str = json.loads(text) if "\\" in text else text[1:-1]  # the escapes that are used are JSON's too
    return found


def read_po(text: str) -> Iterator[Entry]:
    """Yield the messages of a .po file, without its head."""
    for block in text.split("\n\n"):
        fields, flags, files, key = {"msgctxt": "", "msgid": "", "msgstr": ""}, [""], [""], ""
        for line in block.splitlines():
            if line.startswith("#"):
                (flags if line.startswith("#,") else files).extend(line[2:].replace(",", " ").split())
                continue
            if not line.startswith('"'):
                key, _, line = line.partition(" ")  # noqa: PLW2901
            fields[key] += unescaped(line)
        if fields["msgid"]:
            entry = Entry(fields["msgid"], fields["msgstr"], fields["msgctxt"], flags[1:])
            entry.files = files[1:]
            yield entry


_read: dict[str, Catalogue] = {}
_said: dict[str, dict[str, str]] = {}  # what stood in documents, by language


def catalogue(chosen: str) -> Catalogue:
    """Return the catalogue of a language, read once; an empty one where there is none."""
    if chosen not in _read:
        folder = os.path.join(os.path.dirname(__file__), "locale", chosen, "LC_MESSAGES")  # noqa: PTH118, PTH120
        path = os.path.join(folder, "vmcontainer.po")  # noqa: PTH118 - pathlib takes longer to import
        entries: list[Entry] = []
        if chosen in LANGUAGES[1:]:
            with open(path, encoding="utf-8") as file:
                entries = list(read_po(file.read()))
        _read[chosen] = Catalogue(entries)
    return _read[chosen]


# ---- saying it


def say(text: str, chosen: str = "") -> str:
    """Return an English text in the language of what is shown now, or in the one that is `chosen`."""
    chosen = chosen or language()
    return text if chosen == LANGUAGES[0] else catalogue(chosen).translate(text)


def say_document(document: Any, chosen: str) -> Any:
    """Return a view's JSON document with the reasons and descriptions in it in a language; what is data stays.

    A whole document's own ``text`` is what a learner wrote, one with a ``line`` is code; the others are ours.
    """
    if chosen == LANGUAGES[0]:
        return document
    known = _said.setdefault(chosen, {})
    if len(known) > _REMEMBERED:
        known.clear()

    def walk(value: Any, *, told: bool, inside: bool = True) -> Any:
        if isinstance(value, dict):
            ours = _TOLD if inside and "line" not in value else _TOLD - {"text"}
            return {key: walk(one, told=key in ours or (told and isinstance(one, str))) for key, one in value.items()}
        if isinstance(value, list):
            return [walk(one, told=told) for one in value]
        if not told or not isinstance(value, str) or " " not in value:
            return value
        if value not in known:
            known[value] = say(value, chosen)
        return known[value]

    return walk(document, told=False, inside=False)


def help_parts(block: str) -> list[str]:
    """Return what is a message of its own in a paragraph of a help: a table's lines, or the whole of it."""
    lines = block.split("\n")
    return lines if 2 * sum("   " in line for line in lines) > len(lines) else [block]


def say_lines(text: str) -> str:
    """Return a longer text, paragraph by paragraph: the helps of the magics."""
    return "\n\n".join("\n".join(map(say, help_parts(block))) for block in text.split("\n\n"))


def columns(text: str) -> int:
    """Return how many columns a terminal takes for a text: two for a character of East Asia (Unicode, annex 11)."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum((east_asian_width(one) in "WF") + (not combining(one)) for one in text)


def padded(text: str, width: int) -> str:
    """Return a text with spaces behind it, so that it takes `width` columns."""
    return text + " " * (width - columns(text))


def say_help(parser: Any) -> Any:
    """Put an `argparse` parser's helps into the language of what is shown now, its own few words too; return it."""
    if language() == LANGUAGES[0]:
        return parser
    from inspect import cleandoc

    parser.description = say_lines(cleandoc(parser.description or ""))
    for group in parser._action_groups:
        group.title = say(group.title or "")
    for action in parser._actions:
        action.help = say(action.help or "")
        for choice in getattr(action, "_choices_actions", ()):
            choice.help = say(choice.help or "")
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                say_help(inner)
    return parser
