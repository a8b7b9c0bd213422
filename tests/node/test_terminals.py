"""A real terminal on a node: its size, keys that signal, how much of a flood is under way, and its end."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_agent import LIMIT_S, Bench
from vmcontainer_kernel.agent.protocol import Kind
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.node import Request

WINDOW_BYTES = 16 << 10


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    images = tmp_path_factory.mktemp("images")
    build_busybox(Store(images))
    bench = Bench(tmp_path_factory.mktemp("run") / f"s{os.getpid()}-9", images)
    yield bench
    bench.close()


class Terminal:
    """A shell on a pty; `wait_for` reads until the text has come, and takes nothing while nobody reads."""

    def __init__(self, bench: Bench, verb: str = "exec", **arguments: Any) -> None:
        self.bench, self.seen, self.taking = bench, b"", True
        arguments = arguments or {"argv": ["/bin/sh", "-i"], "tty": True, "env": {"PS1": "$ ", "TERM": "dumb"}}

        async def start() -> Request:
            return bench.node.start(verb, {**arguments, "stdin": True}, on_data=self.take, window_bytes=WINDOW_BYTES)

        self.request: Request = bench.wait(start())

    def take(self, stream: int, data: bytes) -> None:
        self.seen += data
        if self.taking:
            self.request.consumed(stream, len(data))

    def type(self, keys: bytes) -> None:
        self.bench.wait(self.request.feed(keys))

    def call(self, verb: str, **arguments: Any) -> Any:
        return self.bench.call(verb, request=self.request.number, **arguments)

    def until(self, done: Callable[[], bool], what: str = "") -> None:
        async def look() -> None:
            while not done():
                await asyncio.sleep(0.01)

        try:
            self.bench.wait(look())
        except TimeoutError:
            pytest.fail(f"not in {LIMIT_S:g} s: {what}; the terminal shows {self.seen[-500:]!r}")

    def wait_for(self, text: bytes, times: int = 1) -> None:
        self.until(lambda: self.seen.count(text) >= times, text.decode())

    def end(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.bench.wait(self.request.done)
        return answer


def test_its_size_is_what_was_said_last(bench: Bench) -> None:
    terminal = Terminal(bench)
    assert terminal.call("resize", rows=30, columns=100) == {"resized": True}
    terminal.type(b"trap 'echo told' WINCH; stty size\n")
    terminal.wait_for(b"30 100\r")
    terminal.call("resize", rows=7, columns=20)
    terminal.type(b"stty size; exit 3\n")  # a shell looks at its signals when a line has been read
    terminal.wait_for(b"told\r")
    terminal.wait_for(b"7 20\r")
    assert terminal.end()["status"] == 3


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-1, 80), (24, 1001), (2**40, 80)])
def test_a_size_that_no_window_has_is_refused(bench: Bench, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="a terminal of"):
        bench.call("resize", request=1, rows=size[0], columns=size[1])


def test_without_a_terminal_there_is_nothing_to_resize_or_hang_up(bench: Bench) -> None:
    piped = Terminal(bench, argv=["cat"])
    assert piped.call("resize", rows=2, columns=2) == {"resized": False}
    assert piped.call("hangup") == {"sent": False}
    piped.request.end_input()
    assert piped.end()["status"] == 0
    assert piped.call("hangup") == {"sent": False}


def test_a_flood_is_held_up_by_who_reads_it_and_ends_at_ctrl_c(bench: Bench) -> None:
    terminal = Terminal(bench)
    terminal.wait_for(b"$ ")
    terminal.taking = False
    terminal.type(b"yes flood\n")
    terminal.until(lambda: len(terminal.seen) > WINDOW_BYTES // 2, "a flood")
    bench.wait(asyncio.sleep(0.3))
    before = len(terminal.seen)
    assert before <= WINDOW_BYTES
    terminal.type(b"\x03echo cal''med\n")
    terminal.taking = True
    terminal.request.consumed(Kind.STDOUT, before)
    terminal.wait_for(b"calmed\r")
    # What was under way, and what the kernel holds of a terminal (4 KiB).
    assert len(terminal.seen) < before + WINDOW_BYTES + (32 << 10)
    terminal.type(b"exit\n")
    terminal.end()


@pytest.mark.parametrize("stubborn", [False, True])
def test_when_it_is_closed_shell_and_foreground_end(bench: Bench, *, stubborn: bool) -> None:
    terminal = Terminal(bench)
    terminal.type(b"sh -c '" + b'trap "" HUP; ' * stubborn + b"echo fore$$; while :; do sleep 0.05; done'\n")
    terminal.until(lambda: re.search(rb"fore\d+\r", terminal.seen) is not None, "the program")
    pid = int(re.findall(rb"fore(\d+)\r", terminal.seen)[0])
    assert terminal.call("hangup") == {"sent": True}
    if stubborn:
        bench.wait(asyncio.sleep(0.1))
        assert Path(f"/proc/{pid}").exists()
        terminal.call("hangup", force=True)
    terminal.end()
    terminal.until(lambda: not Path(f"/proc/{pid}").exists(), f"the end of {pid}")


@pytest.mark.needs("containers-on-host")
def test_one_in_a_container_leaves_nothing_in_it(bench: Bench) -> None:
    bench.call("container.run", name="web", detach=True, options={"argv": ["sleep", "1000"]})
    options = {"argv": ["/bin/sh", "-i"], "tty": True, "env": {"TERM": "xterm-256color"}}
    terminal = Terminal(bench, "container.exec", name="web", options=options)
    terminal.call("resize", rows=11, columns=44)
    terminal.type(b"stty size; touch /made; sleep 1000\n")
    terminal.wait_for(b"11 44\r")

    def processes() -> list[str]:
        return [one["comm"] for one in bench.call("container.top", name="web")["processes"]]

    deadline = bench.loop.time() + LIMIT_S
    while processes().count("sleep") < 2:
        assert bench.loop.time() < deadline, processes()
    terminal.call("hangup")
    terminal.end()
    while processes() != ["sleep"]:
        assert bench.loop.time() < deadline, processes()
    bench.call("container.remove", name="web", force=True)
