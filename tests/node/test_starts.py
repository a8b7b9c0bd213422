"""How a start is told afterwards: the steps that were taken, where our code takes them, and when."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import vmcontainer_kernel
from tests.node.test_agent import Bench
from tests.node.test_spares import bench, waiting  # noqa: F401
from vmcontainer_kernel.errors import NotFound
from vmcontainer_kernel.timelines import start_of

ROOT = Path(vmcontainer_kernel.__file__).parent.parent
# The parent does the first two; a process that is made ahead waits, which ends no step.
NOT_TIMED = {"clone", "enter", "wait"}


def started(result: Any) -> dict[str, Any]:
    return next(event for event in result.events if event["event"] == "started")


def check(bench: Bench, event: dict[str, Any], begin_s: float) -> str:  # noqa: F811
    """Compare what was taken with what is told of the last request; return the way it was made."""
    told = bench.call("container.steps", request=bench.node._number)["steps"]
    own = [step for step in told if "file" in step and step["step"] not in NOT_TIMED]
    taken = [name for name, _ in event["steps"] if name not in NOT_TIMED]
    assert [step["step"] for step in own] == [*taken, "exec"]
    for step in own:
        lines = (ROOT / step["file"]).read_text().splitlines()
        assert any(word in lines[step["line"] - 1] for word in ("def ", "lambda", "partial")), step
    marks = dict(event["marks"])
    assert begin_s <= marks["received"] / 1e9 <= marks["launched"] / 1e9 <= marks["executed"] / 1e9 <= time.monotonic()
    last, at_ns = event["begins"][-1]
    took_ms = sum(ms for _, ms in event["steps"][last:])
    assert at_ns + took_ms * 1e6 <= marks["executed"] + 1e6
    return str(event["way"])


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({}, "exact spare"),
        ({"hostname": "other", "memory_bytes": 64 << 20}, "spare"),
        ({"shm_size_bytes": 1 << 20}, "ready"),
    ],
)
def test_the_steps_told_are_those_that_were_taken(bench: Bench, options: dict[str, Any], way: str) -> None:  # noqa: F811
    waiting(bench)
    begin_s = time.monotonic()
    assert check(bench, started(bench.container("true", **options)), begin_s) == way


def test_of_one_more_process_too(bench: Bench) -> None:  # noqa: F811
    bench.call("container.run", name="web", options={"argv": ["sleep", "60"]}, detach=True)
    for _ in range(2):  # the second is born by a process that is ready, if there is one by then
        begin_s = time.monotonic()
        result = bench.wait(bench.collect("container.exec", None, name="web", options={"argv": ["true"]}))
        assert check(bench, started(result), begin_s) in ("forked", "ready")
        time.sleep(0.3)


def test_a_process_with_a_clock_of_its_own_is_told_by_the_nodes(bench: Bench) -> None:  # noqa: F811
    begin_s = time.monotonic()
    event = started(bench.container("true", time_offsets=["monotonic=1000000"]))
    assert event["begins"][-1][1] / 1e9 > begin_s + 900_000
    told = start_of("container", "", "host", begin_s, event, time.monotonic(), None)
    own = [one for one in told["phases"] if one["by"] == "process"]
    assert len(own) > 20
    assert all(0 <= one["begin_ms"] <= one["begin_ms"] + one["ms"] <= told["total_ms"] + 1 for one in own)


def test_what_is_not_known_is_said(bench: Bench) -> None:  # noqa: F811
    with pytest.raises(NotFound, match="no steps are known"):
        bench.call("container.steps", request=999_999)
