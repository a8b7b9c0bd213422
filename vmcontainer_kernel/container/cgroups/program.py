"""A device rule of version 2: a program that the kernel asks at each open(2) and mknod(2) of a device (bpf(2),
BPF_PROG_TYPE_CGROUP_DEVICE), assembled here instruction by instruction.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.cgroups.devices import ALWAYS_ALLOWED
from vmcontainer_kernel.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmcontainer_kernel.container.spec import DeviceRule

__all__ = ["assemble", "attach"]

# linux/bpf.h
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH, _BPF_PROG_GET_FD_BY_ID, _BPF_PROG_QUERY = 5, 8, 9, 13, 16
_BPF_PROG_TYPE_CGROUP_DEVICE, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI = 15, 6, 2
_LOAD_TRIES = 5  # as many as libbpf makes
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPE = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
# Instruction codes (bpf_common.h: class | operation | source of the second operand)
_LOAD_WORD = 0x61  # BPF_LDX|BPF_MEM|BPF_W: dst = *(u32 *)(src + offset)
_MOVE, _MOVE_REGISTER = 0xB7, 0xBF  # BPF_ALU64|BPF_MOV
_AND, _SHIFT_RIGHT = 0x57, 0x77
_JUMP_IF_EQUAL, _JUMP_IF_NOT = 0x15, 0x55  # BPF_JMP|BPF_JEQ, BPF_JNE with a constant
_EXIT = 0x95
# Registers: 0 the answer, 1 the kernel's struct bpf_cgroup_dev_ctx, the rest is ours.
_ANSWER, _CONTEXT, _KIND, _ASKED, _MAJOR, _MINOR, _SCRATCH = range(7)

_Line = tuple[int, int, int, int, int]  # code, destination, source, offset, constant


def assemble(rules: Sequence[DeviceRule]) -> bytes:
    """Return the program for `rules`: it answers 1 (allowed) or 0 (denied, EPERM).

    It keeps the kinds of access that are still to be decided in a register and asks the rules from the last to the
    first: an allowing rule takes its kinds out, and with none left the answer is 1; a denying rule that finds one of
    its kinds there ends it with 0.
    """
    lines: list[_Line] = [
        (_LOAD_WORD, _KIND, _CONTEXT, 0, 0),  # access_type: access << 16 | type
        (_LOAD_WORD, _MAJOR, _CONTEXT, 4, 0),
        (_LOAD_WORD, _MINOR, _CONTEXT, 8, 0),
        (_MOVE_REGISTER, _ASKED, _KIND, 0, 0),
        (_SHIFT_RIGHT, _ASKED, 0, 0, 16),
        (_AND, _KIND, 0, 0, 0xFFFF),
    ]
    for rule in reversed([*rules, *ALWAYS_ALLOWED]):
        lines += _block(rule)
    return b"".join(_pack(line) for line in [*lines, *_answer(allow=False)])


def _block(rule: DeviceRule) -> list[_Line]:
    """Return one rule's instructions; each condition that fails jumps behind them."""
    conditions = [(_KIND, _TYPE[rule.type])] if rule.type != "a" else []
    conditions += [(_MAJOR, rule.major)] if rule.major is not None else []
    conditions += [(_MINOR, rule.minor)] if rule.minor is not None else []
    bits = sum(_ACCESS[letter] for letter in set(rule.access))
    if rule.allow:
        action = [(_AND, _ASKED, 0, 0, ~bits), (_JUMP_IF_NOT, _ASKED, 0, 2, 0)]
    else:
        copy: list[_Line] = [(_MOVE_REGISTER, _SCRATCH, _ASKED, 0, 0), (_AND, _SCRATCH, 0, 0, bits)]
        action = [*copy, (_JUMP_IF_EQUAL, _SCRATCH, 0, 2, 0)]
    action += _answer(allow=rule.allow)
    behind = [len(conditions) - index - 1 + len(action) for index in range(len(conditions))]
    tests = [
        (_JUMP_IF_NOT, register, 0, offset, value) for (register, value), offset in zip(conditions, behind, strict=True)
    ]
    return [*tests, *action]


def _answer(*, allow: bool) -> list[_Line]:
    return [(_MOVE, _ANSWER, 0, 0, int(allow)), (_EXIT, 0, 0, 0, 0)]


def _pack(line: _Line) -> bytes:
    """Pack struct bpf_insn: u8 code, 4 bits destination, 4 bits source, s16 offset, s32 constant."""
    code, destination, source, offset, constant = line
    low = [code, source << 4 | destination]
    return bytes(low) + offset.to_bytes(2, "little", signed=True) + (constant & 0xFFFFFFFF).to_bytes(4, "little")


def attach(group: str, rules: Sequence[DeviceRule]) -> None:
    """Attach the program to a version 2 group, instead of those it has (bpf(2); needs CAP_BPF and CAP_NET_ADMIN, or
    CAP_SYS_ADMIN).
    """
    group_fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program_fd = _load(assemble(rules))
        try:
            old = _attached(group_fd)
            # Several together must all allow, so between the two calls there is no moment without a rule.
            _bpf(_BPF_PROG_ATTACH, group_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI)
        finally:
            os.close(program_fd)
        for number in old:
            old_fd = _bpf(_BPF_PROG_GET_FD_BY_ID, number)
            _bpf(_BPF_PROG_DETACH, group_fd, old_fd, _BPF_CGROUP_DEVICE)
            os.close(old_fd)
    except OSError as error:
        raise HostError(
            f"the rule for devices could not be attached to {group}: {error.strerror}",
            hint="only root may do that; in a guest you are root: --on vm",
            where="linux.resources.devices",
        ) from error
    finally:
        os.close(group_fd)


def _load(program: bytes) -> int:
    code, terms = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"BSD")
    # prog_type, insn_cnt, insns, license: the first fields of what the kernel takes
    fields = _BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8, *_address(code), *_address(terms)
    for _ in range(_LOAD_TRIES - 1):
        # The verifier gives up when a signal comes, such as of a child's end; it is handled by the time of a retry.
        with contextlib.suppress(BlockingIOError):
            return _bpf(_BPF_PROG_LOAD, *fields)
    return _bpf(_BPF_PROG_LOAD, *fields)


def _attached(group_fd: int) -> list[int]:
    """Return the numbers of the programs on this very group."""
    numbers = ctypes.create_string_buffer(4 * 64)
    # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt: the last is room, and then how many
    attribute = _words(group_fd, _BPF_CGROUP_DEVICE, 0, 0, *_address(numbers), 64)
    linux.bpf(_BPF_PROG_QUERY, attribute)
    count = int.from_bytes(attribute.raw[24:28], "little")
    return [int.from_bytes(numbers.raw[4 * index : 4 * index + 4], "little") for index in range(count)]


def _address(buffer: ctypes.Array[ctypes.c_char]) -> tuple[int, int]:
    """Return a buffer's address as two words, the low one first."""
    address = ctypes.addressof(buffer)
    return address & 0xFFFFFFFF, address >> 32


def _words(*values: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(b"".join(value.to_bytes(4, "little") for value in values), 4 * len(values))


def _bpf(command: int, *values: int) -> int:
    return linux.bpf(command, _words(*values))
