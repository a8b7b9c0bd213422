"""Patterns: those of .dockerignore, which say what of a folder is no part of the build, and those of COPY (Dockerfile
reference, ".dockerignore file"; Go's path.Match).

A rule is about a path and all below it; the last rule that matches decides; ``!`` takes back.
"""

from __future__ import annotations

import posixpath
import re

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import UserError

__all__ = ["Ignore", "has_wildcard", "matcher", "read_ignore"]


def has_wildcard(path: str) -> bool:
    """Tell whether a path is a pattern."""
    return any(letter in path for letter in "*?[")


def matcher(pattern: str) -> re.Pattern[str]:
    """Return the expression for a pattern: ``*`` and ``?`` stay within one name, ``**`` does not; raise `UserError`."""
    parts, at = [], 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*" and pattern[at : at + 1] == "*":
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
                parts.append("(?:.*/)?")
            else:
                parts.append(".*")
        elif letter == "*":
            parts.append("[^/]*")
        elif letter == "?":
            parts.append("[^/]")
        elif letter == "[":
            text, at = _class(pattern, at)
            parts.append(text)
        elif letter == "\\" and at < len(pattern):
            parts.append(re.escape(pattern[at]))
            at += 1
        else:
            parts.append(re.escape(letter))
    return re.compile("".join(parts), re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Translate ``[a-z]`` or ``[^a-z]``, whose inside begins at `at`; never a slash."""
    end = pattern.find("]", at + 1)
    if end < 0:
        raise UserError(f"the pattern {pattern} has a [ without a ]", hint="write \\[ for the character itself")
    inside = pattern[at:end]
    negated = inside[:1] in ("^", "!")
    ranges = []
    for match in re.finditer(r"(.)-(.)|(.)", inside[1:] if negated else inside, re.DOTALL):
        low, high = (match[1], match[2]) if match[1] else (match[3], match[3])
        if low > high:
            raise UserError(f"the pattern {pattern} has a range that is empty: {low}-{high}")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"(?!/)[{'^' if negated else ''}{''.join(ranges)}]", end + 1


class Ignore(Record):
    """Rules in order: (what it matches, whether it takes back)."""

    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()

    def ignores(self, path: str) -> bool:
        """Tell whether a path relative to the context, without a slash at its ends, is left out."""
        ways = _ways(path)
        ignored = False
        for rule, takes_back in self.rules:
            if ignored == takes_back and any(rule.fullmatch(way) for way in ways):
                ignored = not takes_back
        return ignored

    def prunes(self, path: str) -> bool:
        """Tell whether all of a folder is left out, whatever is in it."""
        return not any(takes_back for _, takes_back in self.rules) and self.ignores(path)


def _ways(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def read_ignore(text: str) -> Ignore:
    """Read a .dockerignore: a pattern a line, ``#`` begins a comment."""
    rules = []
    for line in text.removeprefix("\ufeff").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        takes_back = pattern.startswith("!")
        pattern = posixpath.normpath(pattern[1:].strip() if takes_back else pattern).lstrip("/")
        if pattern not in ("", "."):
            rules.append((matcher(pattern), takes_back))
    return Ignore(tuple(rules))
