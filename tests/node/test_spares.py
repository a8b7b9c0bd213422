"""Containers made ahead: the next one like the last is told only what to run, and nobody can tell the difference."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.test_agent import SESSION, Bench
from tests.patience import now_s
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, LabError
from vmcontainer_kernel.node import Node

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    build_busybox(Store(tmp_path / "images"))
    bench = Bench(tmp_path / "run" / f"{SESSION}-1", tmp_path / "images", spares=True)
    bench.container("true")
    yield bench
    pid = bench.agent.process.pid
    bench.close()
    assert not bench.folder.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not [*Path("/sys/fs/cgroup").glob(f"*/vmcontainer/{SESSION}-1")]


def waiting(bench: Bench) -> list[int]:
    """Return the supervisor's children that are in a container, once both spares are and no request is under way; at
    first the exact one is the older.
    """
    deadline_s = now_s() + 10
    while len(found := wait_for(bench, lambda pid: is_inside(bench, pid))) != 2:
        assert now_s() < deadline_s, found
        bench.wait(asyncio.sleep(0.02))
    return found


def is_inside(bench: Bench, pid: int) -> bool:
    """Tell whether a process is in a container's groups, or else in another pid namespace."""
    if os.access("/sys/fs/cgroup", os.W_OK):
        return "/vmcontainer/" in Path(f"/proc/{pid}/cgroup").read_text()
    inside, ours = (Path(f"/proc/{one}/ns/pid").readlink() for one in (pid, bench.agent.process.pid))
    return inside != ours


def wait_for(bench: Bench, wanted: Callable[[int], bool]) -> list[int]:
    """Return the supervisor's children of one kind, once there is one and no request under way."""
    pid = bench.agent.process.pid
    deadline = now_s() + 5
    while now_s() < deadline:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        with contextlib.suppress(OSError):  # one that has just ended
            if (found := [child for child in children if wanted(child)]) and not bench.node._requests:
                return found
        bench.wait(asyncio.sleep(0.02))
    raise AssertionError("nothing was made ahead")


def renewed(bench: Bench, before: list[int]) -> list[int]:
    """Return both spares once none of those before is left: all that was asked for since is considered in them."""
    deadline_s = now_s() + 10
    while {*before} & {*(found := waiting(bench))}:
        assert now_s() < deadline_s, found
        bench.wait(asyncio.sleep(0.02))
    return found


def started_pid(events: list[dict]) -> int:
    return next(event["pid"] for event in events if event["event"] == "started")


def test_the_next_container_is_the_one_made_ahead(bench: Bench) -> None:
    exact, general = waiting(bench)
    result = bench.container("echo $$; hostname; pwd; echo $A; tty; echo $(ls /proc/self/fd)", env={"A": "b"})
    assert started_pid(result.events) == exact
    pid, hostname, folder, variable, terminal, descriptors = result.out.decode().split("\n")[:6]
    assert (pid, folder, variable, terminal, descriptors) == ("1", "/", "b", "not a tty", "0 1 2 3")
    assert hostname.startswith("c")
    assert general in waiting(bench)


def test_a_user_may_call_his_containers_as_ours_are_called(bench: Bench) -> None:
    waiting(bench)
    names = [f"c{number}" for number in range(2, 9)]
    for name in names:
        assert bench.container("hostname", name=name).out == f"{name}\n".encode()
    own = {bench.container("hostname").out.decode().strip() for _ in range(3)}
    assert len(own) == 3 and not own & set(names)
    assert [one["name"] for one in bench.call("container.list")["containers"]] == names


def test_its_bundle_says_what_it_has_become(bench: Bench) -> None:
    waiting(bench)
    task = bench.loop.create_task(bench.collect("container.run", None, name="", options={"argv": ["sleep", "9.25"]}))

    def configs() -> list[str]:
        return [path.read_text() for path in bench.folder.glob("containers/*/config.json")]

    deadline_s = now_s() + 10
    while not any('"9.25"' in one for one in configs()):
        assert now_s() < deadline_s
        bench.wait(asyncio.sleep(0.02))
    [running] = bench.call("container.list")["containers"]
    bench.call("container.kill", name=running["name"], signal=9)
    bench.wait(task)


