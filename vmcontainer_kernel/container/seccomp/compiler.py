"""From a `Seccomp` record to the program the kernel runs at every system call (config-linux.md, "Seccomp").

    which architecture?  ─ none of ours ──▶ kill: its numbers mean other calls
      │ ours
    which number?        ─ a search that halves the numbers: 7 comparisons for 350 calls
      │
    which arguments?     ─ only for the few calls that have conditions
      │
    verdict

Where the specification is silent we do what libseccomp, and with it runc and crun, does: of several rules for a call
one without conditions wins, else the first whose conditions hold; a rule that says the same as the default says
nothing; names that this kernel's architectures do not have are left out, as a profile serves many kernels.
"""

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container.seccomp.bpf import ARCH, ARGUMENTS, MOST_INSTRUCTIONS, NUMBER, Program
from vmcontainer_kernel.container.seccomp.syscalls import ABIS, MACHINES, X32_BIT, Abi, numbers
from vmcontainer_kernel.container.spec import Seccomp, SeccompArg, SeccompRule
from vmcontainer_kernel.errors import HostError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # The rules of one call: (conditions, verdict) in order; what holds if none does comes last, without conditions.
    Leaf = tuple[tuple[tuple[SeccompArg, ...], int], ...]
    # From this number up, as far as the next range.
    Range = tuple[int, Leaf]

__all__ = ["ACTIONS", "compile_filter"]

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
"""Action → verdict of the filter (linux/seccomp.h, SECCOMP_RET_*); the low 16 bits are for an errno."""

_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
_NO_SUCH_CALL = ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
_LAST_NUMBER = 0xFFFFFFFF

