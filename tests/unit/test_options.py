"""Options of the magics: what is right comes out typed, what is wrong is a UserError that names it."""

from __future__ import annotations

import argparse
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel import magics, options
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


@pytest.mark.parametrize("line", ["--image busybox", "--pids-limit 3", "--network none", "--on vm", "--without pid"])
def test_options_of_containers_are_none_of_machines(line: str) -> None:
    container(line)
    with pytest.raises(UserError):
        vm(line)


def test_a_network_that_is_none() -> None:
    with pytest.raises(UserError, match="bridge"):
        container("--network bridge")


@pytest.mark.parametrize("line", ["--cpus 0", "--cpus -1", "--cpus nan", "--cpus inf", "--pids-limit 1.5"])
def test_wrong_numbers(line: str) -> None:
    with pytest.raises(UserError, match=line.split(maxsplit=1)[0]):
        options.container_options(container(line))


def test_virtual_cpus_are_whole() -> None:
    assert options.vm_cpus(vm("--cpus 2")) == 2
    assert options.vm_cpus(vm("")) is None
    with pytest.raises(UserError, match="whole"):
        options.vm_cpus(vm("--cpus 0.5"))


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
