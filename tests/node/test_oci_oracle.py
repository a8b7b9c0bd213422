"""The same bundle by this runtime and by runc and crun: a program inside tells what it sees, and must see the same.

A new field of the configuration is one line of `CASES`. What may differ is in `DIFFERENCES`, with the reason, and in
docs/oci.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.container.config import make_config
from vmcontainer_kernel.container.options import Options

from .oci_runtime import Runtime, make_rootfs, our_runtime

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]

FACTS = r"""
fact() { name=$1; shift; "$@" 2>&1 | while read -r line; do echo "$name $line"; done; }
fact status grep -E '^(Uid|Gid|Groups|Umask|Cap...|NoNewPrivs|Seccomp):' /proc/self/status
fact limits cat /proc/self/limits
fact oom cat /proc/self/oom_score_adj
fact hostname hostname
fact domainname cat /proc/sys/kernel/domainname
fact cwd pwd
fact env env
fact args echo "$@"
fact mounts cat /proc/self/mountinfo
fact devices sh -c 'cd /dev && for one in *; do stat -c "%n %F %t %T %a %u %g" $one; done'
fact descriptors ls /proc/self/fd
for kind in cgroup ipc mnt net pid user uts; do fact namespaces readlink /proc/self/ns/$kind; done
fact personality cat /proc/self/personality
fact priority sh -c 'cut -d" " -f18,19,40,41 /proc/self/stat'
fact masked sh -c 'wc -c < /proc/kcore; ls /proc/scsi /sys/firmware'
fact written sh -c 'for one in / /proc/sys/kernel/hostname /sys /dev/shm /tmp; do [ -w $one ] && echo $one; done'
fact files sh -c 'ls -ln /extra /extra/* | cut -c1-40'
for file in kernel/msgmax net/ipv4/ip_forward net/ipv4/ping_group_range; do fact sysctl cat /proc/sys/$file; done
for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us \
    cpu/cpu.cfs_period_us cpu/cpu.shares; do
    fact groups cat /sys/fs/cgroup/$file
