"""A start told from its marks: pure functions, fed with what guests write and with what they should not."""

import pytest

from vmcontainer_kernel.sources import located
from vmcontainer_kernel.vm import timeline
from vmcontainer_kernel.vm.timeline import CALLS, PHASES, Mark, console_marks, start

BOOT = [
    (101.5, b"[    1.500000] vmcontainer: init\r\r"),  # as Xen passes it on
    (102.0, b"[    2.000000] vmcontainer: root\r"),
    (103.4, b"[    2.750000] vmcontainer: main\r"),
    (103.4, b"[    3.000000] vmcontainer: ready\r"),
]


def told(marks):
    return [(mark.name, round(mark.at_s, 3)) for mark in marks]


def test_the_kernels_stamps_become_moments():
    expected = [("kernel", 100.0), ("init", 101.5), ("root", 102.0), ("main", 102.75), ("ready", 103.0)]
    assert told(console_marks(BOOT)) == expected
    noise = [(1.0, b"[    0.500000] something else"), (2.0, b"")]
    assert told(console_marks([*noise, *BOOT, (200.0, BOOT[0][1])])) == expected
    assert told(console_marks(BOOT[2:]))[1:] == [("main", 103.15), ("ready", 103.4)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[    1.500000] vmcontainer: ini",
        b"[    1.500000] vmcontainer: init 2",
        b"vmcontainer: init",
        b"x[    1.500000] vmcontainer: init",
        b"[99999999999999999999.500000] vmcontainer: init",
        b"[    1.500000] vmcontainer: rootkit",
        b"\xff\x00" * 100,
    ],
)
def test_what_is_no_mark_is_none(text):
    assert console_marks([(5.0, text)]) == []


def test_a_guest_that_lies_breaks_nothing():
    lies = [(10.0, b"[    9.000000] vmcontainer: init"), (10.0, b"[    1.000000] vmcontainer: root")] * 50
    assert told(console_marks(lies)) == [("kernel", 1.0), ("init", 10.0)]
    marks = [Mark("nonsense", 1.0), Mark("qmp", 0.5), Mark("output", 3.0)]
    assert [phase["name"] for phase in start("vm", "clone", 1.0, marks)["phases"]] == ["output"]


def test_phases_follow_each_other_without_gaps():
    # The notebook may note the agent's answer after what came with it.
    marks = [Mark("spawn", 10.010), Mark("exec", 10.200), Mark("agent", 10.201), Mark("output", 10.250)]
    one = start("vm", "clone", 10.0, marks)
    assert [(phase["name"], phase["begin_ms"], phase["ms"]) for phase in one["phases"]] == [
        ("spawn", 0.0, 10.0),
        ("agent", 10.0, 190.0),
        ("exec", 200.0, 0.0),
        ("output", 200.0, 50.0),
    ]
    assert one["total_ms"] == 250.0
    assert (one["name"], one["way"], one["what"]) == ("vm", "clone", "machine")
    assert start("vm", "cold", 1.0, [])["phases"] == []


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_has_a_place_in_our_code(phase):
    file, _, function = CALLS[phase][1].partition(":")
    found = located({"file": f"vmcontainer_kernel/{file}", "line": 0, "function": function})
    assert found["text"] or not function
    assert found["text"].startswith(("def ", "async def ")) or not function


def test_a_mark_counts_once(monkeypatch):
    times = timeline.Times("clone", 5.0)
    for at_s in (6.0, 7.0):
        monkeypatch.setattr(timeline.time, "monotonic", lambda at_s=at_s: at_s)
        times.mark("begun")
        times.mark("qmp" if at_s == 7.0 else "spawn")
    assert times.since_s("begun") == [("begun", 0.0), ("spawn", 0.0), ("qmp", 1.0)]
    assert times.document("vm", BOOT)["total_ms"] == 2000.0
