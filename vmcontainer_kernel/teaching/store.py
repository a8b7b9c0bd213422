"""The learner's file: written whole or not at all, by one notebook at a time, and never lost.

    change ── lock ── read ── change ── write beside it ── rename over it ── unlock

A file that makes no sense is put aside under another name. While nothing can be written, the changes wait in this
notebook, and the file gets them as soon as it can be had. What the learner should know of that is in `notices`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .progress import NewerVersion, Progress, parse, to_text

__all__ = ["Store", "progress_path"]

LARGEST_BYTES = 16 << 20
_POLL_S = 0.02

Change = Callable[[Progress], Progress]


def progress_path() -> Path:
    """Return where the file is: VMCONTAINER_PROGRESS, or in XDG_DATA_HOME (XDG Base Directory Specification)."""
    if chosen := os.environ.get("VMCONTAINER_PROGRESS", ""):
        return Path(chosen)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "vmcontainer", "progress.json")


class Store:
    """The progress in a file; with no `path`, it is kept in memory only. May be used by any thread."""

    def __init__(self, path: Path | None, patience_s: float = 5.0) -> None:
        self._path, self._patience_s = path, patience_s
        self._lock = threading.Lock()
        self._known = Progress()
        self._waiting: Sequence[Change] = ()
        self._why_apart = ""
        self.notices: list[str] = []

    def read(self) -> Progress:
        """Return the progress as it is now."""
        with self._lock:
            return self._brought(self._waiting)

    def change(self, change: Change) -> Progress:
        """Change what is in the file and return it."""
        with self._lock:
            return self._brought((*self._waiting, change))

    def take_notices(self) -> list[str]:
        """Return what the learner should know, once."""
        notices, self.notices = self.notices, []
        return notices

    def _brought(self, changes: Sequence[Change]) -> Progress:
        """Return the progress with these changes, in the file if it can be had."""
        if self._path is None:
            self._known = _changed(self._known, changes)
            return self._known
        try:
            # Who was kept waiting once is not kept waiting with every cell.
            with _locked(self._path, 0.0 if self._why_apart else self._patience_s):
                self._known, self._waiting = self._renew(self._path, changes), ()
        except (OSError, NewerVersion) as error:
            self._go_on_apart(self._path, error)
            apart = _changed(self._known, changes)
            self._waiting = changes
            return apart
        if self._why_apart:
            self.notices.append(f"your progress is kept in {self._path} again")
            self._why_apart = ""
        return self._known

    def _renew(self, path: Path, changes: Sequence[Change]) -> Progress:
        try:
            old = _read(path)
        except FileNotFoundError:
            old = Progress()
        except NewerVersion:
            raise
        except ValueError as error:
            aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.json")
            path.rename(aside)
            self.notices.append(f"the file of your progress makes no sense ({error}); it is kept as {aside}")
            if self._known != Progress():
                _write(path, to_text(self._known))
            old = self._known
        new = _changed(old, changes)
        if new != old:
            _write(path, to_text(new))
        return new

    def _go_on_apart(self, path: Path, error: OSError | NewerVersion) -> None:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if reason != self._why_apart:
            self.notices.append(f"your progress is kept in this notebook only: {path}: {reason}")
            self._why_apart = reason
        with suppress(OSError, ValueError):
            self._known = _read(path)  # what cannot be written can often be read


def _changed(progress: Progress, changes: Sequence[Change]) -> Progress:
    for change in changes:
        progress = change(progress)
    return progress


def _read(path: Path) -> Progress:
    """Read the file; raises ValueError for one that makes no sense."""
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError("it is too large")
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None


@contextmanager
def _locked(path: Path, patience_s: float) -> Iterator[None]:
    """Hold the lock beside a file (flock(2)): the file itself is replaced, so its own lock would be of an old one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor, patience_s)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise TimeoutError("another notebook does not let go of it") from None
            time.sleep(_POLL_S)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all (rename(2))."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
