"""A disk as a value: the file that is written to, and the files below it that are only read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["FORMATS", "Disk", "Layer", "layers"]

# QEMU's drivers, by the names that people know their files by.
FORMATS = {
    "raw": "raw",
    "img": "raw",
    "iso": "raw",
    "qcow2": "qcow2",
    "qcow": "qcow",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhdx": "vhdx",
    "vpc": "vpc",
    "vhd": "vpc",
}


@dataclass(frozen=True)
class Layer:
    """One file of a chain and QEMU's name of its format."""

    path: Path
    format: str


@dataclass(frozen=True)
class Disk:
    """A disk: its file and format, what a guest sees (`size_bytes`), and the layers below (`chain`, nearest first)."""

    name: str
    path: Path
    format: str
    size_bytes: int
    read_only: bool = False
    chain: tuple[Layer, ...] = ()

    def reading(self) -> Disk:
        """Return the same disk, not to be written."""
        return replace(self, read_only=True)


def layers(disk: Disk) -> tuple[Layer, ...]:
    """Return all files of a disk, the one that is written to first."""
    return (Layer(disk.path, disk.format), *disk.chain)
