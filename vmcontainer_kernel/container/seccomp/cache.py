"""Keeps compiled filters: in memory, and in a folder for the next process.

A file holds ``magic | digest of the program | program``; its name is a digest of the record, the machine and this
compiler. A file that is not exactly so, or that somebody else could have written, is no file: the filter is compiled.
"""

# Plain system calls: importing pathlib costs the command line more than reading the file.
# ruff: noqa: PTH103, PTH104, PTH108, PTH111, PTH118, PTH120

from __future__ import annotations

import os
import stat

from vmcontainer_kernel.container.spec import Seccomp

try:
    from _blake2 import blake2b  # hashlib would bring OpenSSL, 3 ms of a start-up that takes 30
except ImportError:
    from hashlib import blake2b

__all__ = ["folder", "program"]

_VERSION = 1
"""To be raised with every change of `compiler` or `syscalls` that changes a program."""

_MAGIC = b"vmcontainer bpf\n"
_DIGEST_BYTES = 32
_INSTRUCTION_BYTES = 8
_MOST_BYTES = 4096 * _INSTRUCTION_BYTES
_MOST_PROGRAMS = 64

_programs: dict[tuple[Seccomp, str], bytes] = {}


def folder() -> str:
    """Return where filters are kept: a part of the cache folder (`paths`, which costs the command line pathlib)."""
    base = os.environ.get("VMCONTAINER_CACHE")
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vmcontainer")
    return os.path.join(base, "filters")


def program(seccomp: Seccomp, cache_dir: str | None = None, *, machine: str = "") -> bytes:
    """Return the filter as an array of struct sock_filter, compiled if it is not kept.

    `cache_dir`: a folder for files, made if it is missing; where it cannot be used, nothing is kept there. Raises what
    `compiler.compile_filter` raises.
    """
    key = (seccomp, machine or os.uname().machine)
    found = _programs.get(key)
    if found is None:
        found = _from_folder(key, cache_dir) if cache_dir else _compile(key)
        if len(_programs) >= _MOST_PROGRAMS:
            _programs.clear()
        _programs[key] = found
    return found


def _compile(key: tuple[Seccomp, str]) -> bytes:
    from vmcontainer_kernel.container.seccomp.compiler import compile_filter  # where there is a file, it is not needed

    return compile_filter(*key)


def _from_folder(key: tuple[Seccomp, str], cache_dir: str) -> bytes:
    name = blake2b(repr((_VERSION, *key)).encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest()
    path = os.path.join(cache_dir, f"{name}.bpf")
    kept = _read(path)
    if kept is None:
        kept = _compile(key)
        _write(path, kept)
    return kept


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _read(path: str) -> bytes | None:
    """Return the program of a file, or None if it is not one that this user has written."""
    try:
        # Not blocking: it may be a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        data = os.read(fd, len(_MAGIC) + _DIGEST_BYTES + _MOST_BYTES + 1) if ours else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    digest, code = data[len(_MAGIC) :][:_DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
    whole = 0 < len(code) <= _MOST_BYTES and len(code) % _INSTRUCTION_BYTES == 0
    return code if whole and data.startswith(_MAGIC) and digest == _digest(code) else None


def _write(path: str, code: bytes) -> None:
    """Put a file in place at once, complete; or none, if the folder cannot be written or the disk is full."""
    draft = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    data = _MAGIC + _digest(code) + code
    try:
        try:
            complete = os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        if complete:
            os.rename(draft, path)
            return
    except OSError:
        pass
    os.unlink(draft)
