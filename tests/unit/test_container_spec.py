"""OCI configurations: what is read is a Spec, all else a SpecError that names the field; options become such."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.oci_documents import FULL
from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.config import DEFAULT_CAPABILITIES, make_config
from vmcontainer_kernel.container.ids import own_ids
from vmcontainer_kernel.container.ladder import Footing
from vmcontainer_kernel.container.options import ExecOptions, Options
from vmcontainer_kernel.container.parsing import parse, parse_process
from vmcontainer_kernel.container.spec import (
    BlockDevice,
    Capabilities,
    Device,
    DeviceRule,
    Hook,
    IdMapping,
    Mount,
    Namespace,
    SeccompArg,
    SeccompRule,
    Spec,
    TimeOffset,
    User,
)
from vmcontainer_kernel.errors import SpecError, UserError

IMAGE = {"config": {"Env": ["PATH=/bin", "LANG=C"], "Cmd": ["sh"]}}


def config(**options: Any) -> dict[str, Any]:
    return make_config(Options(**options), IMAGE, name="web", cgroups_path="/vmcontainer/s/web")


def test_what_is_made_can_be_read() -> None:
    spec = parse(config(memory_bytes=1 << 25, cpus=0.5, pids_limit=7, read_only=True, env={"LANG": "ko"}))
    assert spec.process.args == ("sh",)
    assert spec.process.env == ("PATH=/bin", "HOSTNAME=web", "HOME=/", "LANG=ko")
    assert spec.hostname == "web"
    assert spec.root.readonly and spec.process.no_new_privileges
    assert set(spec.linux.kinds) == {"pid", "mount", "uts", "ipc", "network", "cgroup"}
    limits = spec.linux.resources
    assert (limits.memory.limit_bytes, limits.cpu.quota_us, limits.cpu.period_us, limits.pids_limit) == (
        1 << 25,
        50_000,
        100_000,
        7,
    )
    assert spec.process.capabilities
    assert spec.process.capabilities.bounding.bit_count() == len(DEFAULT_CAPABILITIES) == 14


def test_a_configuration_is_json() -> None:
    document = config(cpus=1.5)
    assert json.loads(json.dumps(document)) == document


def test_an_ordinary_user_gets_a_user_namespace() -> None:
    spec = parse(make_config(Options(), IMAGE, name="c", footing=Footing("one id", own_ids(1000, 1000))))
    assert "user" in spec.linux.kinds
    assert spec.linux.uid_mappings[0].host_id == 1000


def test_a_user_who_is_not_root_starts_without_capabilities() -> None:
    spec = parse(make_config(Options(), IMAGE, user=User(7, 8)))
    assert spec.process.capabilities
    assert spec.process.capabilities.permitted == 0 and spec.process.capabilities.bounding != 0


def test_an_image_without_a_command_needs_one() -> None:
    with pytest.raises(UserError, match="no command of its own"):
        make_config(Options(), {})


@pytest.mark.parametrize(
    ("add", "drop", "count"),
    [
        ((), (), 14),
        (("ALL",), (), 41),
        ((), ("ALL",), 0),
        (("ALL",), ("CHOWN",), 40),
        (("SYS_TIME",), ("ALL",), 1),
        ((), ("MKNOD",), 13),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], count: int) -> None:
    spec = parse(config(cap_add=add, cap_drop=drop))
    assert spec.process.capabilities
    assert spec.process.capabilities.bounding.bit_count() == count


def edited(path: str, value: Any, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a good configuration with one member replaced; numbers in `path` are list indexes."""
    document = copy.deepcopy(document or config())
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("process", None, "process"),
        ("process.args.0", 3, "process.args[0]"),
        ("process.args.0", "", "process.args[0]"),
        ("process.args", [], "process.args"),
        ("process.args.0", "a\0b", "process.args[0]"),
        ("process.args.0", "\ud800", "process.args[0]"),
        ("process.env.0", "NOVALUE", "process.env[0]"),
        ("process.cwd", "relative", "process.cwd"),
        ("process.cwd", "", "process.cwd"),
        ("process.user.uid", -1, "process.user.uid"),
        ("process.user.uid", True, "process.user.uid"),
        ("process.user.umask", 0o1000, "process.user.umask"),
        ("process.terminal", "yes", "process.terminal"),
        ("process.consoleSize", {"height": 70_000, "width": 1}, "process.consoleSize.height"),
        ("process.capabilities.bounding.0", "CAP_FLY", "process.capabilities.bounding[0]"),
        ("process.capabilities.permitted", [], "process.capabilities.effective"),
        ("process.capabilities.ambient", ["CAP_KILL"], "process.capabilities.ambient"),
        ("process.apparmorProfile", "x", "process.apparmorProfile"),
        ("process.selinuxLabel", "x", "process.selinuxLabel"),
        ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "process.rlimits[0].type"),
        ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}], "process.rlimits[0].soft"),
        ("process.rlimits", [{"type": "RLIMIT_NICE", "soft": 1, "hard": 1}] * 2, "process.rlimits[1].type"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj"),
        ("process.scheduler", {"policy": "SCHED_ISO"}, "process.scheduler.policy"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority"),
        ("process.scheduler", {"policy": "SCHED_FIFO"}, "process.scheduler.priority"),
        ("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 5}, "process.scheduler.runtime"),
        ("process.scheduler", {"policy": "SCHED_BATCH", "period": 5}, "process.scheduler.policy"),
        (
            "process.scheduler",
            {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]},
            "process.scheduler.flags[0]",
        ),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority.priority"),
        ("process.execCPUAffinity", {"initial": "3-1"}, "process.execCPUAffinity.initial"),
        ("process.execCPUAffinity", {"final": "0,,1"}, "process.execCPUAffinity.final"),
        ("root", None, "root"),
        ("root.path", "", "root.path"),
        ("hostname", "a" * 65, "hostname"),
        ("domainname", "\uac00" * 22, "domainname"),
        ("mounts.0.type", "", "mounts[0].type"),
        ("mounts.0.destination", "/a/../b", "mounts[0].destination"),
        ("mounts.0.destination", "", "mounts[0].destination"),
        ("mounts.0", None, "mounts[0]"),
        ("mounts.0", {"destination": "/x", "options": ["bind"]}, "mounts[0].source"),
        (
            "mounts.0",
            {"destination": "/x", "source": "/x", "options": ["bind", "idmap"]},
            "mounts[0].options",
        ),
        (
            "mounts.0.uidMappings",
            [{"containerID": 0, "hostID": 1, "size": 1}],
            "mounts[0].gidMappings",
        ),
        ("mounts.0.options", ["ridmap"], "mounts[0].type"),
        ("linux.namespaces.0.type", "galaxy", "linux.namespaces[0].type"),
        ("linux.namespaces.0.path", "proc/1/ns/pid", "linux.namespaces[0].path"),
        ("linux.namespaces.1.type", "pid", "linux.namespaces[1].type"),
        ("linux.namespaces", [{"type": "pid"}], "linux.namespaces"),
        ("linux.namespaces", [{"type": "mount"}], "hostname"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "linux.uidMappings"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 5, "size": 2**32 - 5}], "linux.uidMappings[0].size"),
        ("linux.timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets"),
        ("linux.timeOffsets", {"sidereal": {"secs": 1}}, "linux.timeOffsets.sidereal"),
        ("linux.devices", [{"path": "/dev/fuse"}], "linux.devices[0].type"),
        ("linux.devices", [{"path": "/dev/fuse", "type": "c", "major": 10}], "linux.devices[0].minor"),
        ("linux.devices", [{"path": "dev/fuse", "type": "p"}], "linux.devices[0].path"),
        ("linux.devices", [{"path": "/x", "type": "b", "major": 4096, "minor": 0}], "linux.devices[0].major"),
        ("linux.namespaces", [{"type": "mount", "path": "/proc/1/ns/mnt"}], "linux.namespaces"),
        ("linux.resources.memory", {"limit": 1}, "linux.resources.memory.limit"),
        ("linux.resources.memory", {"limit": 1 << 20, "swap": 1 << 19}, "linux.resources.memory.swap"),
        ("linux.resources.memory", {"limmit": 1 << 20}, "linux.resources.memory.limmit"),
        ("linux.resources.memory", {"swappiness": 101}, "linux.resources.memory.swappiness"),
        ("linux.resources.cpu", {"quota": 5000, "burst": 5001}, "linux.resources.cpu.burst"),
        ("linux.resources.cpu", {"cpus": "a"}, "linux.resources.cpu.cpus"),
        ("linux.resources.cpu", {"period": 999}, "linux.resources.cpu.period"),
        ("linux.resources.pids", {"limit": "7"}, "linux.resources.pids.limit"),
        ("linux.resources.blockIO", {"weight": 9}, "linux.resources.blockIO.weight"),
        (
            "linux.resources.blockIO",
            {"weightDevice": [{"major": 8, "minor": 0}]},
            "linux.resources.blockIO.weightDevice[0].weight",
        ),
        (
            "linux.resources.blockIO",
            {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]},
            "linux.resources.blockIO.throttleReadBpsDevice[0].rate",
        ),
        ("linux.resources.hugepageLimits", [{"pageSize": "2M"}], "linux.resources.hugepageLimits[0].pageSize"),
        ("linux.resources.rdma", {"mlx": {}}, "linux.resources.rdma.mlx.hcaHandles"),
        ("linux.resources.devices", [{"access": "r"}], "linux.resources.devices[0].allow"),
        ("linux.resources.devices", [{"allow": True, "access": "x"}], "linux.resources.devices[0].access"),
        ("linux.resources.unified", {"../x.max": "1"}, "linux.resources.unified.../x.max"),
        ("linux.seccomp", {}, "linux.seccomp.defaultAction"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}, "linux.seccomp.defaultAction"),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
            "linux.seccomp.defaultErrnoRet",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"},
            "linux.seccomp.listenerMetadata",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_NOTIFY"}]},
            "linux.seccomp.listenerPath",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]},
            "linux.seccomp.syscalls[0].names",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_6502"]},
            "linux.seccomp.architectures[0]",
        ),
        ("linux.sysctl", {"vm.swappiness": "1"}, "linux.sysctl.vm.swappiness"),
        ("linux.sysctl", {"kernel.hostname": "a"}, "linux.sysctl.kernel.hostname"),
        ("linux.sysctl", {"net/../kernel/panic": "1"}, "linux.sysctl.net/../kernel/panic"),
        ("linux.sysctl", {"net.ipv4.ip_forward": 1}, "linux.sysctl.net.ipv4.ip_forward"),
        ("linux.rootfsPropagation", "viral", "linux.rootfsPropagation"),
        ("linux.maskedPaths", ["proc"], "linux.maskedPaths[0]"),
        ("linux.cgroupsPath", "/../x", "linux.cgroupsPath"),
        ("linux.cgroupsPath", "system.slice:docker:abc", "linux.cgroupsPath"),
        ("linux.mountLabel", "x", "linux.mountLabel"),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt"),
        ("linux.netDevices", {"eth0": {}}, "linux.netDevices"),
        ("linux.personality", {"domain": "HPUX"}, "linux.personality.domain"),
        ("linux.personality", {"domain": "LINUX", "flags": ["x"]}, "linux.personality.flags"),
        ("hooks", {"prestart": [{"path": "true"}]}, "hooks.prestart[0].path"),
        ("hooks", {"poststop": [{"path": "/bin/true", "timeout": 0}]}, "hooks.poststop[0].timeout"),
        ("annotations", {"": "x"}, "annotations"),
        ("windows", {"layerFolders": []}, "windows"),
        ("ociVersion", "2.0.0", "ociVersion"),
        ("ociVersion", "1.2", "ociVersion"),
        ("colour", "red", "colour"),
    ],
)
def test_the_wrong_field_is_named(path: str, value: Any, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(edited(path, value))
    assert caught.value.where == where
    assert where in caught.value.message


def test_everything_there_is_to_say_is_read() -> None:
    spec = parse(FULL)
    process, resources, seccomp = spec.process, spec.linux.resources, spec.linux.seccomp
    assert (spec.hostname, spec.domainname, spec.annotations) == ("web", "example.test", (("com.example.key", ""),))
    assert process.user == User(7, 8, 0o27, (5, 6))
    assert (process.console_size, process.oom_score_adj) == ((25, 80), -5)
    assert process.capabilities == Capabilities(1 << 5 | 1, 1 << 5, 1 << 5, 1 << 5, 1 << 5)
    assert process.scheduler and process.scheduler.deadline == 2_000_000
    assert process.io_priority and process.io_priority.priority == 4
    assert (process.initial_cpus, process.final_cpus) == ("0", "0-1,3")
    ids = (IdMapping(0, 100_000, 65_536),)
    assert spec.mounts[1:] == (
        Mount("/data", "bind", "volume", ("rbind", "rro")),
        Mount("/home/user", "bind", "/home/me", ("bind", "idmap"), ids, ids),
    )
    assert spec.hooks.start_container == (Hook("/bin/hook", ("hook", "-v"), ("A=1",), 5),)
    assert spec.linux.namespaces[1] == Namespace("network", "/run/netns/blue")
    assert "network" in spec.linux.kinds and "network" not in spec.linux.new_kinds and "ipc" in spec.linux.new_kinds
    assert spec.linux.time_offsets == (TimeOffset("monotonic", -60, 7), TimeOffset("boottime", 10, 0))
    assert spec.linux.devices == (
        Device("/dev/fuse", "c", 10, 229, 0o666, 1, 2),
        Device("/run/pipe", "p"),
    )
    assert (resources.memory.swap_bytes, resources.memory.kernel_tcp_bytes) == (-1, 1 << 20)
    assert (resources.cpu.burst_us, resources.cpu.idle, resources.pids_limit) == (10_000, 0, 100)
    assert resources.block_io.weight_devices == (BlockDevice(8, 0, 500, 300),)
    assert resources.block_io.write_bps == (BlockDevice(8, 0, 0),)
    assert (resources.class_id, resources.priorities) == (0x100001, (("eth0", 500),))
    assert resources.rdma == (("mlx5_1", 3, 10), ("rxe3", None, 1))
    assert resources.devices == (DeviceRule(allow=False), DeviceRule(True, "c", 1, None, "rw"))
    assert dict(resources.unified)["memory.high"] == "1000000"
    assert seccomp and (seccomp.default_errno, seccomp.listener_metadata) == (38, "web")
    assert seccomp.rules[1] == SeccompRule(
        ("clone",), "SCMP_ACT_TRACE", 1, (SeccompArg(0, 2114060288, "SCMP_CMP_MASKED_EQ"),)
    )
    assert spec.linux.personality and spec.linux.personality.domain == "LINUX32"
    assert (spec.linux.rootfs_propagation, spec.linux.readonly_paths) == ("rslave", ("/proc/sys",))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("process.consoleSize", {"height": 1, "width": 1}),
        ("process.scheduler", None),
        ("hooks", None),
        ("linux.resources", None),
        ("linux.resources.memory", {"limit": 0, "reservation": 0}),
        ("linux.resources.cpu", {"shares": 0, "quota": 0, "period": 0}),
        ("linux.resources.pids", {"limit": 0}),
        ("linux.resources.blockIO", {"weight": 0}),
        ("linux.intelRdt", {}),
        ("windows", {}),
    ],
)
def test_what_asks_for_nothing_changes_nothing(path: str, value: Any) -> None:
    document = config(without=("devices",))  # which are guarded unless that is said
    assert parse(edited(path, value, document)) == parse(document)


