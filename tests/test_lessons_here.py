"""Every lesson in English, run here under nbval; each reply, each cell's time and what is left behind are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lessons import LESSONS, check_lesson
from tests.profiles import Profile, entered

CPU_S: list[float] = []


@pytest.fixture(scope="module")
def here() -> Iterator[Profile]:
    with entered("here") as profile:
        yield profile


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson(lesson: str, here: Profile, record_property: Callable[[str, object], None]) -> None:
    check_lesson(here, lesson, "en", CPU_S, record_property)
