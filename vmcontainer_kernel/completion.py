"""Completion behind the magics: option names, verbs, and the names of what is running."""

from __future__ import annotations

import re
import sys
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from .options import asm_arguments, container_arguments, vm_arguments

__all__ = ["match"]

VOLUME_ACTIONS = ["create", "inspect", "ls", "prune", "rm"]
_LINE = re.compile(r"(%{1,2})(vm|container|lab|asm|after|predict|check|hint|solution|quiz)\s+(.*)$")
_OF_LESSONS = {
    "after": "predictions",
    "predict": "predictions",
    "check": "exercises",
    "hint": "exercises",
    "solution": "exercises",
    "quiz": "quiz",
}
_ARGUMENTS = {"vm": vm_arguments, "container": container_arguments, "asm": asm_arguments}


def _option_names(decorate: Any) -> list[str]:
    def nothing(line: str) -> None:
        """Carry the parser."""

    parser = decorate("%%x")(nothing).parser
    return sorted(name for action in parser._actions for name in action.option_strings if name.startswith("--"))


def _names(kind: str) -> list[str]:
    """Return what runs, if anything does; completion starts nothing."""
    session = getattr(sys.modules.get("vmcontainer_kernel.session"), "_session", None)
    if session is None:
        return []
    return sorted(session.machines.guests) if kind == "vm" else sorted(name for _, name in session.containers)


def _ids(kind: str) -> list[str]:
    """Return what the open lesson asks, if one is open."""
    room = getattr(sys.modules.get("vmcontainer_kernel.teaching.room"), "_room", None)
    return [one.id for one in getattr(room.lesson, _OF_LESSONS[kind])] if room else []


def _candidates(percent: str, kind: str, rest: str, token: str) -> list[str]:
    if kind in _OF_LESSONS:
        return _ids(kind)
    if percent == "%%" and token.startswith("-") and kind in _ARGUMENTS:
        return _option_names(_ARGUMENTS[kind])
    if kind == "asm":
        return []
    if percent == "%%" and kind != "lab":
        return ["host", *_names("vm")] if rest.split()[-2:-1] == ["--on"] or rest.endswith("--on ") else _names(kind)
    return _line_candidates(percent, kind, rest, token)


def _line_candidates(percent: str, kind: str, rest: str, token: str) -> list[str]:
    from .verbs import CELL_VERBS, VERBS

    verbs = CELL_VERBS if percent == "%%" else VERBS[kind]
    verb, space, words = rest.partition(" ")
    if not space:
        return list(verbs)
    if verb not in verbs:
        return []
    if token.startswith("-"):
        return verbs[verb].options()
    if words.split()[-1:] == ["--on"] or words.split()[-2:-1] == ["--on"]:
        return ["host", *_names("vm")]
    return VOLUME_ACTIONS if verb == "volume" and " " not in words else _names(kind)


@context_matcher()  # type: ignore[untyped-decorator]
def match(context: CompletionContext) -> SimpleMatcherResult:
    """Complete a line that starts with one of our magics (IPython.core.completer, "matchers")."""
    line = _LINE.match(context.line_with_cursor[: context.cursor_position])
    first_line = 1 if context.full_text.startswith("%%after") else 0
    if line is None or (line[1] == "%%" and context.cursor_line > first_line):
        return SimpleMatcherResult(completions=[])
    token = context.token
    found = [name for name in _candidates(line[1], line[2], line[3], token) if name.startswith(token)]
    return SimpleMatcherResult(
        completions=[SimpleCompletion(text=name, type="param") for name in found], suppress=bool(found)
    )
