"""Kinds of guest images: what each is made of, and what a machine boots that has one.

Origin ──recipe_of──▶ Recipe ──guest.ensure_guest──▶ GuestImage ──boot──▶ MachineConfig
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .config import MIB, PLATFORMS, QUICKLY, Boot, Boots, DirectKernel
from .contents import BOOT_MODULES, MODULES, OPTIONAL_MODULES
from .initrd import INIT
from .packages import Origin, Wanted, names_for

__all__ = ["ROOT", "USUAL", "GuestImage", "Recipe"]

ROOT: Final = "root.squashfs"


@dataclass(frozen=True)
class Recipe:
    """What one kind of guest is made of.

    `wanted` names its packages, given a distribution's os-release(5); `boot` tells what its image boots. The RAM disk
    loads `boot_modules`, the root disk has `modules` too, and `init` becomes PID 1. `furnish(root, base)` adds to the
    unpacked packages, before anything is removed from them, and to the base, of which `files` belong to the image.
    `builder` is the module of this package that makes it so. `memory_bytes` is what it gets if nobody says more.
    """

    wanted: Callable[[str, Origin], Wanted]
    boot: Callable[[GuestImage], Boot]
    boot_modules: tuple[str, ...]
    modules: tuple[str, ...]
    init: str = INIT
    furnish: Callable[[Path, Path], None] = lambda root, base: None
    files: tuple[str, ...] = ("vmlinuz", "initrd")
    builder: str = "recipe"
    memory_bytes: int = 256 * MIB
    boots: Boots = QUICKLY


def _direct(image: GuestImage) -> Boot:
    return DirectKernel(image.kernel, image.initrd, PLATFORMS[image.arch].quick, image.root, image.key)


USUAL: Final = Recipe(names_for, _direct, BOOT_MODULES + OPTIONAL_MODULES, MODULES)


@dataclass(frozen=True)
class GuestImage:
    """A guest image in the cache: its folder, what it was made of (`key`), its files and its kernel's release."""

    path: Path
    key: str
    kernel: Path
    initrd: Path
    root: Path
    release: str
    arch: str = "x86_64"
    recipe: Recipe = USUAL

    @property
    def boot(self) -> Boot:
        """What a machine boots that has this image."""
        return self.recipe.boot(self)
