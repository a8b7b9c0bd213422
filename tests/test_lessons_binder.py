"""Every lesson in Korean, run as on Binder: the same cells, the same outputs, by an ordinary user on one processor.

Both languages have the same code cells and the same stored outputs (`test_course`), so the two runs of a lesson, here
and there, are of the same cells.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator

import pytest

from tests.lessons import LESSONS, check_lesson
from tests.profiles import Profile, entered

CPU_S: list[float] = []

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86-64's call numbers"),
]


@pytest.fixture(scope="module")
def binder() -> Iterator[Profile]:
    with entered("binder") as profile:
        yield profile


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson(lesson: str, binder: Profile, record_property: Callable[[str, object], None]) -> None:
    check_lesson(binder, lesson, "ko", CPU_S, record_property)
