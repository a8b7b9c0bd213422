"""The clock of tests that limit a time from above."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.patience import TICKS_PER_S, Clock, waited_s


def test_seconds_in_which_programs_wait_count_a_tenth() -> None:
    true_s, hindered_s = 100.0, 50.0
    clock = Clock(lambda: hindered_s, lambda: true_s)
    begun_s = clock.now_s()
    true_s += 10
    assert clock.now_s() - begun_s == pytest.approx(10)
    true_s, hindered_s = true_s + 10, hindered_s + 5
    assert clock.now_s() - begun_s == pytest.approx(10 + 5 + 0.5)
    true_s, hindered_s = true_s + 10, hindered_s + 25  # for a processor, a disk and the hypervisor at once
    assert clock.now_s() - begun_s == pytest.approx(15.5 + 1)


def test_what_the_kernel_counts_is_added_up(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 800 9 10\ncpu0 1\n")
    assert waited_s(tmp_path) == pytest.approx(800 / TICKS_PER_S)
    (tmp_path / "pressure").mkdir()
    for what, total in (("cpu", 2_500_000), ("io", 1_000_000)):
        line = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\nfull avg10=0.00 total=77\n"
        (tmp_path / "pressure" / what).write_text(line)
    assert waited_s(tmp_path) == pytest.approx(3.5 + 800 / TICKS_PER_S)


def test_it_goes_on_and_never_faster_than_time() -> None:
    clock = Clock()
    true_s, shown_s = time.monotonic(), clock.now_s()
    time.sleep(0.2)
    assert 0 < clock.now_s() - shown_s <= time.monotonic() - true_s
