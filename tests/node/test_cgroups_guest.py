"""Version 2 control groups, in a guest: limits as the kernel has taken them, the program for devices, notices,
pressure, and a subtree that was handed over to an ordinary user.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.guest_engine import GuestEngine

pytestmark = pytest.mark.needs("qemu")

PRELUDE = """
import json, os, select, signal, sys, time
from vmcontainer_kernel.container.cgroups import Cgroups
from vmcontainer_kernel.container.spec import *
from vmcontainer_kernel.errors import LabError

def text(group, name):
    return open(f"{group.directories[0]}/{name}").read().strip()

def member(group, run):
    '''Fork a process into the group; its answer comes as a line.'''
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        open(f"{group.directories[0]}/cgroup.procs", "w").write("0")
        try:
            answer = run()
        except OSError as error:
            answer = error.strerror
        os.write(writer, f"{answer}\\n".encode())
        os._exit(0)
    os.close(writer)
    return pid, reader

def answer(group, run):
    pid, reader = member(group, run)
    line = os.read(reader, 1000).decode().strip()
    os.close(reader)
    os.waitpid(pid, 0)
    return line

def refused(act):
    try:
        act()
    except LabError as error:
        return [type(error).__name__, error.where]
    return None

def until(done):
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)

groups = Cgroups.detect(f"test-{os.getpid()}")
found = {}
"""
EPILOGUE = """
if groups:
    groups.close()
    left = [path for path, _, _ in os.walk("/sys/fs/cgroup") if f"test-{os.getpid()}" in path]
    assert left == [], left
print(json.dumps(found))
"""


def in_guest(engine: GuestEngine, source: str, user: str = "") -> dict[str, Any]:
    """Run Python beside the guest's control groups; it puts what it finds into `found`."""
    result = engine.run_python(PRELUDE + textwrap.dedent(source) + EPILOGUE, user=user)
    assert result.status == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def test_the_kernel_has_taken_each_limit(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        group = groups.create("c", Resources(
            Memory(64 << 20, 32 << 20, 96 << 20),
            Cpu(shares=512, quota_us=20_000, period_us=40_000, burst_us=1000, cpus="0", mems="0"),
            pids_limit=33,
            block_io=BlockIO(weight=500, read_bps=(BlockDevice(254, 0, 1 << 20),)),
            hugepage_limits=(HugepageLimit("2MB", 4 << 20),),
            unified=(("memory.high", "60000000"), ("cgroup.max.depth", "3")),
        ))
        names = ("memory.max memory.low memory.swap.max cpu.weight cpu.max cpu.max.burst cpuset.cpus pids.max "
                 "io.weight io.max hugetlb.2MB.max hugetlb.2MB.rsvd.max memory.high cgroup.max.depth")
        found |= {name: text(group, name) for name in names.split()}
        found["kind"] = groups.kind
        found["above"] = open(f"{group.directories[0]}/../cpu.weight").read().strip()
        """,
    )
    assert found.pop("above") == "100"  # a busy process for each processor; the guest has one
    high = str(60_000_000 // 4096 * 4096)
    assert found == {
        "memory.max": str(64 << 20), "memory.low": str(32 << 20), "memory.swap.max": str(32 << 20), "cpu.weight": "59",
        "cpu.max": "20000 40000", "cpu.max.burst": "1000", "cpuset.cpus": "0", "pids.max": "33",
        "io.weight": "default 4950", "io.max": "254:0 rbps=1048576 wbps=max riops=max wiops=max",
        "hugetlb.2MB.max": str(4 << 20), "hugetlb.2MB.rsvd.max": str(4 << 20), "memory.high": high,
        "cgroup.max.depth": "3", "kind": "v2",
    }  # fmt: skip


def test_what_cannot_be_kept_is_named_and_nothing_stays(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        for name, resources in {
            "swappiness": Resources(Memory(swappiness=7)),
            "class": Resources(class_id=1),
            "cpus": Resources(cpu=Cpu(cpus="0-9999")),
            "device": Resources(block_io=BlockIO(read_bps=(BlockDevice(99, 0, 1),))),
            "pages": Resources(hugepage_limits=(HugepageLimit("3MB", 1),)),
            "no such file": Resources(unified=(("memory.nonsense", "1"),)),
            "no number": Resources(unified=(("memory.max", "many"),)),
            "huge": Resources(Memory(2**64)),
        }.items():
            found[name] = refused(lambda: groups.create("c", resources))
        found["left"] = groups.names()
        """,
    )
    assert found.pop("left") == []
    fields = {name: where.removeprefix("linux.resources.") for name, (_, where) in found.items()}
    assert fields == {
        "swappiness": "memory.swappiness", "class": "network.classID", "cpus": "cpu.cpus",
        "device": "blockIO.throttleReadBpsDevice", "pages": "hugepageLimits[0]",
        "no such file": "unified[memory.nonsense]", "no number": "unified[memory.max]", "huge": "memory.limit",
    }  # fmt: skip


