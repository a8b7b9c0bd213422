"""A Dockerfile's lines: directives, comments, continued lines joined, heredocs taken out; each character keeps its
place (Dockerfile reference, "Format", "Parser directives", "Here-documents").
"""

from __future__ import annotations

import re

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import UserError

__all__ = ["Heredoc", "Line", "Source", "read"]

MAX_BYTES = 1 << 20
_DIRECTIVE = re.compile(r"#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(.*?)[ \t]*")
_HEREDOC = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
_TAKES_HEREDOCS = ("RUN", "COPY", "ADD")


class Heredoc(Record):
    """A document within the Dockerfile: the word that names it, its text, and whether variables in it are replaced."""

    name: str
    text: str
    expands: bool


class Line(Record):
    """One logical line. `origins`: (offset in `text`, line, column) where each physical line begins, counted from 1;
    `tail`: the physical lines of its heredocs, the last words of them included.
    """

    text: str
    origins: tuple[tuple[int, int, int], ...]
    physical: tuple[str, ...]
    heredocs: tuple[Heredoc, ...] = ()
    tail: str = ""

    def fault(self, offset: int, message: str, hint: str = "") -> UserError:
        """Return the error about what is at an offset; it shows line and column."""
        index = max(number for number, origin in enumerate(self.origins) if origin[0] <= max(offset, 0))
        begin, line, column = self.origins[index]
        column += max(offset, 0) - begin
        shown = self.physical[index].replace("\t", " ")
        start = max(0, column - 1 - 100)
        excerpt = f"{shown[start : start + 160]}\n{' ' * (column - 1 - start)}^"
        return UserError(message, hint=hint, where=f"Dockerfile, line {line}, column {column}\n{excerpt}")


class Source(Record):
    """All logical lines, the escape character, and what the reader should be told."""

    lines: tuple[Line, ...]
    escape: str
    warnings: tuple[str, ...]


def read(text: str) -> Source:
    """Split a Dockerfile into logical lines; raise `UserError` with line and column."""
    if len(text) > MAX_BYTES or "\0" in text:
        what = f"is longer than {MAX_BYTES >> 20} MiB" if len(text) > MAX_BYTES else "holds a NUL character"
        raise UserError(f"this is no Dockerfile: it {what}", hint="copy data into the image with COPY")
    physical = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    escape, warnings, at = _directives(physical)
    lines: list[Line] = []
    while at < len(physical):
        if _is_blank(physical[at]):
            at += 1
            continue
        line, at = _join(physical, at, escape)
        if not line.text.strip():  # continued into nothing
            continue
        line, at = _take_heredocs(physical, at, line)
        lines.append(line)
    return Source(tuple(lines), escape, tuple(warnings))


def _is_blank(line: str) -> bool:
    return not line.strip(" \t") or line.lstrip(" \t").startswith("#")


def _directives(physical: list[str]) -> tuple[str, list[str], int]:
    """Read ``# key=value`` lines at the very top; the first line that is none ends them."""
    found: dict[str, str] = {}
    warnings: list[str] = []
    for number, text in enumerate(physical):
        match = _DIRECTIVE.fullmatch(text.strip(" \t"))
        key = match[1].lower() if match else ""
        if not match or key not in ("escape", "syntax", "check"):
            return found.get("escape", "\\"), warnings, number
        line = Line(text, ((0, number + 1, 1),), (text,))
        if key in found:
            raise line.fault(0, f"the directive {key} stands here twice", "leave one of them out")
        found[key] = match[2]
        if key == "escape" and match[2] not in ("\\", "`"):
            raise line.fault(text.find("=") + 1, f"escape={match[2]}: this must be \\ or `")
        if key != "escape":
            warnings.append(f"line {number + 1}: # {key}= has no meaning here: there is one builder, this one")
    return found.get("escape", "\\"), warnings, len(physical)


def _join(physical: list[str], at: int, escape: str) -> tuple[Line, int]:
    """Join a line with those it goes on in; comments and empty lines between are left out."""
    parts: list[str] = []
    origins: list[tuple[int, int, int]] = []
    length = 0
    while at < len(physical):
        text = physical[at]
        at += 1
        if parts and _is_blank(text):
            continue
        indent = 0 if parts else len(text) - len(text.lstrip(" \t"))
        body, goes_on = _cut(text[indent:], escape)
        origins.append((length, at, indent + 1))
        parts.append(body)
        length += len(body)
        if not goes_on:
            break
    shown = tuple(physical[line - 1] for _, line, _ in origins)
    return Line("".join(parts).rstrip(" \t"), tuple(origins), shown), at


def _cut(text: str, escape: str) -> tuple[str, bool]:
    """Return a line without the escape character at its end, and whether there was one; two of them are none."""
    bare = text.rstrip(" \t")
    if bare.endswith(escape) and not bare.endswith(escape * 2):
        return bare[:-1], True
    return text, False


def _take_heredocs(physical: list[str], at: int, line: Line) -> tuple[Line, int]:
    keyword, *rest = line.text.split(maxsplit=1)
    if keyword.upper() not in _TAKES_HEREDOCS or "".join(rest).startswith("["):
        return line, at
    begin, found = at, []
    for word in _WORD.finditer(line.text):
        match = _HEREDOC.fullmatch(word[0])
        if not match:
            continue
        text, at = _until(physical, at, match[3], strip=bool(match[1]))
        if at > len(physical):
            raise line.fault(
                word.start(), f"the heredoc {match[3]} has no end", f"write {match[3]} alone on a line below it"
            )
        found.append(Heredoc(match[3], text, not match[2]))
    tail = "".join(f"{one}\n" for one in physical[begin:at])
    return line.replace(heredocs=tuple(found), tail=tail), at


def _until(physical: list[str], at: int, name: str, *, strip: bool) -> tuple[str, int]:
    """Return the lines before the one that is `name`, and where it goes on after it (beyond the end: there is none)."""
    lines: list[str] = []
    while at < len(physical):
        text = physical[at].lstrip("\t") if strip else physical[at]
        at += 1
        if text == name:
            return "".join(f"{one}\n" for one in lines), at
        lines.append(text)
    return "", at + 1
