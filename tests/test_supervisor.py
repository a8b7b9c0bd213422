"""However a notebook ends, nothing stays: its kernel killed at any moment, its supervisor killed, for any user."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks import (
    Notebook,
    groups,
    left_behind,
    network_namespaces,
    processes,
    sessions,
    wait_until_nothing_is_left,
)
from tests.ordinary_user import FIRST_LIMIT_S, User
from tests.patience import now_s

END_LIMIT_S = 2.0
DEATHS = int(os.environ.get("VMCONTAINER_DEATHS", "20"))  # a release is tried with more

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("qemu")]

EVERYTHING = """
magic = get_ipython().run_cell_magic
magic("container", "one", "sleep 1000 & sleep 1000 & true")
magic("vm", "", "true")
magic("container", "two --memory 64m --pids-limit 20", "setsid sleep 1000 & true")
magic("container", "--bg --without pid", "sleep 1000")
magic("vm", "--bg", "sleep 1000")
print("all")
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path, tmp_path / "run")
    yield notebook
    notebook.close()


@pytest.fixture(scope="module", autouse=True)
def prepared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make guest image and template once, so that the moments below fall into what a notebook does."""
    folder = tmp_path_factory.mktemp("prepare")
    notebook = Notebook(folder, folder / "run")
    notebook.ok("%%vm\ntrue", FIRST_LIMIT_S)
    notebook.close()


def all_run(commands: list[str]) -> bool:
    """Tell whether all has begun: a background command does after its cell has ended."""
    return sum("sleep" in command for command in commands) >= 4 and any("qemu" in command for command in commands)


@pytest.mark.parametrize("attempt", range(DEATHS))
def test_a_killed_notebook_leaves_nothing(notebook: Notebook, tmp_path: Path, attempt: int) -> None:
    """A quarter of the moments are when all runs, the others while it is being made."""
    run, session = tmp_path / "run", f"s{notebook.pid}-"
    moment_s = None if attempt % 4 == 0 else random.Random(attempt).uniform(0.0, 1.2)
    cell = notebook.start(EVERYTHING)
    if moment_s is None:
        cell.until("all")
        deadline_s = now_s() + 10
        while not all_run(names := [command for _, command in processes(run, session, but=notebook.pid)]):
            assert now_s() < deadline_s, names
    else:
        time.sleep(moment_s)
    pids = [pid for pid, _ in processes(run, session, but=notebook.pid)]
    namespaces = network_namespaces(pids) - network_namespaces([os.getpid()])
    notebook.kill()
    seconds = wait_until_nothing_is_left(run, [session], END_LIMIT_S)
    everybody = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    assert not namespaces & network_namespaces(everybody), f"after {moment_s} s"
    print(f"killed after {moment_s} s: gone in {seconds:.2f} s")


def test_a_killed_supervisor_takes_its_children_along_and_the_next_session_clears_up(
    notebook: Notebook, tmp_path: Path
) -> None:
    run, session = tmp_path / "run", f"s{notebook.pid}-"
    notebook.start(EVERYTHING).until("all")
    [folder] = sessions(run)
    supervisor = next(pid for pid, command in processes(run, session) if "vmcontainer_kernel.agent" in command)
    notebook.kill()
    os.kill(supervisor, signal.SIGKILL)
    deadline_s = now_s() + END_LIMIT_S
    # What has no pid namespace of its own and is no child of the supervisor is met by the sweep.
    while any("qemu" in command or "sh -c" in command for _, command in processes(run, session)):
        assert now_s() < deadline_s, processes(run, session)
        time.sleep(0.02)
    assert sessions(run) == [folder]
    following = Notebook(tmp_path, run)
    try:
        assert following.ok("%%container\necho on").out == "on\n"
        assert folder not in sessions(run)
        assert not groups(session)
        assert not processes(run / folder, session)
    finally:
        following.close()
    wait_until_nothing_is_left(run, [session], END_LIMIT_S)


def test_the_sweep_leaves_those_alone_that_live(notebook: Notebook, tmp_path: Path) -> None:
    run = tmp_path / "run"
    notebook.ok("%%container kept\ntrue")
    [mine] = sessions(run)
    (run / "s1-abandoned").mkdir()
    (run / "s1-abandoned" / "lock").touch()
    (run / "s2-about-to-start").mkdir()
    other = Notebook(tmp_path, run)
    other.ok("%%container\ntrue")
    other.close()
    assert sorted(sessions(run)) == sorted([mine, "s2-about-to-start"])
    assert notebook.ok("%%container kept\necho alive").out == "alive\n"


# -- an ordinary user


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("root: becomes another user")
    user = User(tmp_path_factory.mktemp("user"))
    yield user
    assert not left_behind(user.run, [])


@pytest.mark.needs("user-namespaces")
def test_containers_of_an_ordinary_user(user: User) -> None:
    inside, limited, missing = user.cells(
        "%%container\necho $$; id -u; hostname",
        "%%container --cpus 1\ntrue",
        "%%container --image no-such\ntrue",
    )
    assert inside["error"] == "", inside
    assert inside["out"].split()[:2] == ["1", "0"]
    assert limited["error"] == "HostError", limited
    assert "--on vm" in limited["text"]
    assert missing["error"] == "NotFound"


def test_machines_of_an_ordinary_user(user: User) -> None:
    inside, limited = user.cells(
        "%%vm\nid -u; cat /proc/1/comm",
        "%%container --on vm --memory 64m\ncat /sys/fs/cgroup/memory.max 2>/dev/null; echo $$",
    )
    assert (inside["error"], inside["out"]) == ("", "0\nvmc-agent\n"), inside
    assert limited["error"] == "", limited
    assert limited["out"].split()[-1] == "1"


def test_nothing_of_an_ordinary_user_is_left(user: User) -> None:
    answers = user.cells("%%container web\nsleep 1000 & true", "%%vm --bg\nsleep 1000", "%%vm\necho on")
    assert [answer["error"] for answer in answers] == ["", "", ""], answers
    wait_until_nothing_is_left(user.run, [], END_LIMIT_S)


def test_a_killed_notebook_of_an_ordinary_user_leaves_nothing(user: User) -> None:
    ready = user.folder / "ready"
    codes = ["%%container web\nsleep 1000 & true", "%%vm --bg\nsleep 1000", "%%vm\ntrue"]
    with user.start(*codes, f"open({str(ready)!r}, 'w').close(); import time; time.sleep(1000)") as process:
        deadline_s = now_s() + FIRST_LIMIT_S
        while not ready.exists():
            assert now_s() < deadline_s
            time.sleep(0.05)
        assert len(processes(user.run)) >= 4  # notebook, supervisor, container, machine
        process.kill()
        process.communicate()
    wait_until_nothing_is_left(user.run, [], END_LIMIT_S)


# As in a container whose rules forbid user namespaces (bwrap(1), --disable-userns).
FORBIDDEN = ("bwrap", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--dev-bind", "/", "/")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap: not installed")
def test_where_containers_are_not_allowed_they_run_in_a_machine(user: User) -> None:
    shutil.rmtree(user.folder / "cache" / "probes", ignore_errors=True)
    script = "cat /proc/sys/kernel/random/boot_id"
    default, machine, host = user.cells(
        f"%%container\n{script}; echo $$", f"%%vm\n{script}", "%%container --on host\ntrue", within=FORBIDDEN
    )
    assert default["error"] == "", default
    assert default["out"].split() == [machine["out"].strip(), "1"]
    assert host["error"] == "HostError", host
    assert "--on vm" in host["text"]
    wait_until_nothing_is_left(user.run, [], END_LIMIT_S)
