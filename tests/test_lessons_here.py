"""Every lesson in English, run here under nbval; each reply, each cell's time and what is left behind are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lessons import COURSE_LIMIT_S, LESSONS, run_lesson
from tests.profiles import Profile, entered

CPU_S: list[float] = []


@pytest.fixture(scope="module")
def here() -> Iterator[Profile]:
    with entered("here") as profile:
        yield profile


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson(lesson: str, here: Profile, record_property: Callable[[str, object], None]) -> None:
    outcome = run_lesson(here, lesson, "en")
    record_property("lesson", outcome.row)
    CPU_S.append(outcome.cpu_s)
    assert outcome.verdict == "green", outcome.describe()


def test_the_course_costs_less_than_one_cpu_hour() -> None:
    assert sum(CPU_S) < COURSE_LIMIT_S