@pytest.mark.parametrize("quota", [-1, -7])
def test_below_zero_is_no_limit(quota: int) -> None:
    limits = {"cpu": {"quota": quota}, "memory": {"limit": quota}, "pids": {"limit": quota}}
    resources = parse(edited("linux.resources", limits)).linux.resources
    assert (resources.cpu.quota_us, resources.memory.limit_bytes, resources.pids_limit) == (-1, -1, -1)


def test_what_the_specification_only_lets_us_warn_of() -> None:
    """config.md: "Extensibility", and of capabilities in "Linux Process"."""
    document = edited("process.capabilities.bounding", ["CAP_KILL", "CAP_FLY"])
    document["process"]["user"]["username"] = "root"
    document["process"]["capabilities"] |= {"effective": ["CAP_KILL"], "permitted": []}
    document["linux"]["colour"] = "red"
    warnings: list[str] = []
    spec = parse(document, warnings)
    assert spec.process.capabilities == Capabilities(bounding=1 << 5)
    assert [warning.split()[0] for warning in warnings] == [
        "process.user.username",
        "process.capabilities.bounding[1]",
        "process.capabilities.effective",
        "linux.colour",
    ]


def test_a_joined_user_namespace_has_its_mappings_already() -> None:
    joined = [{"type": "mount"}, {"type": "uts"}, {"type": "user", "path": "/proc/7/ns/user"}]
    document = edited("linux.namespaces", joined)
    assert parse(document).linux.new_kinds == ("mount", "uts")
    document["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 1, "size": 1}]
    assert parse(document).linux.uid_mappings == (IdMapping(0, 1, 1),)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding"),
    ],
)
def test_both_spellings_of_a_kernel_parameter(key: str, name: str) -> None:
    assert parse(edited("linux.sysctl", {key: "1"})).linux.sysctl == ((name, "1"),)


