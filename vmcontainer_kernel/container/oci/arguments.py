"""Options of a command line, from the help that describes them: what ``--help`` prints is what is understood.

`argparse` takes longer to import than the rest of the command; and what calls a runtime passes options as Go's programs
take them: ``--name value``, ``--name=value``, ``--flag=false``, and nothing is an option after the program to execute.
"""

from __future__ import annotations

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import UserError

__all__ = ["Arguments", "Command", "Option", "read", "read_options"]


class Option(Record):
    """One option: its long name, its one-letter name or "", and what its value is called: "" for a flag, N for a
    number; three dots mean that it may be given many times.
    """

    name: str
    letter: str
    value: str


class Command(Record):
    """A command: its line of usage, what it does, and its options as lines ``-x, --name VALUE  what it is for``.

    `stops`: everything after the first argument that is no option belongs to the program to execute.
    """

    usage: str
    summary: str
    options: str = ""
    stops: bool = False

    def help(self, program: str) -> str:
        """Return what ``--help`` prints."""
        options = "".join(f"\n  {line}" for line in self.options.splitlines() if line)
        return f"Usage: {program} {self.usage}\n\n{self.summary}\n" + (f"\nOptions:{options}\n" if options else "")


class Arguments:
    """What was typed: `values` by option name, and the `rest`."""

    def __init__(self, values: dict[str, str | int | bool | list[str]], rest: list[str]) -> None:
        self._values = values
        self.rest = rest

    def flag(self, name: str) -> bool:
        """Tell whether a flag was given."""
        return bool(self._values.get(name, False))

    def text(self, name: str, default: str = "") -> str:
        """Return the value of an option."""
        return str(self._values.get(name, default))

    def number(self, name: str, default: int = 0) -> int:
        """Return the value of an option that is a number."""
        value = self._values.get(name, default)
        return value if isinstance(value, int) else default

    def items(self, name: str) -> list[str]:
        """Return the values of an option that may be given many times."""
        value = self._values.get(name, [])
        return value if isinstance(value, list) else []

    def has(self, name: str) -> bool:
        """Tell whether an option was given."""
        return name in self._values

    def only(self, *names: str) -> list[str]:
        """Return the rest, which must be exactly these arguments."""
        if len(self.rest) != len(names):
            raise UserError(
                f"exactly {len(names)} argument(s) are needed: {' '.join(names)}", where=" ".join(self.rest)
            )
        return self.rest


def read_options(text: str) -> dict[str, Option]:
    """Return the options a help text describes, by each of their names."""
    found: dict[str, Option] = {}
    for line in filter(None, text.splitlines()):
        words = line.strip().partition("  ")[0].replace(",", "").split()
        letter = words.pop(0)[1:] if not words[0].startswith("--") else ""
        option = Option(words[0][2:], letter, words[1] if len(words) > 1 else "")
        found[option.name] = option
        if letter:
            found[letter] = option
    return found


def read(command: Command, words: list[str], *, program: str) -> Arguments:
    """Read the words that follow a command; raise `UserError` naming the one that is wrong."""
    options, todo = read_options(command.options), list(words)
    values: dict[str, str | int | bool | list[str]] = {}
    rest: list[str] = []
    while todo:
        word = todo.pop(0)
        if word == "--" or (rest and command.stops) or not word.startswith("-") or word == "-":
            rest += [word] if word != "--" else []
            if command.stops or word == "--":
                return Arguments(values, rest + todo)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name not in options:
            raise UserError(f"there is no option {word.partition('=')[0]}", hint=f"see {program} --help")
        _set(values, options[name], value if equals else None, todo)
    return Arguments(values, rest)


def _set(values: dict[str, str | int | bool | list[str]], option: Option, value: str | None, todo: list[str]) -> None:
    if not option.value:
        values[option.name] = value not in ("false", "0")
        return
    if value is None:
        if not todo:
            raise UserError(f"--{option.name} needs {option.value}")
        value = todo.pop(0)
    if option.value.endswith("…"):
        values[option.name] = [*(have if isinstance(have := values.get(option.name), list) else []), value]
    elif option.value == "N":
        values[option.name] = _number(option.name, value)
    else:
        values[option.name] = value


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--{name} needs a number, not {text!r}") from None
