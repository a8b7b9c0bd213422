"""Options of docker-run(1) as a container finds them from inside: devices, limits, settings, shared namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.engine import NOBODY, Engine, start_engine
from vmcontainer_kernel.errors import LabError, NotFound, SpecError, UserError

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]

# A file of the kernel's log, made inside: opening it to write needs no capability, and writes nothing.
OPEN_MADE_DEVICE = "cd /made; mknod log c 1 11 && (: >log) 2>&1 && echo opened; true"
DEVICES_WORK = ["/made:dev"]  # else nothing but /dev's own opens, of any mount that we make


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = start_engine(tmp_path_factory.mktemp("inside"), 0)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    yield
    for name in engine("list"):
        engine("remove", name=name, force=True)
    assert engine.groups() == []


# -- devices


def test_a_device_that_was_made_inside_does_not_open(engine: Engine) -> None:
    assert "Operation not permitted" in engine.out(OPEN_MADE_DEVICE, tmpfs=DEVICES_WORK)


@pytest.mark.parametrize("options", [{"without": ["devices"]}, {"privileged": True}, {"devices": ["/dev/kmsg:w"]}])
def test_it_does_where_the_list_of_devices_is_left_out_or_has_it(engine: Engine, options: dict[str, Any]) -> None:
    assert engine.out(OPEN_MADE_DEVICE, tmpfs=DEVICES_WORK, **options) == "opened"


def test_the_devices_of_every_container_work(engine: Engine) -> None:
    script = (
        "head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; head -c 1 /dev/random | wc -c; echo x >/dev/full"
    )
    assert engine.out(f"({script}) 2>&1; true").split()[:3] == ["3", "2", "1"]
    assert "No space left" in engine.out("(echo x >/dev/full) 2>&1; true")
    assert engine("terminal", name="c", options={"tty": True, "argv": ["sh", "-c", "echo on >/dev/tty"]}) == "on\n"


def test_a_device_of_the_node_with_less_access(engine: Engine) -> None:
    script = "ls -l /dev/log1 | cut -c1; (: </dev/log1) && echo read; (: >/dev/log1) 2>&1; true"
    kind, read, refusal = engine.out(script, devices=["/dev/kmsg:/dev/log1:r"], cap_add=["SYSLOG"]).splitlines()
    assert (kind, read) == ("c", "read")
    assert "Operation not permitted" in refusal


def test_a_privileged_one_has_the_nodes_devices_and_all_its_capabilities(engine: Engine) -> None:
    script = "ls /dev; grep CapEff /proc/self/status; mount | grep -c 'proc.*ro,'; mount -t tmpfs none /tmp && echo can"
    *devices, _, capabilities, masked, can = engine.out(f"{script}; true", privileged=True).split()
    node = {path.name for path in Path("/dev").iterdir() if path.is_char_device() or path.is_block_device()}
    assert node - {"console"} <= set(devices)
    mine = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapPrm"))
    assert int(capabilities, 16) == int(mine.split()[1], 16)
    assert (masked, can) == ("0", "can")


# -- namespaces that are shared, and the one that a container has only if asked

KINDS = {"network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroupns": "cgroup", "userns": "user"}
LINKS = "for n in net pid ipc uts cgroup user mnt time; do echo $n $(readlink /proc/self/ns/$n); done"


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = start_engine(tmp_path_factory.mktemp("ordinary"), NOBODY)
    yield running
    for name in running("list"):
        running("remove", name=name, force=True)
    running.close()


def namespaces(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines())


def beside_another(engine: Engine, script: str, **options: Any) -> tuple[dict[str, str], str]:
    """Start container `other`, run a script in a second one; return other's namespaces and what the script wrote."""
    engine("create", name="other", options={"argv": ["sleep", "1000"]})
    try:
        engine("start", name="other")
        links = engine("finish", pid=engine("exec", name="other", options={"argv": ["sh", "-c", LINKS]}))["out"]
        return namespaces(links), engine.out(script, **options)
    finally:
        engine("remove", name="other", force=True)


def test_all_but_its_files_shared_with_another_container(engine: Engine) -> None:
    shared = {word: "container:other" for word in KINDS if word != "userns"}
    theirs, text = beside_another(engine, f"{LINKS}; echo name $(hostname); echo pids $(pidof sleep)", **shared)
    ours = namespaces(text)
    assert {kind for kind in theirs if ours[kind] == theirs[kind]} == {*KINDS.values(), "time"}
    assert (ours["name"], ours["pids"]) == ("other", "1")