done
fact group sh -c "grep -E ':(memory|pids|cpu|freezer):' /proc/self/cgroup | cut -d: -f2,3 | sort"
"""

ALL = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]
THREE = {"bounding": ALL, "effective": ALL, "permitted": ALL}
SOURCE = {"destination": "/extra", "type": "bind", "source": "/usr/share/doc/bash"}
NAMESPACES = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def process(**fields: Any) -> dict[str, Any]:
    return {"process": fields}


def linux(**fields: Any) -> dict[str, Any]:
    return {"linux": fields}


def resources(**fields: Any) -> dict[str, Any]:
    return linux(resources=fields)


def without(kind: str) -> dict[str, Any]:
    changes: dict[str, Any] = linux(namespaces=[{"type": one} for one in NAMESPACES if one != kind])
    return changes | ({"hostname": None} if kind == "uts" else {})


def mount(options: list[str], **fields: Any) -> dict[str, Any]:
    return {"extra_mount": SOURCE | {"options": options} | fields}


CASES: dict[str, dict[str, Any]] = {
    "template": {},
    "hostname": {"hostname": "another"},
    "root.readonly": {"root": {"readonly": True}},
    "process.user": process(user={"uid": 5, "gid": 6, "additionalGids": [7, 8]}),
    "process.user.umask": process(user={"uid": 0, "gid": 0, "umask": 0o27}),
    "process.cwd": process(cwd="/bin"),
    "process.cwd, made": process(cwd="/made/just/now"),
    "process.env": process(env=["PATH=/bin", "A=b=c", "EMPTY="]),
    "process.capabilities": process(capabilities=THREE),
    "process.capabilities, none": process(capabilities={"bounding": [], "effective": [], "permitted": []}),
    "process.capabilities, bounding": process(capabilities={"bounding": ALL}),
    "process.capabilities, another user": process(user={"uid": 5, "gid": 5}, capabilities=THREE),
    "process.capabilities, ambient": process(
        user={"uid": 5, "gid": 5},
        capabilities=THREE | {"inheritable": ALL, "ambient": ALL},
    ),
    "process.rlimits": process(
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    ),
    "process.noNewPrivileges": process(noNewPrivileges=False),
    "process.oomScoreAdj": process(oomScoreAdj=500),
    "linux.namespaces, pid": without("pid"),
    "linux.namespaces, network": without("network") | {"no_sysfs": True},
    "linux.namespaces, ipc": without("ipc") | {"no_mqueue": True},
    "linux.namespaces, uts": without("uts"),
    "linux.namespaces, user": linux(
        namespaces=[{"type": one} for one in (*NAMESPACES, "user")], uidMappings=MAPPING, gidMappings=MAPPING
    ),
    "linux.maskedPaths": linux(maskedPaths=["/proc/kcore", "/proc/scsi", "/no/such/path"]),
    "linux.maskedPaths, none": linux(maskedPaths=[]),
    "linux.readonlyPaths": linux(readonlyPaths=["/proc/sys", "/dev/shm"]),
    "linux.sysctl": linux(sysctl={"kernel.msgmax": "4096", "net.ipv4.ip_forward": "1"}),
    "linux.devices": linux(
        devices=[{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6}]
    ),
    "linux.seccomp": linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        }
    ),
    "linux.resources.memory": resources(memory={"limit": 64 << 20}),
    "linux.resources.memory.reservation": resources(memory={"reservation": 32 << 20}),
    "linux.resources.cpu": resources(cpu={"quota": 50000, "period": 200000}),
    "linux.resources.cpu.shares": resources(cpu={"shares": 512}),
    "linux.resources.pids": resources(pids={"limit": 99}),
    "mounts, bind": mount(["rbind"]),
    "mounts, ro": mount(["bind", "ro"]),
    "mounts, flags": mount(["rbind", "nosuid", "nodev", "noexec", "noatime"]),
    "mounts, tmpfs": mount(["nosuid", "size=1m", "mode=1777"], type="tmpfs", source="tmpfs"),
    "mounts, a file": mount(["bind", "ro"], destination="/extra/file", source="/etc/os-release"),
}

DIFFERENCES = {
    "env HOME=": "runc and crun add a HOME that nobody asked for; here the environment is what process.env says",
    "mounts /sys/fs/cgroup tmpfs": "read-only here, with or without the option ro (CVE-2022-0492)",
    "mounts /sys/fs/cgroup/cpuset": "a container is in the groups of the controllers it needs, not of all there are",
    "mounts /sys/fs/cgroup/devices": "the same",
    "mounts /sys/fs/cgroup/blkio": "the same",
    "mounts /sys/fs/cgroup/systemd": "the same",
    "mounts /proc/acpi": "a masked folder is an empty tmpfs, here nosuid, nodev and noexec, too",
    "mounts /sys/firmware": "the same",
    "mounts /proc/scsi": "the same",
    "mounts /proc/keys": "crun masks a file with the node's /dev/null, here with the container's",
    "mounts /proc/timer_list": "the same",
    "mounts /dev/shm tmpfs relatime,ro": "crun forgets a mount's own flags when it makes it read-only",
    "mounts /dev/shm tmpfs nodev,noexec,nosuid,relatime,ro": "the other side of it",
    "devices mqueue directory 0 0 1777": "it belongs to who made the IPC namespace, and with which ids that was",
    **{
        f"mounts /dev/{name} devtmpfs": "crun adds nosuid and noexec to device files in a user namespace"
        for name in ("full", "null", "random", "tty", "urandom", "zero")
    },
    "devices core ": "crun links /dev/core to /proc/kcore, which is masked",
    "devices null character special file 1 3 666": "crun gives the file on standard input to the user, even /dev/null",
}
"""Beginnings of what a fact tells → why it is not compared (docs/oci.md, "Beside runc and crun")."""


@pytest.fixture(scope="module")
def rootfs() -> Iterator[Path]:
    """A root that another user may enter, as pytest's own folders may not be: for user namespaces."""
    with tempfile.TemporaryDirectory(prefix="vmcontainer-oracle-") as base:
        Path(base).chmod(0o755)
        path = make_rootfs(Path(base) / "rootfs")
        for name in ("wc", "cut", "stat"):
            (path / "bin" / name).symlink_to("busybox")
        for name in ("proc", "sys", "dev", "extra", "tmp"):
            (path / name).mkdir()
        (path / "facts").write_text(FACTS)
        yield path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with our_runtime(tmp_path_factory.mktemp("ours")) as runtime:
        yield runtime


@pytest.fixture(scope="module", params=["runc", "crun"])
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    base = tmp_path_factory.mktemp(request.param)
    program = base / request.param
    # crun 1.8 takes no hybrid control groups: hide the tree of version 2, in a mount namespace of its own.
    hide = "umount /sys/fs/cgroup/unified 2>/dev/null" if request.param == "crun" else "true"
    program.write_text(
        f'#!/bin/sh\nexec unshare -m --propagation slave sh -c \'{hide}; exec {request.param} "$@"\' sh "$@"\n'
    )
    program.chmod(0o755)
    return Runtime(base, program)


