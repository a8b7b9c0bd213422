"""Several processes for the whole suite: which tests share one, and who waits for whom."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

from tests import lanes
from tests.patience import now_s

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0


def test_files_of_one_lane_share_a_process() -> None:
    assert lanes.lane("tests/unit/test_a.py::test_b[::c]") == "tests/unit/test_a.py"
    assert {lanes.lane(f"{name}::test_x") for name in lanes.LANES} == {"guest"}
    assert all((ROOT / name).exists() for name in lanes.LANES)


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_who_wants_to_be_alone_is_let_in_before_those_who_come_later(tmp_path: Path) -> None:
    door, room, order = tmp_path / "door", tmp_path / "room", list[str]()
    door.touch()
    room.touch()

    def visit(name: str, *, alone: bool) -> threading.Thread:
        def go() -> None:
            with lanes.turn(alone=alone, door=door, room=room):
                order.append(name)

        thread = threading.Thread(target=go)
        thread.start()
        return thread

    with lanes.turn(alone=False, door=door, room=room):
        visit("beside", alone=False).join(LIMIT_S)
        waiting = visit("alone", alone=True)
        deadline_s = now_s() + LIMIT_S
        while not is_locked(door):
            assert now_s() < deadline_s
            time.sleep(0.01)
        late = visit("late", alone=False)
        assert order == ["beside"]
    waiting.join(LIMIT_S)
    late.join(LIMIT_S)
    assert order == ["beside", "alone", "late"]