def test_a_process_alone() -> None:
    assert parse_process(FULL["process"]) == parse(FULL).process
    with pytest.raises(SpecError) as caught:
        parse_process({"args": ["sh"]})
    assert caught.value.where == "process.cwd"


def test_reading_a_specification_imports_little() -> None:
    """The command line is a new process for every command: these cost more than all of its own work."""
    script = "import sys, vmcontainer_kernel.container.parsing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True, text=True)
    assert {"re", "typing", "json", "dataclasses", "inspect", "pathlib", "socket"}.isdisjoint(done.stdout.split())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, inner in below for spot in spots(inner, (*path, key)))]


GOOD = make_config(
    Options(memory_bytes=1 << 25, cpus=0.5, pids_limit=7),
    IMAGE,
    name="c",
    footing=Footing("one id", own_ids(1, 1)),
    cgroups_path="/x",
)


@settings(max_examples=400, deadline=None)
@given(spot=st.sampled_from(spots(GOOD)), value=JSON)
def test_any_member_replaced_by_anything_gives_a_spec_or_a_spec_error(spot: tuple[Any, ...], value: Any) -> None:
    document: Any = copy.deepcopy(GOOD)
    if spot:
        place = document
        for key in spot[:-1]:
            place = place[key]
        place[spot[-1]] = value
    else:
        document = value
    try:
        assert isinstance(parse(document), Spec)
    except SpecError as error:
        assert error.message


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_options_give_options_or_a_spec_error(document: Any) -> None:
    for kind in (Options, ExecOptions):
        try:
            assert isinstance(kind.from_json(document), kind)
        except SpecError as error:
            assert error.message


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"memory_bytes": "12Q"}, "memory_bytes"),
        ({"memory_bytes": 4096}, "memory_bytes"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": 0}, "cpus"),
        ({"pids_limit": 0}, "pids_limit"),
        ({"network": "other:web"}, "network"),
        ({"without": ["gravity"]}, "without"),
        ({"without": ["mnt"]}, "without"),
        ({"argv": "ls"}, "argv"),
        ({"env": {"A": None}}, "env.A"),
        ({"privileged": "yes"}, "privileged"),
        ({"levitate": True}, "levitate"),
    ],
)
def test_the_wrong_option_is_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        Options.from_json(options)
    assert caught.value.where == where


def test_capability_names_are_the_kernels() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert linux.last_capability() == min(last, len(linux.CAPABILITIES) - 1)
    assert linux.CAPABILITIES[21] == "SYS_ADMIN" and linux.CAPABILITIES[40] == "CHECKPOINT_RESTORE"
