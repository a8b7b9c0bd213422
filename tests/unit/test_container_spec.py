"""OCI configurations: what is read is a Spec, all else a SpecError that names the field; options become such."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.config import DEFAULT_CAPABILITIES, make_config
from vmcontainer_kernel.container.options import ExecOptions, Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.spec import Spec, User
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
    spec = parse(make_config(Options(), IMAGE, name="c", owner=(1000, 1000)))
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


def edited(path: str, value: Any) -> dict[str, Any]:
    """Return a good configuration with one member replaced; numbers in `path` are list indexes."""
    document = copy.deepcopy(config())
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("process.args.0", 3, "process.args[0]"),
        ("process.args.0", "", "process.args[0]"),
        ("process.args", [], "process.args"),
        ("process.args.0", "a\0b", "process.args[0]"),
        ("process.args.0", "\ud800", "process.args[0]"),
        ("process.env.0", "NOVALUE", "process.env[0]"),
        ("process.cwd", "relative", "process.cwd"),
        ("process.user.uid", -1, "process.user.uid"),
        ("process.user.uid", True, "process.user.uid"),
        ("process.user.umask", 0o1000, "process.user.umask"),
        ("process.terminal", "yes", "process.terminal"),
        ("process.capabilities.bounding.0", "CAP_FLY", "process.capabilities.bounding[0]"),
        ("process.capabilities.permitted", [], "process.capabilities.effective"),
        ("process.apparmorProfile", "x", "process.apparmorProfile"),
        ("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}], "process.rlimits[0].type"),
        ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}], "process.rlimits[0]"),
        ("root.path", "../x", "root.path"),
        ("root.path", "/", "root.path"),
        ("hostname", "a" * 65, "hostname"),
        ("mounts.0.type", "ext4", "mounts[0].type"),
        ("mounts.0.destination", "/a/../b", "mounts[0].destination"),
        ("mounts.0", None, "mounts[0]"),
        ("linux.namespaces.0.type", "galaxy", "linux.namespaces[0].type"),
        ("linux.namespaces.0.path", "/proc/1/ns/pid", "linux.namespaces[0].path"),
        ("linux.namespaces", [{"type": "pid"}], "linux.namespaces"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ERRNO"}, "linux.seccomp"),
        ("linux.devices", [{"path": "/dev/fuse"}], "linux.devices"),
        ("linux.uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "linux.uidMappings"),
        ("linux.resources.memory", {"limit": 1}, "linux.resources.memory.limit"),
        ("linux.resources.memory", {"swap": 1}, "linux.resources.memory.swap"),
        ("linux.resources.memory", {"limmit": 1 << 20}, "linux.resources.memory.limmit"),
        ("linux.rootfsPropagation", "shared", "linux.rootfsPropagation"),
        ("linux.maskedPaths", ["proc"], "linux.maskedPaths[0]"),
        ("linux.cgroupsPath", "/../x", "linux.cgroupsPath"),
        ("hooks", {"prestart": [{"path": "/bin/true"}]}, "hooks"),
        ("ociVersion", "2.0", "ociVersion"),
        ("colour", "red", "colour"),
    ],
)
def test_the_wrong_field_is_named(path: str, value: Any, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(edited(path, value))
    assert caught.value.where == where
    assert where in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(spot for key, inner in below for spot in spots(inner, (*path, key)))]


GOOD = make_config(
    Options(memory_bytes=1 << 25, cpus=0.5, pids_limit=7), IMAGE, name="c", owner=(1, 1), cgroups_path="/x"
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
        ({"network": "bridge"}, "network"),
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
