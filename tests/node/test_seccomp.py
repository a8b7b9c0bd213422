"""Filters of system calls in this kernel: what a process meets that has one."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.filters import Agent, filter, rule
from vmcontainer_kernel.container.config import DEFAULT_CAPABILITIES
from vmcontainer_kernel.container.seccomp.profile import default_profile
from vmcontainer_kernel.container.seccomp.syscalls import numbers

ROOT = Path(__file__).parents[2]
X86_64, I386 = numbers("x86_64"), numbers("i386")


class Driver:
    """The driver process; a method call is a request."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-B", str(ROOT / "tests/node/seccomp_driver.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
        )

    def __call__(self, filter: dict[str, Any] | None, *calls: list[Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"filter": filter, "calls": calls}) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(10) == 0


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    running = Driver()
    yield running
    running.close()


GETPPID = ["native", X86_64["getppid"]]


# -- actions


@pytest.mark.parametrize(
    ("action", "more", "number"),
    [
        ("ERRNO", {}, errno.EPERM),
        ("ERRNO", {"errnoRet": 99}, 99),
        ("TRACE", {}, errno.ENOSYS),  # nobody traces it (seccomp(2))
        ("LOG", {}, 0),
        ("ALLOW", {}, 0),
    ],
)
def test_actions_that_answer(driver: Driver, action: str, more: dict[str, Any], number: int) -> None:
    # LOG writes to the kernel's log, which is the node's: here only that the call is made is seen.
    answer = driver(filter(rule("getppid", action, **more), default="LOG" if action == "ALLOW" else "ALLOW"), GETPPID)
    assert (answer["results"][0][1], answer["status"]) == (number, 0)


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_actions_that_end_the_process(driver: Driver, action: str) -> None:
    answer = driver(filter(rule("getppid", action)), ["native", X86_64["getpid"]], GETPPID, GETPPID)
    assert (len(answer["results"]), answer["status"]) == (1, -signal.SIGSYS)


def test_the_default_answers_for_the_rest_and_enosys_for_what_is_newer(driver: Driver) -> None:
    needed = "write exit_group close_range munmap mmap brk rt_sigaction rt_sigprocmask futex"
    answer = driver(
        filter(rule(needed, "ALLOW"), default="ERRNO", defaultErrnoRet=98), GETPPID, ["native", X86_64["openat2"]]
    )
    assert [number for _, number in answer["results"]] == [98, errno.ENOSYS]


@pytest.mark.parametrize(
    "flags", [[], ["LOG"], ["TSYNC"], ["SPEC_ALLOW", "TSYNC"], ["WAIT_KILLABLE_RECV"], ["LOG", "SPEC_ALLOW"]]
)
def test_flags(driver: Driver, flags: list[str]) -> None:
    names = [f"SECCOMP_FILTER_FLAG_{name}" for name in flags]
    answer = driver(filter(rule("getppid", "ERRNO"), flags=names), GETPPID)
    assert answer["results"] == [[-1, errno.EPERM]]


# -- conditions: getppid ignores its arguments, the filter does not


@pytest.mark.parametrize(
    ("operator", "inside", "outside"),
    [
        (("NE", 7), [0, 8, 7 << 32], [7]),
        (("LT", 1 << 33), [0, (1 << 33) - 1], [1 << 33, (1 << 64) - 1]),
        (("LE", 1 << 33), [0, 1 << 33], [(1 << 33) + 1]),
        (("EQ", (5 << 32) + 3), [(5 << 32) + 3], [3, 5 << 32]),
        (("GE", 1 << 33), [1 << 33, 1 << 63], [(1 << 33) - 1, 0xFFFFFFFF]),
        (("GT", 0xFFFFFFFF), [1 << 32], [0xFFFFFFFF, 0]),
        (("MASKED_EQ", (1 << 40) | 6, 4), [4, 1, 5 << 41 | 12][:1], [6, 1 << 40 | 4, 0]),
    ],
)
def test_operators(driver: Driver, operator: tuple[str, int], inside: list[int], outside: list[int]) -> None:
    made = filter(rule("getppid", "ERRNO", (3, *operator)))  # type: ignore[arg-type]
    answer = driver(made, *([*GETPPID, 0, 0, 0, value] for value in inside + outside))
    assert [number for _, number in answer["results"]] == [errno.EPERM] * len(inside) + [0] * len(outside)


