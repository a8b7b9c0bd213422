"""The learner's file: written whole or not at all, by one notebook at a time, and never lost.

    change ── lock ── read ── change ── write beside it ── rename over it ── unlock

A file that makes no sense is put aside under another name. Where nothing can be written, progress is kept until the
notebook ends. What the learner should know of that is in `notices`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .progress import NewerVersion, Progress, parse, to_text

__all__ = ["Store", "progress_path"]

LARGEST_BYTES = 16 << 20
_POLL_S = 0.02


def progress_path() -> Path:
    """Return where the file is: VMCONTAINER_PROGRESS, or in XDG_DATA_HOME (XDG Base Directory Specification)."""
    if chosen := os.environ.get("VMCONTAINER_PROGRESS", ""):
        return Path(chosen)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "vmcontainer", "progress.json")


class Store:
    """The progress in a file; with no `path`, it is kept in memory only. May be used by any thread."""

    def __init__(self, path: Path | None, patience_s: float = 5.0) -> None:
        self._path, self._patience_s = path, patience_s
        self._kept = Progress()
        self.notices: list[str] = []

    def read(self) -> Progress:
        """Return the progress as it is now."""
        return self.change(lambda progress: progress)

    def change(self, change: Callable[[Progress], Progress]) -> Progress:
        """Change what is in the file and return it."""
        if self._path is not None:
            try:
                with _locked(self._path, self._patience_s):
                    return self._change_file(self._path, change)
            except (OSError, NewerVersion) as error:
                self._let_go(self._path, error)
        self._kept = change(self._kept)
        return self._kept

    def take_notices(self) -> list[str]:
        """Return what the learner should know, once."""
        notices, self.notices = self.notices, []
        return notices

    def _change_file(self, path: Path, change: Callable[[Progress], Progress]) -> Progress:
        old = self._read_file(path)
        self._kept = new = change(old)
        if new != old:
            _write(path, to_text(new))
        return new

    def _read_file(self, path: Path) -> Progress:
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST_BYTES + 1)
            if len(data) > LARGEST_BYTES:
                raise ValueError("it is too large")
            return parse(data.decode())
        except FileNotFoundError:
            return Progress()
        except NewerVersion:
            raise
        except ValueError as error:
            aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.json")
            path.rename(aside)
            self.notices.append(f"the file of your progress makes no sense ({error}); it is kept as {aside}")
            return Progress()

    def _let_go(self, path: Path, error: OSError | NewerVersion) -> None:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        self.notices.append(f"your progress is kept in this notebook only: {path}: {reason}")
        self._path = None


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
