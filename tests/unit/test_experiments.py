"""The pure parts of compare and peel: what a place tells, uses and may do; switches; differences side by side."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from vmcontainer_widgets.words import words

from tests.patience import now_s
from vmcontainer_kernel.errors import CommandFailed, UserError
from vmcontainer_kernel.experiments import attempts, compare, peel
from vmcontainer_kernel.experiments.commands import Outcome, held_text
from vmcontainer_kernel.experiments.costs import Measured, costs
from vmcontainer_kernel.experiments.differences import compare_configurations, compare_lines, compare_steps, flatten
from vmcontainer_kernel.experiments.figure import figure
from vmcontainer_kernel.experiments.looking import FACTS, LOOK, read_facts
from vmcontainer_kernel.experiments.switches import LIMITS, SWITCHES, check, peeled, states
from vmcontainer_kernel.experiments.using import Use, add_up, cpu_seconds, use_of
from vmcontainer_kernel.live.finished import Finished
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.verbs import experiments

SHELLS = ["/bin/sh", "/bin/busybox sh"]


# -- what a place tells


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_tells_where_it_is(shell: str) -> None:
    done = subprocess.run([*shell.split(), "-c", LOOK], capture_output=True, text=True, check=True)
    facts = read_facts(done.stdout)
    assert done.stderr == ""
    assert [name for name in FACTS if facts[name] is None] == []
    assert facts["kernel"] == os.uname().release
    assert facts["host_name"] == os.uname().nodename
    assert facts["uid"] == os.geteuid()
    assert facts["mounts"] == len(Path("/proc/self/mountinfo").read_text().splitlines())
    assert facts["net_namespace"] == str(Path("/proc/self/ns/net").readlink())
    assert facts["links"].split()[0] == "lo"
    assert abs(facts["clock_s"] - time.time()) < 60


def test_facts_of_a_stranger_are_read_as_such() -> None:
    facts = read_facts("pid one\npid 7\npid 8\nkernel " + "x" * 5000 + "\n<script>\nuptime_s 1e999\nwhat ever\n")
    assert facts["pid"] == 7  # the first that makes sense
    assert len(facts["kernel"]) == 120
    assert "what" not in facts
    assert facts["host_name"] is None


# -- what it lets a program do


def run_attempts(target: attempts.Target, tmp_path: Path, *before: str) -> dict[str, str]:
    path = tmp_path / "try"
    path.write_bytes(attempts.program(os.uname().machine, target))
    path.chmod(0o755)
    tmp_path.chmod(0o755)
    done = subprocess.run([*before, str(path)], capture_output=True, check=True)
    found = attempts.results(os.uname().machine, done.stdout)
    assert found is not None
    return found


@pytest.fixture
def target(tmp_path: Path) -> attempts.Target:
    file = tmp_path / "file"
    file.write_text("a file of this test")
    file.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return attempts.Target(os.getpid(), str(file), port)


def test_attempts_are_made_by_the_kernel_and_change_nothing(target: attempts.Target, tmp_path: Path) -> None:
    name, before_s = os.uname().nodename, time.time()
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = attempts.Target(target.pid, target.path, server.getsockname()[1])
        found = run_attempts(there, tmp_path)
    assert found["file"] == "ok"
    assert found["signal"] == "ok"
    assert found["server"] == "ok"
    assert os.uname().nodename == name
    assert abs(time.time() - before_s) < 60
    assert run_attempts(target, tmp_path)["server"] == "ECONNREFUSED"  # nobody listens there any more


@pytest.mark.skipif(os.geteuid() != 0, reason="root: only root can give rights up")
def test_an_ordinary_user_may_do_less(target: attempts.Target, tmp_path: Path) -> None:
    found = run_attempts(target, tmp_path, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert found["file"] == "EACCES"
    assert [found[one] for one in ("signal", "memory", "clock", "host_name", "mount", "reboot")] == ["EPERM"] * 6
    rows = {row["name"]: row["can"] for row in attempts.read_results(found, same_numbers=True)}
    assert not any(rows[one] for one in ("file", "signal", "memory", "clock", "host_name", "mount", "reboot"))


def test_an_error_that_comes_after_the_right_was_asked_for_says_that_it_was_there() -> None:
    found = dict.fromkeys((one.name for one in attempts.ATTEMPTS), "EPERM")
    found |= {"host_name": "EINVAL", "module": "ENOEXEC", "memory": "EFAULT", "clock": "ok", "signal": "ok"}
    rows = {row["name"]: row["can"] for row in attempts.read_results(found, same_numbers=False)}
    assert {name for name, can in rows.items() if can} == {"host_name", "module", "clock"}
    rows = {row["name"]: row["can"] for row in attempts.read_results(found, same_numbers=True)}
    assert {"memory", "signal"} <= {name for name, can in rows.items() if can}


def test_a_program_that_was_cut_short_gives_no_result() -> None:
    assert attempts.results("x86_64", b"1234") is None


def test_words_come_into_the_registers_of_a_64_bit_arm() -> None:
    target = attempts.Target(0x1234, "/f", 80)
    code = attempts.program("aarch64", target, attempts.ATTEMPTS[1:2])[120:]
    words = [int.from_bytes(code[at : at + 4], "little") for at in range(0, 44, 4)]
    # movz x0, #0x1234; three movk of nothing; movz x1, #0; …; movz x8, #129 (kill); …
    assert words[:5] == [0xD2800000 | 0x1234 << 5, 0xF2A00000, 0xF2C00000, 0xF2E00000, 0xD2800001]
    assert words[8] == 0xD2800008 | 129 << 5


# -- what it uses


def test_use_is_added_up_over_a_process_and_those_below_it() -> None:
    script = "import subprocess, time; a = bytearray(8 << 20); subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-S", "-c", script]) as process:
        try:
            deadline_s = now_s() + 30
            while (use := use_of(process.pid)) is None or use.processes < 2 or use.private_bytes < 8 << 20:
                assert now_s() < deadline_s, use
                time.sleep(0.02)
            assert use.proportional_bytes >= use.private_bytes
            assert use.peak_bytes >= 8 << 20
            used_s = cpu_seconds(process.pid)
            assert used_s is not None
            assert used_s > 0
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            for child in children:
                os.kill(int(child), 9)
            process.kill()
    assert use_of(process.pid) is None
    assert cpu_seconds(process.pid) is None


def test_use_is_read_from_the_files_of_proc(tmp_path: Path) -> None:
    for pid, private in (("7", 100), ("8", 20)):
        folder = tmp_path / pid
        folder.mkdir()
        rows = f"Rss: 300 kB\nPss: 150 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: {private} kB\n"
        (folder / "smaps_rollup").write_text("55d0-7ffe ---p 00000000 00:00 0 [rollup]\n" + rows)
        (folder / "status").write_text(f"Name:\tx\nVmHWM:\t{400 + private} kB\n")
    assert add_up([7, 8, 9], str(tmp_path)) == Use(300 << 10, 120 << 10, 480 << 10, 500 << 10, 2)
    assert add_up([9], str(tmp_path)) is None


def test_costs_are_medians_and_what_was_not_seen_is_none() -> None:
    rounds = [{"started_ms": n, "first_byte_ms": None, "end_ms": n * 2} for n in (3.0, 1.0, 8.0)]
    found = costs(rounds, Measured(Outcome(0, "", "", 0, 1.0), None, None, None, None))
    assert found["started_ms"] == {"median": 3.0, "least": 1.0}
    assert found["end_ms"] == {"median": 6.0, "least": 2.0}
    assert found["first_byte_ms"] is None
    assert found["memory"] is None


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("text", "status"), [("echo hi", 0), ("false", 1), ("exit 3", 3), ("cat; exit 4", 4)])
def test_a_text_is_held_at_its_end(shell: str, text: str, status: int) -> None:
    words = [*shell.split(), "-c", held_text(text, "mark")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stderr.readline() == b"mark\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == status


def test_places_and_rounds_are_checked() -> None:
    assert [one.name for one in compare.Wish("true").kinds()] == [
        *("process", "container", "machine", "machine-container")
    ]
    assert [one.name for one in compare.Wish("true", only=("machine", "process")).kinds()] == ["process", "machine"]
    with pytest.raises(UserError, match="no place moon"):
        compare.Wish("true", only=("moon",)).kinds()
    with pytest.raises(UserError, match="1 to 20"):
        compare.Wish("true", rounds=0).kinds()


def test_a_comparison_becomes_a_figure_for_the_record() -> None:
    path = Path(__file__).parents[1] / "browser" / "samples" / "compare.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["places"].append({"name": "machine-container", "missing": "no reason"})
    drawn = figure(document).to_plotly_json()
    assert [trace["name"] for trace in drawn["data"]] == ["first byte", "private", "shared", "processor"]
    assert [list(trace["x"]) for trace in drawn["data"]] == [["process", "container", "machine"]] * 4
    assert drawn["data"][1]["y"][2] == document["places"][2]["memory"]["private_bytes"] / (1 << 20)


# -- peel: switches


def test_every_namespace_and_protection_has_a_switch() -> None:
    names = {one.name for one in SWITCHES}
    assert {"pid", "mnt", "uts", "ipc", "net", "cgroup", "user", "time"} == {
        one.name for one in SWITCHES if one.group == "namespace"
    }
    assert names >= {"caps", "seccomp", "no-new-privs", "masked-paths", "readonly-paths", "devices", "limits", "root"}
    for one in states(()):
        assert one["on"] == one["usual"]
        assert bool(one["locked"]) == (one["name"] in ("mnt", "user"))


def test_a_turned_switch_is_the_option_that_a_cell_has_for_it() -> None:
    options = {**LIMITS, "argv": ["true"], "without": ["ipc"], "cpus": 0.5}
    assert peeled(options, ("pid", "uts"))["without"] == ["ipc", "pid", "uts"]
    bare = peeled(options, ("limits", "read-only", "time"))
    assert bare.keys() == {"argv", "without", "read_only", "time_offsets"}
    assert bare["without"] == ["ipc"]
    assert options["memory_bytes"]  # what was given is left as it is


@pytest.mark.parametrize(
    ("turned", "on_host", "problem"),
    [
        (["wall"], False, "no switch wall"),
        (["mnt"], False, "mnt cannot be turned"),
        (["user"], False, "user cannot be turned"),
        (["root"], True, "without root the cell could change this computer"),
        (["pid"], True, "could change this computer"),
        (["caps"], True, "could change this computer"),
    ],
)
def test_a_switch_that_guards_what_must_not_fall_is_refused(turned: list[str], *, on_host: bool, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check(turned, on_host=on_host)


def test_harmless_ones_may_be_turned_on_the_host() -> None:
    check(["uts", "cgroup", "time", "no-new-privs", "read-only"], on_host=True)
    check([one.name for one in SWITCHES if not one.locked], on_host=False)


def test_mask_is_both_kinds_of_paths() -> None:
    assert peel.turned_by(["mask", "pid", "pid"]) == ("masked-paths", "readonly-paths", "pid")


# -- peel: differences


def test_lines_are_paired() -> None:
    rows = compare_lines("1\nweb\nsame\nonly here\n", "112\nhost\nsame\n")
    assert [(row["mark"], row["with"], row["without"]) for row in rows] == [
        ("changed", "1", "112"),
        ("changed", "web", "host"),
        ("same", "same", "same"),
        ("with", "only here", None),
    ]


def test_what_a_container_writes_is_bounded() -> None:
    rows = compare_lines("a" * 100_000, "\n" * 100_000)
    assert len(rows) <= 201
    assert max(len(row["with"] or "") for row in rows) < 300


def test_a_configuration_is_compared_field_by_field() -> None:
    left = {
        "hostname": "peel",
        "linux": {"namespaces": [{"type": "pid"}, {"type": "uts"}], "maskedPaths": ["/a", "/b"]},
        "mounts": [{"destination": "/proc", "type": "proc", "options": ["ro"]}],
    }
    right = {
        "hostname": "",
        "linux": {"namespaces": [{"type": "uts"}], "maskedPaths": [], "timeOffsets": {"boottime": {"secs": 1}}},
        "mounts": [{"destination": "/proc", "type": "proc", "options": ["ro"]}],
    }
    rows = {row["path"]: (row["mark"], row["with"], row["without"]) for row in compare_configurations(left, right)}
    assert rows == {
        "hostname": ("changed", "peel", ""),
        "linux.namespaces[pid]": ("with", "new", None),
        "linux.namespaces[uts]": ("same", "new", "new"),
        "linux.maskedPaths": ("changed", "/a /b", "none"),
        "linux.timeOffsets.boottime.secs": ("without", None, "1"),
        "mounts[/proc]": ("same", "proc ro", "proc ro"),
    }
    assert [*rows][:3] == ["hostname", "linux.namespaces[pid]", "linux.namespaces[uts]"]


def test_a_filter_is_a_row_for_each_rule() -> None:
    rule = {"names": ["clone", "fork"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}
    assert dict(flatten({"syscalls": [rule]})) == {
        "syscalls[0]": "names clone fork action SCMP_ACT_ALLOW args index 0 op SCMP_CMP_EQ"
    }


def test_steps_are_compared_by_what_they_call() -> None:
    kept = [{"step": "clone", "call": "clone(A|B)"}, {"step": "hostname", "call": "sethostname()"}]
    rows = compare_steps(kept, [{"step": "clone", "call": "clone(A)"}])
    assert [row["mark"] for row in rows] == ["changed", "with"]


# -- what people read of them, and how they are asked for


def test_the_manual_tells_every_attempt_and_switch() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    heads = [line.split(" | ")[0] for line in manual.splitlines() if line.startswith("| `")]
    told = {word.strip("`") for head in heads for word in head.removeprefix("| ").split()}
    places = {one.name for one in compare.PLACES}
    assert told == places | {one.name for one in attempts.ATTEMPTS} | {one.name for one in SWITCHES}


@pytest.mark.parametrize("kind", ["compare", "peel"])
def test_the_views_have_words_for_all_of_it(kind: str) -> None:
    for language in ("en", "ko"):
        said = words(language, kind)
        if kind == "compare":
            assert said["attempts"].keys() == {one.name for one in attempts.ATTEMPTS}
            assert said["facts"].keys() == FACTS.keys()
            assert said["places"].keys() == {one.name for one in compare.PLACES}
        else:
            assert said["walls"].keys() == said["wall_notes"].keys() == {one.name for one in SWITCHES}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "needs a verb"),
        ("comapre", "did you mean %%lab compare"),
        ("compare --rounds 21", "1 to 20"),
        ("compare --only moon", "no place moon"),
        ("peel --bg", "--bg is not for"),
        ("peel --name x", "--name is not for"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_before_anything_is_made(line: str, problem: str) -> None:
    session: Any = None
    with pytest.raises(UserError) as caught:
        experiments.lab_cell(session, line, "true", "en")
    assert problem in str(caught.value)


def test_a_comparison_is_a_document_for_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook: dict[str, Any] = {}
    found = {"kind": "compare", "places": []}
    monkeypatch.setattr(experiments, "_carry_out", lambda _session, _make: found)
    monkeypatch.setattr(experiments, "variables", lambda: notebook)
    monkeypatch.setattr(experiments, "show", lambda _view: None)
    experiments.lab_cell(Session(), "compare --document seen", "true", "en")
    assert notebook == {"seen": found}


def test_the_interrupt_button_ends_an_experiment_with_all_it_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    session, gone = Session(), threading.Event()

    def press(_self: object) -> None:
        raise KeyboardInterrupt

    async def make(_report: object) -> dict[str, Any]:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)  # what has been made takes a moment to end
            gone.set()
        return {}

    monkeypatch.setattr(experiments.Progress, "show", press)
    try:
        with pytest.raises(CommandFailed, match="interrupted"):
            experiments._carry_out(session, make)
        assert gone.is_set()
    finally:
        session.close()


# -- made again


def test_an_experiment_is_made_again_and_tells_how_far_it_is() -> None:
    async def go() -> None:
        finished, seen = Finished({"kind": "peel", "n": 1}), list[dict[str, Any]]()

        async def look() -> None:
            async for document in finished.documents(frozenset):
                seen.append(document)

        async def make(report: Any) -> dict[str, Any]:
            report("half", 0.5)
            await asyncio.sleep(0.05)
            with pytest.raises(UserError, match="runs already"):
                await finished.replace(make)
            return {"kind": "peel", "n": 2}

        async def fail(_report: Any) -> dict[str, Any]:
            raise UserError("no")

        looking = asyncio.ensure_future(look())
        await asyncio.sleep(0)
        await finished.replace(make)
        with pytest.raises(UserError, match="no"):
            await finished.replace(fail)
        await asyncio.sleep(0.05)
        looking.cancel()
        assert seen[0] == {"kind": "peel", "n": 1}
        assert {"kind": "peel", "n": 1, "running": "half"} in seen
        assert seen[-1] == finished.document == {"kind": "peel", "n": 2}  # a failure leaves it as it was

    asyncio.run(go())
