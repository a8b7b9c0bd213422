"""A class: two students at once, through a real JupyterHub, each for himself; nothing stays of who has left."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hub import ROOT, Hub, Notebook, Student, do_lesson, left_of, processes_of, run_folder, running_hub, wait_for

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start servers of several users")
PLACES = ("docs/teaching.md", "docs/hub/jupyterhub_config.py", "docs/hub/values.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_links_open_lessons_that_are_there(place: str) -> None:
    found = re.findall(r"lab/tree/([\w/.-]+\.ipynb)", (ROOT / place).read_text())
    assert found
    assert all((ROOT / path).exists() for path in found), found


# What a student can find out about another one and his programs, or do to them.
TRESPASS = """
import os, signal
from pathlib import Path

def tried(act, *arguments):
    try:
        return act(*arguments)
    except OSError as error:
        return type(error).__name__

print([tried(os.listdir, {home!r}), tried(os.listdir, {run!r})])
print([tried(os.kill, pid, signal.SIGTERM) for pid in {pids}])
print([tried(Path(f"/proc/{{pid}}/environ").read_bytes) for pid in {pids}])
print([tried(os.listdir, f"/proc/{{pid}}/fd") for pid in {pids}])
print([tried(open, f"/proc/{{pid}}/mem", "r+b") for pid in {pids}])
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(Path("/tmp", f"vmcontainer-class-{os.getpid()}")) as hub:
        yield hub


def both(act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `act` for both students at the same time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(act, *arguments))


def begin(student: Student) -> Notebook:
    """Start a student's server, and in it a lesson, then a machine and a container of his name."""
    student.start()
    do_lesson(student, "01-welcome")
    notebook = student.open()
    notebook.ok(f"%%vm {student.name}\necho {student.name} > /root/note")
    notebook.ok(f"%%container {student.name}-box\necho {student.name} > /note")
    return notebook


@as_root
def test_two_students_at_once(hub: Hub) -> None:
    students = [Student(hub, name) for name in ("mia", "ben")]
    mia, ben = students
    notebooks = both(begin, students)

    for student, notebook, other in zip(students, notebooks, reversed(students), strict=True):
        assert notebook.ok("import os; print(os.getuid())") == str(student.uid)
        assert notebook.ok(f"%%vm {student.name}\ncat /root/note") == student.name
        for command in ("%vm ls", "%container ps -a"):
            listed = notebook.ok(command)
            assert student.name in listed
            assert other.name not in listed

    programs = lasting(ben)
    assert any("qemu-system" in command for command in programs.values())
    code = TRESPASS.format(home=str(ben.home), run=str(run_folder(ben.uid)), pids=list(programs))
    told = notebooks[0].ok(code)
    assert set(re.findall(r"[^][,\s]+", told)) == {"'PermissionError'"}, told
    for path in (f"/user/{ben.name}/api/kernels", f"/hub/api/users/{ben.name}"):
        assert mia.ask("GET", path).status_code in (403, 404)
    assert mia.ask("DELETE", f"/hub/api/users/{ben.name}/server").status_code in (403, 404)

    leave(mia)
    assert lasting(ben) == programs
    assert notebooks[1].ok(f"%%vm {ben.name}\ncat /root/note") == ben.name
    assert notebooks[1].ok(f"%%container {ben.name}-box\ncat /note") == ben.name
    leave(ben)


def lasting(student: Student) -> dict[int, str]:
    """A student's programs that do not come and go with his cells."""
    kinds = ("singleuser", "ipykernel_launcher", "qemu-system")
    return {pid: text for pid, text in processes_of(student.uid).items() if any(kind in text for kind in kinds)}


def leave(student: Student) -> None:
    """Stop a student's server, as the page of the hub does; all that it had started ends with it."""
    assert set(left_of(student)) >= {"processes", "files"}
    student.stop()
    wait_for(lambda: not left_of(student), f"the end of everything of {student.name}'s", 30)


@as_root
def test_a_server_that_is_killed_leaves_nothing(hub: Hub) -> None:
    mia = Student(hub, "mia")
    mia.start()
    mia.open().ok("%load_ext vmcontainer_kernel\n%vm start one")
    [server] = [pid for pid, command in processes_of(mia.uid).items() if "singleuser" in command]
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not left_of(mia), "the end of everything of mia's", 30)
