"""Kernel modules without kmod: what each needs (its ``.modinfo`` section), the order to load them, modprobe's tables.

A Debian cloud kernel has virtio, squashfs and overlay as modules, so an initial RAM disk must load them in an order in
which each finds what it needs; modules.dep(5) and modules.alias let the guest's modprobe, and the kernel through it,
load the others when they are first asked for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import MachineError
from .decompress import decompress

__all__ = [
    "Module",
    "builtin_names",
    "kernel_file",
    "load_order",
    "modinfo",
    "modules_alias",
    "modules_dep",
    "normal",
    "read_module",
    "select",
    "unsigned",
]

_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_BYTES = 12


@dataclass(frozen=True)
class Module:
    """One module: its name with underscores, path below ``lib/modules/RELEASE``, needs and aliases, and its bytes."""

    name: str
    path: str
    depends: tuple[str, ...]
    softdeps: tuple[str, ...]
    aliases: tuple[str, ...]
    content: bytes = b""


def normal(name: str) -> str:
    """Return a module's one name: the kernel treats ``-`` and ``_`` as equal."""
    return name.replace("-", "_")


def modinfo(content: bytes) -> list[tuple[str, str]]:
    """List the ``key=value`` strings of a module's ``.modinfo`` section (elf(5), 64-bit little endian)."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise MachineError("a kernel module is no 64-bit ELF file", hint="delete the guests folder of the cache")
    (table,) = struct.unpack_from("<Q", content, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", content, 0x3A)
    sections = [struct.unpack_from("<II8x8xQQ", content, table + index * size) for index in range(count)]
    names_at = sections[names_index][2]
    for name, _, offset, length in sections:
        if content.startswith(b".modinfo\0", names_at + name):
            strings = content[offset : offset + length].split(b"\0")
            pairs = (string.decode("utf-8", "replace").partition("=") for string in strings if string)
            return [(key, value) for key, _, value in pairs]
    return []


def read_module(name: str, path: str, content: bytes) -> Module:
    """Make a `Module` of an uncompressed module file."""
    info = modinfo(content)
    depends = [normal(one) for key, value in info if key == "depends" for one in value.split(",") if one]
    soft = [normal(one) for key, value in info if key == "softdep" for one in _pre(value)]
    aliases = tuple(value for key, value in info if key == "alias")
    return Module(normal(name), path, tuple(depends), tuple(soft), aliases, content)


def _pre(softdep: str) -> list[str]:
    """Return what ``pre: a b post: c`` wants loaded before (modprobe.d(5), ``softdep``)."""
    found = re.search(r"pre:\s*(.*?)\s*(?:post:|$)", softdep)
    return found[1].split() if found else []


def unsigned(content: bytes) -> bytes:
    """Return a module without the signature at its end (Linux Documentation/admin-guide/module-signing.rst).

    To check the signatures of sixteen modules takes an emulated CPU 0.15 s of each boot, and who could change them
    could change the kernel beside them as well. The kernel notes it: it is "tainted: E".
    """
    if not content.endswith(_SIGNED):
        return content
    end = len(content) - len(_SIGNED)
    # struct module_signature (linux/module_signature.h): twelve bytes, the last four of them the signature's length.
    (length,) = struct.unpack_from(">I", content, end - 4)
    return content[: max(0, end - _SIGNATURE_BYTES - length)]


def load_order(modules: Mapping[str, Module], wanted: Iterable[str], builtin: frozenset[str]) -> list[str]:
    """Order `wanted` and all they need so that each comes after its needs; built-in ones need no loading.

    Raises MachineError when a module is neither there nor built in; an absent soft dependency is passed over.
    """
    order: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in order or name in builtin:
            return
        if name not in modules:
            hint = "this distribution's kernel cannot be a guest's; use Debian 12 or 13, or Ubuntu 24.04"
            raise MachineError(f"the kernel has no module {name}", where=" → ".join([*trail, name]), hint=hint)
        if name in trail:
            hint = "the kernel package is damaged: delete the guests folder of the cache"
            raise MachineError(
                "kernel modules need each other in a circle", where=" → ".join([*trail, name]), hint=hint
            )
        for soft in modules[name].softdeps:
            if soft in modules and soft not in trail:
                visit(soft, (*trail, name))
        for need in modules[name].depends:
            visit(need, (*trail, name))
        order.append(name)

    for name in wanted:
        visit(normal(name), ())
    return order


def modules_dep(modules: Mapping[str, Module]) -> str:
    """Write modules.dep(5): ``path: what to load before, nearest first``."""
    lines = []
    for name in sorted(modules):
        needs = load_order(modules, [name], frozenset())[:-1]
        lines.append(f"{modules[name].path}: {' '.join(modules[need].path for need in reversed(needs))}".rstrip())
    return "\n".join([*lines, ""])


def modules_alias(modules: Mapping[str, Module]) -> str:
    """Write modules.alias: ``alias PATTERN MODULE``, what the kernel asks modprobe for (``rtnl-link-veth``)."""
    lines = [f"alias {alias} {name}" for name in sorted(modules) for alias in modules[name].aliases]
    return "\n".join([*lines, ""])


def builtin_names(modules_builtin: str) -> frozenset[str]:
    """Read modules.builtin: the modules that are part of the kernel itself."""
    return frozenset(normal(Path(line).stem) for line in modules_builtin.split())


def kernel_file(root: Path, release: str) -> Path:
    """Return the kernel of an unpacked system: Debian 14 has it among its modules, others in /boot.

    Raises MachineError if it is in neither place.
    """
    names = f"usr/lib/modules/{release}/vmlinuz", f"boot/vmlinuz-{release}"
    for name in names:
        if (root / name).is_file():
            return root / name
    hint = "this distribution's kernel cannot be a guest's; use Debian 12 or 13, or Ubuntu 24.04"
    raise MachineError(f"no package has the kernel {release}", where=", ".join(names), hint=hint)


def select(root: Path, patterns: Iterable[str], builtin: frozenset[str]) -> dict[str, Module]:
    """Read the modules below ``lib/modules/RELEASE`` whose name matches a pattern, and all that they need."""
    files = {normal(path.name.partition(".ko")[0]): path for path in sorted(root.rglob("*.ko*"))}
    globs = [normal(pattern) for pattern in patterns]
    todo = [name for name in files if any(fnmatch(name, glob) for glob in globs)]
    modules: dict[str, Module] = {}
    while todo:
        name = todo.pop()
        if name in modules or name in builtin or name not in files:
            continue
        # Kept uncompressed: decompressing is slow under emulation, and the root disk is compressed as a whole.
        path = str(files[name].relative_to(root)).partition(".ko")[0] + ".ko"
        modules[name] = read_module(name, path, decompress(files[name].read_bytes()))
        todo += [*modules[name].depends, *modules[name].softdeps]
    return modules
