"""Typed getters for JSON objects: each returns a value of the type asked for, or raises `SpecError` which names the
field.

A `Fields` remembers which members were taken; `done` refuses what is left, so a misspelt limit is an error and not a
missing limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from vmcontainer_kernel.errors import SpecError

__all__ = ["Fields", "check_text"]

T = TypeVar("T")


def check_text(value: Any, where: str) -> str:
    """Return `value` if it is text the kernel can take: no NUL byte, nothing that has no bytes."""
    if not isinstance(value, str):
        raise SpecError(f"{where} must be a string, not {_kind(value)}", where=where)
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        raise SpecError(f"{where} holds a character that has no bytes: {value!a}", where=where) from None
    if b"\0" in encoded:
        raise SpecError(f"{where} holds a NUL byte, which ends every string the kernel takes", where=where)
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), "") or f"{value!r}"[:40]


class Fields:
    """A JSON object being read; `where` is its own name in the document, such as ``linux.resources``."""

    def __init__(self, document: Any, where: str = "") -> None:
        if not isinstance(document, dict):
            raise SpecError(f"{where or 'the document'} must be an object, not {_kind(document)}", where=where)
        self._left = dict(document)
        self.where = where

    def name(self, key: str) -> str:
        """Return the full name of a member."""
        return f"{self.where}.{key}" if self.where else key

    def error(self, key: str, problem: str) -> SpecError:
        """Return the error that says what is wrong with a member."""
        return SpecError(f"{self.name(key)} {problem}", where=self.name(key))

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

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {_kind(value)}")
        return value

    def number(self, key: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`, or None if the member is absent."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"must be an integer, not {_kind(value)}")
        if not low <= value <= high:
            raise self.error(key, f"must be from {low} to {high}, not {value}")
        return value

    def real(self, key: str, low: float, high: float) -> float | None:
        """Return a number from `low` to `high`, or None if the member is absent."""
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, not {_kind(value)}")
        if not low <= value <= high:  # also refuses NaN
            raise self.error(key, f"must be from {low} to {high}, not {value}")
        return float(value)

    def child(self, key: str) -> Fields:
        """Return a member that is an object; an absent one reads as an empty object."""
        value = self.take(key)
        return Fields({} if value is None else value, self.name(key))

    def items(self, key: str, make: Callable[[Any, str], T]) -> tuple[T, ...]:
        """Return a list, each item made by `make(value, name)`; an absent one reads as empty."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise self.error(key, f"must be a list, not {_kind(value)}")
        return tuple(make(item, f"{self.name(key)}[{index}]") for index, item in enumerate(value))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        return self.items(key, check_text)

    def text_map(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        value = self.child(key)
        return {
            check_text(name, f"{value.where} key"): check_text(text, value.name(name))
            for name, text in value._left.items()
        }

    def refuse(self, *keys: str, why: str) -> None:
        """Refuse members that mean something we cannot honour; empty ones ask for nothing and pass."""
        for key in keys:
            if self.take(key) not in (None, "", [], {}, (), False):
                raise self.error(key, f"is not supported: {why}")

    def done(self) -> None:
        """Refuse every member that nobody took."""
        for key in self._left:
            raise self.error(str(key), "is not known")
