"""From a Dockerfile's text to stages of instructions, each checked as far as it can be without an image.

    ARG VERSION=1                  Dockerfile.arguments
    FROM busybox:$VERSION AS make  Stage(name "make", base: that instruction)
    RUN echo hello                   Instruction("RUN", body "echo hello")
    FROM scratch
    COPY --from=make /hello /        Instruction("COPY", flags {"from": "make"}, …)

What is not supported is an error that names line and instruction and says what to do instead; nothing is ignored.
"""

from __future__ import annotations

import json
import re

from vmcontainer_kernel.container.build.lines import Heredoc, Line, read
from vmcontainer_kernel.container.build.words import Word, Wrong, expand, split
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Dockerfile", "Instruction", "Stage", "exec_form", "pairs", "parse"]

_FLAGS: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "RUN": ("network",),
    "COPY": ("from", "chown", "chmod"),
    "ADD": ("chown", "chmod"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "retries"),
}
_REFUSED_FLAGS = {
    "RUN --mount": "copy what it needs with COPY; what it made is kept in the layer cache",
    "RUN --security": "a RUN has the protections that every container has",
    "COPY --link": "leave it out: the files are the same without it",
    "ADD --link": "leave it out: the files are the same without it",
    "COPY --parents": "name the folder to copy to in full",
    "COPY --exclude": "name what is to stay out in .dockerignore",
    "ADD --exclude": "name what is to stay out in .dockerignore",
}
_REFUSED = {
    "MAINTAINER": 'write LABEL org.opencontainers.image.authors="…" (MAINTAINER is deprecated)',
    "ONBUILD": "write the instruction into the Dockerfile that needs it",
}
KEYWORDS = (
    *("FROM", "ARG", "RUN", "COPY", "ADD", "ENV", "WORKDIR", "USER", "CMD", "ENTRYPOINT", "EXPOSE", "LABEL"),
    *("VOLUME", "STOPSIGNAL", "SHELL", "HEALTHCHECK"),
)
_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Instruction(Record):
    """One instruction: `body` is what follows the keyword and the flags, at `offset` of the line; `escape`: the file's
    escape character.
    """

    keyword: str
    flags: dict[str, Word]
    body: str
    offset: int
    line: Line
    escape: str = "\\"

    @property
    def heredocs(self) -> tuple[Heredoc, ...]:
        """The documents below it."""
        return self.line.heredocs

    @property
    def words(self) -> list[Word]:
        """The words of the body; its strings, if it is in exec form."""
        strings = exec_form(self.body)
        if strings is not None:
            return [Word(one, self.offset) for one in strings]
        return split(self.body, self.offset, self.escape)

    def fault(self, message: str, hint: str = "", offset: int = 0) -> UserError:
        """Return the error about this instruction, or about what is at an offset of its line."""
        return self.line.fault(offset, f"{self.keyword}: {message}", hint)

    def expand(self, word: Word, variables: Mapping[str, str], *, quotes: bool = True) -> str:
        """Replace the variables of a word; strings of the exec form have no quotes to take away."""
        plain = quotes and exec_form(self.body) is None
        try:
            return expand(word.text, variables, escape=self.escape, offset=word.offset, quotes=plain)
        except Wrong as error:
            raise self.fault(error.message, error.hint, error.offset) from None

    def flag(self, name: str, variables: Mapping[str, str]) -> str:
        """Return a flag's value, empty without it."""
        return self.expand(self.flags[name], variables) if name in self.flags else ""


class Stage(Record):
    """What one FROM begins; `name` is empty without AS."""

    name: str
    base: Instruction
    instructions: tuple[Instruction, ...]


