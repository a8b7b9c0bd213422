"""``docker run`` and ``podman run``, with runc and with our runtime below them: for information, as most of their time
is their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks.measure import Row, Series, program_ms
from tests.benchmarks.peers import COMMAND
from tests.engines.engine import ENGINES, Engine

LIMITS = ("--memory", "256m", "--cpus", "1", "--pids-limit", "200")
DOCKER = "docker run, with runc"  # the row that others are compared with
PROGRAMS = {"docker": "dockerd", "podman": "podman"}


def rows(rounds: int) -> Iterator[Row]:
    """Time the engines that are installed, in turns; as root, and on ground of their own."""
    if os.geteuid() != 0:
        return
    with ExitStack() as stack:
        measures: dict[str, Callable[[], float]] = {}
        for name, program in PROGRAMS.items():
            if shutil.which(program) and shutil.which("runc"):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                engine = stack.enter_context(ENGINES[name](folder))
                for runtime, options in (("runc", ("--runtime", "runc")), ("vmcontainer-runtime", ())):
                    command = run_command(engine, options)
                    measures[f"{name} run, with {runtime}"] = partial(program_ms, command)
        series = {name: Series() for name in measures}
        for _ in range(rounds):
            for name, measure in measures.items():
                series[name].take(measure)
        yield from (Row(name, one) for name, one in series.items())


def run_command(engine: Engine, runtime: Sequence[str]) -> list[str]:
    """Return the command that runs a container; `runtime`: options for another one than ours. The last one counts."""
    early, late = (runtime, ()) if "podman" in engine.command else ((), runtime)
    options = [*engine.run_options, *late, *LIMITS, "--rm"]
    return engine.inside(*engine.command, *early, "run", *options, "busybox", *COMMAND)


if __name__ == "__main__":
    for row in rows(10):
        print(row.text(), flush=True)