def test_limits_are_those_asked_for(bench: Bench) -> None:
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        pytest.skip("cgroups: the limit is read from a version 1 tree of root's")
    before = waiting(bench)
    bench.container("true", memory_bytes=20 << 20)
    spares = renewed(bench, before)
    request = bench.container("sleep 0.2; x=$(head -c 99999999 /dev/zero | tr '\\0' a)", memory_bytes=20 << 20)
    assert started_pid(request.events) in spares
    assert request.answer["limits"]["oom_kills"] >= 1


FACTS = (
    "hostname; cat /proc/sys/kernel/domainname; id; pwd; umask; ulimit -n;"
    "grep -E '^(Cap|NoNew|Secc|Groups)' /proc/self/status;"
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us;"
    "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max;"
    "touch /x && echo written; ls -ld /made; echo $HOSTNAME $HOME $A; ls /proc/self/fd; wc -l < /proc/self/mountinfo"
)
LATE: list[dict[str, object]] = [
    {"hostname": "other", "domainname": "lab"},
    {"read_only": True, "workdir": "/tmp"},
    {"workdir": "/made", "env": {"A": "b"}},
    {"user": "1000:1001", "group_add": ["7"]},
    {"user": "nobody", "cap_add": ["NET_ADMIN"]},
    {"cap_drop": ["ALL"], "read_only": True, "user": "5"},
    {"cap_add": ["SYS_ADMIN"], "cap_drop": ["CHOWN"]},
    {"without": ["caps"]},
    {"without": ["seccomp", "no-new-privs"]},
    {"security": ["no-new-privileges:false"], "user": "9"},
    {"ulimits": ["nofile=64:65"], "labels": ["a=b"]},
    {"memory_bytes": 64 << 20, "pids_limit": 50, "cpus": 0.5},
]


@pytest.mark.parametrize("options", LATE, ids="-".join)
def test_what_may_still_differ_is_found_inside(bench: Bench, tmp_path: Path, options: dict) -> None:
    """The container that was made for another request is, seen from inside, the one that an agent without any makes."""
    if "memory_bytes" in options and not os.access("/sys/fs/cgroup", os.W_OK):
        pytest.skip("cgroups: limits need them")
    options = {"hostname": "same", **options}
    _, general = waiting(bench)
    told = bench.container(FACTS, **options)
    assert started_pid(told.events) == general
    plain = Bench(tmp_path / "run" / f"{SESSION}-2", tmp_path / "images")
    try:
        made = plain.container(FACTS, **options)
    finally:
        plain.close()
    assert told.out == made.out
    assert [step for step, _ in steps(told.events)] == [step for step, _ in steps(made.events)]


def steps(events: list[dict]) -> list[list]:
    return [step for event in events if event["event"] == "started" for step in event["steps"] if step[0] != "wait"]


def test_a_limit_that_is_not_wanted_any_more_is_not_kept(bench: Bench) -> None:
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        pytest.skip("cgroups: the limit is read from a version 1 tree of root's")
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    unlimited = bench.container(script).out
    before = waiting(bench)
    assert bench.container(script, memory_bytes=20 << 20).out == b"20971520\n"
    spares = renewed(bench, before)
    result = bench.container(script)
    assert (result.out, started_pid(result.events) in spares) == (unlimited, False)


def test_another_shape_is_made_in_the_ordinary_way(bench: Bench) -> None:
    spares = waiting(bench)
    result = bench.container("readlink /proc/self/ns/uts", without=["uts"])
    assert result.out.decode().strip() == str(Path("/proc/self/ns/uts").readlink())
    assert started_pid(result.events) not in spares
    # What was asked for last is what is made ahead now.
    spares = renewed(bench, spares)
    again = bench.container("readlink /proc/self/ns/uts", without=["uts"])
    assert again.out == result.out
    assert started_pid(again.events) in spares


def test_a_spare_that_was_killed_is_replaced(bench: Bench) -> None:
    for count in (1, 2):
        for spare in waiting(bench)[:count]:
            os.kill(spare, signal.SIGKILL)
            while Path(f"/proc/{spare}").exists():
                bench.wait(asyncio.sleep(0.01))
        assert bench.container("echo well").out == b"well\n"


def test_errors_are_the_same(bench: Bench) -> None:
    waiting(bench)
    with pytest.raises(ContainerError, match="no such program"):
        bench.wait(bench.collect("container.run", None, name="", options={"argv": ["nosuch"]}))
    waiting(bench)
    with pytest.raises(ContainerError, match="workdir failed: Not a directory"):
        bench.container("true", workdir="/bin/busybox/folder")
    bench.wait(asyncio.sleep(0.3))  # an exact one cannot be made of that
    with pytest.raises(LabError, match="image"):
        bench.container("true", image="nosuch")
    assert bench.container("echo well").out == b"well\n"


