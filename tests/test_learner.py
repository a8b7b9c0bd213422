"""A learner in a real kernel: predicts, experiments, solves an exercise with real containers, tells a teacher."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks import Notebook, sessions, wait_until_nothing_is_left

pytestmark = pytest.mark.needs("containers-on-host")

COURSE = Path(__file__).parents[1] / "course"
EXPERIMENT = "%%after pid\n%%container --without pid\necho $$"


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    run = tmp_path / "run"
    run.mkdir()
    notebook = Notebook(COURSE / "ko", run, VMCONTAINER_PROGRESS=str(tmp_path / "progress.json"))
    notebook.ok("%lab lesson 03-first-container")
    yield notebook
    ids = sessions(run)
    notebook.close()
    wait_until_nothing_is_left(run, ids, 3.0)


def test_a_lesson_as_a_learner_does_it(notebook: Notebook, tmp_path: Path) -> None:
    assert "first predict, then run this cell" in notebook.fails(EXPERIMENT, "UserError")
    assert "%predict pid NUMBER" in notebook.ok("%predict pid").text
    notebook.ok("%predict pid = 1")
    pid, told = notebook.ok(EXPERIMENT).out.splitlines()
    assert int(pid) > 1
    assert told.startswith("you predicted 1 (1, as always in a container); it is 2")

    for wrong, missing in (
        ("", "no process of a container `lantern` is running"),
        ("%%container lantern\ntrue", "`lantern` has a host name of its own"),
        ("%%container lantern --without uts,net\ntrue", "`lantern` shares the network of the node"),
    ):
        notebook.ok(wrong)
        assert missing in notebook.ok("%check lantern").out
        notebook.ok("%lab reset")
    assert [notebook.ok("%hint lantern").out.count("\n") for _ in range(3)] == [2, 3, 4]
    notebook.ok(notebook.ok("%solution lantern").out)
    assert notebook.ok("%check lantern").out == "lantern is solved: all that it asks for is there\n"

    notebook.ok("LAB_LANGUAGE = 'ko'")
    assert "맞았습니다" in notebook.ok("%quiz numbers 2").out
    assert "예상" in notebook.ok("%check?").payload[0]["data"]["text/plain"] + notebook.ok("%predict pid = 2").out
    assert "03-first-container" in notebook.ok("%lab progress").text
    notebook.ok(f"%lab progress --name Kim --export {tmp_path}/kim.json")
    work = json.loads((tmp_path / "kim.json").read_text())["work"]
    assert [(one["id"], one["right"], one["hints"]) for one in work] == [
        ("pid", False, 0),
        ("lantern", True, 3),
        ("numbers", True, 0),
    ]
    completed = notebook.client.complete("%hint la", 8, reply=True, timeout=30)["content"]["matches"]
    assert completed == ["lantern"]
