"""A machine's description as JSON and back: records of `config`, `accelerator` and `disks.disk`, and no other class,
whatever a file says.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

from ...errors import LabError, MachineError
from .. import accelerator
from .. import config as records
from ..disks import disk

__all__ = ["from_document", "paths_of", "to_document"]

_CLASSES: Final = {
    cls.__name__: cls
    for cls in (*vars(records).values(), *vars(accelerator).values(), *vars(disk).values())
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


def to_document(value: Any) -> Any:
    """Return a record as JSON values: an object names its class (``is``) or is a path, a tuple becomes a list."""
    if dataclasses.is_dataclass(value) and type(value).__name__ in _CLASSES:
        fields = {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, tuple):
        return [to_document(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise MachineError(f"a machine with {type(value).__name__} in its description cannot be saved")


def from_document(document: Any) -> Any:
    """Return what `to_document` described; raises LabError if it is no such thing."""
    if isinstance(document, list):
        return tuple(from_document(one) for one in document)
    if not isinstance(document, dict):
        return document
    if document.keys() == {"path"}:
        return Path(document["path"])
    fields = {name: from_document(one) for name, one in document.items() if name != "is"}
    try:
        return _CLASSES[document["is"]](**fields)
    except (KeyError, TypeError) as error:
        raise LabError(f"not the description of a machine of this version: {error}") from None


def paths_of(value: Any) -> list[Path]:
    """Return the files that a record names."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, tuple):
        return [path for one in value for path in paths_of(one)]
    if dataclasses.is_dataclass(value):
        return [path for field in dataclasses.fields(value) for path in paths_of(getattr(value, field.name))]
    return []
