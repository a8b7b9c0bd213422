"""The catalogues of what people read: ``python -m tests.words`` brings them up to date with the sources.

    sources, views' labels ──collect──▶ messages ──merge──▶ vmcontainer_kernel/locale/LANG/LC_MESSAGES/vmcontainer.po

A message is each string of a source that reads as prose, told by its shape and not by who shows it: so nothing is
forgotten, and what is none (a script, a command's arguments) is named in `NOT_TOLD`. An f-string is a template whose
gaps have the names of what they show. Single words are messages where they are arguments that people see (`SHOWN`).
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from vmcontainer_kernel.messages import LANGUAGES, TEMPLATE, Entry, help_parts, read_po

__all__ = [
    "LOCALE",
    "brought",
    "collect",
    "main",
    "merge",
    "po_path",
    "problems",
    "read",
    "take_out",
    "template_of",
    "write",
]

ROOT = Path(__file__).parent.parent
KERNEL = ROOT / "vmcontainer_kernel"
LOCALE = KERNEL / "locale"
LABELS = ROOT / "widgets" / "vmcontainer_widgets" / "labels"
HEAD = """\
# {language}: what people read; see docs/translation.md
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""
ALIKE = 0.85

# Sources whose strings no reader of a notebook meets: a runtime's own command line, which speaks to engines in
# English as runc does; tables of numbers; what runs in another process and tells a caller of ours.
SILENT = (
    "container/oci/*",
    "container/record.py",
    "container/jsontext.py",
    "container/seccomp/syscalls.py",
    "messages.py",
)
# The functions whose words are shown, be they one only: where (a number, or a name), and which argument.
SHOWN = {
    "Table": (0, 2, "caption"),
    "Verb": (1,),
    "word": (1, "help"),
    "words": (1, "help"),
    "rest": (1, "help"),
    "say": (0,),
    "ours": (0,),
    "report": (0,),
    "argument": ("help",),
    "add_argument": ("help",),
    "_flag": ("help",),
    "_text": ("help",),
    "_many": ("help",),
    "flag": ("help",),
    "option": ("help",),
}
# Words that stand alone where no argument tells that they are shown: labels, states, and what an engine answers.
WORDS = (
    *(
        "  where: ",
        "in Docker: --privileged",
        "in Docker: --cap-add SYS_RESOURCE",
        "show program's version number and exit",
        "see --workdir",
        "add --bg",
        "write 0x7c00 or 31744",
        "write NAME[:/FOLDER][:ro]",
        "write FOLDER:/PLACE[:ro]",
        "nothing",
        "  try:   ",
        "show this help message and exit",
        "positional arguments",
        "options",
        "ok",
        "degraded",
        "no",
        "check",
        "verdict",
    ),
    *("running", "paused", "created", "creating", "stopped", "starting", "healthy", "unhealthy", "halted", "gone"),
    *("shutdown", "prelaunch", "inmigrate", "postmigrate", "guest-panicked", "host", "guest", "hypervisor", "verdict"),
    *("No such file or directory", "Permission denied", "Operation not permitted", "File exists", "Is a directory"),
    *(
        "Not a directory",
        "No space left on device",
        "Invalid argument",
        "Device or resource busy",
        "Read-only file system",
    ),
    *("Too many open files", "Cannot allocate memory", "Resource temporarily unavailable", "Connection refused"),
    *("Operation not supported", "Function not implemented", "Input/output error", "No such device", "Text file busy"),
    *(
        "No such process",
        "No such device or address",
        "Address already in use",
        "Network is unreachable",
        "Broken pipe",
    ),
    *("Too many levels of symbolic links", "File name too long", "Directory not empty", "Exec format error"),
    *("Argument list too long", "Invalid cross-device link", "Disk quota exceeded", "Connection reset by peer"),
    *("Broken pipe", "Read-only file system"),
)
# Templates that other programs' libraries fill (argparse), or that are too short to be told from other strings.
FORMS = (
    "it does not run {names}",
    "unrecognized arguments: {names}",
    "the following arguments are required: {names}",
    "it needs {names}",
    "what is {names}?",
    "argument {name}: expected one argument",
    "argument {name}: expected at least one argument",
    "argument {name}: invalid choice: {given} (choose from {names})",
    "argument {name}: not allowed with argument {other}",
    "argument {name}: ignored explicit argument {given}",
    *("see /proc/{path}", "write {name}=VALUE", "write {name}=value", "give 1 to {count}", "line {number}"),
    *("machine {word}", "container {word}"),
    "Dockerfile, line {line}, column {column}",
    "{step} failed: {reason}",
)
# What reads as prose and is none.
NOT_TOLD = (
    *("manifest unknown", "name unknown", "not known to registry", "authentication required", "invalid username"),
    *("server gave HTTP response to HTTPS client", "connection refused", "no such host", "dial tcp", "no space left"),
    *("server misbehaving", "does not match", "did not match", "rejected by policy", "invalid reference format"),
    *("Invalid image name", "no such file", "does not exist", "Callable[[int, Start, int], int]"),
)
PROSE = re.compile(r"([A-Za-z]{2,}(['’]s?)?|\ba)[,;:]? [a-z(]")
SCRIPT = re.compile(r"\b(console|panic)=|\n.*\n|\$\(|&&|\|\||[A-Za-z_]=\"|^import \w+[,;]|</|\\[swd(]|\(\?")