def test_all_conditions_of_a_rule_must_hold_and_one_rule_is_enough(driver: Driver) -> None:
    made = filter(
        rule("getppid", "ERRNO", (0, "EQ", 1), (1, "EQ", 2), errnoRet=50),
        rule("getppid", "ERRNO", (2, "EQ", 3), errnoRet=51),
    )
    answer = driver(
        made, [*GETPPID, 1, 2], [*GETPPID, 1, 0], [*GETPPID, 0, 2], [*GETPPID, 0, 0, 3], [*GETPPID, 1, 2, 3]
    )
    assert [number for _, number in answer["results"]] == [50, 0, 0, 51, 50]


def test_conditions_on_one_argument_are_alternatives(driver: Driver) -> None:
    answer = driver(
        filter(rule("getppid", "ERRNO", (0, "EQ", 1), (0, "EQ", 2))), [*GETPPID, 1], [*GETPPID, 2], [*GETPPID, 3]
    )
    assert [number for _, number in answer["results"]] == [errno.EPERM, errno.EPERM, 0]


# -- ways round it


def test_int_80_reaches_the_kernel_here(driver: Driver) -> None:
    """The control of the next tests: without a filter a call of i386 is made."""
    answer = driver(None, ["i386", I386["getpid"]])
    assert answer["results"] == [[answer["pid"], 0]]


def test_a_call_of_i386_is_judged_as_what_it_is(driver: Driver) -> None:
    # 39 is getpid for 64-bit programs and mkdir for those of i386.
    made = filter(rule("getpid", "ERRNO", errnoRet=77), architectures=["SCMP_ARCH_X86"])
    answer = driver(made, ["i386", I386["getpid"]], ["native", X86_64["getpid"]], ["i386", 39])
    assert [number for _, number in answer["results"]] == [77, 77, errno.EFAULT]


@pytest.mark.parametrize("way", ["i386", "x32"])
def test_an_architecture_that_is_not_listed_ends_the_process(driver: Driver, way: str) -> None:
    answer = driver(filter(rule("mount", "ERRNO")), GETPPID, [way, 20])
    assert (len(answer["results"]), answer["status"]) == (1, -signal.SIGSYS)


def test_a_call_of_x32_is_judged(driver: Driver) -> None:
    made = filter(rule("getppid", "ERRNO", errnoRet=77), architectures=["SCMP_ARCH_X32"])
    assert driver(made, ["x32", X86_64["getppid"]])["results"] == [[-1, 77]]


def test_the_number_that_means_no_call_is_none_of_x32(driver: Driver) -> None:
    answer = driver(filter(rule("mount", "ERRNO")), ["native", 0xFFFFFFFF])
    assert answer["results"] == [[-1, errno.ENOSYS]]


@pytest.mark.parametrize("way", ["native", "i386"])
@pytest.mark.parametrize("name", ["mount", "keyctl", "unshare", "bpf", "add_key", "kexec_load", "userfaultfd"])
def test_the_default_filter_holds_on_both_ways(driver: Driver, way: str, name: str) -> None:
    table = X86_64 if way == "native" else I386
    answer = driver(default_profile(DEFAULT_CAPABILITIES), [way, table[name]], [way, table["clone3"]])
    assert [number for _, number in answer["results"]] == [errno.EPERM, errno.ENOSYS]


def test_socketcall_is_no_way_round_a_rule_for_socket(driver: Driver) -> None:
    made = filter(rule("socket", "ERRNO", errnoRet=77), architectures=["SCMP_ARCH_X86"])
    answer = driver(made, ["i386", I386["socketcall"], 1, 0], ["i386", I386["socketcall"], 2, 0])
    assert [number for _, number in answer["results"]] == [77, errno.EFAULT]


# -- calls that an agent decides


@pytest.mark.parametrize("flags", [[], ["WAIT_KILLABLE_RECV", "TSYNC"]])
def test_an_agent_gets_the_descriptor_and_decides(driver: Driver, tmp_path: Path, flags: list[str]) -> None:
    agent = Agent(tmp_path / "agent", calls=2)
    made = filter(
        rule("getppid", "NOTIFY"),
        listenerPath=str(tmp_path / "agent"),
        listenerMetadata="for the agent",
        flags=[f"SECCOMP_FILTER_FLAG_{name}" for name in flags],
    )
    answer = driver(made, [*GETPPID, 1], ["native", X86_64["getpid"]], [*GETPPID, 2])
    agent.close()
    assert [number for _, number in answer["results"]] == [61, 0, 62]
    assert agent.seen == [(answer["pid"], X86_64["getppid"])] * 2
    assert agent.state.pop("state")["id"] == "t"
    told = {"ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": answer["pid"], "metadata": "for the agent"}
    assert agent.state == told
