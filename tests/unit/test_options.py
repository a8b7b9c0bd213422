"""Options of the magics: what is right comes out typed, what is wrong is a UserError that names it."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel import magics, options
from vmcontainer_kernel.cells import vm_start
from vmcontainer_kernel.container.config import make_config
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.options import parse, parse_size


def vm(line: str) -> argparse.Namespace:
    return parse(magics._CELLS["vm"], line)


def container(line: str) -> argparse.Namespace:
    return parse(magics._CELLS["container"], line)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64MB", 64 << 20),
        ("512KiB", 512 << 10),
        ("1g", 1 << 30),
        ("1.5g", 3 << 29),
        ("2t", 2 << 40),
        (" 7b ", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["12Q", "", "m", "-1m", "1 m", "0x10", "1e3", "1,5g", "٣m", "0", "0m", "1" * 400])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_size(text)
    assert "--memory" in caught.value.where


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        assert parse_size(text) > 0


@pytest.mark.parametrize(
    "line",
    [
        "--no-such",
        "a b",
        "--memory",
        "--memory 12Q",
        "--timeout 0",
        "--timeout -1",
        "--timeout nan",
        "--timeout soon",
        "--env A",
        "--env =x",
        "--proc p",
        "a --name b",
        "../up",
        "a/b",
        "-x",
        "'unclosed",
        "x" * 64,
        "--out 1x",
        "--out a.b",
        "--err class",
        "--bg --proc a-b",
        "--bg --out text",
        "--bg --err text",
        "--bg --timeout 3",
    ],
)
def test_wrong_lines_are_user_errors(line: str) -> None:
    for read in (vm, container):
        with pytest.raises(UserError) as caught:
            read(line)
        assert caught.value.message


def test_an_unknown_option_says_where_the_right_ones_are() -> None:
    with pytest.raises(UserError, match="--memroy") as caught:
        vm("--memroy 64m")
    assert caught.value.hint == "%%vm? lists the options"


@pytest.mark.parametrize("line", ["--image busybox", "--pids-limit 3", "--network-alias a", "--on vm", "--without pid"])
def test_options_of_containers_are_none_of_machines(line: str) -> None:
    container(line)
    with pytest.raises(UserError):
        vm(line)


@pytest.mark.parametrize("line", ["--cpus 0", "--cpus -1", "--cpus nan", "--cpus inf", "--pids-limit 1.5"])
def test_wrong_numbers(line: str) -> None:
    with pytest.raises(UserError, match=line.split(maxsplit=1)[0]):
        options.container_options(container(line))


def test_virtual_cpus_are_whole() -> None:
    assert options.vm_wish(vm("--cpus 2")).cpus == 2
    assert options.vm_wish(vm("")).cpus is None
    with pytest.raises(UserError, match="whole"):
        options.vm_wish(vm("--cpus 0.5"))


def test_a_full_line_comes_out_typed() -> None:
    found = container(
        "web --memory 64m --cpus 0.5 --pids-limit 9 --image busybox -e A=1 -e B='x y' -u 1000:1000 -w /tmp -h inner "
        "--without pid,net --cap-add NET_RAW --read-only --network host --timeout 2.5 --out text"
    )
    assert (found.name, found.timeout_s, found.out) == ("web", 2.5, "text")
    assert options.container_options(found) == {
        "image": "busybox",
        "memory_bytes": 64 << 20,
        "cpus": 0.5,
        "pids_limit": 9,
        "hostname": "inner",
        "network": "host",
        "read_only": True,
        "cap_add": ["NET_RAW"],
        "without": ["pid", "net"],
    }
    assert options.process_options(found) == {"env": {"A": "1", "B": "x y"}, "workdir": "/tmp", "user": "1000:1000"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--memory-swap -1", {"memory_swap_bytes": -1}),
        (
            "--memory-swap 1g --memory-reservation 32m",
            {"memory_swap_bytes": 1 << 30, "memory_reservation_bytes": 32 << 20},
        ),
        ("-c 512 --cpuset-cpus 0-1", {"cpu_shares": 512, "cpuset_cpus": "0-1"}),
        ("--device-read-bps /dev/vda:1mb", {"device_read_bps": ["/dev/vda:1048576"]}),
        ("--device-write-iops /dev/vda:7", {"device_write_iops": ["/dev/vda:7"]}),
        ("-v data:/data:ro -v /etc:/etc2", {"volumes": ["data:/data:ro", "/etc:/etc2"]}),
        ("--mount type=bind,src=/etc,dst=/x,readonly", {"volumes": ["/etc:/x:ro"]}),
        ("--mount type=tmpfs,target=/x,tmpfs-size=1m", {"tmpfs": ["/x:size=1048576"]}),
        ("--mount source=data,target=/x", {"volumes": ["data:/x"]}),
        ("--tmpfs /run:size=1m", {"tmpfs": ["/run:size=1m"]}),
        ("--shm-size 1m --read-only", {"shm_size_bytes": 1 << 20, "read_only": True}),
        ("--entrypoint 'sh -c'", {"entrypoint": ["sh", "-c"]}),
        ("--security-opt seccomp=unconfined", {"security": ["seccomp=unconfined"]}),
        ("--ulimit nofile=64:128 --sysctl net.a=1", {"ulimits": ["nofile=64:128"], "sysctls": ["net.a=1"]}),
        ("--oom-score-adj -500", {"oom_score_adj": -500}),
        ("--pid container:web --ipc host", {"pid": "container:web", "ipc": "host"}),
        ("--restart on-failure:3 --stop-timeout 0", {"restart": "on-failure:3", "stop_timeout_s": 0.0}),
        ("-p 8080:80 --add-host db:10.0.0.1", {"publish": ["8080:80"], "add_host": ["db:10.0.0.1"]}),
        ("-l a=b --group-add 7", {"labels": ["a=b"], "group_add": ["7"]}),
        ("--no-healthcheck", {"health": {"argv": ["NONE"]}}),
        (
            "--health-cmd 'test -e /x' --health-interval 1m30s --health-timeout 500ms --health-retries 2",
            {
                "health": {
                    "argv": ["/bin/sh", "-c", "test -e /x"],
                    "interval_s": 90.0,
                    "timeout_s": 0.5,
                    "retries": 2,
                }
            },
        ),
    ],
)
def test_the_words_of_docker(line: str, expected: dict[str, object]) -> None:
    found = options.container_options(container(line))
    assert found == expected
    Options.from_json(found)  # and the engine understands them


@pytest.mark.parametrize(
    "line",
    [
        "--health-cmd x --health-interval soon",
        "--mount type=magic,target=/x",
        "--mount target=",
        "--device-read-bps /dev/vda:x",
        "--stop-timeout -1",
        "--oom-score-adj x",
        "--shm-size 0",
        "--env-file /no/such",
        "--security-opt seccomp=/no/such",
    ],
)
def test_wrong_words_of_docker(line: str) -> None:
    with pytest.raises(UserError) as caught:
        options.container_options(container(line))
    assert line.split()[-2] in caught.value.message + caught.value.where


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("{", "no JSON"),
        ('{"defaultAction": "DENY"}', "defaultAction must be one of"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}', r"syscalls\[0\].names must"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}', "sycalls is not known"),
    ],
)
def test_a_profile_that_is_wrong(tmp_path: Path, profile: str, words: str) -> None:
    (tmp_path / "profile.json").write_text(profile)
    with pytest.raises(UserError, match=f"profile.json: {words}"):
        options.container_options(container(f"--security-opt seccomp={tmp_path}/profile.json"))


def test_a_profile_takes_the_default_ones_place(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_LOG", "syscalls": [], "comment": "mine"}')
    found = options.container_options(container(f"--security-opt seccomp={tmp_path}/profile.json"))
    config = make_config(Options.from_json({**found, "argv": ["true"]}), {})
    assert config["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_LOG", "syscalls": []}


def test_variables_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("# comment\nA=1\nB=x y\n\n")
    found = container(f"--env-file {tmp_path / 'file'} -e B=2")
    assert found.env == {"A": "1", "B": "2"}


def test_what_runs_detached_is_not_waited_for() -> None:
    for line in ("--detach --bg", "--detach --out x", "--detach --timeout 3"):
        with pytest.raises(UserError, match="--detach"):
            container(line)


def test_only_what_was_given_is_passed_on() -> None:
    found = container("")
    assert options.container_options(found) == options.process_options(found) == {}


@pytest.mark.parametrize("name", ["vm", "container"])
def test_help_lists_every_option(name: str) -> None:
    magic = magics._CELLS[name]
    flags = [flag for action in magic.parser._actions for flag in action.option_strings]
    assert len(flags) > 12
    assert [flag for flag in flags if flag not in magic.__doc__] == []
    assert f"%%{name}" in magic.__doc__
    assert "interrupt" in magics.vm_cell.__doc__


@pytest.mark.parametrize("name", ["vm", "container"])
def test_asking_for_help_as_an_option_points_to_it(name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(magics._CELLS[name], "--help")
    assert caught.value.hint == f"%%{name}? lists the options"


@pytest.mark.usefixtures("private_folders")
@pytest.mark.parametrize("line", ["x --disk nosuch:/x", "x --disk nosuch:/x:ro", "x -p 99999:1", "x -p ::::"])
def test_what_is_wrong_is_told_before_a_machine_is_made_for_it(line: str) -> None:
    none: Any = None
    with pytest.raises(UserError):
        vm_start(none, vm(line), "true", none)