# ---- what the sources say


def template_of(node: ast.JoinedStr) -> str:
    """Return an f-string as a template: ``there is no check {name}``."""
    names: dict[str, str] = {}
    return "".join(
        str(part.value).replace("{", "{{").replace("}", "}}")
        if isinstance(part, ast.Constant)
        else "{" + _gap(part, names) + "}"
        for part in node.values
    )


def _gap(part: ast.expr, names: dict[str, str]) -> str:
    """Return a gap's name, which is that of what it shows; another one of the same name gets a number."""
    assert isinstance(part, ast.FormattedValue)
    shown = ast.unparse(part)
    if shown not in names:
        plain = _name(part.value)
        taken = [name for name in names.values() if name.rstrip("0123456789") == plain]
        names[shown] = f"{plain}{len(taken) + 1}" if taken else plain
    return names[shown]


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(str() as name)):
            return re.sub(r"\W", "", name).strip("_").rstrip("0123456789").lower() or "value"
        case ast.Call(func=ast.Attribute(attr="join"), args=[ast.Name(name) | ast.Attribute(attr=name)]):
            return name.lower()
        case ast.Call(func=ast.Attribute(attr="join")):
            return "names"
        case ast.Call(args=[inner, *_]) | ast.Call(func=ast.Attribute(value=inner)) | ast.Subscript(value=inner):
            return _name(inner)
        case ast.BoolOp(values=[inner, *_]) | ast.BinOp(left=inner) | ast.IfExp(body=inner):
            return _name(inner)
    return "value"


class _Collector(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[tuple[str, bool]] = []

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = template_of(node)
        if _is_prose(re.sub(r"\{\w*\}", "{", text)):
            self.found.append((text, any(isinstance(part, ast.FormattedValue) for part in node.values)))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _is_prose(node.value):
            self.found.append((node.value, False))

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        wanted = SHOWN.get(name, ())
        shown = [argument for number, argument in enumerate(node.args) if number in wanted]
        shown += [keyword.value for keyword in node.keywords if keyword.arg in wanted]
        for one in shown:
            self.found += [(text, False) for text in _words_of(one) if not _is_prose(text)]
            if isinstance(one, ast.JoinedStr) and re.search(r"[A-Za-z]{4}", re.sub(r"\{\w*\}", "", template_of(one))):
                self.found.append((template_of(one), True))  # be it too short to read as prose
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Tuple) and [ast.unparse(target) for target in node.targets] == ["head"]:
            self.found += [(text, False) for text in _words_of(node.value) if not _is_prose(text)]
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for inner in node.body:
            self.visit(inner)
        for default in node.args.defaults + node.args.kw_defaults:
            if default:
                self.visit(default)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)


def _words_of(node: ast.expr) -> list[str]:
    """Return the strings of a literal, of a choice, or of a list of them."""
    match node:
        case ast.Constant(str() as text):
            return [text] if re.search(r"[A-Za-z]{2}", text) else []
        case ast.Tuple(elements) | ast.List(elements):
            return [text for one in elements for text in _words_of(one)]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_words_of(body), *_words_of(orelse)]
    return []


def _is_prose(text: str) -> bool:
    return text not in NOT_TOLD and PROSE.search(text) is not None and SCRIPT.search(text) is None


def _docstrings(tree: ast.Module, path: str) -> Iterator[str]:
    """Yield the docstrings that people read: the magics' helps by paragraphs, and what a device of QEMU is for."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
        if path in ("magics.py", "teaching/magics.py") and re.search("_(cell|line)$", node.name):
            parts = [part for block in text.split("\n\n") for part in help_parts(block)]
            yield from (part for part in parts if _is_prose(part) or "\n" in part)
        if path == "vm/qemu.py" and text and [one.arg for one in node.args.args][1:] == ["wiring"]:
            yield text.splitlines()[0]


def collect() -> list[Entry]:
    """Return the messages of the sources, in their order, each once."""
    found: dict[tuple[str, str], Entry] = {}
    for text in WORDS:
        found["", text] = Entry(text)
    for text in FORMS:
        found["", text] = Entry(text, flags=[TEMPLATE])
    for path in sorted(KERNEL.rglob("*.py")):
        name = path.relative_to(KERNEL).as_posix()
        if any(fnmatch(name, pattern) for pattern in SILENT):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        collector = _Collector()
        collector.visit(tree)
        texts = [*((text, False) for text in _docstrings(tree, name)), *collector.found]
        for text, is_template in texts:
            entry = found.setdefault(("", text), Entry(text, flags=[TEMPLATE] if is_template else []))
            if name not in entry.files:
                entry.files.append(name)
    return [*found.values(), *(entry for path in sorted(LABELS.glob("*.json")) for entry in _labels(path))]


def _labels(path: Path) -> Iterator[Entry]:
    """Yield the words of a view, each with its place as context."""
    for key, text in json.loads(path.read_text(encoding="utf-8"))["en"].items():
        for place, one in _places(f"{path.stem}.{key}", text):
            entry = Entry(one, context=place)
            entry.files = [path.name]
            yield entry


def _places(place: str, text: str | dict[str, str]) -> list[tuple[str, str]]:
    terms = [(f"{place}.{term}", one) for term, one in text.items()] if isinstance(text, dict) else [(place, text)]
    return [(name, one) for name, one in terms if one]


# ---- the catalogues


def po_path(language: str) -> Path:
    """Return where a language's catalogue is."""
    return LOCALE / language / "LC_MESSAGES" / "vmcontainer.po"


