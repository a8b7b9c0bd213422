"""A real supervisor that is told nonsense: it answers or ends, never hangs, and leaves no process and no folder."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vmcontainer_kernel
from tests.patience import now_s
from vmcontainer_kernel.agent.protocol import (
    MAX_CHUNK,
    PROTOCOL,
    WINDOW,
    Decoder,
    Frame,
    Kind,
    encode,
    encode_credit,
    encode_json,
)
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.host_agent import agent_command

LIMIT_S = 20.0
HELLO = encode_json(Kind.HELLO, 0, {"protocol": PROTOCOL})


class Agent:
    """A supervisor on one end of a socket pair, and the bytes of the other end in our hands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run" / "s1"
        self.log = (folder / "log").open("w+")
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                agent_command(theirs.fileno(), self.folder, folder / "images", spares=False),
                pass_fds=[theirs.fileno()],
                cwd=folder,  # some of what it is told are names of files
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )
        self.socket.setblocking(False)
        self.decoder = Decoder()
        self.ended = False
        self.waiting: list[Frame] = []
        self.send(HELLO)
        self.answer(0)

    def send(self, data: bytes) -> None:
        """Send all, and take what is said meanwhile, as a notebook does; an agent that has ended takes no more."""
        deadline = now_s() + LIMIT_S
        view = memoryview(data)
        while view and not self.ended:
            assert now_s() < deadline, "the agent takes no bytes"
            select.select([self.socket], [self.socket], [], 1)
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                self.ended = True
            self.receive()

    def receive(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.ended = self.ended or not data
        self.waiting += self.decoder.feed(data)

    def answer(self, request: int) -> dict[str, Any] | None:
        """Return the answer to a request (an ERROR too), or None if the agent has ended instead."""
        deadline = now_s() + LIMIT_S
        while True:
            for index, frame in enumerate(self.waiting):
                if frame.request == request and frame.kind in (Kind.HELLO, Kind.REPLY, Kind.ERROR):
                    del self.waiting[: index + 1]
                    document: dict[str, Any] = json.loads(frame.payload)
                    return document
            if self.ended:
                return None
            assert now_s() < deadline, f"no answer to request {request}"
            select.select([self.socket], [], [], 0.5)
            self.receive()

    def call(self, request: int, verb: str, /, **arguments: Any) -> dict[str, Any] | None:
        self.send(encode_json(Kind.CALL, request, {"verb": verb, **arguments}))
        return self.answer(request)

    def alive(self) -> bool:
        return "containers" in (self.call(2**32 - 1, "container.list") or {})

    def children(self) -> list[str]:
        pid = self.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def descriptors(self) -> int:
        return len([*Path(f"/proc/{self.process.pid}/fd").iterdir()])

    def close(self) -> None:
        self.socket.close()
        assert self.process.wait(LIMIT_S) == 0, self.said()
        assert not self.folder.exists()
        assert str(self.process.pid) not in sessions(), "it led a session of its own: somebody is left in it"

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()


def sessions() -> set[str]:
    """Return the session of every process (proc(5), stat)."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.add((folder / "stat").read_text().rpartition(")")[2].split()[3])
    return found


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.close()
    agent.log.close()


def nonsense(seed: int) -> bytes:
    """Return bytes that begin like frames and go wrong in one of the ways bytes can."""
    chance = random.Random(seed)
    call = encode_json(Kind.CALL, 1, {"verb": "container.list"})
    noise = chance.randbytes(chance.randint(1, 3000))
    return chance.choice(
        (
            noise,
            call[: chance.randint(1, len(call) - 1)],
            call + noise,
            bytes([0, 0, 0, 5, Kind.HELLO, 0, 0, 0, 0]) + b"hello",
            bytes([0, 0, 0, len(noise) & 255, Kind.CREDIT, 0, 0, 0, 0]) + noise,
            b"".join(bytes([0, 0, 0, 0, kind, 0, 0, 0, 1]) for kind in range(chance.randint(1, 255))),
            call.replace(b'"', noise[:1]),
            HELLO.replace(b"1", b"9"),
        )
    )


@pytest.mark.parametrize("seed", range(10))
def test_bytes_that_make_no_sense_end_it_or_change_nothing(agent: Agent, seed: int) -> None:
    agent.send(nonsense(seed))
    if not agent.ended:
        agent.socket.shutdown(socket.SHUT_WR)  # what follows would be the rest of a frame that began
    assert agent.process.wait(LIMIT_S) == 0, agent.said()
    assert "Traceback" not in agent.said()


BOMBS = [
    b"",
    b"null",
    b"[1]",
    b"{" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 4_000_000,
    b'{"verb": ' + b"9" * 100_000 + b"}",
    b'{"verb": "exec", "argv": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"verb": "\xff"}',
    b'{"verb": "\\ud800"}',
    b'{"verb": "exec", "fds": 1e999}',
    b'{"verb": "exec", "fds": -7}',
    b'{"verb": "exec", "fds": 99999999999}',
    b'{"verb": "exec", "fds": "all"}',
    b'{"verb": "' + "\u20ac".encode() * 1_300_000 + b'"}',
    b'{"verb": "get", "path": "' + "\u20ac".encode() * 1_300_000 + b'"}',
    b'{"verb": "exec", "argv": ["/' + "\u20ac".encode() * 1_300_000 + b'"]}',
    b'{"verb": "container.run", "options": {"argv": ["' + b"\\u0000" * 500_000 + b'"]}}',
]


def test_every_bomb_is_answered(agent: Agent) -> None:
    for number, payload in enumerate(BOMBS, 1):
        agent.send(encode(Kind.CALL, number, payload))
        answer = agent.answer(number)
        assert answer and answer["error"], payload[:40]
        assert agent.alive(), agent.said()


VALUES: list[Any] = [
    *(None, True, -1, 2**63, 1.5, float("nan"), "", "x", "\0", "\ud800", "../..", "x" * 5000, "/no/such/file", "/"),
    *([], [""], ["\0"], [None], ["/no/such/program"], ["true"], {}, {"": ""}, {"argv": []}, {"argv": ["true"]}),
    *({"name": "x", "groups": 5}, {"name": "../x", "resources": {"pids": -9}}, {"name": "a/b", "devices": ["/dev/x"]}),
    *({"argv": ["true"], "memory_bytes": -1}, {"argv": ["true"], "user": "9" * 30}, [[[[[]]]]], {"a": {"b": [1]}}),
]
MEMBERS = {
    "exec": ("argv", "env", "cwd", "user", "tty", "stdin", "window_bytes", "fds"),
    "spawn": ("argv", "log", "fds", "cage"),
    "machine.stats": ("names",),
    "machine.update": ("name", "resources", "rename"),
    "signal": ("request", "signal"),
    "resize": ("request", "rows", "columns"),
    "hangup": ("request", "force"),
    "get": ("path",),
    "put": ("mode",),
    "view": ("live", "node", "notebook_pid", "parts"),
    "container.run": ("name", "options", "stdin", "detach"),
    "container.create": ("name", "options"),
    "container.start": ("name", "attach", "stdin"),
    "container.exec": ("name", "options", "stdin", "detach", "window_bytes"),
    "container.kill": ("name", "signal"),
    "container.stop": ("name", "timeout_s"),
    "container.restart": ("name", "timeout_s"),
    "container.wait": ("name",),
    "container.pause": ("name",),
    "container.resume": ("name",),
    "container.remove": ("name", "force"),
    "container.list": (),
    "container.inspect": ("name",),
    "container.logs": ("name", "follow", "tail", "since_s"),
    "container.attach": ("name", "replay", "stdin"),
    "container.detach": ("request",),
    "container.stats": ("names",),
    "container.steps": ("request",),
    "container.top": ("name",),
    "container.update": ("name", "options"),
    "container.explain": ("name", "options"),
    "container.diff": ("name",),
    "container.changes": ("name", "most"),
    "image.view": ("node", "name"),
    "container.commit": ("name", "image", "comment", "pause"),
    "image.list": (),
    "image.missing": ("digests",),
    "image.add": ("name", "media_type", "digest", "size_bytes"),
    "image.sweep": (),
    "image.build": (
        "dockerfile",
        "name",
        "arguments",
        "target",
        "network",
        "no_cache",
        "progress",
        "context",
        "ignore",
    ),
    "image.forget": ("name",),
    "network.list": (),
    "network.inspect": ("name",),
    "network.view": ("node",),
    "network.remove": ("name",),
    "network.connect": ("network", "machine", "fds"),
    "network.disconnect": ("machine",),
    "volume.create": ("name", "labels"),
    "volume.inspect": ("name",),
    "volume.list": (),
    "volume.remove": ("name",),
}
OF_A_GUEST = {"renew", "settle", "poweroff", "join"}
OF_A_HELPER = {"network.create"}  # it starts a process that stays
RIGHT: dict[str, Any] = {"argv": ["true"], "options": {"argv": ["true"]}, "name": "x", "signal": 9, "request": 1}


def test_every_verb_is_tried_here() -> None:
    sources = Path(vmcontainer_kernel.__file__).parent.glob("agent/*.py")
    tables = (table for path in sources for table in re.findall(r"verbs \|= \{([^}]*)\}", path.read_text()))
    assert {verb for table in tables for verb in re.findall(r'"([a-z.]+)":', table)} - OF_A_GUEST - OF_A_HELPER == set(
        MEMBERS
    )


def test_every_argument_of_every_verb_may_be_anything(agent: Agent, tmp_path: Path) -> None:
    number = 0
    before = agent.descriptors()
    for verb, members in MEMBERS.items():
        for member in members or ("x",):
            for value in VALUES:
                number += 1
                arguments = {name: RIGHT[name] for name in members if name in RIGHT} | {member: value}
                if verb == "spawn" and member != "log":
                    arguments["log"] = str(tmp_path / "helper")
                assert agent.call(number, verb, **arguments) is not None, (verb, member, value, agent.said())
    assert agent.alive()
    deadline = now_s() + LIMIT_S
    while agent.children() and now_s() < deadline:
        time.sleep(0.05)
    assert agent.children() == []
    assert agent.descriptors() == before


def test_a_number_that_is_in_use_is_refused_and_the_first_goes_on(agent: Agent) -> None:
    sleep = encode_json(Kind.CALL, 7, {"verb": "exec", "argv": ["sleep", "1000"]})
    agent.send(sleep + sleep)
    answer = agent.answer(7)
    assert answer and "7" in answer["message"]
    assert len(agent.children()) == 1
    assert agent.call(8, "signal", request=7, signal=9) == {"sent": True}
    answer = agent.answer(7)
    assert answer and answer["signal"] == 9


def test_frames_of_requests_that_nobody_made_change_nothing(agent: Agent) -> None:
    for kind in (Kind.STDIN, Kind.STDOUT, Kind.STDERR, Kind.REPLY, Kind.ERROR, Kind.EVENT):
        agent.send(encode(kind, 99, b"x"))
    agent.send(encode_credit(99, 250, 2**32 - 1))
    assert agent.alive()


def test_a_sender_without_regard_for_credit_does_not_fill_the_memory(agent: Agent) -> None:
    agent.send(encode_json(Kind.CALL, 1, {"verb": "exec", "argv": ["sleep", "1000"], "stdin": True}))
    for _ in range(4 * WINDOW // MAX_CHUNK):
        agent.send(encode(Kind.STDIN, 1, bytes(MAX_CHUNK)))
    assert agent.process.wait(LIMIT_S) == 0
    assert "credit" in agent.said()


def test_a_file_that_cannot_be_read_to_its_end_is_an_error(agent: Agent) -> None:
    answer = agent.call(1, "get", path="/proc/self/mem")
    assert answer and answer["error"] == "NodeError"


def test_a_log_that_is_a_pipe_without_a_reader_holds_nothing_up(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    answer = agent.call(1, "spawn", argv=["true"], log=str(tmp_path / "fifo"))
    assert answer and answer["error"]
    assert agent.alive()


def test_hello_a_hundred_times(agent: Agent) -> None:
    agent.send(HELLO * 100)
    assert agent.alive()


@pytest.mark.needs("containers-on-host")
class TestContainers:
    """The same with containers, which can be started, and must not stay."""

    @pytest.fixture
    def agent(self, agent: Agent, tmp_path: Path) -> Agent:
        build_busybox(Store(tmp_path / "images"))
        return agent

    def test_every_argument_of_every_verb_to_a_running_container(self, agent: Agent) -> None:
        before, number = agent.descriptors(), 0
        for verb, members in MEMBERS.items():
            for member, value in itertools.product(members, VALUES) if verb.startswith("container.") else ():
                number += 3
                agent.call(number, "container.run", name="x", options={"argv": ["sleep", "1000"]}, detach=True)
                arguments = {name: RIGHT[name] for name in members if name in RIGHT} | {"timeout_s": 0, member: value}
                agent.send(encode_json(Kind.CALL, number + 1, {"verb": verb, **arguments}))
                assert agent.alive(), agent.said()  # some verbs answer later: when the container has ended
        agent.send(HELLO)
        assert agent.answer(0)
        self.emptied(agent, before)

    def test_every_option_of_a_container_may_be_anything(self, agent: Agent) -> None:
        before = agent.descriptors()
        for number, (option, value) in enumerate(itertools.product(Options._fields, VALUES), 1):
            answer = agent.call(number, "container.run", options={"argv": ["true"], option: value})
            assert answer is not None, (option, value, agent.said())
        self.emptied(agent, before)

    def emptied(self, agent: Agent, descriptors: int) -> None:
        listed = (agent.call(1, "container.list") or {})["containers"]
        for number, one in enumerate(listed, 2):
            assert agent.call(number, "container.remove", name=one["name"], force=True) == {}
        assert agent.call(1, "container.list") == {"containers": []}
        deadline = now_s() + LIMIT_S
        while (agent.children() or agent.descriptors() != descriptors) and now_s() < deadline:
            time.sleep(0.05)
        assert agent.children() == []
        assert agent.descriptors() == descriptors