# i386 reaches these calls also by one number, with the call as first argument: socketcall(2) (linux/net.h), ipc(2).
_SOCKETCALL = (
    *("socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv"),
    *("sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg"),
    "sendmmsg",
)
_IPC = {
    **{"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14},
    **{"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24},
}


def compile_filter(seccomp: Seccomp, machine: str = "") -> bytes:
    """Return the program as an array of struct sock_filter.

    `machine`: as uname(2) has it; empty for this one. Architectures that it cannot run are nothing to filter. Raises
    `SpecError` for a filter that is too long, `HostError` for a machine whose calls we have no table of.
    """
    machine = machine or os.uname().machine
    if machine not in MACHINES:
        raise HostError(
            f"there are no numbers of system calls for {machine}",
            hint=f"leave the filter out: --without seccomp; there are tables for {', '.join(MACHINES)}",
            where="linux.seccomp",
        )
    wanted = (MACHINES[machine][0], *seccomp.architectures)
    default = _verdict(seccomp.default_action, seccomp.default_errno)
    verdicts = [_verdict(rule.action, rule.errno) for rule in seccomp.rules]
    tables = {name: _ranges(ABIS[name], seccomp, verdicts, default) for name in MACHINES[machine] if name in wanted}
    compiled = _assemble(tables, default)
    if len(compiled) > 8 * MOST_INSTRUCTIONS:
        raise SpecError(
            f"linux.seccomp makes a filter of {len(compiled) // 8} instructions; the kernel takes {MOST_INSTRUCTIONS}",
            hint="say the same with fewer conditions",
            where="linux.seccomp",
        )
    return compiled


def _verdict(action: str, number: int | None) -> int:
    if action not in _WITH_ERRNO:
        return ACTIONS[action]
    return ACTIONS[action] | (errno.EPERM if number is None else number)


# -- rules by number


def _ranges(abi: Abi, seccomp: Seccomp, verdicts: list[int], default: int) -> list[Range]:
    """Return all numbers of an ABI as ranges of equal rules, in order, from 0."""
    table, bit = numbers(abi.name), X32_BIT if abi.name == "x32" else 0
    rules: dict[int, list[tuple[tuple[SeccompArg, ...], int]]] = {}
    highest = -1
    for rule, verdict in zip(seccomp.rules, verdicts, strict=True):
        for name in rule.names:
            for number, conditions in _meant(abi, table, name, rule, verdict, default):
                highest = max(highest, number)
                if verdict != default:
                    rules.setdefault(number, []).append((conditions, verdict))
    leaves = {bit | number: _leaf(found, default) for number, found in rules.items()}
    # A call newer than the profile is one its author has not thought of: libraries take ENOSYS as "use the older one",
    # but EPERM as an answer (runc does the same; docker/moby issue 42680).
    newer: Leaf = (((), default if seccomp.default_action in _PERMISSIVE or highest < 0 else _NO_SUCH_CALL),)
    return _join(leaves, (((), default),), bit, newer, bit | highest + 1)


def _leaf(found: list[tuple[tuple[SeccompArg, ...], int]], default: int) -> Leaf:
    always = [rule for rule in found if not rule[0]]
    return (always[0],) if always else (*found, ((), default))


def _join(leaves: dict[int, Leaf], default: Leaf, first: int, newer: Leaf, newer_from: int) -> list[Range]:
    """Return the ranges from `first` up: neighbours with equal rules become one."""
    ranges = [(first, leaves.get(first, default))]

    def begin(number: int, leaf: Leaf) -> None:
        if ranges[-1][1] != leaf:
            ranges.append((number, leaf))

    for number in sorted(leaves):
        begin(number, leaves[number])
        if number + 1 not in leaves:
            begin(number + 1, newer if number + 1 >= newer_from else default)
    if newer_from not in leaves and newer_from > ranges[-1][0]:
        begin(newer_from, newer)
    return ranges


def _meant(
    abi: Abi, table: dict[str, int], name: str, rule: SeccompRule, verdict: int, default: int
) -> Iterator[tuple[int, tuple[SeccompArg, ...]]]:
    """Yield (number, conditions that must all hold) for a name in a rule."""
    if name in table:
        for conditions in _alternatives(rule.args):
            yield table[name], conditions
    if abi.name != "i386":
        return
    gate, code = _through_gate(name)
    if not gate:
        return
    # Behind these two the arguments are in memory, where a filter cannot look. So a rule that has conditions is taken
    # to hold where that makes the filter stricter, and not to hold otherwise.
    if not rule.args or _strictness(verdict) < _strictness(default):
        # ipc(2) has a version in the upper half of its first argument.
        yield table[gate], (SeccompArg(0, 0xFFFF if gate == "ipc" else 0xFFFFFFFF, "SCMP_CMP_MASKED_EQ", code),)


def _through_gate(name: str) -> tuple[str, int]:
    if name in _SOCKETCALL:
        return "socketcall", _SOCKETCALL.index(name) + 1
    return ("ipc", _IPC[name]) if name in _IPC else ("", 0)


def _strictness(verdict: int) -> int:
    """Order verdicts as the kernel does between several filters: as signed numbers, lower is stricter (seccomp(2))."""
    action = verdict & 0xFFFF0000
    return action - (1 << 32) if action >> 31 else action


def _alternatives(args: tuple[SeccompArg, ...]) -> list[tuple[SeccompArg, ...]]:
    """Return the sets of conditions of which one must hold.

    All conditions of a rule must hold; but if two are on the same argument, then any of all is enough. The
    specification does not say so, runc and crun do it, and profiles count on it.
    """
    if len({arg.index for arg in args}) < len(args):
        return [(arg,) for arg in args]
    return [args]


# -- instructions


def _assemble(tables: dict[str, list[Range]], default: int) -> bytes:
    """Write the program: what comes first is written last, so the machine's own architecture is the last but one."""
    program = Program()
    kill = program.ret(ACTIONS["SCMP_ACT_KILL_PROCESS"])
    entries: list[tuple[int, int]] = []
    for name in reversed(tables):
        if name == "SCMP_ARCH_X32":
            continue  # has x86-64's architecture: its calls are the upper half of those numbers
        tree = _search(program, tables[name], wide=ABIS[name].wide)
        if name == "SCMP_ARCH_X86_64":
            upper = _search(program, tables.get("SCMP_ARCH_X32", _no_x32(default)), wide=False)
            tree = program.if_from(X32_BIT, upper, tree)
        entries.append((ABIS[name].audit, program.load(NUMBER, tree)))
    start = kill
    for audit, entry in entries:
        start = program.if_equal(audit, entry, start)
    return program.to_bytes(program.load(ARCH, start))


def _no_x32(default: int) -> list[Range]:
    # -1 is no call: a tracer writes it to have one skipped, so it is not to be taken for a call of x32.
    return [(X32_BIT, (((), ACTIONS["SCMP_ACT_KILL_PROCESS"]),)), (_LAST_NUMBER, (((), default),))]


def _search(program: Program, ranges: list[Range], *, wide: bool) -> int:
    """Write a search for the range that holds the loaded number."""
    if len(ranges) == 1:
        return _rules(program, ranges[0][1], wide=wide)
    middle = len(ranges) // 2
    upper = _search(program, ranges[middle:], wide=wide)
    lower = _search(program, ranges[:middle], wide=wide)
    return program.if_from(ranges[middle][0], upper, lower)


def _rules(program: Program, leaf: Leaf, *, wide: bool) -> int:
    *conditional, (_, last) = leaf
    place = program.ret(last)
    for conditions, verdict in reversed(conditional):
        yes, no = program.ret(verdict), place
        for condition in reversed(conditions):
            yes = _condition(program, condition, yes, no, wide=wide)
        place = yes
    return place


def _condition(program: Program, arg: SeccompArg, yes: int, no: int, *, wide: bool) -> int:
    """Write a comparison of 64 bits by a machine of 32: the upper half decides, unless it is equal."""
    operator = arg.op.removeprefix("SCMP_CMP_")
    low_at = ARGUMENTS + 8 * arg.index
    high_at = low_at + 4  # little-endian, as all machines of MACHINES are
    if operator in ("NE", "LT", "LE"):
        operator, yes, no = {"NE": "EQ", "LT": "GE", "LE": "GT"}[operator], no, yes
    masked = operator == "MASKED_EQ"
    value, bits = (arg.value_two, arg.value) if masked else (arg.value, 0xFFFFFFFFFFFFFFFF)
    low, high, low_bits, high_bits = value & 0xFFFFFFFF, value >> 32, bits & 0xFFFFFFFF, bits >> 32
    test: Callable[[int, int, int], int] = {"GE": program.if_from, "GT": program.if_above}.get(
        operator, program.if_equal
    )

    def loaded(offset: int, mask: int, then: int) -> int:
        return program.load(offset, program.mask(mask, then) if mask != 0xFFFFFFFF else then)

    place = loaded(low_at, low_bits, test(low, yes, no))
    if not wide or (masked and high_bits == high == 0):
        return place
    place = program.if_equal(high, place, no)
    if operator in ("GE", "GT"):
        place = program.if_above(high, yes, place)
    return loaded(high_at, high_bits, place)