def test_an_ordinary_users_containers_share_by_their_user_namespace(ordinary: Engine) -> None:
    theirs, text = beside_another(ordinary, LINKS, network="container:other", uts="container:other")
    ours = namespaces(text)
    assert {kind for kind in theirs if ours[kind] == theirs[kind]} == {"net", "uts", "user", "time"}
    with pytest.raises(UserError, match="only inside one"):
        ordinary.sh("true", userns="host")


@pytest.mark.parametrize("word", KINDS)
def test_what_is_the_nodes_is_the_nodes(engine: Engine, word: str) -> None:
    ours = namespaces(engine.out(LINKS, **{word: "host"}))
    assert {kind for kind, link in engine("namespaces").items() if ours.get(kind) == link} == {
        *("user", "time"),
        KINDS[word],
    }


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"userns": "container:c"}, UserError, "has no user namespace"),
        ({"ipc": "container:nobody"}, NotFound, "nobody"),
        ({"uts": "host", "hostname": "mine"}, UserError, "host name of its own"),
        ({"pid": "node"}, SpecError, "must be host"),
        ({"time_offsets": ["realtime=3"]}, SpecError, "boottime=SECONDS"),
    ],
)
def test_what_cannot_be_shared(engine: Engine, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        engine.sh("true", **options)


def test_clocks_of_its_own(engine: Engine) -> None:
    node_s = float(Path("/proc/uptime").read_text().split()[0])
    script = "cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time; cat /proc/self/timens_offsets"
    up_s, link, *offsets = engine.out(script, time_offsets=["boottime=86400"]).splitlines()
    assert int(up_s) >= node_s + 86400 - 1
    assert link != engine("namespaces")["time"]
    assert [line.split() for line in offsets] == [["monotonic", "0", "0"], ["boottime", "86400", "0"]]


# -- limits and settings


def test_limits_as_the_kernel_has_taken_them(engine: Engine) -> None:
    disk = next(path for path in Path("/sys/block").iterdir() if (path / "device").exists()).name
    numbers = Path(f"/sys/block/{disk}/dev").read_text().strip()
    script = """
        cd /sys/fs/cgroup
        cat blkio/blkio.throttle.read_bps_device blkio/blkio.throttle.write_iops_device
        cat cpuset/cpuset.cpus cpuset/cpuset.mems cpu/cpu.shares
        cat memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.memsw.limit_in_bytes
    """
    found = engine.out(
        script,
        device_read_bps=[f"/dev/{disk}:1048576"],
        device_write_iops=[f"/dev/{disk}:77"],
        cpuset_cpus="0",
        cpuset_mems="0",
        cpu_shares=512,
        memory_bytes=32 << 20,
        memory_reservation_bytes=16 << 20,
        memory_swap_bytes=48 << 20,
    )
    expected = [f"{numbers} 1048576", f"{numbers} 77", "0", "0", "512", *(str(size << 20) for size in (32, 16, 48))]
    assert found.splitlines() == expected


def test_settings_of_its_process_and_namespaces(engine: Engine) -> None:
    script = """
        ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj
        (cd /proc/sys; cat net/ipv4/ip_forward kernel/shmmax; hostname; cat kernel/domainname)
        df -k /dev/shm | tail -1; id -G; umask; pwd -P
    """
    found = engine.out(
        script,
        ulimits=["nofile=64:128", "core=0"],
        oom_score_adj=300,
        sysctls=["net.ipv4.ip_forward=1", "kernel.shmmax=65536"],
        hostname="mine",
        domainname="lab",
        shm_size_bytes=1 << 20,
        user="7:8",
        group_add=["9"],
        workdir="/tmp",
    ).splitlines()
    assert found[:8] == ["64", "128", "0", "300", "1", "65536", "mine", "lab"]
    assert found[8].split()[1] == "1024"
    assert found[9:] == ["8 9", "0022", "/tmp"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": ["/dev/no-such"]}, "no device /dev/no-such"),
        ({"devices": ["/etc/passwd"]}, "is no device"),
        ({"device_read_bps": ["/dev/no-such:1"]}, "no device /dev/no-such"),
        ({"cpuset_cpus": "4000"}, "cpus"),
        ({"sysctls": ["kernel.panic=1"]}, "belongs to no namespace"),
        ({"sysctls": ["net.ipv4.ip_forward=1"], "network": "host"}, "would change the node"),
        ({"ulimits": ["nofile=9:8"]}, "soft limit above"),
        ({"memory_bytes": 32 << 20, "memory_swap_bytes": 16 << 20}, "swap"),
    ],
)
def test_what_cannot_be_given_is_named(engine: Engine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LabError, match=words):
        engine.sh("true", **options)
