"""The runtime's commands killed anywhere: before their Nth call to the kernel, for N all over their work.

`create` and `run` are in tests/node/test_oci_lifecycle.py. Here: what comes later in a container's life. Whatever is
left, ``delete --force`` takes away, and until then the container is in one of the specification's states.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.oci_runtime import KILLED, LIMIT_S, ROOT, Runtime, our_runtime, wait_until
from tests.node.test_oci_lifecycle import bring, processes_with

pytestmark = pytest.mark.needs("containers-on-host")

STRIDE = {"start": 5, "exec": 11, "kill": 7, "delete": 8, "delete --force": 8, "pause": 6}


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with our_runtime(tmp_path) as runtime:
        yield runtime


def run_until(runtime: Runtime, count: int, *words: str) -> int:
    """Run a command that is killed before call number `count`; return how it ended."""
    command = [sys.executable, "-S", "-I", "-c", KILLED, str(ROOT), str(count), *runtime.command(*words)[1:]]
    null = subprocess.DEVNULL
    return subprocess.run(command, check=False, stdin=null, stdout=null, stderr=null, timeout=LIMIT_S).returncode


@pytest.mark.parametrize(
    ("verb", "before", "rest"),
    [
        ("start", "created", ()),
        ("exec", "running", ("sleep", "61")),
        ("kill", "running", ("KILL",)),
        ("delete", "stopped", ()),
        ("delete --force", "running", ()),
        ("pause", "running", ()),
    ],
)
def test_a_command_is_killed_anywhere(runtime: Runtime, verb: str, before: str, rest: tuple[str, ...]) -> None:
    mark, count, ended = str(runtime.root).encode(), 1, -signal.SIGKILL
    words = [*verb.split(), *(["--detach"] if verb == "exec" else []), "c", *rest]
    while ended == -signal.SIGKILL:
        bring(runtime, before)
        ended = run_until(runtime, count, *words)
        if (runtime.root / "c").exists():
            assert runtime.status("c") in ("created", "running", "stopped", "paused")
        runtime.ok("delete", "--force", "c")
        assert not (runtime.root / "c").exists()
        assert runtime.groups() == []
        wait_until(lambda: not processes_with(mark))
        count += STRIDE[verb]
    assert ended == 0
    assert count > 2 * STRIDE[verb]


def test_what_a_killed_exec_began_ends_with_the_container(runtime: Runtime) -> None:
    """Its process is nobody's any more, but it is in the container's group and pid namespace."""
    bring(runtime, "running")
    for count in (40, 60, 80, 120, 160, 200):
        run_until(runtime, count, "exec", "--detach", "c", "sleep", "61.75")
    runtime.ok("delete", "--force", "c")
    wait_until(lambda: not processes_with(b"sleep\x0061.75"))
