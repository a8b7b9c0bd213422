"""The short cuts: programs started without a fork, probes remembered, identities written over."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vmcontainer_kernel.agent import guest, spawn
from vmcontainer_kernel.agent.spawn import Command, start_plain
from vmcontainer_kernel.container import circumstances
from vmcontainer_kernel.errors import LabError, NodeError
from vmcontainer_kernel.guests import Guest
from vmcontainer_kernel.session import Session


def run(command: Command) -> tuple[int, str]:
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        launch = start_plain(command, (null, write_end, write_end))
    finally:
        os.close(write_end)
        os.close(null)
    with os.fdopen(read_end) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1]), text


def shell(script: str, cwd: str = "/", **env: str) -> Command:
    return Command(["/bin/sh", "-c", script], env, cwd)


def test_a_plain_command_has_its_folder_environment_and_session(tmp_path):
    status, text = run(shell('pwd; echo "$WORD"; cut -d" " -f1,6 /proc/$$/stat; exit 3', str(tmp_path), WORD="hi"))
    folder, word, ids = text.splitlines()
    assert (status, folder, word) == (3, str(tmp_path), "hi")
    assert len(set(ids.split())) == 1, "it leads a session of its own, to be signalled as a group"


def test_a_plain_command_leaves_our_folder_alone(tmp_path):
    before = Path.cwd()
    run(shell("true", str(tmp_path)))
    with pytest.raises(NodeError, match="no program '/no/such'"):
        run(Command(["/no/such"], {}, str(tmp_path)))
    assert Path.cwd() == before


def test_a_plain_command_ignores_no_signal_that_python_ignores():
    ignored = int(run(shell("grep SigIgn /proc/$$/status"))[1].split()[1], 16)
    for number in spawn._DEFAULTED:
        assert not ignored >> (number - 1) & 1, number


def test_a_folder_that_is_not_there_is_said():
    with pytest.raises(NodeError, match="folder /no/such"):
        run(shell("true", "/no/such"))


@pytest.mark.parametrize("change", [{"user": "nobody"}, {"tty": True}, {"fds": (3,)}, {"argv": ["sh"]}])
def test_what_is_not_plain(change):
    fields = {"argv": ["/bin/sh"], "env": {}, "cwd": "/", **change}
    assert not Command(**fields).plain
    assert shell("true").plain


def test_a_probe_is_asked_once_and_again_after_a_change(tmp_path, monkeypatch):
    held, asked = ["Uid: 0"], []
    monkeypatch.setattr(circumstances, "circumstances", lambda: list(held))
    store = tmp_path / "probes" / "x.json"

    def find():
        asked.append(1)
        return len(asked) > 1

    assert [circumstances.remembered(store, find) for _ in range(3)] == [False] * 3
    held.append("NoNewPrivs: 1")
    assert [circumstances.remembered(store, find) for _ in range(3)] == [True] * 3
    store.write_text("not JSON")
    circumstances.remembered(store, find)
    assert len(asked) == 3


def test_rights_are_told_in_full():
    words = " ".join(circumstances.circumstances())
    for part in ("Uid:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "user:[", "mnt:["):
        assert part in words


def test_a_line_is_written_over_and_cut(tmp_path):
    path = tmp_path / "hostname"
    path.write_text("a-longer-name\n")
    line = guest._Line(str(path))
    for name in ("b", "cc", "a-much-longer-name", "d"):
        line.write(name)
        assert path.read_text() == f"{name}\n"


class Deaf:
    """A machine whose guest never answers."""

    class config:
        name = "vm"
        mac = "52:54:00:00:00:01"

    def __init__(self, stream):
        self.stream, self.stopped = stream, False

    async def within(self, awaitable, limit_s, doing):
        raise LabError(f"did not {doing}")

    async def stop(self, grace_s=0.0):
        self.stopped = True


def test_a_clone_that_does_not_wake_answers_for_what_was_asked_of_it():
    ours, theirs = socket.socketpair()
    session = Session()

    async def wake() -> tuple[Guest, Exception | None]:
        machine = Deaf(ours)
        guest_ = session.machines.guests["vm"] = session.machines.adopt(machine, 0.0)
        request = guest_.node.start("exec", {"argv": ["true"]})
        await guest_.waking
        return guest_, request.done.exception()

    try:
        guest_, error = session.wait(wake(), 5.0)
    finally:
        session.close()
        theirs.close()
    assert "did not answer" in str(error)
    assert guest_.machine.stopped
    assert not session.machines.guests


def test_the_extension_loads_what_reads_a_cell_and_no_more():
    code = """
import sys
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_line_magic("load_ext", "vmcontainer_kernel")
print(*sorted(name.partition(".")[2] for name in sys.modules if name.startswith("vmcontainer_kernel.")))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    front = ["arguments", "completion", "errors", "magics", "messages", "options", "teaching", "teaching.magics"]
    assert done.stdout.split() == front