class Dockerfile(Record):
    """The whole file: ARGs before the first FROM, stages, and what the reader should be told."""

    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile; raise `UserError` that shows the line and the column."""
    source = read(text)
    before: list[Instruction] = []
    stages: list[tuple[str, Instruction, list[Instruction]]] = []
    warnings = list(source.warnings)
    for line in source.lines:
        one = _instruction(line, source.escape)
        if one.keyword == "FROM":
            stages.append((_stage_name(one, [name for name, _, _ in stages]), one, []))
        elif stages:
            stages[-1][2].append(one)
        elif one.keyword == "ARG":
            before.append(one)
        else:
            raise one.fault("there is no image yet", "begin with FROM, as in FROM busybox")
        warnings += _warnings(one)
    if not stages:
        raise UserError("this Dockerfile has no FROM", hint="begin with the image to build on, as in FROM busybox")
    made = tuple(Stage(name, base, tuple(instructions)) for name, base, instructions in stages)
    return Dockerfile(tuple(before), made, tuple(warnings))


def _instruction(line: Line, escape: str) -> Instruction:
    keyword = line.text.split(maxsplit=1)[0]
    name = keyword.upper()
    if name in _REFUSED:
        raise line.fault(0, f"{name} is not supported", _REFUSED[name])
    if name not in KEYWORDS:
        import difflib

        near = difflib.get_close_matches(name, KEYWORDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {' '.join(KEYWORDS)}"
        raise line.fault(0, f"{keyword[:40]!r} is no instruction", hint)
    flags, at = _flags(name, line, len(keyword), escape)
    body = line.text[at:].lstrip()
    one = Instruction(name, flags, body, len(line.text) - len(body), line, escape)
    if not body:
        raise one.fault("nothing follows it", f"{name} needs at least one word")
    _check(one)
    return one


def _flags(keyword: str, line: Line, at: int, escape: str) -> tuple[dict[str, Word], int]:
    """Read the words at the front that begin with ``--``; return them and where the rest begins."""
    flags: dict[str, Word] = {}
    for word in split(line.text[at:], at, escape):
        if not word.text.startswith("--"):
            break
        name, equals, value = word.text[2:].partition("=")
        if name not in _FLAGS.get(keyword, ()):
            known = " ".join(f"--{one}" for one in _FLAGS.get(keyword, ())) or "none"
            hint = _REFUSED_FLAGS.get(f"{keyword} --{name}", f"{keyword} has these flags: {known}")
            raise line.fault(word.offset, f"{keyword}: --{name[:40]} is not supported", hint)
        if not equals or not value or name in flags:
            problem = "stands here twice" if name in flags else "has no value"
            raise line.fault(word.offset, f"{keyword}: --{name} {problem}", f"write --{name}=VALUE")
        flags[name] = Word(value, word.offset + len(name) + 3)
        at = word.offset + len(word.text)
    return flags, at


def _check(one: Instruction) -> None:
    count = len(one.words)
    if one.keyword in ("COPY", "ADD") and count < 2:
        raise one.fault("it needs something to copy, and a place for it", f"as in {one.keyword} app/ /app/")
    if not count and one.keyword not in ("CMD", "ENTRYPOINT"):
        raise one.fault("the list is empty", offset=one.offset)
    if count > 1 and one.keyword in ("USER", "STOPSIGNAL"):
        raise one.fault("it takes one word", "put quotes around it", one.words[1].offset)
    if one.keyword == "SHELL" and exec_form(one.body) is None:
        raise one.fault("it must be a JSON list", 'as in SHELL ["/bin/sh", "-c"]', one.offset)
    if one.keyword == "ARG":
        for word in one.words:
            if not _VARIABLE.fullmatch(word.text.partition("=")[0]):
                raise one.fault(f"{word.text[:40]!r} is no name", "as in ARG NAME or ARG NAME=value", word.offset)
    if one.keyword in ("ENV", "LABEL"):
        pairs(one, {})


def _stage_name(one: Instruction, others: list[str]) -> str:
    words = one.words
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].text.upper() != "AS"):
        at = words[min(1, len(words) - 1)].offset
        raise one.fault("it is FROM IMAGE or FROM IMAGE AS NAME", "as in FROM busybox AS build", at)
    if len(words) == 1:
        return ""
    name = words[2].text.lower()
    if not _NAME.fullmatch(name):
        raise one.fault(
            f"{name[:40]!r} cannot be a stage's name", "a letter, then letters, digits . _ -", words[2].offset
        )
    if name in others:
        raise one.fault(f"there is a stage {name} already", "give it another name", words[2].offset)
    return name


def _warnings(one: Instruction) -> list[str]:
    if one.keyword in ("RUN", "CMD", "ENTRYPOINT") and one.body.startswith("[") and exec_form(one.body) is None:
        line = one.line.origins[0][1]
        return [f"line {line}: this {one.keyword} begins with [ and is no JSON list, so a shell runs it as it stands"]
    return []


def exec_form(body: str) -> tuple[str, ...] | None:
    """Return the strings of ``["program", "argument"]``; None if it is no JSON list of strings."""
    if not body.startswith("["):
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, list) or not all(isinstance(one, str) and "\0" not in one for one in document):
        return None
    return tuple(document)


def pairs(one: Instruction, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what ENV or LABEL sets: ``NAME=value …``, or ``NAME value`` with the rest of the line as value."""
    words = split(one.body, one.offset, one.escape)
    first = words[0]
    if "=" not in first.text:
        rest = one.body[len(first.text) :].strip()
        if not rest:
            raise one.fault(f"{first.text[:40]} has no value", f"write {first.text[:40]}=value", first.offset)
        value = Word(rest, one.offset + one.body.index(rest, len(first.text)))
        return [(_key(one, first, variables), one.expand(value, variables))]
    found = []
    for word in words:
        name, equals, text = word.text.partition("=")
        if not equals or not name:
            hint = "write NAME=value; put quotes around a value with blanks"
            raise one.fault(f"{word.text[:40]!r} has no = with a name before it", hint, word.offset)
        value = Word(text, word.offset + len(name) + 1)
        found.append((_key(one, Word(name, word.offset), variables), one.expand(value, variables)))
    return found


def _key(one: Instruction, word: Word, variables: Mapping[str, str]) -> str:
    name = one.expand(word, variables) if one.keyword == "LABEL" else word.text
    if not name or (one.keyword == "ENV" and ("=" in name or "\0" in name)):
        raise one.fault(f"{word.text[:40]!r} cannot be a name", offset=word.offset)
    return name
