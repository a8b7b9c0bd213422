"""Filters in containers: what the default one closes, that it is the filter which closes it, and any filter by the
command line.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.elf_calls import results, write_program
from tests.node.engine import Engine, start_engine
from tests.node.filters import Agent, filter, rule
from tests.node.oci_runtime import Runtime, our_runtime
from vmcontainer_kernel.container.seccomp.syscalls import numbers

NUMBER = numbers("x86_64")
pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = start_engine(tmp_path_factory.mktemp("engine"), 0)
    yield running
    running.close()


def called(engine: Engine, calls: list[list[int]], **options: Any) -> list[int]:
    """Make calls in a one-shot container; return what they returned."""
    folder = engine.base / "calls"
    folder.mkdir(exist_ok=True)
    write_program(folder / "calls", calls)
    text = engine.out("/calls/calls | od -v -An -tx1", volumes=[f"{folder}:/calls:ro"], **options)
    return results(bytes.fromhex(text))


NEW_USER = 0x10000000
# Calls that a process without any right may make, unless a filter forbids it.
FREE = {
    "unshare": [NUMBER["unshare"], NEW_USER],
    "keyctl": [NUMBER["keyctl"], 99],
    "userfaultfd": [NUMBER["userfaultfd"], 1],  # UFFD_USER_MODE_ONLY
    "io_uring_setup": [NUMBER["io_uring_setup"], 0, 0],
    "perf_event_open": [NUMBER["perf_event_open"], 0],
    "add_key": [NUMBER["add_key"], 0],
    "mbind": [NUMBER["mbind"], 0, 0, 99],
    "personality": [NUMBER["personality"], 0x0040000],  # ADDR_NO_RANDOMIZE
    "AF_VSOCK": [NUMBER["socket"], 40, 1, 0],
    "AF_ALG": [NUMBER["socket"], 38, 99, 0],
    "pidfd_getfd": [NUMBER["pidfd_getfd"], -1],
}
# Calls that need a right as well: here two protections say no.
GUARDED = ("mount", "bpf", "kexec_load", "open_by_handle_at", "init_module", "swapon", "setns", "reboot", "quotactl")


def test_the_default_container_cannot_make_them(engine: Engine) -> None:
    calls = [*FREE.values(), *([NUMBER[name]] for name in GUARDED)]
    assert called(engine, calls) == [-errno.EPERM] * len(calls)


def test_it_is_the_filter_that_forbids_them(engine: Engine) -> None:
    free = dict(zip(FREE, called(engine, [*FREE.values()], without=["seccomp"]), strict=True))
    assert {name for name, result in free.items() if result == -errno.EPERM} == set()


@pytest.mark.parametrize("options", [{}, {"without": ["no-new-privs"]}, {"user": "1000:1000"}, {"read_only": True}])
def test_threads_can_be_made_and_namespaces_not(engine: Engine, options: dict[str, Any]) -> None:
    calls = [[NUMBER["clone3"]], [NUMBER["clone"], NEW_USER], [600]]
    assert called(engine, calls, **options) == [-errno.ENOSYS, -errno.EPERM, -errno.ENOSYS]


@pytest.mark.parametrize(
    "options", [{"security": ["seccomp=unconfined"]}, {"privileged": True}, {"without": ["seccomp"]}]
)
def test_no_filter_where_none_is_wanted(engine: Engine, options: dict[str, Any]) -> None:
    assert engine.out("grep Seccomp: /proc/self/status", **options).split()[-1] == "0"
    assert called(engine, [[NUMBER["clone3"]]], **options) == [-errno.EINVAL]


PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["userfaultfd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "comment": "the user's own number"},
        {"names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "errno": "ENOTTY", "includes": {"caps": ["CAP_CHOWN"]}},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
    ],
}


@pytest.mark.parametrize("privileged", [False, True])
def test_the_users_own_filter(engine: Engine, privileged: bool) -> None:
    security = [f"seccomp={json.dumps(PROFILE)}"]
    calls = [FREE["userfaultfd"], FREE["keyctl"], [NUMBER["clone3"]]]
    found = called(engine, calls, security=security, privileged=privileged)
    assert found == [-errno.EOPNOTSUPP, -errno.ENOTTY, -errno.EINVAL]


def test_a_container_under_podmans_filter(engine: Engine) -> None:
    security = [f"seccomp={Path('/usr/share/containers/seccomp.json').read_text()}"]
    calls = [FREE["userfaultfd"], FREE["unshare"], FREE["add_key"]]
    assert called(engine, calls, security=security)[0] == -errno.EPERM
    assert engine.out("echo hi", security=security) == "hi"


def test_a_capability_opens_its_calls(engine: Engine) -> None:
    calls = [[NUMBER["perf_event_open"], 0], [NUMBER["unshare"], 1 << 40]]
    assert called(engine, calls, cap_add=["PERFMON"]) == [-errno.EFAULT, -errno.EPERM]
    assert called(engine, calls, cap_add=["SYS_ADMIN"]) == [-errno.EFAULT, -errno.EINVAL]


def test_a_second_process_has_the_filter_too(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sleep", "60"]})
    try:
        engine("start", name="c")
        script = "grep Seccomp: /proc/self/status; unshare -U true"
        answer = engine("finish", pid=engine("exec", name="c", options={"argv": ["sh", "-c", script]}))
        assert answer["out"].split()[1] == "2"
        assert "Operation not permitted" in answer["out"]
    finally:
        engine("remove", name="c", force=True)


# -- any filter, by the command line


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with our_runtime(tmp_path) as runtime:
        yield runtime


def run(
    runtime: Runtime, script: str, seccomp: dict[str, Any], program: str = "", **process: Any
) -> tuple[int, list[str]]:
    """Run a shell under a filter, by our runtime or by another `program`; return its status and output."""
    bundle = runtime.bundle("sh", "-c", script, linux={"seccomp": seccomp}, process=process)
    command = [program, "--root", str(runtime.base / "other")] if program else runtime.command()
    done = subprocess.run(
        [*command, "run", "--bundle", str(bundle), "c"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return done.returncode, sorted(done.stdout.splitlines())  # runc copies two streams, in any order


MKDIR = rule("mkdir", "ERRNO", errnoRet=errno.EXDEV)


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize(
    ("seccomp", "script"),
    [
        (filter(MKDIR), "mkdir /x; echo $?"),
        (filter(MKDIR, rule("mkdir", "ALLOW", (1, "EQ", 0o777))), "mkdir /x; echo $?"),
        (filter(rule("mkdir", "KILL_PROCESS")), "mkdir /x; echo $?"),
        (filter(rule("uname nosuchcall", "TRAP")), "exec uname"),
        (filter(rule("getpid getppid", "LOG")), "echo $$"),
        (filter(rule("mkdir", "ERRNO", (1, "EQ", 0o700), (1, "EQ", 0o777))), "mkdir /x; mkdir -m 700 /y; echo $?"),
    ],
)
def test_a_filter_does_what_it_does_with_runc(
    runtime: Runtime, seccomp: dict[str, Any], script: str, no_new_privileges: bool
) -> None:
    native = {"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    given = (script, seccomp | native)
    ours = run(runtime, *given, noNewPrivileges=no_new_privileges)
    shutil.rmtree(runtime.base / "bundle")
    assert ours == run(runtime, *given, program="runc", noNewPrivileges=no_new_privileges)


def test_a_filter_may_forbid_what_the_set_up_writes_with(runtime: Runtime) -> None:
    strict = filter(rule("write", "KILL_PROCESS"))
    assert run(runtime, "exit 7", strict, noNewPrivileges=True) == (7, [])
    assert run(runtime, "echo no", strict, noNewPrivileges=True) == (128 + signal.SIGSYS, [])


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_an_agent_decides_for_a_container(runtime: Runtime, tmp_path: Path, no_new_privileges: bool) -> None:
    agent = Agent(tmp_path / "agent", calls=1)
    seccomp = filter(rule("mkdir", "NOTIFY"), listenerPath=str(tmp_path / "agent"), listenerMetadata="ours")
    bundle = runtime.bundle(
        *("sh", "-c", "mkdir /x 2> /said; exec sleep 60"),
        linux={"seccomp": seccomp},
        process={"noNewPrivileges": no_new_privileges},
        annotations={"org.example.key": "value"},
    )
    runtime.ok("create", "--bundle", bundle, "c")
    pid = json.loads(runtime.ok("state", "c"))["pid"]
    runtime.ok("start", "c")
    agent.close()
    assert (agent.state["pid"], agent.state["fds"], agent.state["metadata"]) == (pid, ["seccompFd"], "ours")
    state = agent.state["state"]
    assert (state["id"], state["status"], state["pid"], state["bundle"]) == ("c", "creating", pid, str(bundle))
    assert state["annotations"] == {"org.example.key": "value"}
    assert [number for _, number in agent.seen] == [NUMBER["mkdir"]]
    assert not (bundle / "rootfs/x").exists()
    (tmp_path / "agent").unlink()
    again = Agent(tmp_path / "agent", calls=1)
    assert runtime("exec", "c", "mkdir", "/y").returncode == 1
    again.close()
    assert (again.state["state"]["status"], again.state["state"]["pid"]) == ("running", pid)
    assert again.state["pid"] not in (0, pid)
    (tmp_path / "agent").unlink()
    assert str(tmp_path / "agent") in runtime.fails("exec", "c", "true")


@pytest.mark.parametrize(
    ("seccomp", "said"),
    [
        (filter(rule("mkdir", "NOTIFY"), listenerPath="/nobody/listens"), "/nobody/listens"),
        (filter(rule("mkdir write", "NOTIFY"), listenerPath="/nobody/listens"), "write"),
        (filter(rule("mkdir", "NOTIFY")), "listenerPath"),
        (filter(default="NOTIFY", listenerPath="/x"), "defaultAction"),
        (filter(rule("mkdir", "KILL", errnoRet=1)), "errnoRet"),
    ],
)
def test_what_cannot_be_is_said(runtime: Runtime, seccomp: dict[str, Any], said: str) -> None:
    assert said in runtime.fails("create", "--bundle", runtime.bundle(linux={"seccomp": seccomp}), "c")
    assert [*runtime.root.glob("*")] == []