def read(language: str) -> list[Entry]:
    """Return a language's messages; none if it has no catalogue yet."""
    path = po_path(language)
    return list(read_po(path.read_text(encoding="utf-8"))) if path.exists() else []


def write(entries: Iterable[Entry], language: str) -> str:
    """Return a .po file's text."""
    return HEAD.format(language=language) + "\n".join(_block(entry) for entry in entries)


def _block(entry: Entry) -> str:
    lines = [f"#: {' '.join(entry.files)}\n"] if entry.files else []
    lines += [f"#, {', '.join(sorted(entry.flags))}\n"] if entry.flags else []
    lines += [f"msgctxt {_quoted(entry.context)}\n"] if entry.context else []
    return "".join([*lines, f"msgid {_quoted(entry.source)}\n", f"msgstr {_quoted(entry.text)}\n"])


def _quoted(text: str) -> str:
    lines = text.splitlines(keepends=True)
    quoted = [json.dumps(line, ensure_ascii=False) for line in lines] or ['""']
    return "\n".join(['""', *quoted] if len(quoted) > 1 else quoted)


def merge(wanted: Iterable[Entry], known: Iterable[Entry]) -> list[Entry]:
    """Return the wanted messages with the translations that are known; one of a text much alike is marked fuzzy."""
    by_source = {(one.context, one.source): one for one in known}
    merged = []
    wanted = list(wanted)
    gone = {key: one for key, one in by_source.items() if key not in {(new.context, new.source) for new in wanted}}
    for new in wanted:
        entry = Entry(new.source, "", new.context, sorted(new.flags))
        entry.files = new.files
        old = by_source.get((new.context, new.source))
        if old:
            entry.text = old.text
            entry.flags |= old.flags & {"fuzzy"}
        elif near := difflib.get_close_matches(new.source, [source for _, source in gone], 1, ALIKE):
            entry.text = next(one.text for key, one in gone.items() if key[1] == near[0])
            entry.flags.add("fuzzy")
        merged.append(entry)
    return merged


def problems(wanted: list[Entry], known: list[Entry]) -> Iterator[str]:
    """Yield what is wrong with a catalogue: missing, fuzzy and stale translations, and gaps that differ."""
    by_source = {(one.context, one.source): one for one in known}
    for new in wanted:
        old = by_source.pop((new.context, new.source), None)
        shown = f"{new.source[:70]!r} ({' '.join(new.files)})"
        if old is None or not old.text:
            yield f"no translation of {shown}"
        elif "fuzzy" in old.flags:
            yield f"to be reviewed (fuzzy): {shown}"
        elif old.source.count("%") != old.text.count("%"):
            yield f"other signs % than {shown}: {old.text[:70]!r}"
        elif (new.context or TEMPLATE in new.flags) and _gaps(old.source) != _gaps(old.text):
            yield f"other gaps than {shown}: {old.text[:70]!r}"
        elif TEMPLATE in new.flags ^ old.flags:
            yield f"one is a template, the other is not: {shown}"
    yield from (f"stale: {source[:70]!r}" for _, source in by_source)


def _gaps(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def brought(language: str) -> list[Entry]:
    """Return the translations that views bring in their own files."""
    found = []
    for path in sorted(LABELS.glob("*.json")):
        labels = json.loads(path.read_text(encoding="utf-8"))
        for key, text in labels.get(language, {}).items():
            sources = dict(_places(f"{path.stem}.{key}", labels["en"].get(key, "")))
            translations = _places(f"{path.stem}.{key}", text)
            found += [Entry(sources[place], one, place) for place, one in translations if place in sources]
    return found


def take_out(language: str) -> None:
    """Take them out of those files: they are in the catalogue now."""
    for path in sorted(LABELS.glob("*.json")):
        labels = json.loads(path.read_text(encoding="utf-8"))
        if labels.pop(language, None):
            path.write_text(json.dumps(labels, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Write the catalogues anew, and tell what is to be translated."""
    wanted = collect()
    for language in LANGUAGES[1:]:
        entries = merge(wanted, [*read(language), *brought(language)])
        po_path(language).parent.mkdir(parents=True, exist_ok=True)
        po_path(language).write_text(write(entries, language), encoding="utf-8")
        take_out(language)
        told = list(problems(wanted, entries))
        print(f"{language}: {len(entries)} messages, {len(told)} to be done", *told, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