def write(runtime: Runtime, rootfs: Path, changes: dict[str, Any]) -> Path:
    changes = dict(changes)
    extra, no_sysfs, no_mqueue = (changes.pop(key, None) for key in ("extra_mount", "no_sysfs", "no_mqueue"))
    root = {"path": str(rootfs)} | changes.pop("root", {})
    bundle = runtime.bundle("sh", "/facts", "an argument", root=root, **changes)
    config = json.loads((bundle / "config.json").read_text())
    kept = [
        one
        for one in config["mounts"]
        if not (no_sysfs and one["destination"].startswith("/sys")) and not (no_mqueue and one["type"] == "mqueue")
    ]
    config["ociVersion"] = "1.0.2"  # the newest that crun 1.8 takes
    config["mounts"] = [*kept, *([extra] if extra else [])]
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def facts(runtime: Runtime, rootfs: Path, changes: dict[str, Any]) -> dict[str, list[str]]:
    """Run the program and return what it tells, by fact."""
    done = runtime("run", "--bundle", write(runtime, rootfs, changes), f"facts-{os.getpid()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, text = line.partition(" ")
        found.setdefault(name, []).append(text)
    told = {name: plain(name, lines) for name, lines in found.items()}
    return {
        name: [line for line in lines if not f"{name} {line}".startswith(tuple(DIFFERENCES))]
        for name, lines in told.items()
    }


def plain(name: str, lines: list[str]) -> list[str]:
    """Replace what differs from run to run by what it means."""
    if name == "namespaces":
        own = {str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
        return [f"{line.partition(':')[0]} {'shared' if line in own else 'own'}" for line in lines]
    if name == "mounts":
        return sorted(plain_mount(line) for line in lines)
    return sorted(lines) if name in ("env", "devices", "group") else lines


def plain_mount(line: str) -> str:
    """Keep where, which file system and the options of the mount (proc_pid_mountinfo(5))."""
    before, _, after = line.partition(" - ")
    *_, point, options = before.split()[:6]
    kind = after.split()[0]
    return f"{point} {kind} {','.join(sorted(options.split(',')))}"


@pytest.mark.parametrize("case", CASES)
def test_the_same_bundle_gives_the_same(ours: Runtime, oracle: Runtime, rootfs: Path, case: str) -> None:
    expected, found = facts(oracle, rootfs, CASES[case]), facts(ours, rootfs, CASES[case])
    assert found == expected


def test_the_facts_tell_of_every_case(ours: Runtime, rootfs: Path) -> None:
    """A case that changes no fact would compare nothing."""
    base = facts(ours, rootfs, {})
    same = [case for case, changes in CASES.items() if changes and facts(ours, rootfs, changes) == base]
    assert same == []


OPENS = "for one in null zero full random urandom; do : < /dev/$one || exit 1; done; hostname; id -u; echo $A"
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "limits": {"memory_bytes": 64 << 20, "pids_limit": 20, "cpus": 0.5, "ulimits": ["nofile=100:200"]},
    "another user": {"read_only": True, "cap_drop": ["ALL"], "tmpfs": ["/tmp"]},
    "more rights": {"cap_add": ["NET_ADMIN"], "shm_size_bytes": 1 << 20},
    "names": {"hostname": "harbour", "env": {"A": "b c"}},
    "without": {"without": ["seccomp", "masked-paths", "no-new-privs"]},
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_our_engine_writes_runs_as_it_is(ours: Runtime, oracle: Runtime, rootfs: Path, asked: str) -> None:
    """A `config.json` of a cell's container names no option that only we can honour."""
    options = Options.from_json({"argv": ["/bin/sh", "-c", OPENS], **ASKED[asked]})
    told = []
    for runtime in (ours, oracle):
        bundle = runtime.bundle(name=f"asked-{asked.replace(' ', '-')}")
        config = make_config(options, {}, name="ours", cgroups_path=f"{runtime.cgroup}/{bundle.name}")
        config["root"]["path"] = str(rootfs)
        (bundle / "config.json").write_text(json.dumps(config))
        told.append(runtime.ok("run", "--bundle", bundle, f"asked-{os.getpid()}"))
    assert told[0] == told[1]
    assert told[0].splitlines()[1] == "0"


def test_the_status_of_the_program_is_ours(ours: Runtime, oracle: Runtime, rootfs: Path) -> None:
    for runtime in (ours, oracle):
        bundle = write(runtime, rootfs, process(args=["sh", "-c", "exit 7"]))
        assert runtime("run", "--bundle", bundle, "status").returncode == 7


def test_runc_is_there() -> None:
    """Both are in tests/apt.txt: without them this module would show nothing."""
    for name in ("runc", "crun"):
        assert subprocess.run([name, "--version"], check=False, capture_output=True).returncode == 0