def test_the_program_for_devices(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        deny, kmsg = DeviceRule(False), DeviceRule(True, "c", 1, 11, "r")
        def look(group):
            def opened(path, how):
                return answer(group, lambda: os.close(os.open(path, how)))
            made = answer(group, lambda: os.mknod("/run/disk", 0o060600, os.makedev(254, 0)))
            disk = opened("/run/disk", os.O_RDONLY)
            os.unlink("/run/disk")
            return [opened("/dev/null", os.O_RDWR), opened("/dev/kmsg", os.O_RDONLY), opened("/dev/kmsg", os.O_WRONLY),
                    made, disk]
        found["free"] = look(groups.create("a", Resources()))
        group = groups.create("b", Resources(devices=(deny,)))
        found["denied"] = look(group)
        group = groups.update(group, Resources(devices=(deny, kmsg)))
        found["to read"] = look(group)
        group = groups.update(group, Resources(devices=(deny, kmsg, DeviceRule(False, "c", 1, None, "rw"))))
        found["taken back"] = look(group)
        """,
    )
    no = "Operation not permitted"
    assert found["free"] == ["None"] * 5
    assert found["denied"] == ["None", no, no, "None", no]
    assert found["to read"] == ["None", "None", no, "None", no]
    assert found["taken back"] == ["None", no, no, "None", no], "what every container has is allowed after all rules"


def test_counters_and_pressure(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        group = groups.create("c", Resources(Memory(200 << 20), Cpu(quota_us=20_000)))
        def use():
            x = bytearray(b"x" * (30 << 20))
            end = time.process_time() + 0.1
            while time.process_time() < end: pass
            signal.sigwait([signal.SIGTERM])
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        pid, _ = member(group, use)
        until(lambda: group.stats()["memory"]["anonymous_bytes"] > 30 << 20)
        until(lambda: group.stats()["cpu"]["usage_s"] >= 0.1)
        until(lambda: group.stats()["cpu"]["throttled_s"] > 0)
        found |= {"stats": group.stats(), "form": group.oci_stats()}
        group.kill()
        os.waitpid(pid, 0)
        group.remove()
        """,
    )
    stats, form = found["stats"], found["form"]
    assert stats["memory"]["anonymous_bytes"] > 30 << 20 and stats["memory"]["limit_bytes"] == 200 << 20
    assert (
        stats["cpu"]["usage_s"] >= 0.1 and stats["cpu"]["limit_cpus"] == 0.2 and stats["cpu"]["throttled_periods"] > 0
    )
    assert stats["pressure"]["cpu"]["some_s"] > 0, "throttled is waiting for a processor"
    assert set(stats["pressure"]) == {"cpu", "memory", "io"}
    assert form["memory"]["usage"]["limit"] == 200 << 20
    assert form["cpu"]["psi"]["some"]["total"] > 0
    assert form["cpu"]["throttling"]["throttledTime"] > 0


def test_the_kernel_tells_when_a_limit_strikes(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        group = groups.create("c", Resources(Memory(20 << 20, swap_bytes=20 << 20), pids_limit=3))
        watch = group.watch()
        told = lambda limit_s: bool(select.select([watch.fd], [], [], limit_s)[0])
        found |= {"polled": watch.polled, "before": told(0)}
        def forks():
            for _ in range(5):
                try:
                    if os.fork() == 0: time.sleep(0.2); os._exit(0)
                except BlockingIOError: pass
        answer(group, forks)
        found |= {"after forks": told(20), "denied": watch.read()["pids_denied"]}
        until(lambda: not group.pids())
        watch.read()
        found["quiet"] = told(0)
        pid, _ = member(group, lambda: bytearray(b"x" * (100 << 20)))
        found["after memory"] = told(20)
        found["killed by"] = os.waitpid(pid, 0)[1]
        until(lambda: watch.read()["oom_kills"])
        group.remove()
        found["last"] = watch.read()
        watch.close()
        """,
    )
    assert found == {"polled": [], "before": False, "after forks": True, "denied": 3, "quiet": False,
                     "after memory": True, "killed by": 9, "last": {"oom_kills": 1, "pids_denied": 3}}  # fmt: skip


def test_freezing_killing_and_groups_below(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        group = groups.create("c", Resources())
        def busy():
            os.makedirs(f"{group.directories[0]}/a/b")
            open(f"{group.directories[0]}/a/b/cgroup.procs", "w").write("0")
            os.fork()
            while True: pass
        pid, _ = member(group, busy)
        until(lambda: len(group.pids()) == 2)
        group.freeze()
        found["frozen"] = group.is_frozen()
        used = group.stats()["cpu"]["usage_s"]
        time.sleep(0.1)
        found["stands"] = group.stats()["cpu"]["usage_s"] == used
        found["direct"] = group.pids(recursive=False)
        found["taken"] = refused(lambda: groups.create("c/a/b", Resources()))
        group.kill()
        found["killed by"] = os.waitpid(pid, 0)[1]
        group.remove()
        found["left"] = groups.names()
        """,
    )
    assert found == {"frozen": True, "stands": True, "direct": [], "taken": ["ContainerError", "linux.cgroupsPath"],
                     "killed by": 9, "left": []}  # fmt: skip


