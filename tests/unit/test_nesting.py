"""Boxes in boxes, and a PID at every level: a pure function of the views."""

from __future__ import annotations

from typing import Any

import pytest

from vmcontainer_kernel.nesting import nesting


def process(
    pid: int, *inner: int, comm: str = "sh", role: str = "process", container: str | None = None
) -> dict[str, Any]:
    return {
        "pid": pid,
        "pids": [pid, *inner],
        "comm": comm,
        "command": f"{comm} -c …",
        "role": role,
        "container": container,
        "namespaces": {"pid": 2 if inner else 1, "mnt": 3},
    }


def kernel(node: str, *processes: dict[str, Any], containers: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "kind": "kernel",
        "time_s": 5.0,
        "node": node,
        "kernel": {"release": "6.1", "boot_id": "b"},
        "processes": [process(40, comm="python3", role="agent"), *processes],
        "containers": list(containers),
    }


WEB = {"name": "web", "status": "running", "pid": 310, "image": "busybox"}
QEMU = {"status": "running", "qemu": {"pid": 41}, "vcpus": [{"index": 0, "thread_id": 44}]}
HOST = kernel("host", process(41, comm="qemu", role="machine"), process(50, comm="bash"))
GUEST = kernel("vm", process(310, 1, role="container", container="web"), containers=(WEB,))


def levels(one: dict[str, Any]) -> list[tuple[str, int | None, str]]:
    return [(level["box"], level["pid"], level["why"]) for level in one["levels"]]


def test_a_process_of_a_guest_has_no_pid_on_the_host() -> None:
    box = nesting(HOST, {"vm": QEMU}, {"vm": GUEST})["box"]
    (machine,) = box["boxes"]
    (inner,) = machine["boxes"]
    (web,) = inner["boxes"]
    assert [one["kind"] for one in (box, machine, inner, web)] == ["kernel", "machine", "kernel", "container"]
    assert (machine["pid"], machine["threads"]) == (41, [{"index": 0, "thread_id": 44}])
    (sh,) = web["processes"]
    assert levels(sh) == [("host", None, "machine"), ("kernel:vm", 310, ""), ("kernel:vm/web", 1, "")]
    assert sh["levels"][0]["qemu"] == 41
    assert web["namespaces"]["mnt"] == 3
    (agent,) = inner["processes"]
    assert levels(agent) == [("host", None, "machine"), ("kernel:vm", 40, "")]


def test_qemu_is_a_box_and_no_process_beside_it() -> None:
    box = nesting(HOST, {"vm": QEMU}, {"vm": "it is paused"})["box"]
    assert [one["name"] for one in box["processes"]] == ["python3", "bash"]
    assert (box["boxes"][0]["missing"], box["boxes"][0]["boxes"]) == ("it is paused", [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (process(310, 1, 7, container="web"), [("host", 310, ""), ("host/web", 1, ""), ("host/web", 7, "deeper")]),
        (process(310, container="web"), [("host", 310, ""), ("host/web", 310, "shared")]),
        (
            process(310, container="web") | {"namespaces": {"pid": None}},
            [("host", 310, ""), ("host/web", None, "unknown")],
        ),
    ],
)
def test_levels_of_a_container_on_the_host(row: dict[str, Any], expected: list) -> None:
    box = nesting(kernel("host", row, containers=(WEB,)), {}, {})["box"]
    assert levels(box["boxes"][0]["processes"][0]) == expected


def test_a_container_that_has_ended_is_no_box() -> None:
    assert nesting(kernel("host", containers=(WEB | {"status": "stopped", "pid": None},)), {}, {})["box"]["boxes"] == []


def test_of_two_thousand_processes_the_first_are_told_and_all_counted() -> None:
    many = [process(1000 + number, number, container="web") for number in range(2000)]
    (web,) = nesting(kernel("host", *many, containers=(WEB,)), {}, {})["box"]["boxes"]
    assert (len(web["processes"]), web["processes_total"]) == (60, 2000)


@pytest.mark.parametrize(
    "odd", [None, 5, "x", [1], {"a": []}, [{"pids": None}], [{"pids": ["1"] * 99, "container": 5}]]
)
@pytest.mark.parametrize("part", ["processes", "containers", "kernel"])
def test_a_guest_that_says_nonsense_breaks_nothing(odd: object, part: str) -> None:
    document = nesting(HOST, {"vm": QEMU}, {"vm": GUEST | {part: odd}})
    assert document["box"]["boxes"][0]["boxes"][0]["kind"] == "kernel"
