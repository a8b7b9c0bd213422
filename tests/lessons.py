"""Run lessons as a learner's notebook does, compare all they show with what is stored, and tell what they cost.

    python -m tests.lessons                          all lessons in English, here and as on Binder
    python -m tests.lessons 01-welcome --profile binder --language ko

Each notebook is run by nbval in a profile (`tests.profiles`), with a plugin of ours that reads each reply
(`tests.lesson_plugin`), below a process that sees the end of everything it starts (`tests.spent`). A lesson is green if
every output is the stored one (or its cell says why it is not compared), every reply is what the cell announces, no
cell took too long, and nothing was left: no process, mount, control group or file.

CPU seconds are those of all processes that the lesson started: notebook, supervisor, machines, containers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import profiles
from tests.notebooks import CGROUPS, files
from tests.profiles import COURSE, Profile
from tests.spent import GONE_WITHIN_S
from vmcontainer_kernel.container.images.store import REF_NAME, Store

sys.path.insert(0, str(COURSE))

import build

__all__ = ["COURSE_LIMIT_S", "HEAD", "LESSONS", "Outcome", "check_lesson", "in_columns", "run_lesson", "table"]

LESSONS = build.lessons()
COURSE_LIMIT_S = 3600.0
CELL_TIMEOUT_S = 240  # for what hangs: the plugin sees to what is slow
LESSON_LIMIT_S = 900.0
KEPT = ("disks", "states", "volumes")


@dataclass(frozen=True)
class Outcome:
    """What became of one run of one lesson."""

    lesson: str
    language: str
    profile: str
    seconds: float
    cpu_s: float
    cells: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    told: str = ""

    @property
    def verdict(self) -> str:
        """Return "green" or the first thing that is wrong, in short."""
        for cell in self.cells:
            if cell["told"]:
                return f"[{cell['number']}] {cell['begins'][:40]}"
        return self.problems[0].partition("\n")[0] if self.problems else "green"

    @property
    def slowest(self) -> dict[str, Any]:
        """Return the cell that took longest."""
        return max(self.cells, key=lambda cell: cell.get("seconds", 0.0), default={"number": 0, "seconds": 0.0})

    @property
    def row(self) -> tuple[str, ...]:
        """Return its line of the table."""
        slowest = f"[{self.slowest['number']}] {self.slowest.get('seconds', 0.0):.1f} s"
        numbers = str(len(self.cells)), f"{self.seconds:.1f}", f"{self.cpu_s:.1f}", slowest
        return self.lesson, self.language, self.profile, self.verdict, *numbers

    def describe(self) -> str:
        """Return all that is wrong, at length."""
        cells = [cell["told"] for cell in self.cells if cell["told"]]
        return "\n".join([*cells, *self.problems, *([] if cells else [self.told[-4000:]])])


def run_lesson(profile: Profile, lesson: str, language: str) -> Outcome:
    """Run one lesson's notebook of one language in a profile."""
    run = profile.run_folder(f"{lesson}-{language}")
    report, answer = run.with_suffix(".report"), run.with_suffix(".answer")
    report.touch()
    report.chmod(0o666)
    temporary = profile.run_folder(f"{lesson}-{language}-tmp")
    own = {"VMCONTAINER_RUN": str(run), "TMPDIR": str(temporary)}
    before, kills_before = _state_of(profile), _kills(profile)
    with profile.start(_command(profile, lesson, language, report, answer), **own, **build.QUIET) as process:
        try:
            told, _ = process.communicate(timeout=LESSON_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            told, _ = process.communicate()
        except BaseException:
            process.terminate()  # it ends all that it has started
            raise
    spent, seen = json.loads(answer.read_text()), json.loads(report.read_text() or "{}")
    cells = seen.get("cells", [])
    problems = [f"left behind: {one}" for one in (*spent["left"], *_left([run, temporary], seen.get("kernel", 0)))]
    problems += [f"left otherwise: {name}" for name, _ in sorted(dict(before ^ _state_of(profile)).items())]
    if kills := _kills(profile) - kills_before:
        problems.append(f"{kills} processes were ended for want of memory")
    if spent["status"] or not cells:
        problems.append(f"nbval ended with status {spent['status']} after {len(cells)} cells")
    return Outcome(lesson, language, profile.name, spent["seconds"], spent["cpu_s"], cells, problems, told)


def check_lesson(
    profile: Profile, lesson: str, language: str, spent_s: list[float], record: Callable[[str, object], None]
) -> None:
    """Run a lesson as a test: it is green, and the lessons up to here have not used up the course's CPU hour."""
    outcome = run_lesson(profile, lesson, language)
    record("lesson", outcome.row)
    spent_s.append(outcome.cpu_s)
    assert outcome.verdict == "green", outcome.describe()
    assert sum(spent_s) < COURSE_LIMIT_S, f"{sum(spent_s):.0f} CPU seconds for {len(spent_s)} lessons"


def _kills(profile: Profile) -> int:
    return profile.group.events()["oom_kills"] if profile.group else 0


def _command(profile: Profile, lesson: str, language: str, report: Path, answer: Path) -> list[str]:
    nbval = ["--nbval", f"--nbval-sanitize-with={profile.course / 'sanitize.cfg'}"]
    nbval += [f"--nbval-cell-timeout={CELL_TIMEOUT_S}", "-p", "tests.lesson_plugin", f"--lesson-report={report}"]
    quiet = ["-x", "-q", "--color=no", "-p", "no:cacheprovider", f"--rootdir={profile.course}"]
    notebook = profile.course / language / f"{lesson}.ipynb"
    pytest = [sys.executable, "-m", "pytest", *quiet, *nbval, str(notebook)]
    return [sys.executable, "-m", "tests.spent", str(answer), *profile.within, *pytest]


def _state_of(profile: Profile) -> set[tuple[str, str]]:
    """Return what a lesson should leave as it was: the course's files, and what the learner keeps by a name.

    That only in a cache of the profile's own: others may use the user's at the same time.
    """
    course = [path for path in map(Path, files(profile.course)) if path.is_file()]
    state = {(f"file {path}", hashlib.sha256(path.read_bytes()).hexdigest()) for path in course}
    if profile.cache:
        kept = [Path(path) for folder in KEPT for path in files(profile.cache / folder)]
        state |= {(f"file {path}", "") for path in kept if path.is_file() and path.name != "lock"}
        images = [image.get("annotations") or {} for image in Store(profile.cache / "images").index()]
        state |= {(f"image {image[REF_NAME]}", "") for image in images if REF_NAME in image}
    return state


def _left(folders: Sequence[Path], kernel: int) -> list[str]:
    """Name the files, mounts and control groups that a lesson has left, when there has been time to tidy up."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while (left := [*_left_now(folders, kernel)]) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return left


def _left_now(folders: Sequence[Path], kernel: int) -> Iterator[str]:
    yield from (f"file {path}" for folder in folders for path in files(folder))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    yield from (f"mount {line}" for line in mounts if any(str(folder) in line for folder in folders))
    # A session's groups are named after its notebook's process.
    session = f"vmcontainer/s{kernel}-*"
    yield from (f"control group {path}" for path in (*CGROUPS.glob(session), *CGROUPS.glob(f"*/{session}")))


HEAD = ("lesson", "language", "profile", "result", "cells", "s", "CPU s", "slowest cell")


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a table of runs, and the sums of each profile."""
    runs = list(outcomes)
    rows = [HEAD, *(one.row for one in runs)]
    for profile in dict.fromkeys(one.profile for one in runs):
        own = [one for one in runs if one.profile == profile]
        sums = f"{sum(one.seconds for one in own):.1f}", f"{sum(one.cpu_s for one in own):.1f}"
        rows.append(("sum", "", profile, f"{sum(_is_green(one) for one in own)} of {len(own)} green", "", *sums, ""))
    return "\n".join(in_columns(rows))


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_green(one: Outcome) -> bool:
    return one.verdict == "green"


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for; return 0 when all is green and no pass through the course costs too much."""
    parser = argparse.ArgumentParser(prog="python -m tests.lessons", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lesson", nargs="*", help="lessons, such as 01-welcome (default: all)")
    parser.add_argument("--profile", choices=profiles.NAMES, action="append", help="default: both")
    parser.add_argument("--language", choices=build.LANGUAGES, default=build.SOURCE_LANGUAGE)
    asked = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as timeout(1) asks: not without tidying up
    if unknown := set(asked.lesson) - set(LESSONS):
        parser.error(f"no such lesson: {', '.join(sorted(unknown))}; there are {', '.join(LESSONS)}")
    outcomes: list[Outcome] = []
    for name in asked.profile or profiles.NAMES:
        with profiles.entered(name) as profile:
            for lesson in asked.lesson or LESSONS:
                outcomes.append(run_lesson(profile, lesson, asked.language))
                print(*outcomes[-1].row, sep="  ", file=sys.stderr)
    for one in outcomes:
        if not _is_green(one):
            print(f"\n{one.lesson} {one.language} {one.profile}\n{one.describe()}")
    print(f"\n{table(outcomes)}")
    spent = [sum(one.cpu_s for one in outcomes if one.profile == name) for name in profiles.NAMES]
    print(f"a pass through the course may cost {COURSE_LIMIT_S:.0f} CPU seconds")
    return 0 if all(map(_is_green, outcomes)) and max(spent) < COURSE_LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
