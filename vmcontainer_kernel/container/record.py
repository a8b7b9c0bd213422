"""A frozen value, declared by its annotations:

    class Place(Record):
        root: str
        version: int = 2

`dataclasses` does the same and more, but importing it takes three times as long as starting runc's whole work allows
(it brings `inspect` and `re`); a container runtime is a new process for every command.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):  # noqa: ANN003, ANN202
        return lambda cls: cls


__all__ = ["Record"]

_MISSING = object()


@dataclass_transform(frozen_default=True)
class Record:
    """Base of frozen values: fields in the order of their annotations, equal if all fields are equal, hashable if all
    are.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = [name for name in vars(cls).get("__annotations__", ()) if not name.startswith("_")]
        cls._fields = (*cls._fields, *own)

    def __init__(self, *values: Any, **named: Any) -> None:
        if len(values) > len(self._fields):
            raise TypeError(f"{type(self).__name__} takes {len(self._fields)} values, not {len(values)}")
        given = dict(zip(self._fields, values, strict=False))
        if len(given) == len(self._fields) and not named:
            self.__dict__.update(given)
            return
        if twice := given.keys() & named.keys():
            raise TypeError(f"{type(self).__name__}: {', '.join(sorted(twice))} given twice")
        given |= named
        for name in self._fields:
            value = given.pop(name, _MISSING)
            if value is _MISSING:
                value = getattr(type(self), name, _MISSING)
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} needs {name}")
            self.__dict__[name] = value
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(given))}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({shown})"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        if unknown := changes.keys() - self.__dict__.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy
