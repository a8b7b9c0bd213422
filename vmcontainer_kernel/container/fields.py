"""Typed getters for JSON objects: each returns a value of the type asked for, or raises `SpecError` which names the
field.

A `Fields` remembers which members were taken, so what is left is known: a misspelt limit must not vanish. Where a
standard allows no more than a warning, as the OCI specification does (config.md, "Extensibility"), the reader hands
over a list for warnings and decides what to do with them.
"""

from __future__ import annotations

import os

from vmcontainer_kernel.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, TypeVar

    T = TypeVar("T")

__all__ = ["Fields", "brief", "check_text"]


def brief(value: Any) -> str:
    """Return a value for an error message: never long, never failing."""
    # repr of a deep list is a RecursionError, of a number with 5000 digits a ValueError (sys.set_int_max_str_digits).
    names = {dict: "an object", list: "a list", tuple: "a list", type(None): "null", bool: "true" if value else "false"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, int) and abs(value) >= 1 << 128:
        return "a number beyond 128 bits"
    shown = repr(value[:80] if isinstance(value, str) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def check_text(value: Any, where: str) -> str:
    """Return `value` if it is text the kernel can take: no NUL byte, nothing that has no bytes."""
    if not isinstance(value, str):
        raise SpecError(f"{where} must be a string, not {brief(value)}", where=where)
    if "\0" in value:
        raise SpecError(f"{where} holds a NUL byte, which ends every string the kernel takes", where=where)
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise SpecError(f"{where} holds a character that has no bytes: {value[:80]!a}", where=where) from None
    return value


class Fields:
    """A JSON object being read; `where` is its own name in the document, such as ``linux.resources``.

    `warnings`: takes what is only to be warned of; None makes each of these an error.
    """

    def __init__(self, document: Any, where: str = "", warnings: list[str] | None = None) -> None:
        if not isinstance(document, dict):
            raise SpecError(f"{where or 'the document'} must be an object, not {brief(document)}", where=where)
        self._left = dict(document)
        self._warnings = warnings
        self.where = where

    def name(self, key: str) -> str:
        """Return the full name of a member."""
        return f"{self.where}.{key}" if self.where else key

    def error(self, key: str, problem: str, *, hint: str = "") -> SpecError:
        """Return the error that says what is wrong with a member."""
        return SpecError(f"{self.name(key)} {problem}", hint=hint, where=self.name(key))

    def warn(self, key: str, problem: str) -> None:
        """Note what is wrong with a member but no reason to stop; raise it if nobody takes warnings."""
        if self._warnings is None:
            raise self.error(key, problem)
        self._warnings.append(f"{self.name(key)} {problem}")

    def has(self, key: str) -> bool:
        """Tell whether a member is there and not null."""
        return self._left.get(key) is not None

    def take(self, key: str) -> Any:
        """Return a member as it is, or None."""
        return self._left.pop(key, None)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; without a default the member is required."""
        value = self.take(key)
        if value is None:
            if default is None:
                raise self.error(key, "is required")
            return default
        return check_text(value, self.name(key))

    def path(self, key: str, default: str | None = None) -> str:
        """Return an absolute path; without a default the member is required. An empty one counts as absent."""
        path = self.text(key, default)
        if not path.startswith("/") and (path or default is None):
            raise self.error(key, f"must be an absolute path, not {brief(path)}")
        return path

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of the `allowed` strings; without a default the member is required."""
        value = self.text(key, default)
        if value not in allowed and value != default:
            raise self.error(key, f"must be one of {' '.join(allowed)}, not {brief(value)}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.optional_flag(key)
        return default if value is None else value

    def optional_flag(self, key: str) -> bool | None:
        """Return true or false, or None if the member is absent."""
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {brief(value)}")
        return value

    def number(self, key: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`, or None if the member is absent."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be an integer, not {brief(value)}")
        if not low <= value <= high:
            raise self.error(key, f"must be from {low} to {high}, not {brief(value)}")
        return value

    def required(self, key: str, low: int, high: int) -> int:
        """Return an integer from `low` to `high`; the member is required."""
        value = self.number(key, low, high)
        if value is None:
            raise self.error(key, "is required")
        return value

    def real(self, key: str, low: float, high: float) -> float | None:
        """Return a number from `low` to `high`, or None if the member is absent."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, not {brief(value)}")
        if not low <= value <= high:  # also refuses NaN
            raise self.error(key, f"must be from {low} to {high}, not {brief(value)}")
        return float(value)

    def child(self, key: str, make: Callable[[Fields], T]) -> T:
        """Return what `make` reads from a member that is an object; an absent one reads as an empty object."""
        value = self.take(key)
        return self._read(key, {} if value is None else value, make)

    def optional(self, key: str, make: Callable[[Fields], T]) -> T | None:
        """Return what `make` reads from a member that is an object, or None if the member is absent."""
        value = self.take(key)
        return None if value is None else self._read(key, value, make)

    def objects(self, key: str, make: Callable[[Fields], T]) -> tuple[T, ...]:
        """Return what `make` reads from each object of a list; an absent one reads as empty."""
        return tuple(self._read(f"{key}[{index}]", value, make) for index, value in enumerate(self._list(key)))

    def object_map(self, key: str, make: Callable[[Fields], T]) -> dict[str, T]:
        """Return an object whose values are objects, each read by `make`."""
        value = self.child(key, Fields.rest)
        return {name: self._read(f"{key}.{name}", inner, make) for name, inner in value.items()}

    def items(self, key: str, make: Callable[[Any, str], T]) -> tuple[T, ...]:
        """Return a list, each item made by `make(value, name)`; an absent one reads as empty."""
        return tuple(make(item, f"{self.name(key)}[{index}]") for index, item in enumerate(self._list(key)))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        values = self._list(key)
        # A seccomp profile has 400 names: they get a name of their own only if one of them needs it in an error.
        if all(type(value) is str and value.isascii() and "\0" not in value for value in values):
            return tuple(values)
        return tuple(check_text(value, f"{self.name(key)}[{index}]") for index, value in enumerate(values))

    def text_map(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        where, value = self.name(key), self.child(key, Fields.rest)
        return {name: check_text(text, f"{where}.{name}") for name, text in value.items()}

    def rest(self) -> dict[str, Any]:
        """Take all that is left: the members of an object that has no fixed ones."""
        rest, self._left = self._left, {}
        return {check_text(name, f"{self.where} key"): value for name, value in rest.items()}

    def refuse(self, *keys: str, why: str) -> None:
        """Refuse members that mean something we cannot honour; empty ones ask for nothing and pass."""
        for key in keys:
            if self.take(key) not in (None, "", [], {}, (), False):
                raise self.error(key, f"is not supported: {why}")

    def done(self) -> None:
        """Warn of every member that nobody took."""
        for key, value in self._left.items():
            if value is not None:
                self.warn(str(key), "is not known")

    def _list(self, key: str) -> list[Any] | tuple[Any, ...]:
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.error(key, f"must be a list, not {brief(value)}")
        return value

    def _read(self, key: str, value: Any, make: Callable[[Fields], T]) -> T:
        fields = Fields(value, self.name(key), self._warnings)
        made = make(fields)
        fields.done()
        return made
