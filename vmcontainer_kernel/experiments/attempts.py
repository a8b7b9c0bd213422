"""What a place lets a program do, found out by doing it in a way that changes nothing: each attempt is a system call.

A call is made so that the kernel first asks for the right and then finds the arguments useless: the error that comes
then says that the right was there (`Attempt.can`). The program is written here byte by byte, as no image need have a
compiler, an interpreter or a C library: it makes the calls and writes what each returned, a failure as -errno.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["ARCHITECTURES", "ATTEMPTS", "Attempt", "Target", "program", "read_results", "results"]

_BASE: Final = 0x400000
_HEADERS_BYTES: Final = 64 + 56
_AT_FDCWD: Final = -100
_READ, _WRITE, _READ_WRITE = 0, 1, 2
_CLONE_NEWUSER: Final = 0x10000000
_PREVIOUS: Final = None  # as first argument: what the call before returned

Word = int | bytes | None
Calls = tuple[tuple[str, tuple[Word, ...]], ...]


@dataclass(frozen=True)
class Target:
    """What of this computer is tried to be reached: the notebook's process, a file and a port of its own."""

    pid: int
    path: str
    port: int


@dataclass(frozen=True)
class Attempt:
    """One thing to try: its calls, each a name and its arguments (bytes stand for their address); the last one counts.

    `can`: the errors that say it is allowed, besides success; `number`: it means a process by its number, which is
    another one in another pid namespace.
    """

    name: str
    calls: Callable[[Target], Calls]
    can: tuple[str, ...] = ()
    number: bool = False


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _open(path: str, how: int) -> Calls:
    return (("openat", (_AT_FDCWD, _text(path), how)),)


