"""Filters of system calls: our compiler against libseccomp, and what the kernel would make of each program."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import bpf_machine
from vmcontainer_kernel.container.seccomp.bpf import Program
from vmcontainer_kernel.container.seccomp.compiler import ACTIONS, compile_filter
from vmcontainer_kernel.container.seccomp.syscalls import ABIS, MACHINES, X32_BIT, numbers
from vmcontainer_kernel.container.spec import Seccomp, SeccompArg, SeccompRule
from vmcontainer_kernel.errors import HostError, SpecError

X86_64, I386 = 0xC000003E, 0x40000003
ENOSYS = ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
KILL = ACTIONS["SCMP_ACT_KILL_PROCESS"]
MANY = 2**32


def record(document: dict[str, Any]) -> Seccomp:
    """Return what the OCI configuration's ``linux.seccomp`` says."""
    rules = tuple(
        SeccompRule(
            tuple(rule["names"]),
            rule["action"],
            rule.get("errnoRet"),
            tuple(SeccompArg(a["index"], a["value"], a["op"], a["valueTwo"]) for a in rule.get("args") or ()),
        )
        for rule in document["syscalls"]
    )
    return Seccomp(
        document["defaultAction"], document.get("defaultErrnoRet"), tuple(document["architectures"]), rules=rules
    )


