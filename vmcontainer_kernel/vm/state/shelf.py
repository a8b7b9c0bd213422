"""Which saved machines there are, and whether there is room for one more.

cache/states/  snapshots/MACHINE/NAME/   each whole (`manifest`), or not there
               suspended/MACHINE/        woken once, then gone
               making/tmp-XXXX/          half made; what a killed notebook left is removed by the next
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import HostError, LabError, NotFound, UserError
from ...paths import cache_dir
from ..config import MIB
from . import manifest
from .manifest import Saved

__all__ = ["LIMIT", "Listed", "Shelf", "tree"]

LIMIT: Final = "VMCONTAINER_SAVED_MIB"
_DEFAULT_MIB: Final = 10 * 1024


@dataclass(frozen=True)
class Listed:
    """A saved machine in a list: ``MACHINE:NAME`` or ``MACHINE``, the snapshot it came from, what is wrong with it."""

    title: str
    parent: str
    made_s: float
    size_bytes: int
    damage: str = ""


class Shelf:
    """Saved machines of this user, of all notebooks."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or cache_dir("states")
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)  # memory holds secrets
        for name in ("snapshots", "suspended", "making"):
            (self._root / name).mkdir(parents=True, exist_ok=True)

    @property
    def lock(self) -> Path:
        """Held by whoever adds or takes away."""
        return self._root / "lock"

    @property
    def making(self) -> Path:
        """Where a folder is filled, before it has a name."""
        return self._root / "making"

    def place(self, machine: str, snapshot: str = "") -> Path:
        """Return the folder of a snapshot, or of a suspended machine."""
        return self._root / "snapshots" / machine / snapshot if snapshot else self._root / "suspended" / machine

    def new_name(self, machine: str) -> str:
        """Return a name that no snapshot of this machine has yet."""
        number = 1
        while self.place(machine, f"snap-{number}").exists():
            number += 1
        return f"snap-{number}"

    def check_free(self, machine: str, snapshot: str) -> None:
        """Refuse a name that is none, or is taken."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", snapshot):
            raise UserError(f"{snapshot!r} cannot be a snapshot's name", hint="use letters, digits, '-', '_', '.'")
        if self.place(machine, snapshot).exists():
            hint = f"choose another name, or remove it: %vm snapshot rm {machine}:{snapshot}"
            raise UserError(f"there is a snapshot {machine}:{snapshot} already", hint=hint)

    def check_room(self, need_bytes: int) -> None:
        """Refuse what would take more than all saved machines may have together; says what could go.

        What nobody finished is removed first. Call it with the lock held.
        """
        for path in self.making.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        limit_bytes, sizes = _limit_bytes(), self._sizes()
        used_bytes = sum(sizes.values())
        if used_bytes + need_bytes <= limit_bytes:
            return
        largest = sorted(sizes.items(), key=lambda one: -one[1])[:5]
        raise HostError(
            f"saved machines may take {limit_bytes // MIB} MiB, {used_bytes // MIB} MiB are taken, and this one may "
            f"need {need_bytes // MIB} MiB",
            where="\n".join(f"{name}  {size // MIB} MiB" for name, size in largest),
            hint=f"remove some (%vm snapshot rm MACHINE:NAME), or allow more: the variable {LIMIT}",
        )

    def _sizes(self) -> dict[str, int]:
        return {one.title: one.size_bytes for one in (*self.snapshots(), *self.suspended())}

    def snapshots(self) -> list[Listed]:
        """Return all snapshots, oldest first, those that are damaged too."""
        found = (_listed(path, f"{path.parent.name}:{path.name}") for path in self._root.glob("snapshots/*/*"))
        return sorted(found, key=lambda one: one.made_s)

    def suspended(self) -> list[Listed]:
        """Return all suspended machines, oldest first, those that are damaged too."""
        found = (_listed(path, path.name) for path in self._root.glob("suspended/*"))
        return sorted(found, key=lambda one: one.made_s)

    def find(self, machine: str, snapshot: str = "") -> Saved:
        """Return a snapshot, or a suspended machine; raises NotFound with those there are."""
        place = self.place(machine, snapshot)
        if place.is_dir():
            return manifest.read(place)
        names = ", ".join(one.title for one in (self.snapshots() if snapshot else self.suspended())) or "none yet"
        if snapshot:
            raise NotFound(
                f"there is no snapshot {machine}:{snapshot}", hint=f"there are: {names}. %vm snapshot makes one"
            )
        raise NotFound(f"no machine {machine} is suspended", hint=f"there are: {names}. %vm suspend makes one")

    def remove(self, machine: str, snapshot: str = "") -> None:
        """Remove one; machines that run from it keep its files until they end (unlink(2))."""
        place = self.place(machine, snapshot)
        if not place.is_dir():
            self.find(machine, snapshot)
        # First out of sight: whoever is ended halfway leaves it whole, or in `making`.
        gone = self.making / f"tmp-{os.getpid()}-{place.name}"
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _listed(path: Path, title: str) -> Listed:
    size_bytes = manifest.size_of(path)
    try:
        saved = manifest.read(path)
    except LabError as error:
        return Listed(title, "", 0.0, size_bytes, error.message)
    return Listed(title, saved.parent, saved.made_s, size_bytes)


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT, "")
    if text and not text.isdecimal():
        raise UserError(f"{LIMIT} is {text!r}", hint="it is a number of MiB")
    return int(text or _DEFAULT_MIB) * MIB


def tree(found: Sequence[Listed]) -> list[tuple[int, Listed]]:
    """Return snapshots as (depth, snapshot), each below the one it came from; below nothing if that is gone."""
    titles = {one.title for one in found}

    def below(parent: str, depth: int) -> Iterator[tuple[int, Listed]]:
        for one in found:
            if (one.parent if one.parent in titles else "") == parent:
                yield depth, one
                yield from below(one.title, depth + 1)

    return [*below("", 0)]
