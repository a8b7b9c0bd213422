"""Starts of containers and commands told from marks and steps: pure functions."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import pytest

from vmcontainer_kernel import starts, timelines
from vmcontainer_kernel.container import process
from vmcontainer_kernel.container.reports import read_report
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import explained as explained_steps
from vmcontainer_kernel.errors import NotFound
from vmcontainer_kernel.sources import located
from vmcontainer_kernel.starts import Starts
from vmcontainer_kernel.timelines import PARENT, calls_of, explained, read_steps, rows, start_of


def ns(ms: float, base_s: float = 100.0) -> int:
    return round((base_s * 1e3 + ms) * 1e6)


def event(base_s: float = 100.0, *, ahead_ms: float = 0.0) -> dict:
    """Return what an agent tells of a start that took 5 ms; `ahead_ms`: how much further the process's own clock is."""
    marks = [["created", 1.0], ["grouped", 1.5], ["cloned", 2.0], ["received", 0.5], ["launched", 2.5], ["executed", 5]]
    return {
        "event": "started",
        "way": "ready",
        "marks": [[name, ns(ms, base_s)] for name, ms in marks],
        "steps": [["private", 0.5], ["overlay", 1.0]],
        "begins": [[0, ns(2.5 + ahead_ms, base_s)]],
    }


def told(start: dict) -> list[tuple[str, str, float, float]]:
    return [(one["by"], one["name"], one["begin_ms"], one["ms"]) for one in start["phases"]]


WHOLE = [
    ("notebook", "request", 0.0, 0.5),
    ("agent", "created", 0.5, 0.5),
    ("agent", "grouped", 1.0, 0.5),
    ("agent", "cloned", 1.5, 0.5),
    ("agent", "launched", 2.0, 0.5),
    ("agent", "executed", 2.5, 2.5),
    ("notebook", "output", 5.0, 1.0),
    ("process", "private", 2.5, 0.5),
    ("process", "overlay", 3.0, 1.0),
    ("process", "exec", 4.0, 1.0),
]


def test_a_containers_start_on_the_host_has_one_clock() -> None:
    start = start_of("container", "web", "host", 100.0, event(), 100.0055, 100.006)
    assert told(start) == WHOLE
    assert (start["total_ms"], start["way"], start["earlier"]) == (6.0, "ready", [])
    assert {one["source"] for one in start["phases"]} == {
        "notebook's clock",
        "agent's clock",
        "the new process's clock",
    }


def test_a_guests_clock_is_laid_where_the_notebook_heard_of_it() -> None:
    start = start_of("container", "web", "vm", 100.0, event(7.0), 100.005, 100.006)
    assert told(start) == WHOLE


@pytest.mark.parametrize("ahead_ms", [3_600_000.0, -50_000.0])
def test_a_process_in_a_time_namespace_has_a_clock_of_its_own(ahead_ms: float) -> None:
    start = start_of("container", "web", "host", 100.0, event(ahead_ms=ahead_ms), 100.005, None)
    own = [one for one in told(start) if one[0] == "process"]
    assert own == [
        ("process", "private", 3.5, 0.5),
        ("process", "overlay", 4.0, 1.0),
        ("process", "exec", 5.0, 0.0),
    ]


def test_what_was_made_ahead_is_a_start_of_its_own() -> None:
    made = event()
    made["marks"] += [["begun", ns(-1000)], ["cloned", ns(-998)]]
    made["steps"] = [["private", 0.5], ["overlay", 1.0], ["cwd", 0.25]]
    made["begins"] = [[0, ns(-999)], [2, ns(3)]]
    start = start_of("container", "", "host", 100.0, made, 100.005, 100.006)
    assert [one[1:] for one in told(start) if one[0] == "process"] == [("cwd", 3.0, 0.25), ("exec", 3.25, 1.75)]
    (earlier,) = start["earlier"]
    assert told(earlier) == [
        ("agent", "cloned", 0.0, 2.0),
        ("process", "private", 1.0, 0.5),
        ("process", "overlay", 1.5, 1.0),
    ]
    assert (earlier["way"], earlier["total_ms"]) == ("made ahead", 2.5)


