"""The words behind a line magic: each verb has its own options, parsed as a shell would; the nearest verb is told."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from ..errors import UserError
from ..messages import say, say_help
from ..session import Session

__all__ = ["NAME", "ON", "READER", "Verb", "choose", "flag", "nearest", "option", "rest", "word", "words"]

T = TypeVar("T")
Words = argparse.Namespace
Action = Callable[[Session, Words, str], Any]
Argument = tuple[tuple[str, ...], dict[str, Any]]


def word(name: str, help: str, *, needed: bool = True) -> Argument:
    """Return one word at a fixed place."""
    return (name,), {"help": help} if needed else {"help": help, "nargs": "?", "default": ""}


def words(name: str, help: str, *, needed: bool = True) -> Argument:
    """Return any number of words."""
    return (name,), {"help": help, "nargs": "+" if needed else "*"}


def rest(name: str, help: str) -> Argument:
    """Return all that follows, options too: another program's command."""
    return (name,), {"help": help, "nargs": argparse.REMAINDER}


def flag(*names: str, help: str) -> Argument:
    """Return an option without a value."""
    return names, {"help": help, "action": "store_true"}


def option(*names: str, help: str, metavar: str = "TEXT", default: str | None = None) -> Argument:
    """Return an option with a value."""
    return names, {"help": help, "metavar": metavar, "default": default}


NAME = word("name", "its name")
READER = flag("--screen-reader", help="read what is written aloud, if a screen reader listens")
ON = option("--on", metavar="NODE", help="the node: host, or a machine's name", default="")


class Verb:
    """One verb: what it does, in a line, and which words it takes. The parser is made when it is first used."""

    def __init__(self, action: Action, summary: str, *arguments: Argument) -> None:
        self.action, self.summary, self.arguments = action, summary, arguments

    def parser(self, title: str) -> argparse.ArgumentParser:
        """Return the parser; what is wrong comes out as a `UserError`."""
        return _Parser(prog=title, description=self.summary, add_help=False, arguments=self.arguments)

    def parse(self, title: str, given: list[str]) -> Words:
        """Return the words by their names."""
        return self.parser(title).parse_args(given)

    def options(self) -> list[str]:
        """Return the long options, for completion."""
        return sorted(name for names, _ in self.arguments for name in names if name.startswith("--"))


class _Parser(argparse.ArgumentParser):
    def __init__(self, *, prog: str, description: str, add_help: bool, arguments: tuple[Argument, ...]) -> None:
        super().__init__(prog=prog, description=description, add_help=add_help, allow_abbrev=False)
        for names, settings in arguments:
            self.add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        text = message.replace("the following arguments are required:", "it needs")
        text = text.replace("unrecognized arguments:", "what is")
        mark = "?" if text.startswith("what is") else ""
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise UserError(f"{self.prog}: {text}{mark}", hint=f"{usage}")


def nearest(verbs: Mapping[str, T], name: str, title: str) -> T:
    """Return the verb of that name; raise `UserError` with the one that is nearest to it."""
    if name not in verbs:
        near = difflib.get_close_matches(name, verbs, 1)
        hint = f"did you mean {title} {near[0]}?" if near else f"there are: {' '.join(verbs)}"
        raise UserError(f"{title} has no verb {name!r}", hint=hint)
    return verbs[name]


def choose(verbs: dict[str, Verb], title: str, line: str, default: str) -> tuple[Verb, Words] | str:
    """Return the verb of a line and its words, or the help text it asks for; raises `UserError` with the nearest."""
    try:
        given = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{title} {line}: {error}", hint="close the quotes") from None
    name = given[0] if given else default
    if name in ("help", "--help"):
        return "\n".join(f"{title} {one:10} {say(verb.summary)}" for one, verb in verbs.items())
    nearest(verbs, name, title)
    if given[1:2] == ["--help"]:
        return str(say_help(verbs[name].parser(f"{title} {name}")).format_help())
    return verbs[name], verbs[name].parse(f"{title} {name}", given[1:])
