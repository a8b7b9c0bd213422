"""Named volumes: folders that outlive the containers that write into them.

folder/NAME/_data          what is mounted
folder/NAME/volume.json    {"created_s", "labels"}

The layout is Docker's local driver's; a volume is there until it is removed by name.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.checks import check_name
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.errors import HostError, NotFound, UserError

__all__ = ["Volumes", "size_bytes"]


class Volumes:
    """The volumes of a node, below `folder`."""

    def __init__(self, folder: Path, steward: Steward | None = None) -> None:
        self._folder, self._steward = Path(folder), steward or Steward()

    def names(self) -> list[str]:
        """Return all names, sorted."""
        try:
            return sorted(one.name for one in self._folder.iterdir() if (one / "_data").is_dir())
        except FileNotFoundError:
            return []

    def path(self, name: str) -> str:
        """Return the folder that is mounted, whether it is there or not."""
        check_name(name, "volume")
        return str(self._folder / name / "_data")

    def create(self, name: str, labels: dict[str, str] | None = None) -> None:
        """Make a volume unless it is there."""
        data = Path(self.path(name))
        if data.is_dir():
            return
        try:
            data.mkdir(parents=True)
            data.chmod(0o755)
            note = {"created_s": time.time(), "labels": labels or {}}
            (self._folder / name / "volume.json").write_text(json.dumps(note))
        except OSError as error:
            raise HostError(
                f"volume {name} cannot be made: {error.strerror}", hint="is the disk full?", where=str(self._folder)
            ) from error

    def inspect(self, name: str) -> dict[str, Any]:
        """Return name, mountpoint, created_s, labels and size_bytes."""
        self._require(name)
        try:
            note = json.loads((self._folder / name / "volume.json").read_text())
        except (OSError, ValueError):
            note = {}
        return {
            "name": name,
            "mountpoint": str(self._folder / name / "_data"),
            "created_s": note.get("created_s"),
            "labels": note.get("labels", {}),
            "size_bytes": self._steward.do(lambda: size_bytes(str(self._folder / name / "_data"))),
        }

    def remove(self, name: str, users: list[str]) -> None:
        """Remove a volume and all in it; `users` are the containers that have it mounted."""
        self._require(name)
        if users:
            raise UserError(f"volume {name} is in use by {' '.join(users)}", hint="remove these containers first")
        self._steward.remove_tree(self._folder / name)

    def _require(self, name: str) -> None:
        if name not in self.names():
            there = ", ".join(self.names()) or "none"
            raise NotFound(f"there is no volume {name} on this node", hint=f"there are: {there}")


def size_bytes(folder: str) -> int:
    """Return what the files take on the disk (stat(2): st_blocks are of 512 bytes); what vanishes meanwhile is 0."""
    total = 0
    for _, _, names, fd in os.fwalk(folder):
        for name in names:
            try:
                total += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
