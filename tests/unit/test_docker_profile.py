"""Profiles from files: Docker's and Podman's form of a filter, put into the specification's."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.parsing_linux import parse_linux
from vmcontainer_kernel.container.seccomp.compiler import compile_filter
from vmcontainer_kernel.container.seccomp.docker_profile import convert
from vmcontainer_kernel.errors import SpecError

PODMAN = json.loads(Path("/usr/share/containers/seccomp.json").read_text())
ALLOW = {"defaultAction": "SCMP_ACT_ALLOW"}


def rules(*given: dict[str, Any], caps: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)) -> list[dict[str, Any]]:
    syscalls = [{"names": ["read"], "action": "SCMP_ACT_ERRNO", **one} for one in given]
    document = {**ALLOW, "syscalls": syscalls}
    found: list[dict[str, Any]] = convert(document, caps, machine="x86_64", kernel=kernel)["syscalls"]
    return found


def test_the_specifications_own_form_comes_out_as_it_is() -> None:
    argument = {"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [argument]}
    document = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [rule],
    }
    assert convert(document, ()) == document


@pytest.mark.parametrize(
    ("condition", "caps", "kernel", "holds"),
    [
        ({"includes": {"caps": ["CAP_BPF"]}}, (), (6, 1), False),
        ({"includes": {"caps": ["CAP_BPF"]}}, ("BPF",), (6, 1), True),
        ({"includes": {"caps": ["CAP_BPF", "CAP_CHOWN"]}}, ("CAP_BPF",), (6, 1), False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_CHOWN"]}}, ("CAP_BPF",), (6, 1), False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, (), (6, 1), True),
        ({"includes": {"arches": ["arm64", "amd64"]}}, (), (6, 1), True),
        ({"includes": {"arches": ["arm64"]}}, (), (6, 1), False),
        ({"excludes": {"arches": ["amd64"]}}, (), (6, 1), False),
        ({"includes": {"minKernel": "4.8"}}, (), (4, 7), False),
        ({"includes": {"minKernel": "4.8"}}, (), (4, 8), True),
        ({"includes": {"minKernel": "4.8"}}, (), (4, 10), True),
        ({"excludes": {"minKernel": "4.8"}}, (), (4, 8), False),
        ({"includes": {}, "excludes": None, "comment": "none"}, (), (4, 8), True),
    ],
)
def test_rules_with_a_condition(
    condition: dict[str, Any], caps: tuple[str, ...], kernel: tuple[int, int], holds: bool
) -> None:
    expected = [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}] if holds else []
    assert rules(condition, caps=caps, kernel=kernel) == expected


def test_words_of_older_profiles() -> None:
    assert rules({"names": None, "name": "write", "errno": "ENOSYS"})[0] == {
        "names": ["write"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.ENOSYS,
    }
    document = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 1}
    assert convert(document, ())["defaultErrnoRet"] == errno.EPERM


@pytest.mark.parametrize(("machine", "own"), [("x86_64", "SCMP_ARCH_X86_64"), ("aarch64", "SCMP_ARCH_AARCH64")])
def test_podmans_profile_on_each_machine(machine: str, own: str) -> None:
    found = convert(PODMAN, ("CHOWN",), machine=machine)
    assert found["architectures"][0] == own
    seccomp = parse_linux(Fields({"seccomp": found})).seccomp
    assert seccomp
    assert len(compile_filter(seccomp, machine)) > 1000


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, "p.syscalls[0].names", "at least one"),
        ({"syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}, "p.syscalls[0].name", "one of"),
        ({"syscalls": [{"name": "a", "action": "ALLOW"}]}, "p.syscalls[0].action", "must be one of"),
        ({"syscalls": [{"name": "a", "action": "SCMP_ACT_ALLOW", "priority": 1}]}, "p.syscalls[0].priority", "known"),
        (
            {"syscalls": [{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"kernel": "4.8"}}]},
            "p.syscalls[0].includes.kernel",
            "not known",
        ),
        (
            {"syscalls": [{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}]},
            "p.syscalls[0].includes.minKernel",
            "version",
        ),
        # A rule that does not hold here is read too: elsewhere it would.
        (
            {"syscalls": [{"name": "a", "action": "DENY", "includes": {"arches": ["s390x"]}}]},
            "p.syscalls[0].action",
            "must be one of",
        ),
        ({"defaultErrno": "EWHAT"}, "p.defaultErrno", "name of an error"),
        ({"defaultErrno": "EPERM", "defaultErrnoRet": 38}, "p.defaultErrno", "which is 1"),
        ({"archMap": [{"architecture": "amd64"}]}, "p.archMap[0].architecture", "must be one of"),
        (
            {"archMap": [{"architecture": "SCMP_ARCH_ARM"}], "architectures": ["SCMP_ARCH_ARM"]},
            "p.archMap",
            "architectures",
        ),
        ({"rules": []}, "p.rules", "not known"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        convert({**ALLOW, **change}, (), where="p")
    assert caught.value.where == where
