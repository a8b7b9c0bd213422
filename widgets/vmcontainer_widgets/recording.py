"""A recording: what a view showed, as one small JSON document that a page replays without anything behind it.

{"format": "vmcontainer recording 1", "view": "hypervisor", "taken_s": 1790000000, "place": "2 CPUs, Linux 6.1, ...",
 "frames": [[0.0, {"set": {"": whole document}}], [0.5, {"set": {"/vcpus/0/cpu_s": 1.5}}], ...]}
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vmcontainer_kernel.delta import apply, difference

__all__ = ["FORMAT", "LIMIT_BYTES", "Recording", "last_document", "read_recording"]

FORMAT: Final = "vmcontainer recording 1"
# About an hour of a busy view. A recording that reaches it goes no further, and keeps what it has.
LIMIT_BYTES: Final = 8 << 20


class Recording:
    """Frames as they come; each is kept as its difference from the one before."""

    def __init__(self, view: str, place: str, taken_s: float, document: Mapping[str, Any]) -> None:
        self._head = {"format": FORMAT, "view": view, "taken_s": round(taken_s), "place": place}
        self._begin_s = time.monotonic()
        self._document: dict[str, Any] = dict(document)
        self._frames: list[list[Any]] = [[0.0, {"set": {"": self._document}}]]
        self._size_bytes = len(json.dumps(self._document))

    def add(self, document: Mapping[str, Any]) -> None:
        """Keep a document that is shown now."""
        change = difference(self._document, dict(document))
        size_bytes = len(json.dumps(change)) + 10
        if change and self._size_bytes + size_bytes <= LIMIT_BYTES:
            self._frames.append([round(time.monotonic() - self._begin_s, 2), change])
            self._document, self._size_bytes = dict(document), self._size_bytes + size_bytes

    def finished(self) -> dict[str, Any]:
        """Return the whole recording."""
        return {**self._head, "frames": self._frames}


def read_recording(path: Path, views: frozenset[str]) -> dict[str, Any]:
    """Return the recording in a file, checked, as it may come from anywhere.

    Raises ValueError if it is none, or is of a view that is not in `views`; OSError if it cannot be read.
    """
    if path.stat().st_size > 2 * LIMIT_BYTES:
        raise ValueError(f"it is larger than {2 * LIMIT_BYTES >> 20} MiB")
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    if found.get("view") not in views:
        raise ValueError(f"there is no view {str(found.get('view'))[:40]!r}")
    frames, taken = found.get("frames"), found.get("taken_s")
    if not isinstance(taken, int) or not isinstance(found.get("place"), str) or not isinstance(frames, list):
        raise ValueError("it has no time, place or frames")
    last_document(found)
    return found


def last_document(recording: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recording shows at its end. Raises ValueError if its changes do not fit one another."""
    document: dict[str, Any] = {}
    at_s = 0.0
    try:
        for moment_s, change in recording["frames"]:
            if not isinstance(moment_s, int | float) or moment_s < at_s:
                raise ValueError("its frames are not in order")
            at_s = moment_s
            document = apply(document, change)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"its changes do not fit one another: {error!r}") from None
    return document
