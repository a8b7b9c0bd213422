"""A saved machine's folder: what is in it, written last, and whether all of it is still as it was written.

ram             the guest's memory, with holes where it is zero; a machine that wakes maps it copy-on-write
state           CPU and device state
file-N          the files it was started from (kernel, root disk), as hard links: a cleaned cache loses nothing
manifest.json   {"digest": of the document, "document": {machine, parent, QEMU's build, digests, …}}
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...errors import LabError, MachineError
from .. import cache, memory, qemu
from ..build import host_cpu, qemu_build
from ..config import MachineConfig, Wiring
from .document import from_document, paths_of, to_document

__all__ = ["Saved", "check", "files_back", "read", "size_of", "write"]

VERSION: Final = 1
# Of what was looked into by this process: the digest and the files' sizes, times and numbers.
_checked: dict[str, tuple[int, ...]] = {}


@dataclass(frozen=True)
class Saved:
    """A saved machine.

    `parent`: the snapshot that it came from. `made_s`: Unix time. `notes`: the session's own, a JSON object.
    """

    path: Path
    config: MachineConfig
    parent: str = ""
    made_s: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.path / "ram"

    @property
    def state(self) -> Path:
        """The saved CPU and device state."""
        return self.path / "state"


def write(saved: Saved, program: str) -> None:
    """Write a saved machine's manifest, and before that, to the disk, all it vouches for; `program`: QEMU's build."""
    files = [_keep(path, saved.path / f"file-{index}") for index, path in enumerate(paths_of(saved.config))]
    for path in (saved.ram, saved.state):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    document = {
        "version": VERSION,
        "config": to_document(saved.config),
        "parent": saved.parent,
        "made_s": saved.made_s,
        "notes": saved.notes,
        "qemu": program,
        "cpu": host_cpu(saved.config),
        "command": command_of(saved.config),
        "files": files,
        "ram": memory.digest(saved.ram),
        "state": cache.digest(saved.state),
    }
    (saved.path / "manifest.json").write_text(json.dumps({"digest": _digest(document), "document": document}))


def _keep(path: Path, kept: Path) -> dict[str, Any]:
    """Keep a file that a machine is started from, if that costs nothing."""
    with contextlib.suppress(OSError):
        kept.hardlink_to(path)
    status = path.stat()
    return {"path": str(path), "kept": kept.name, "stamp": [status.st_size, status.st_mtime_ns]}


def command_of(config: MachineConfig) -> list[str]:
    """Return the command line, without what differs between machines: all its devices, in their order."""
    return qemu.argv(config.named("", ""), Wiring(ram=Path("ram"), save=True))


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Saved:
    """Return a saved machine by its folder; raises MachineError if it is damaged. Its files are not looked into."""
    try:
        whole = json.loads((path / "manifest.json").read_text())
        document = whole["document"]
        if whole["digest"] != _digest(document) or document["version"] != VERSION:
            raise _damaged(path, "its manifest is not as it was written")
        config = from_document(document["config"])
        assert isinstance(config, MachineConfig)
        return Saved(path, config, document["parent"], document["made_s"], document["notes"], document)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, LabError) as error:
        if isinstance(error, MachineError):
            raise
        raise _damaged(path, f"its manifest cannot be read: {error}") from error


def check(saved: Saved) -> None:
    """Refuse a saved machine that would not wake as it was: damaged, or of another QEMU, CPU or version of ours.

    It reads the memory once (0.1 to 0.3 s for 256 MiB), again only if the file has changed: call it in a thread.
    """
    document, name = saved.document, saved.path.name
    here = qemu_build(saved.config.platform).text
    if document["qemu"] != here:
        raise MachineError(
            f"{name} was saved by another build of QEMU, which alone can wake it",
            where=f"saved by: {document['qemu']}\nhere:     {here}",
            hint="install that one again, or remove it (%vm snapshot rm)",
        )
    if document["cpu"] != host_cpu(saved.config):
        raise MachineError(f"{name} was saved under KVM on another model of CPU", hint="wake it on that computer")
    if document["command"] != command_of(saved.config):
        there = [word for word in document["command"] if word not in command_of(saved.config)]
        raise MachineError(
            f"{name} was saved by another version of this program, whose machines had other devices",
            where=" ".join(there)[:500],
            hint="remove it, and make it again",
        )
    _check_digests(saved)


def _check_digests(saved: Saved) -> None:
    try:
        stamp = (*_stamp(saved.ram), *_stamp(saved.state))
        if _checked.get(saved.document["ram"]) == stamp:
            return
        found = memory.digest(saved.ram), cache.digest(saved.state)
    except OSError as error:
        raise _damaged(saved.path, str(error)) from error
    for name, one in zip(("ram", "state"), found, strict=True):
        if saved.document[name] != one:
            raise _damaged(saved.path, f"{name}: its SHA-256 is {one}, it was {saved.document[name]}")
    _checked[saved.document["ram"]] = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def files_back(saved: Saved) -> None:
    """Put the files that the machine is started from where they were, if the cache has lost them since."""
    for one in saved.document["files"]:
        path, kept = Path(one["path"]), saved.path / one["kept"]
        if not path.exists() and kept.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(kept)
        if not path.exists() or [path.stat().st_size, path.stat().st_mtime_ns] != one["stamp"]:
            raise MachineError(
                f"{saved.path.name} needs a file that is gone or has changed", where=str(path), hint="put it back"
            )


def size_of(folder: Path) -> int:
    """Return what a folder's memory and state take on the disk; hard links are the cache's."""
    files = [folder / name for name in ("ram", "state")]
    return sum(file.stat().st_blocks * 512 for file in files if file.exists())


def _damaged(path: Path, why: str) -> MachineError:
    return MachineError(
        f"the saved machine {path.name} is damaged", where=f"{path}\n{why}", hint="remove it (%vm snapshot rm)"
    )
