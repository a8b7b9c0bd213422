"""What proves the lessons is proved itself: it notices what it is there for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parent.parent
# A shell whose child goes into a session of its own, as a notebook's supervisor does, and outlives it.
BUSY = "setsid -f {python} -c 'import time\nwhile time.process_time() < 0.5: pass'"


def spend(folder: Path, command: list[str]) -> dict[str, Any]:
    answer = folder / "answer"
    subprocess.run([sys.executable, "-m", "tests.spent", str(answer), *command], check=True, cwd=ROOT)
    return dict(json.loads(answer.read_text()))


def test_processor_time_of_all_descendants_counts(tmp_path: Path) -> None:
    told = spend(tmp_path, ["sh", "-c", BUSY.format(python=sys.executable) + "; exit 3"])
    assert 0.5 <= told["cpu_s"] < 2
    assert (told["status"], told["left"]) == (3, [])


def test_a_process_that_stays_is_named_and_ended(tmp_path: Path) -> None:
    [left] = spend(tmp_path, ["sh", "-c", "setsid -f sleep 1000"])["left"]
    pid = left.split()[1]
    assert left.split()[2:] == ["sleep", "1000"]
    assert not Path("/proc", pid).exists()


def test_who_ends_it_ends_all_that_it_has_started(tmp_path: Path) -> None:
    answer, ready = tmp_path / "answer", tmp_path / "ready"
    command = ["sh", "-c", f"setsid -f sleep 1000; echo > {ready}; sleep 1000"]
    with subprocess.Popen([sys.executable, "-m", "tests.spent", str(answer), *command], cwd=ROOT) as process:
        while not ready.exists():
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
    assert json.loads(answer.read_text())["status"] == -9


def nbval(folder: Path, *cells: Any, **environment: str) -> tuple[int, list[dict[str, Any]]]:
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    (folder / "lesson.ipynb").write_text(nbformat.writes(notebook))
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "tests.lesson_plugin", "-p", "no:cacheprovider"]
    command += [f"--rootdir={folder}", f"--lesson-report={folder / 'report'}", str(folder / "lesson.ipynb")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, list(json.loads((folder / "report").read_text())["cells"])


def cell(source: str, tag: str = "", **stored: str) -> Any:
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in stored.items()]
    metadata = {"tags": [tag]} if tag else {}
    return nbformat.v4.new_code_cell(source, execution_count=1, metadata=metadata, outputs=outputs)


def test_an_error_that_shows_nothing_is_noticed(tmp_path: Path) -> None:
    raised = "from IPython.core.error import UsageError\nraise UsageError('no such option')"
    status, [good, bad] = nbval(tmp_path, cell("pass"), cell(raised, stderr="UsageError: no such option\n"))
    assert (status, good["told"]) == (1, "")
    assert "the kernel's reply says error, not ok" in bad["told"]
    assert bad["begins"] == "from IPython.core.error import UsageError" and bad["number"] == 2


def test_an_announced_error_that_does_not_come_is_noticed(tmp_path: Path) -> None:
    status, [one] = nbval(tmp_path, cell("pass", "raises-exception"))
    assert status == 1 and "the kernel's reply says ok, not error" in one["told"]


def test_only_warnings_about_this_computer_are_left_out(tmp_path: Path) -> None:
    say = "import sys; print({!r}, file=sys.stderr)"
    here = "[vm] warning: machines here have no control group (uid 1000)"
    status, cells = nbval(tmp_path, cell(say.format(here)), cell(say.format("[vm] warning: it is late")))
    assert status == 1
    assert [bool(one["told"]) for one in cells] == [False, True]


def test_a_slow_cell_is_noticed_however_busy_the_computer_is(tmp_path: Path) -> None:
    limited = "import tests.lesson_plugin\ntests.lesson_plugin.CELL_LIMIT_S = 0.3\n"
    (tmp_path / "conftest.py").write_text(limited)
    status, cells = nbval(tmp_path, cell("pass"), cell("import time; time.sleep(5)"))
    assert status == 1
    assert [("more than 0.3 s" in one["told"]) for one in cells] == [False, True]