def test_a_command_has_marks_only() -> None:
    plain = {"event": "started", "marks": [["received", ns(1)], ["launched", ns(2)]]}
    start = start_of("exec", "vm", "host", 100.0, plain, 100.0025, 100.003)
    assert told(start) == [("notebook", "request", 0, 1), ("agent", "launched", 1, 1), ("notebook", "output", 2, 1)]


def test_an_event_that_says_nothing_breaks_nothing() -> None:
    start = start_of("exec", "", "vm", 100.0, {"event": "started"}, 100.002, None)
    assert told(start) == [("notebook", "request", 0.0, 0.0)]
    assert start["total_ms"] == 2.0


NONSENSE = [
    None,
    5,
    "x",
    [],
    [[]],
    [["a", "b"]],
    [["a", 1e300]],
    [[[], float("nan")]],
    [["a", -5]],
    [[10**30, 1]] * 999,
    [[0, 1], [200, 1]] * 99,
]


@pytest.mark.parametrize("odd", NONSENSE)
@pytest.mark.parametrize("part", ["marks", "steps", "begins", "way"])
def test_a_guest_that_says_nonsense_breaks_nothing(odd: object, part: str) -> None:
    start = start_of("container", "web", "vm", 100.0, event() | {part: odd}, 100.005, 100.006)
    rows(explained(start, ()))
    assert len(start["phases"]) < 700
    assert len(start["way"]) <= 300


@pytest.mark.parametrize(
    "odd", [None, {}, {"steps": None}, {"steps": [None, {}, {"step": 5}]}, {"steps": [{"step": "a", "call": "b"}] * 9}]
)
def test_steps_that_are_none_are_left_out(odd: dict | None) -> None:
    assert read_steps(odd or {}) == []
    good = {"step": "overlay", "call": "mount()", "why": "w", "source": "s", "file": "f", "line": "x", "function": "g"}
    assert read_steps({"steps": [good, None]}) == [good | {"line": 0}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("setsid(); keyctl(JOIN, NULL)", [("setsid", []), ("keyctl", ["JOIN", "NULL"])]),
        ('mount("a;b", "/x, y", NULL)', [("mount", ['"a;b"', '"/x, y"', "NULL"])]),
        ("execve('sh', ['sh', '-c', 'a; b'])", [("execve", ["'sh'", "['sh', '-c', 'a; b']"])]),
        ("mount /dev/null over /proc/kcore", [("mount /dev/null over /proc/kcore", [])]),
        ("", []),
        ("close_range(…, ~0", [("close_range(…, ~0", [])]),
    ],
)
def test_calls_are_read_as_they_are_told(text: str, expected: list) -> None:
    assert [(one["call"], one["arguments"]) for one in calls_of(text)] == expected


def test_a_phase_is_the_next_step_of_its_name() -> None:
    start = start_of("container", "web", "host", 100.0, event(), 100.005, None)
    steps = [
        {"step": "clone", "call": "clone(CLONE_NEWNS|SIGCHLD)", "why": "w", "source": "clone(2)"},
        {"step": "group", "call": "mkdir(a)", "why": "g", "source": "cgroups(7)"},
        {"step": "pids.max", "call": 'write("pids.max", "5")', "why": "p", "source": "cgroups(7)"},
        {"step": "private", "call": 'mount(NULL, "/")', "why": "first", "source": "mount(2)", "file": "f", "line": 3},
        {"step": "overlay", "call": "mount()", "why": "second", "source": "mount(2)"},
        {"step": "exec", "call": "execve('sh')", "why": "third", "source": "execve(2)"},
    ]
    found = {one["name"]: one for one in explained(start, steps)["phases"]}
    assert [one["call"] for one in found["cloned"]["calls"]] == ["clone"]
    assert [one["call"] for one in found["grouped"]["calls"]] == ["mkdir", "write"]
    assert (found["private"]["why"], found["private"]["code"]["line"]) == ("first", 3)
    assert [found[name]["manual"] for name in ("overlay", "exec")] == ["mount(2)", "execve(2)"]
    assert "calls" not in found["launched"]
    assert all("calls" not in one for one in explained(start, ())["phases"])


