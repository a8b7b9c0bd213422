"""Three processes for the whole suite: most tests wait for a machine or a program, so three keep two processors busy.

    ./lab test               three workers; each runs whole files, in order
    ./lab test tests/unit    one process, as soon as anything is chosen

A test marked ``alone`` has the computer for itself: it measures time, or looks at what all sessions share. Files that
share something dear (the guest of ``guest_engine``) are one lane, so that it is made once.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

WORKERS = 3
# Files of one lane are run by one worker.
LANES = {
    "tests/attacks/test_attacks.py": "guest",
    "tests/node/test_cgroups_guest.py": "guest",
    "tests/node/test_guest_engine.py": "guest",
    "tests/node/test_oci_guest.py": "guest",
    "tests/node/test_rootless_guest.py": "guest",
}
DOOR, ROOM = Path(__file__), Path(__file__).with_name("conftest.py")


def lane(nodeid: str) -> str:
    """Return what a test shares a worker with: a lane, or its file."""
    file = nodeid.partition("::")[0]
    return LANES.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process (0 workers) as soon as anything is chosen: several would take longer to start."""
    chosen = config.option.keyword or config.option.markexpr or config.option.lf or config.option.failedfirst
    return WORKERS if config.args_source is config.ArgsSource.TESTPATHS and not chosen else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane(nodeid)

    # By default files with many tests come first; ours are in an order that means something.
    config.option.loadscopereorder = False
    return Lanes(config, log)


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[int]:
    """Hold a lock on a file (flock(2)); unlocked by name, as a child that was forked meanwhile keeps it open."""
    with path.open() as file:
        fcntl.flock(file, how)
        try:
            yield file.fileno()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def turn(*, alone: bool, door: Path = DOOR, room: Path = ROOM) -> Iterator[None]:
    """Be in the room with others, or alone. Who waits for the room holds the door, so that nobody gets in before."""
    with contextlib.ExitStack() as stay:
        with locked(door, fcntl.LOCK_EX):
            stay.enter_context(locked(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield


# Outside of all other wrappers: who waits for a turn does not hang.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Asked of this run itself: a run that a test begins is within the test's turn.
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)
