"""What proves the lessons is proved itself: it notices what it is there for."""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests import lessons, profiles
from tests.notebooks import CGROUPS
from tests.profiles import COURSE, Profile

ROOT = Path(__file__).parent.parent
NOBODY = (1 << 22) + 1  # no process has this number (PID_MAX_LIMIT of linux/threads.h)
# A shell whose child goes into a session of its own, as a notebook's supervisor does, and outlives it.
BUSY = "setsid -f {python} -c 'import time\nwhile time.process_time() < 0.5: pass'"


def spend(folder: Path, command: list[str]) -> dict[str, Any]:
    answer = folder / "answer"
    subprocess.run([sys.executable, "-m", "tests.spent", str(answer), *command], check=True, cwd=ROOT)
    return dict(json.loads(answer.read_text()))


def test_processor_time_of_all_descendants_counts(tmp_path: Path) -> None:
    told = spend(tmp_path, ["sh", "-c", BUSY.format(python=sys.executable) + "; exit 3"])
    assert 0.5 <= told["cpu_s"] < 2
    assert (told["status"], told["left"]) == (3, [])


def test_a_process_that_stays_is_named_and_ended(tmp_path: Path) -> None:
    [left] = spend(tmp_path, ["sh", "-c", "setsid -f sleep 1000"])["left"]
    pid = left.split()[1]
    assert left.split()[2:] == ["sleep", "1000"]
    assert not Path("/proc", pid).exists()


def test_who_ends_it_ends_all_that_it_has_started(tmp_path: Path) -> None:
    answer, ready = tmp_path / "answer", tmp_path / "ready"
    command = ["sh", "-c", f"setsid -f sleep 1000; echo > {ready}; sleep 1000"]
    with subprocess.Popen([sys.executable, "-m", "tests.spent", str(answer), *command], cwd=ROOT) as process:
        while not ready.exists():
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
    assert json.loads(answer.read_text())["status"] == -9


def write(path: Path, *cells: Any) -> None:
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    path.write_text(nbformat.writes(notebook))


def nbval(folder: Path, *cells: Any, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    write(folder / "lesson.ipynb", *cells)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "tests.lesson_plugin", "-p", "no:cacheprovider"]
    command += [f"--rootdir={folder}", f"--lesson-report={folder / 'report'}", str(folder / "lesson.ipynb")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, list(json.loads((folder / "report").read_text())["cells"])


def cell(source: str, tag: str = "", **stored: str) -> Any:
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in stored.items()]
    metadata = {"tags": [tag]} if tag else {}
    return nbformat.v4.new_code_cell(source, execution_count=1, metadata=metadata, outputs=outputs)


def test_an_error_that_shows_nothing_is_noticed(tmp_path: Path) -> None:
    raised = "from IPython.core.error import UsageError\nraise UsageError('no such option')"
    status, [good, bad] = nbval(tmp_path, cell("pass"), cell(raised, stderr="UsageError: no such option\n"))
    assert (status, good["told"]) == (1, "")
    assert "the kernel's reply says error, not ok" in bad["told"]
    assert bad["begins"] == "from IPython.core.error import UsageError" and bad["number"] == 2


def test_an_announced_error_that_does_not_come_is_noticed(tmp_path: Path) -> None:
    status, [one] = nbval(tmp_path, cell("pass", "raises-exception"))
    assert status == 1 and "the kernel's reply says ok, not error" in one["told"]


def test_only_warnings_about_this_computer_are_left_out(tmp_path: Path) -> None:
    say = "import sys; print({!r}, file=sys.stderr)"
    here = "[vm] warning: machines here have no control group (uid 1000)"
    status, cells = nbval(tmp_path, cell(say.format(here)), cell(say.format("[vm] warning: it is late")))
    assert status == 1
    assert [bool(one["told"]) for one in cells] == [False, True]


def test_a_slow_cell_is_noticed_however_busy_the_computer_is(tmp_path: Path) -> None:
    limited = "import tests.lesson_plugin\ntests.lesson_plugin.CELL_LIMIT_S = 0.3\n"
    (tmp_path / "conftest.py").write_text(limited)
    status, cells = nbval(tmp_path, cell("pass"), cell("import time; time.sleep(5)"))
    assert status == 1
    assert [("more than 0.3 s" in one["told"]) for one in cells] == [False, True]


# Each rule of the sanitizers, and what it must not make equal.
DIFFERENT = [
    ("process 1", "process 12"),
    ("process 1", "thread 1"),
    ("same digest: True", "same digest: False"),
    ("12 s", "13 s"),
    ("at most 24 processes", "at most 25 processes"),
    ("3 layers", "4 layers"),
    ("Linux 6.1.0-35-cloud-amd64", "Linux"),
    ("x86_64", "aarch64"),
    ("sha256:0123456789abcdef", "sha512:0123456789abcdef"),
]


def test_sanitizers_leave_evidence_as_it_is() -> None:
    rules = configparser.RawConfigParser()
    rules.read(COURSE / "sanitize.cfg")
    assert len(rules.sections()) <= 5

    def sanitized(text: str) -> str:
        for name in rules.sections():
            text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
        return text

    assert [pair for pair in DIFFERENT if sanitized(pair[0]) == sanitized(pair[1])] == []
    assert sanitized("process 7 in 1.2 s") == sanitized("process 80 in 33.44 s")