def test_files_are_new_each_time(bench: Bench) -> None:
    for _ in range(3):
        waiting(bench)
        assert bench.container("ls /tmp; touch /tmp/mine; ls /tmp").out == b"mine\n"


def test_a_long_argument_arrives_whole(bench: Bench) -> None:
    waiting(bench)
    assert bench.container("echo ${#A}", env={"A": "x" * 100_000}).out == b"100000\n"


def test_one_that_nobody_wants_is_dropped(tmp_path: Path) -> None:
    """It holds memory; the loop's timer ends it (here in a server of the test's own, which waits less long)."""
    build_busybox(Store(tmp_path / "images"))
    ours, theirs = socket.socketpair()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from vmcontainer_kernel.agent import containers, __main__\n"
        "containers.ContainerVerbs.__init__.__kwdefaults__['spare_s'] = 0.3\n"
        "__main__.main(sys.argv[2:])"
    )
    command = [
        "--fd",
        str(theirs.fileno()),
        "--run",
        str(tmp_path / "run" / f"{SESSION}-3"),
        "--images",
        str(tmp_path / "images"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT), *command, "--spares", "1"], pass_fds=[theirs.fileno()]
    )
    theirs.close()

    async def scenario() -> None:
        node = Node("host", ours)
        await node.connect(10)
        request = node.start("container.run", {"options": {"argv": ["true"]}})
        await request.done
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for wanted in (True, False):
            deadline_s = now_s() + 10
            while bool(children.read_text()) != wanted:
                assert now_s() < deadline_s, wanted
                await asyncio.sleep(0.01)
        node.close()

    asyncio.run(scenario())
    assert process.wait(10) == 0


def test_views_and_lists_do_not_show_it(bench: Bench) -> None:
    spares = waiting(bench)
    view = bench.wait(bench.node.view())
    assert not {*spares} & {process["pid"] for process in view["processes"]}
    assert view["containers"] == []


def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    build_busybox(Store(tmp_path / "images"))
    bench = Bench(tmp_path / "run" / f"{SESSION}-1", tmp_path / "images", spares=True)
    bench.container("true")
    spares = waiting(bench)
    bench.agent.process.kill()
    bench.agent.process.wait()
    deadline = now_s() + 2
    for spare in spares:
        while Path(f"/proc/{spare}").exists() and "Z" not in Path(f"/proc/{spare}/stat").read_text():
            assert now_s() < deadline, "a spare outlived its supervisor"
            time.sleep(0.01)
    bench.close()
    second = Bench(tmp_path / "run" / f"{SESSION}-2", tmp_path / "images")
    assert not bench.folder.exists(), "the next start did not sweep"
    second.close()


def test_a_volume_made_anew_is_not_the_one_a_spare_had(bench: Bench, tmp_path: Path) -> None:
    bench.container("echo old > /v/old", volumes=["kept:/v"])
    bench.wait(asyncio.sleep(0.2))  # now that it is idle, the agent would make a spare with it
    bench.call("volume.remove", name="kept")
    bench.container("echo new > /v/new", volumes=["kept:/v"])
    assert [path.name for path in (tmp_path / "volumes/kept/_data").iterdir()] == ["new"]


def test_what_is_shown_of_the_node_is_as_it_is_now(bench: Bench, tmp_path: Path) -> None:
    """A mount keeps to the file or folder it was made of, also when another one has taken its place since."""
    (tmp_path / "shown").write_text("old\n")
    options = {"volumes": [f"{tmp_path}/shown:/shown:ro", "kept:/kept"]}
    assert bench.container("cat /shown; echo 1 > /kept/file", **options).out == b"old\n"
    bench.wait(asyncio.sleep(0.3))  # the agent is idle, and makes ahead what it may
    (tmp_path / "new").write_text("new\n")
    (tmp_path / "new").rename(tmp_path / "shown")
    bench.call("volume.remove", name="kept")
    assert bench.container("cat /shown; ls /kept; echo 2 > /kept/file", **options).out == b"new\n"
    assert bench.container("cat /kept/file", **options).out == b"2\n"