def _address(port: int) -> bytes:
    """Return a ``sockaddr_in`` of this computer's loopback (ip(7))."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)


# iovec (readv(2)): the address of one byte here, the program's first; nothing is ever written there, as nothing is at
# the other's address 0.
_HERE = struct.pack("<QQ", _BASE, 1)
_THERE = struct.pack("<QQ", 0, 1)

ATTEMPTS: Final = (
    Attempt("file", lambda to: _open(to.path, _READ)),
    Attempt("signal", lambda to: (("kill", (to.pid, 0)),), number=True),
    Attempt("memory", lambda to: (("process_vm_readv", (to.pid, _HERE, 1, _THERE, 1, 0)),), ("EFAULT",), number=True),
    Attempt(
        "server",
        lambda to: (
            ("socket", (socket.AF_INET, socket.SOCK_STREAM, 0)),
            ("connect", (_PREVIOUS, _address(to.port), 16)),
        ),
    ),
    Attempt("raw_socket", lambda _: (("socket", (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),)),
    # settimeofday(2) with nothing to set asks for CAP_SYS_TIME, and sets nothing.
    Attempt("clock", lambda _: (("settimeofday", (0, 0)),)),
    # 65 bytes are one too many: EINVAL comes after CAP_SYS_ADMIN was asked for (sethostname(2)).
    Attempt("host_name", lambda _: (("sethostname", (0, 65)),), ("EINVAL",)),
    Attempt(
        "mount", lambda _: (("mount", (_text("none"), _text("/proc/self"), _text("vmcontainer"), 0, 0)),), ("ENODEV",)
    ),
    Attempt("module", lambda _: (("init_module", (0, 0, _text(""))),), ("ENOEXEC",)),
    # The wrong magic numbers: EINVAL comes after CAP_SYS_BOOT was asked for (reboot(2)).
    Attempt("reboot", lambda _: (("reboot", (0, 0, 0, 0)),), ("EINVAL",)),
    Attempt("kernel_setting", lambda _: _open("/proc/sys/kernel/core_pattern", _WRITE)),
    Attempt("physical_memory", lambda _: _open("/dev/mem", _READ)),
    Attempt("kvm", lambda _: _open("/dev/kvm", _READ_WRITE)),
    # Last, as it would give the rights of the new namespace to all that follows.
    Attempt("user_namespace", lambda _: (("unshare", (_CLONE_NEWUSER,)),)),
)


# -- the program


@dataclass(frozen=True)
class _Machine:
    """A processor: ELF's number for it, the kernel's numbers of calls, and how words come into registers.

    `keep`: push what a call returned; `stride`: how many bytes that takes.
    """

    elf: int
    numbers: dict[str, int]
    load: Callable[[int, int], bytes]
    call: bytes
    previous: bytes
    keep: bytes
    stride: int
    stack_as_second: bytes


# mov r64, imm64 into rdi, rsi, rdx, r10, r8, r9 (syscall(2)); the last one is rax, the number
_X86_MOVES = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9", b"\x48\xb8")
_NUMBER_PLACE: Final = 6


def _x86_load(place: int, value: int) -> bytes:
    return _X86_MOVES[place] + struct.pack("<Q", value % 2**64)


def _arm_load(place: int, value: int) -> bytes:
    """Return movz and three movk: 16 bits at a time into x0 to x5, the number into x8."""
    register, value = 8 if place == _NUMBER_PLACE else place, value % 2**64
    codes = (0xD2800000, 0xF2A00000, 0xF2C00000, 0xF2E00000)
    return b"".join(
        struct.pack("<I", code | (value >> 16 * half & 0xFFFF) << 5 | register) for half, code in enumerate(codes)
    )


_NAMES = (
    *("openat", "kill", "process_vm_readv", "socket", "connect", "settimeofday", "sethostname", "mount"),
    *("init_module", "reboot", "unshare", "write", "exit"),
)
_X86_NUMBERS = (257, 62, 310, 41, 42, 164, 170, 165, 175, 169, 272, 1, 60)
_ARM_NUMBERS = (56, 129, 270, 198, 203, 170, 161, 40, 105, 142, 97, 64, 93)

ARCHITECTURES: Final = {
    "x86_64": _Machine(
        62,
        dict(zip(_NAMES, _X86_NUMBERS, strict=True)),
        _x86_load,
        b"\x0f\x05",  # syscall
        b"\x48\x89\xc7",  # mov rdi, rax
        b"\x50",  # push rax
        8,
        b"\x48\x89\xe6",  # mov rsi, rsp
    ),
    "aarch64": _Machine(
        183,
        dict(zip(_NAMES, _ARM_NUMBERS, strict=True)),
        _arm_load,
        struct.pack("<I", 0xD4000001),  # svc #0
        b"",  # it is in x0 already
        struct.pack("<I", 0xF81F0FE0),  # str x0, [sp, #-16]!
        16,
        struct.pack("<I", 0x910003E1),  # mov x1, sp
    ),
}
"""By the names of uname(2)."""


def program(machine: str, target: Target, attempts: Sequence[Attempt] = ATTEMPTS) -> bytes:
    """Return a static ELF program (elf(5)) that makes all attempts and writes the results to its standard output."""
    processor = ARCHITECTURES[machine]
    wanted = [one.calls(target) for one in attempts]
    # Code is as long wherever the data lies, so it is made twice: for its length, then with the addresses.
    data, places = _data(wanted, _BASE + _HEADERS_BYTES + len(_code(processor, wanted, lambda _: 0)))
    code = _code(processor, wanted, places.__getitem__)
    size = _HEADERS_BYTES + len(code) + len(data)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, processor.elf, 1, _BASE + _HEADERS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code + data


def _data(wanted: Sequence[Calls], begin: int) -> tuple[bytes, dict[bytes, int]]:
    pieces = dict.fromkeys(word for calls in wanted for _, words in calls for word in words if isinstance(word, bytes))
    data, places = b"", {}
    for piece in pieces:
        places[piece] = begin + len(data)
        data += piece
    return data, places


def _code(processor: _Machine, wanted: Sequence[Calls], place_of: Callable[[bytes], int]) -> bytes:
    code = b""
    for calls in wanted:
        for name, words in calls:
            code += _call(processor, name, words, place_of)
        code += processor.keep
    size = processor.stride * len(wanted)
    code += processor.load(0, 1) + processor.load(2, size) + processor.stack_as_second
    code += processor.load(_NUMBER_PLACE, processor.numbers["write"]) + processor.call
    return code + _call(processor, "exit", (0,), place_of)


def _call(processor: _Machine, name: str, words: Sequence[Word], place_of: Callable[[bytes], int]) -> bytes:
    code = processor.previous if words[0] is _PREVIOUS else b""
    for place, word in enumerate(words):
        if word is not _PREVIOUS:
            code += processor.load(place, place_of(word) if isinstance(word, bytes) else word)
    return code + processor.load(_NUMBER_PLACE, processor.numbers[name]) + processor.call


# -- what came of it


def results(machine: str, data: bytes, attempts: Sequence[Attempt] = ATTEMPTS) -> dict[str, str] | None:
    """Return for each attempt ``ok`` or the error's name; None if the program did not come to its end."""
    stride = ARCHITECTURES[machine].stride
    if len(data) != stride * len(attempts):
        return None
    values = [struct.unpack_from("<q", data, at)[0] for at in range(0, len(data), stride)][::-1]
    return {
        one.name: "ok" if value >= 0 else errno.errorcode.get(-value, f"error {-value}")
        for one, value in zip(attempts, values, strict=True)
    }


def read_results(found: dict[str, str], *, same_numbers: bool) -> list[dict[str, Any]]:
    """Return a row for each attempt: name, result, and whether the place can do it.

    `same_numbers`: the place numbers processes as this computer does, so that a number there means the same process.
    """
    return [
        {
            "name": one.name,
            "result": found[one.name],
            "can": found[one.name] in ("ok", *one.can) and (same_numbers or not one.number),
        }
        for one in ATTEMPTS
        if one.name in found
    ]