@pytest.mark.parametrize("phase", PARENT)
def test_each_phase_of_the_parent_has_a_place_in_our_code(phase: str) -> None:
    file, _, function = PARENT[phase][1].partition(":")
    found = located({"file": f"vmcontainer_kernel/{file}", "line": 0, "function": function})
    assert found["text"].startswith(("def ", "async def ")), found


def test_a_step_is_found_on_the_line_that_makes_its_call() -> None:
    (step,) = [
        one for one in process.rights_steps(Process(("sh",)), user_namespace=False, tty=False) if one.name == "session"
    ]
    (told_,) = explained_steps(lambda: [step])
    calls = [one["call"] for one in calls_of(told_["call"])]
    found = located(told_, calls)
    lines, first = inspect.getsourcelines(process._session)
    assert lines[found["line"] - first].strip() == found["text"] == "os.setsid()"
    assert found["file"] == "vmcontainer_kernel/container/process.py"


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../pyproject.toml", "vmcontainer_kernel/../pyproject.toml", "", "x.py"]
)
def test_no_other_file_is_read(file: str) -> None:
    assert located({"file": file, "line": 1, "function": "f"})["text"] == ""


def test_for_people_the_bars_lie_on_one_axis() -> None:
    start = start_of("container", "web", "host", 100.0, event(), 100.0055, 100.006)
    bars = [row[-1] for row in rows(start, 12)]
    assert bars[0] == "█"
    assert bars[-1] == " " * 10 + "██"


def test_a_report_tells_when_each_row_of_steps_began() -> None:
    lines = [b'{"begin_ns": 5}', b'{"step": "a", "ms": 1.5}', b'{"begin_ns": 9}', b'{"ready": true}', b""]
    report = read_report(b"\n".join(lines))
    assert (report.steps, report.begins, report.complete) == ([("a", 1.5)], ((0, 5), (1, 9)), True)


# -- what a session remembers


def test_the_last_fifty_starts_are_known() -> None:
    known = Starts()
    for number in range(60):
        started = known.note("host", "container.run", {"name": f"c{number}"})
        assert started
        started.on_event(event(time.monotonic()))
    assert known.note("host", "container.logs", {"name": "web"}) is None
    assert [one["name"] for one in known.told()] == [f"c{number}" for number in range(10, 60)]


def test_a_start_that_failed_is_none() -> None:
    known = Starts()
    known.note("host", "exec", {})
    assert known.told() == []


def test_a_machine_is_known_once_and_told_anew() -> None:
    known = Starts()
    start = {
        "what": "machine",
        "name": "vm",
        "node": "host",
        "way": "clone",
        "total_ms": 1.0,
        "phases": [],
        "earlier": [],
    }
    asked_s = time.monotonic() - 5
    known.add_machine(start, asked_s)
    known.add_machine(start | {"total_ms": 2.0}, asked_s)
    assert [(one["number"], one["total_ms"]) for one in known.told()] == [(1, 2.0)]
    known.add_machine(start, asked_s + 3)
    assert [one["number"] for one in known.told()] == [1, 2]


async def no_node(name: str):
    raise NotFound("gone")


def test_of_a_node_that_is_gone_the_times_are_known_still() -> None:
    import asyncio

    known = Starts()
    started = known.note("vm", "container.run", {"name": "web"})
    assert started
    started.on_event(event())
    start = asyncio.run(known.explained(1, no_node))
    assert {one["name"] for one in start["phases"]} >= {"private", "overlay", "cloned"}
    with pytest.raises(NotFound, match="start 7"):
        asyncio.run(known.explained(7, no_node))


def test_the_places_of_a_machines_phases_are_lines_of_ours() -> None:
    start = {"what": "machine", "name": "vm", "node": "host", "way": "clone", "total_ms": 1.0, "earlier": []}
    phases = [
        {"name": name, "text": "", "by": "machine", "source": "QMP", "begin_ms": 0, "ms": 1}
        for name in ("qmp", "spawn")
    ]
    found = starts._explained_machine(start | {"phases": phases})
    code = found["phases"][0]["code"]
    line = (Path(timelines.__file__).parent.parent / code["file"]).read_text().splitlines()[code["line"] - 1]
    assert line.strip() == code["text"]
