"""course/record.py takes recordings of what happens, and keeps none that tells where it was taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from vmcontainer_widgets.recording import last_document, read_recording

from vmcontainer_kernel.delta import apply

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "course"))

import record  # noqa: E402  (course/ is a folder of lessons, not a package)

QUICKLY = "import sys, pathlib, record; record.FOLDER, record.PERIOD_S = pathlib.Path(sys.argv[1]), 0.05"


def documents(recording: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what a recording shows, one document a frame."""
    document: dict[str, Any] = {}
    for _, change in recording["frames"]:
        document = apply(document, change)
        yield json.loads(json.dumps(document))


def of_web(view: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the processes of the container web in a kernel's view."""
    return [one for one in view["processes"] if one["container"] == "web"]


@pytest.mark.needs("containers-on-host")
def test_a_recording_is_of_what_really_happens(tmp_path: Path) -> None:
    where = {"PYTHONPATH": f"{ROOT}:{ROOT / 'widgets'}:{ROOT / 'course'}", "VMCONTAINER_RUN": str(tmp_path / "run")}
    command = [sys.executable, "-c", f"{QUICKLY}; sys.exit(record.main(['container']))", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **where})
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [*documents(read_recording(tmp_path / "container.recording.json", frozenset({"kernel"})))]
    assert len(shown) == 17  # as often as the scene says: each view has the time in it
    rest, work, more = (sorted({len(of_web(view)) for view in part}) for part in (shown[:5], shown[5:9], shown[9:]))
    assert 0 < rest[-1] < min(work[-1], more[-1])
    assert not [*(tmp_path / "run").iterdir()]


def test_the_recordings_of_the_course_show_what_their_scenes_are_for() -> None:
    container, pause = (
        [*documents(json.loads((record.FOLDER / f"{name}.recording.json").read_text()))]
        for name in ("container", "pause")
    )
    assert len({len(of_web(view)) for view in container}) >= 2
    states = [status for status, _ in groupby(view["status"] for view in pause)]
    assert states == ["running", "paused", "running"]
    used_s = [view["vcpus"][0]["cpu_s"] for view in pause if view["status"] == "paused"]
    assert used_s[-1] - used_s[0] < 0.05 < pause[-1]["vcpus"][0]["cpu_s"] - used_s[-1]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A scene of three cells, and what is done for it, in order."""
    done: list[str] = []

    def play(cell: Callable[[str], object]) -> Iterator[int]:
        for number in (1, 2, 3):
            cell(f"cell {number}")
            yield number

    def look() -> dict[str, Any]:
        done.append("look")
        return {"looks": len(done), "place": f"{record.FOLDER}/x", "told": "~"}

    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(record, "PERIOD_S", 0.0)
    monkeypatch.setattr(record, "SCENES", {"play": ("kernel", play, look)})
    return done


def test_a_scene_goes_on_after_so_many_looks(scene: list[str]) -> None:
    recording = json.loads(record.take("play", scene.append))
    assert scene == ["cell 1", "look", "look", "cell 2", "look", "look", "cell 3", "look", "look", "look"]
    assert last_document(recording)["looks"] == len(scene)
    assert f"{os.cpu_count()} CPUs" in recording["place"]


def test_what_tells_of_the_computer_is_replaced(scene: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FOLDER", Path.home() / "y")
    assert last_document(json.loads(record.take("play", scene.append)))["place"] == "~/y/x"


@pytest.mark.parametrize(("text", "kept"), [("/home/somebody/lab", False), ("nothing of the kind", True)])
def test_a_recording_that_tells_of_its_computer_is_not_kept(
    scene: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, kept: bool
) -> None:
    class Shell:
        def run_cell(self, code: str) -> None:
            scene.append(code)

    monkeypatch.setattr(record.InteractiveShell, "instance", Shell)
    monkeypatch.setattr(record, "take", lambda name, cell: text)
    file = record.FOLDER / "play.recording.json"
    file.write_text("the one before\n")
    assert record.main(["play"]) == (0 if kept else 1)
    assert file.read_text() == (f"{text}\n" if kept else "the one before\n")
    assert ("was not kept" in capsys.readouterr().err) is not kept
    assert scene == ["%load_ext vmcontainer_kernel", "%lab reset"]