def compiled(document: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    return bpf_machine.disassemble(compile_filter(record(document), "x86_64"))


class Oracle:
    """libseccomp, behind the system's Python."""

    def __init__(self) -> None:
        command = ["/usr/bin/python3", str(Path(__file__).with_name("seccomp_oracle.py"))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, document: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "no answer: is python3-seccomp installed (tests/apt.txt)?"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    running = Oracle()
    yield running
    running.close()


# -- numbers


@pytest.mark.parametrize("name", ABIS)
def test_numbers_are_those_of_libseccomp(oracle: Oracle, name: str) -> None:
    theirs = {call: number for call, number in oracle({"numbers": name}).items() if number >= 0}
    if name == "SCMP_ARCH_X32":
        theirs = {call: number - X32_BIT for call, number in theirs.items()}
    ours = numbers(ABIS[name].name)
    gates = {102, 117} if name == "SCMP_ARCH_X86" else set()
    differing = {call: n for call, n in theirs.items() if ours.get(call) != n and n not in gates}
    # Numbers the library reserves on x32 for calls that the kernel has for 64-bit programs only.
    assert {call: n for call, n in differing.items() if call in ours or name != "SCMP_ARCH_X32"} == {}
    newer = {call for call in ours if call not in theirs}
    assert all(
        ours[call] >= 424 or call in ("uretprobe", "uprobe") for call in newer if ours[call] not in range(330, 403)
    )


def test_a_new_call_has_one_number_everywhere() -> None:
    for abi in ("x86_64", "i386", "x32", "aarch64", "arm"):
        assert (numbers(abi)["clone3"], numbers(abi)["mseal"], numbers(abi)["listns"]) == (435, 462, 470)


# -- the compiler against libseccomp

CALLS = (
    "read",
    "write",
    "openat",
    "ioctl",
    "clone",
    "personality",
    "prctl",
    "execve",
    "preadv2",
    "chown32",
    "futex_waitv",
)
GATED = ("socket", "connect", "semop", "shmat")
VALUES = st.sampled_from([0, 1, 5, 6, 0x7F, 0x40000000, MANY - 1, MANY, MANY + 5, 0x7E020000, 1 << 63, (1 << 64) - 1])
VERDICTS = st.sampled_from(
    [(name, None) for name in ACTIONS if name != "SCMP_ACT_NOTIFY"] + [("SCMP_ACT_ERRNO", 7), ("SCMP_ACT_TRACE", 9)]
)


INDEX, VALUE = itemgetter("index"), itemgetter("value")


@st.composite
def conditions(draw: st.DrawFn, operators: str = "NE LT LE EQ GE GT MASKED_EQ", index: int | None = None) -> Any:
    operator = draw(st.sampled_from(operators.split()))
    value, second = draw(VALUES), draw(VALUES)
    second = value & second if operator == "MASKED_EQ" else 0
    index = draw(st.integers(0, 5)) if index is None else index
    return {"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}


def rule(names: list[str], verdict: tuple[str, int | None], args: list[dict[str, Any]]) -> dict[str, Any]:
    return {"names": names, "action": verdict[0], "errnoRet": verdict[1], "args": args}


@st.composite
def filters(draw: st.DrawFn, *, simple: bool) -> dict[str, Any]:
    """A filter. `simple`: of each call one set of conditions, or alternatives that exclude each other.

    libseccomp 2.5.4 gives wrong verdicts, or searches for ever, where the conditions of several rules overlap.
    """
    default, number = draw(VERDICTS)
    rules = [rule(draw(st.lists(st.sampled_from(CALLS + GATED), min_size=1)), draw(VERDICTS), [])] * draw(
        st.integers(0, 1)
    )
    for call in draw(st.lists(st.sampled_from(CALLS), unique=simple, max_size=8)):
        if not simple:
            rules.append(rule([call], draw(VERDICTS), draw(st.lists(conditions(), max_size=3))))
        elif draw(st.booleans()):
            rules.append(rule([call], draw(VERDICTS), draw(st.lists(conditions(), max_size=3, unique_by=INDEX))))
        else:
            rules.append(rule([call], draw(VERDICTS), draw(st.lists(conditions("EQ", 1), max_size=3, unique_by=VALUE))))
    architectures = draw(st.lists(st.sampled_from(MACHINES["x86_64"]), unique=True))
    return {
        "defaultAction": default,
        "defaultErrnoRet": number,
        "architectures": architectures,
        "syscalls": draw(st.permutations(rules)),
    }


WAYS = ((X86_64, 0, "SCMP_ARCH_X86_64"), (X86_64, X32_BIT, "SCMP_ARCH_X32"), (I386, 0, "SCMP_ARCH_X86"))
GATES = {"socket": "socketcall", "connect": "socketcall", "semop": "ipc", "shmat": "ipc"}


def newest(document: dict[str, Any], table: dict[str, int]) -> int:
    """Return the highest number a profile names, where newer calls are ENOSYS, as in runc."""
    permissive = document["defaultAction"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    calls = [call for rule in document["syscalls"] for call in rule["names"]]
    named = [table[call] for call in (*calls, *(GATES.get(call, "") for call in calls)) if call in table]
    return MANY if permissive else max(named, default=MANY)


def calls_near(document: dict[str, Any], table: dict[str, int], chance: Random) -> Iterator[tuple[int, list[int]]]:
    """Yield numbers and arguments at and beside those that the filter names."""
    values = {arg["value"] for rule in document["syscalls"] for arg in rule["args"]} | {0}
    near = sorted({(value + offset) % 2**64 for value in values for offset in (-1, 0, 1)})
    named = {call for rule in document["syscalls"] for call in rule["names"]} | {"read", "socketcall", "ipc"}
    known = {table[call] for call in named if call in table}
    for number in sorted({max(one + offset, 0) for one in known for offset in (-1, 0, 1)}):
        for _ in range(4):
            args = chance.choices(near, k=6)
            if number in (table.get("ipc"), table.get("socketcall")):
                args[0] = chance.randrange(26)
            yield number, args


@given(document=filters(simple=True), seed=st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_verdict_is_that_of_libseccomp(oracle: Oracle, document: dict[str, Any], seed: int) -> None:
    ours = compiled(document)
    for arch, bit, name in WAYS:
        table = numbers(ABIS[name].name)
        last, listed = newest(document, table), name in (*document["architectures"], "SCMP_ARCH_X86_64")
        theirs = bpf_machine.disassemble(bytes.fromhex(oracle(document | {"architecture": name})))
        for number, args in calls_near(document, table, Random(seed)):
            wanted, _ = bpf_machine.run(theirs, arch, bit | number, args)
            wanted = (ENOSYS if number > last else wanted) if listed else KILL
            got, _ = bpf_machine.run(ours, arch, bit | number, args)
            assert hex(got) == hex(wanted), (name, number, args)


# -- the compiler against the rules themselves

COMPARE = {"NE": int.__ne__, "LT": int.__lt__, "LE": int.__le__, "EQ": int.__eq__, "GE": int.__ge__, "GT": int.__gt__}


def holds(arg: dict[str, Any], args: list[int], width: int) -> bool:
    given_value, value, second = (one & width for one in (args[arg["index"]], arg["value"], arg["valueTwo"]))
    operator = arg["op"].removeprefix("SCMP_CMP_")
    if operator == "MASKED_EQ":
        return given_value & value == second
    return COMPARE[operator](given_value, value)


def matches(rule: dict[str, Any], args: list[int], width: int) -> bool:
    found = [holds(arg, args, width) for arg in rule["args"]]
    twice = len({arg["index"] for arg in rule["args"]}) < len(found)
    return any(found) if twice else all(found)


def verdict(action: str, number: int | None) -> int:
    takes = action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
    return ACTIONS[action] | ((1 if number is None else number) if takes else 0)


def meant(document: dict[str, Any], name: str, table: dict[str, int], number: int, args: list[int]) -> int:
    """Return the verdict by reading the rules one after the other."""
    default = verdict(document["defaultAction"], document["defaultErrnoRet"])
    width = 2**64 - 1 if name == "SCMP_ARCH_X86_64" else 2**32 - 1
    rules = [rule for rule in document["syscalls"] if number in {table.get(call) for call in rule["names"]}]
    rules = [rule for rule in rules if verdict(rule["action"], rule["errnoRet"]) != default]
    for rule in sorted(rules, key=lambda rule: bool(rule["args"])):
        if matches(rule, args, width):
            return verdict(rule["action"], rule["errnoRet"])
    return ENOSYS if number > newest(document, table) else default


@given(document=filters(simple=False), seed=st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_every_verdict_is_what_the_rules_say(document: dict[str, Any], seed: int) -> None:
    ours = compiled(document)
    for arch, bit, name in WAYS:
        table = numbers(ABIS[name].name)
        listed = name in (*document["architectures"], "SCMP_ARCH_X86_64")
        for number, args in calls_near(document, table, Random(seed)):
            if name == "SCMP_ARCH_X86" and number in (table["socketcall"], table["ipc"]):
                continue
            got, _ = bpf_machine.run(ours, arch, bit | number, args)
            assert hex(got) == hex(meant(document, name, table, number, args) if listed else KILL), (name, number, args)


# -- limits


def test_jumps_reach_farther_than_eight_bits() -> None:
    """A tree over 1000 distinct verdicts: every jump of the upper half goes too far for one instruction."""
    count = 1000
    program = Program()

    def search(low: int, high: int) -> int:
        if high - low == 1:
            return program.ret(low)
        middle = (low + high) // 2
        upper = search(middle, high)
        return program.if_from(middle, upper, search(low, middle))

    code = bpf_machine.disassemble(program.to_bytes(program.load(0, search(0, count))))
    assert [bpf_machine.run(code, 0, number)[0] for number in range(count)] == list(range(count))


def test_equal_pieces_are_written_once() -> None:
    program = Program()
    first = program.if_equal(5, program.ret(1), program.ret(2))
    assert program.if_equal(5, program.ret(1), program.ret(2)) == first
    assert len(program.to_bytes(program.load(0, first))) // 8 == 4


def test_a_filter_that_is_too_long_is_refused() -> None:
    rules = tuple(
        SeccompRule((call,), "SCMP_ACT_ERRNO", number % 4096, (SeccompArg(number % 6, number, "SCMP_CMP_EQ"),))
        for number, call in enumerate([*numbers("x86_64")] * 4)
    )
    with pytest.raises(SpecError, match="4096"):
        compile_filter(Seccomp("SCMP_ACT_ALLOW", rules=rules), "x86_64")


def test_a_long_filter_that_fits_is_right() -> None:
    calls = [*numbers("x86_64").items()]
    rules = tuple(
        SeccompRule((call,), "SCMP_ACT_ERRNO", number + 1, (SeccompArg(2, number, "SCMP_CMP_EQ"),))
        for call, number in calls
    )
    code = bpf_machine.disassemble(compile_filter(Seccomp("SCMP_ACT_ALLOW", rules=rules), "x86_64"))
    assert len(code) > 1500
    for _, number in calls:
        assert bpf_machine.run(code, X86_64, number, [0, 0, number])[0] == 0x50000 + number + 1
        assert bpf_machine.run(code, X86_64, number, [0, 0, number + 1])[0] == 0x7FFF0000


def test_a_machine_without_a_table_is_an_error_of_this_computer() -> None:
    with pytest.raises(HostError, match="s390x") as caught:
        compile_filter(Seccomp("SCMP_ACT_ALLOW"), "s390x")
    assert "--without seccomp" in caught.value.hint


def test_a_filter_without_rules_is_its_default() -> None:
    code = bpf_machine.disassemble(compile_filter(Seccomp("SCMP_ACT_ERRNO", 7), "x86_64"))
    assert bpf_machine.run(code, X86_64, 3)[0] == 0x50007
    assert bpf_machine.run(code, I386, 3)[0] == KILL
