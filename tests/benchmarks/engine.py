"""The container engine beside other runtimes: from the agent's request to the first byte, without a notebook.

CALL container.run ─▶ … ─▶ first STDOUT frame           beside `runc run` from fork to the first byte
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Row, Series
from tests.benchmarks.peers import COMMAND, LIMITS, OURS, every
from vmcontainer_kernel.agent.protocol import PROTOCOL, Decoder, Frame, Kind, encode_json, parse_json
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.host_agent import agent_command

REST_S = 0.3  # longer than the agent waits before it makes a container ahead
MANY = 100


class Agent:
    """A supervisor of its own, spoken to in frames by a blocking client."""

    def __init__(self, folder: Path, images: Path, *, spares: bool) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(30)
        command = agent_command(theirs.fileno(), folder, images, spares=spares)
        with theirs:
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._decoder, self._request = Decoder(), 0
        self._frames: list[Frame] = []
        self._answers: dict[int, Frame] = {}
        self._socket.sendall(encode_json(Kind.HELLO, 0, {"protocol": PROTOCOL, "version": "bench"}))
        self._next()

    def _next(self) -> Frame:
        while not self._frames:
            data = self._socket.recv(65536)
            if not data:
                raise OSError("the agent ended")
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def call(self, verb: str, **arguments: Any) -> int:
        """Send a request; return its number."""
        self._request += 1
        self._socket.sendall(encode_json(Kind.CALL, self._request, {"verb": verb, **arguments}))
        return self._request

    def answer(self, request: int, first: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Wait for a request's answer; `first` is called at its first byte of output."""
        while request not in self._answers:
            frame = self._next()
            if frame.kind in (Kind.REPLY, Kind.ERROR):
                self._answers[frame.request] = frame
            elif frame.request == request and frame.kind == Kind.STDOUT and frame.payload:
                first()
                first = _nothing
        frame = self._answers.pop(request)
        if frame.kind == Kind.ERROR:
            raise OSError(f"the agent answered {parse_json(frame.payload)}")
        return parse_json(frame.payload)

    def first_byte_ms(self, verb: str, **arguments: Any) -> float:
        """Time a request to its first byte of output."""
        at_s: list[float] = []
        begin_s = time.perf_counter()
        self.answer(self.call(verb, **arguments), lambda: at_s.append(time.perf_counter()))
        return (at_s[0] - begin_s) * 1e3

    def close(self) -> None:
        """End it and everything of it."""
        self._socket.close()
        self.process.wait(30)


def _nothing() -> None:
    """The first byte came before."""


@contextmanager
def agent(folder: Path, images: Path, *, spares: bool) -> Iterator[Agent]:
    """Give an agent that ends with the block."""
    one = Agent(folder, images, spares=spares)
    try:
        yield one
    finally:
        one.close()


def rows(rounds: int) -> Iterator[Row]:
    """Measure everything of the engine; root's engine, as ordinary users have no runtimes to compare with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        build_busybox(Store(images))
        yield from one_shot_rows(folder, images, rounds)
        with agent(folder / "run" / "exec", images, spares=True) as one:
            yield from exec_rows(one, rounds)
        with agent(folder / "run" / "many", images, spares=False) as one:
            yield from many_rows(one)


def one_shot_rows(folder: Path, images: Path, rounds: int) -> Iterator[Row]:
    """Time one-shot containers with all that protects them, in turns with other runtimes."""
    cold, ready, ahead = Series(), Series(), Series()
    run = {"options": {"argv": COMMAND, **LIMITS}, "name": ""}
    with ExitStack() as stack:
        peers = stack.enter_context(every(folder))
        plain = stack.enter_context(agent(folder / "run" / "cold", images, spares=False))
        usual = stack.enter_context(agent(folder / "run" / "usual", images, spares=True))
        usual.first_byte_ms("container.run", **run)
        theirs = {name: Series() for name in peers}
        for number in range(rounds):
            cold.take(lambda: plain.first_byte_ms("container.run", **run))
            time.sleep(REST_S)
            other = {**run, "options": {**run["options"], "hostname": f"h{number}"}}
            ready.take(partial(usual.first_byte_ms, "container.run", **other))
            time.sleep(REST_S)
            usual.first_byte_ms("container.run", **run)
            time.sleep(REST_S)
            ahead.take(lambda: usual.first_byte_ms("container.run", **run))
            for name, measure in peers.items():
                time.sleep(REST_S)  # as ours: a processor that has just worked is faster than one that wakes
                theirs[name].take(measure)
    yield Row("container like the last one (made ahead)", ahead, goal=3)
    for name, goal in (("bwrap", 0.9), ("crun", 0.25), ("runc", 0.12)):
        if name in theirs:
            yield Row(f"container unlike it, beside {name}", ready, (name, theirs[name]), goal)
    yield Row("container at once after another, nothing ready", cold)
    if "runc" in theirs:
        yield Row(f"{OURS} run, a cold process", theirs[OURS], ("runc", theirs["runc"]), 1.0)
    for name, series in theirs.items():
        yield Row(name, series)


def exec_rows(one: Agent, rounds: int) -> Iterator[Row]:
    """Time a command in a container that runs."""
    start(one, "one")
    series = Series()
    for _ in range(rounds):
        time.sleep(REST_S)
        series.take(lambda: one.first_byte_ms("container.exec", name="one", options={"argv": COMMAND}))
    one.answer(one.call("container.remove", name="one", force=True))
    yield Row("exec into a running container", series, goal=5)


def start(one: Agent, name: str) -> int:
    """Start a container that sleeps."""
    options = {"argv": ["/bin/sleep", "600"], **LIMITS}
    return int(one.answer(one.call("container.run", name=name, options=options, detach=True))["pid"])


def many_rows(one: Agent) -> Iterator[Row]:
    """Start a hundred containers one after another; then count the memory they take beside their own processes."""
    before_kb, free_kb = private_kb(one.process.pid), available_kb()
    begin_s = time.perf_counter()
    requests = [
        one.call("container.run", name=f"m{n}", options={"argv": ["/bin/sleep", "600"], **LIMITS}, detach=True)
        for n in range(MANY)
    ]
    pids = [int(one.answer(request)["pid"]) for request in requests]
    seconds = time.perf_counter() - begin_s
    own_kb = sum(private_kb(pid) for pid in pids)
    agent_mb = (private_kb(one.process.pid) - before_kb) / 1024 / MANY
    all_mb = (free_kb - available_kb() - own_kb) / 1024 / MANY
    for n in range(MANY):
        one.answer(one.call("container.remove", name=f"m{n}", force=True))
    yield Row(f"{MANY} containers started", Series([seconds * 1e3]), goal=1000)
    yield Row("  memory each, agent (MB)", Series([agent_mb]), goal=1.5)
    yield Row("  memory each, kernel and agent (MB)", Series([all_mb]), goal=1.5)


def private_kb(pid: int) -> int:
    """Return the memory that only this process uses (proc_pid_smaps(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def available_kb() -> int:
    """Return the computer's free memory, caches that can be dropped included (proc_meminfo(5), MemAvailable)."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1])


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for row in rows(30):
        print(row.text(), flush=True)
