"""Questions to QEMU, and what came of each: an answer, or the reason why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ...errors import MachineError

__all__ = ["Answers", "Execute", "Json", "Question", "ask", "hmp", "plain"]

T = TypeVar("T")
Execute = Callable[..., Awaitable[Any]]
Json = dict[str, Any]

# What code that takes a foreign answer apart can raise.
_MISREAD: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Question:
    """A QMP command; its answer is kept under `name`."""

    name: str
    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def plain(*commands: str) -> list[Question]:
    """Return questions that are commands without arguments, and named like them."""
    return [Question(command, command) for command in commands]


def hmp(line: str) -> Question:
    """Return a line for QEMU's human monitor as a question; its answer is text."""
    return Question(line, "human-monitor-command", {"command-line": line})


class Answers:
    """The latest answer to each question; `reasons` for those that have none."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values: Json = dict(values or {})
        self.reasons: dict[str, str] = {}
        self._built: dict[tuple[Callable[..., Any], tuple[str, ...]], tuple[list[Any], Any]] = {}

    def keep(self, name: str, value: Any) -> None:
        """Keep an answer; the one that is kept already if it is the same, so that nothing is made of it again."""
        if name not in self.values or self.values[name] != value:
            self.values[name] = value
        self.reasons.pop(name, None)

    def lose(self, name: str, reason: str) -> None:
        """Keep the reason why there is no answer (any more)."""
        self.values.pop(name, None)
        self.reasons[name] = reason

    def read(self, build: Callable[..., T], *names: str) -> tuple[T | None, str]:
        """Return what `build` makes of these answers and no reason, or nothing and the reason.

        The commands that begin with ``x-`` and those of the human monitor answer as it pleases the QEMU at hand: what
        `build` cannot take apart is an answer that was not understood.
        """
        for name in names:
            if name not in self.values:
                return None, self.reasons.get(name, f"{name} was not asked for yet")
        try:
            return build(*(self.values[name] for name in names)), ""
        except _MISREAD:
            return None, f"QEMU's answer to {' and '.join(names)} was not understood"

    def read_once(self, build: Callable[..., T], *names: str) -> tuple[T | None, str]:
        """Return what `read` does, made anew only of new answers: the very same value means that nothing changed.

        `build` is a function of the answers alone, and the same one each time.
        """
        values = [self.values.get(name) for name in names]
        known = self._built.get((build, names))
        if known and all(old is new for old, new in zip(known[0], values, strict=True)):
            return known[1], ""
        value, reason = self.read(build, *names)
        if not reason:
            self._built[build, names] = values, value
        return value, reason


async def ask(execute: Execute, questions: Iterable[Question], answers: Answers) -> None:
    """Ask all at once, which wakes QEMU one time, and keep what comes of each."""

    async def one(question: Question) -> None:
        try:
            answers.keep(question.name, await execute(question.command, exact=question.arguments))
        except MachineError as error:
            answers.lose(question.name, error.message)

    await asyncio.gather(*map(one, questions))