# -- a whole run


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """A place with a course of no lesson."""
    (tmp_path / "course" / "en").mkdir(parents=True)
    (tmp_path / "course" / "sanitize.cfg").write_bytes((COURSE / "sanitize.cfg").read_bytes())
    (tmp_path / "cache" / "disks").mkdir(parents=True)
    return Profile("here", tmp_path, os.geteuid(), cache=tmp_path / "cache")


def run(profile: Profile, *cells: Any) -> lessons.Outcome:
    write(profile.course / "en" / "lesson.ipynb", *cells)
    return lessons.run_lesson(profile, "lesson", "en")


def test_a_lesson_that_leaves_nothing_is_green(profile: Profile) -> None:
    outcome = run(profile, cell("print('process 12')", stdout="process 7\n"), cell("open('x', 'w').close()\n!rm x"))
    assert (outcome.verdict, outcome.problems, len(outcome.cells)) == ("green", [], 2), outcome.describe()


@pytest.mark.parametrize(
    ("source", "stored"),
    [("print('process 2')", "process 1\n"), ("print('more')", ""), ("pass", "less\n"), ("1 / 0", "")],
)
def test_another_output_is_noticed(profile: Profile, source: str, stored: str) -> None:
    outcome = run(profile, cell(source, **({"stdout": stored} if stored else {})))
    assert outcome.verdict == f"[1] {source}"


LEAVE = """
import os, pathlib, subprocess, tempfile
subprocess.Popen(["setsid", "sleep", "1000"])
pathlib.Path(os.environ["VMCONTAINER_RUN"], "socket").touch()
tempfile.mkstemp(suffix=".letter")
pathlib.Path("note").touch()
pathlib.Path("../sanitize.cfg").write_text("")
pathlib.Path(os.environ["VMCONTAINER_CACHE"], "disks", "data.qcow2").touch()
"""


def test_what_a_lesson_leaves_is_named(profile: Profile) -> None:
    outcome = run(profile, cell(LEAVE))
    [process, *files], course = outcome.problems[:3], outcome.problems[3:]
    assert process.startswith("left behind: process ") and process.endswith("sleep 1000 ")
    assert sorted(one.rpartition(".")[2].rpartition("/")[2] for one in files) == ["letter", "socket"]
    assert [one.removeprefix(f"left otherwise: file {profile.folder}/") for one in course] == [
        "cache/disks/data.qcow2",
        "course/en/note",
        "course/sanitize.cfg",
    ]
    assert outcome.verdict == process


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make control groups")
def test_a_control_group_that_stays_is_named(tmp_path: Path) -> None:
    tree = next(tree for tree in (CGROUPS, *CGROUPS.iterdir()) if (tree / "cgroup.procs").exists())
    group = tree / "vmcontainer" / f"s{NOBODY}-left"
    group.mkdir(parents=True)
    try:
        assert [*lessons._left_now([tmp_path], NOBODY)] == [f"control group {group}"]
        assert [*lessons._left_now([tmp_path], 1)] == []
    finally:
        group.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_that_stays_is_named(tmp_path: Path) -> None:
    look = "import sys, pathlib; from tests import lessons; print(*lessons._left_now([pathlib.Path(sys.argv[1])], 1))"
    script = f'mount -t tmpfs left "$1" && exec "{sys.executable}" -c "$2" "$1"'
    command = ["unshare", "-m", "--propagation", "slave", "sh", "-ec", script, "sh", str(tmp_path), look]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert told.startswith("mount ") and str(tmp_path) in told


def test_a_notebook_that_cannot_be_read_is_noticed(profile: Profile) -> None:
    (profile.course / "en" / "lesson.ipynb").write_text("{")
    outcome = lessons.run_lesson(profile, "lesson", "en")
    assert "after 0 cells" in outcome.verdict


def test_want_of_memory_is_noticed(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter((2, 5))
    monkeypatch.setattr(lessons, "_kills", lambda profile: next(kills))
    assert run(profile, cell("pass")).verdict == "3 processes were ended for want of memory"


def test_a_course_that_costs_too_much_is_noticed(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = lessons.Outcome("lesson", "en", "here", seconds=1.0, cpu_s=1801.0)
    monkeypatch.setattr(lessons, "run_lesson", lambda *_: outcome)
    spent_s: list[float] = []
    lessons.check_lesson(profile, "lesson", "en", spent_s, lambda *_: None)
    with pytest.raises(AssertionError, match="3602 CPU seconds for 2 lessons"):
        lessons.check_lesson(profile, "lesson", "en", spent_s, lambda *_: None)


def test_folders_of_runs_that_were_killed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(profiles, "_prepare", lambda profile: None)
    old, young, held = (tmp_path / f"vmcontainer-here-{name}" for name in ("old", "young", "held"))
    for folder in (old, young, held):
        folder.mkdir()
        (folder / profiles.LOCK).touch()
    for folder in (old, held):
        os.utime(folder / profiles.LOCK, (0, 0))
    with (held / profiles.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with profiles.entered("here") as profile:
            assert {*tmp_path.iterdir()} == {young, held, profile.folder}
    assert {*tmp_path.iterdir()} == {young, held}