HAND_OVER = """
def handed_over(own, run, *, uid=1000, files=("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")):
    '''Run as an ordinary user in group `own` below a folder that is theirs; return what it found.'''
    top = "/sys/fs/cgroup/handed"
    open("/sys/fs/cgroup/cgroup.subtree_control", "w").write("+memory +pids +cpu")
    os.makedirs(top + own, exist_ok=True)
    path = top
    for part in own.split("/"):
        path = f"{path}/{part}" if part else path
        if uid is not None:
            for name in ("", *files): os.chown(f"{path}/{name}", uid, uid)
        if path != top + own:
            open(f"{path}/cgroup.subtree_control", "w").write("+memory +pids +cpu")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        open(f"{top}{own}/cgroup.procs", "w").write("0")
        os.setgroups([]); os.setgid(1000); os.setuid(1000)
        try:
            os.write(writer, json.dumps(run()).encode())
        except BaseException as error:
            os.write(writer, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(0)
    os.close(writer)
    result = json.loads(os.read(reader, 65536))
    os.waitpid(pid, 0)
    for folder, _, _ in os.walk(top, topdown=False):
        os.rmdir(folder)
    return result

def as_user():
    mine = Cgroups.detect("mine")
    if mine is None:
        return {"reason": Cgroups.missing_reason()}
    group = mine.create("c", Resources(Memory(20 << 20, swap_bytes=20 << 20), Cpu(quota_us=50_000), pids_limit=9))
    own = [line for line in open("/proc/self/cgroup") if line.startswith("0::")][0].strip()
    result = {"path": mine.path("c"), "limit": text(group, "memory.max"), "own": own}
    pid, _ = member(group, lambda: bytearray(b"x" * (100 << 20)))
    result["killed by"] = os.waitpid(pid, 0)[1]
    result["oom_kills"] = group.events()["oom_kills"]
    result["devices"] = refused(lambda: mine.create("d", Resources(devices=(DeviceRule(False),))))
    mine.close()
    result["after"] = [line for line in open("/proc/self/cgroup") if line.startswith("0::")][0].strip()
    return result
"""


def test_an_ordinary_user_limits_below_a_folder_that_was_handed_over(guest_engine: GuestEngine) -> None:
    source = HAND_OVER + (
        'found["beside"] = handed_over("/app.slice/app.scope", as_user)\n'
        'found["within"] = handed_over("", as_user)\n'
        'found["not"] = handed_over("/own", as_user, uid=None)\n'
        'found["half"] = handed_over("/own", as_user, files=())\n'
    )
    found = in_guest(guest_engine, source)
    same = {"limit": str(20 << 20), "killed by": 9, "oom_kills": 1,
            "devices": ["HostError", "linux.resources.devices"]}  # fmt: skip
    scope = "0::/handed/app.slice/app.scope"
    assert found["beside"] == same | {"path": "/handed/app.slice/vmcontainer/mine/c", "own": scope, "after": scope}
    # Its own folder holds this process, which must make room first, and comes back at the end.
    moved = {"own": "0::/handed/vmcontainer.rest", "after": "0::/handed"}
    assert found["within"] == same | moved | {"path": "/handed/vmcontainer/mine/c"}
    for case in ("not", "half"):
        assert "Delegate=yes" in found[case]["reason"] and "/handed/own" in found[case]["reason"]


def test_a_container_of_the_engine_is_limited_and_told_of(guest_engine: GuestEngine) -> None:
    result = guest_engine.sh("dd if=/dev/zero of=/dev/shm/x bs=1M count=40", memory_bytes=16 << 20)
    assert result["events"]["oom_kills"] >= 1
    assert result["stats"]["memory"]["limit_bytes"] == 16 << 20
    assert set(result["stats"]["pressure"]) == {"cpu", "memory", "io"}
