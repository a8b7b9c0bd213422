"""A real supervisor, asked through its node as a notebook asks: streams, signals, files, containers, loss, restart."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import now_s
from vmcontainer_kernel.agent.protocol import PROTOCOL, WINDOW, Kind, encode, encode_json
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import (
    LabError,
    NodeError,
    NodeLost,
    NotFound,
    UserError,
)
from vmcontainer_kernel.fetching import fetch_bytes
from vmcontainer_kernel.host_agent import HostAgent
from vmcontainer_kernel.node import Node, Request

LIMIT_S = 30.0
SESSION = f"s{os.getpid()}"  # control groups are named after it: other runs on this computer have others
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root: changes ids")


class Result:
    """What came out of a request."""

    def __init__(self, answer: dict[str, Any], out: bytes, err: bytes, events: list[dict[str, Any]]) -> None:
        self.answer, self.out, self.err, self.events = answer, out, err, events
        self.status = answer.get("status")


class Bench:
    """An event loop with a supervisor; everything waits for its answer."""

    def __init__(self, folder: Path, images: Path, *, spares: bool = False) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = folder
        self.agent = self.wait(HostAgent.launch(folder, images, spares=spares))
        self.node = self.agent.node

    def wait(self, coroutine: Coroutine[Any, Any, Any], limit_s: float = LIMIT_S) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, limit_s))

    def call(self, verb: str, **arguments: Any) -> Any:
        return self.wait(self.node.call(verb, **arguments))

    async def collect(self, verb: str, stdin: bytes | None = None, **arguments: Any) -> Result:
        parts: dict[int, list[bytes]] = {Kind.STDOUT: [], Kind.STDERR: []}
        events: list[dict[str, Any]] = []

        def keep(stream: int, data: bytes) -> None:
            parts[stream].append(data)
            request.consumed(stream, len(data))

        request = self.node.start(verb, {**arguments, "stdin": stdin is not None}, on_data=keep, on_event=events.append)
        if stdin is not None:
            await request.feed(stdin)
            request.end_input()
        answer = await request.done
        return Result(answer, b"".join(parts[Kind.STDOUT]), b"".join(parts[Kind.STDERR]), events)

    def exec(self, *argv: str, stdin: bytes | None = None, **arguments: Any) -> Result:
        return self.wait(self.collect("exec", stdin, argv=list(argv), **arguments))

    def sh(self, script: str, **arguments: Any) -> Result:
        return self.exec("/bin/sh", "-c", script, **arguments)

    def container(self, script: str, name: str = "", **options: Any) -> Result:
        return self.wait(
            self.collect("container.run", name=name, options={"argv": ["/bin/sh", "-c", script], **options})
        )

    def close(self) -> None:
        self.wait(self.agent.close())
        self.loop.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    build_busybox(Store(folder))
    return folder


@pytest.fixture(scope="module")
def bench(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("run") / f"{SESSION}-1", images)
    yield bench
    pid = bench.agent.process.pid
    bench.close()
    assert bench.agent.process.returncode == 0
    assert not bench.folder.exists()
    assert not Path(f"/proc/{pid}").exists()
    assert [*bench.folder.parent.iterdir()] == []


@pytest.fixture
def fresh(images: Path, tmp_path: Path) -> Iterator[Bench]:
    """A supervisor of the test's own, to be mistreated."""
    bench = Bench(tmp_path / "run" / f"{SESSION}-1", images)
    yield bench
    bench.close()


def descriptors(bench: Bench) -> int:
    return len([*Path(f"/proc/{bench.agent.process.pid}/fd").iterdir()])


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the supervisor has the descriptors and children it had before."""
    if "bench" not in request.fixturenames:
        yield
        return
    bench = request.getfixturevalue("bench")
    # One-shot containers are removed after their answer; this one comes after that.
    bench.wait(bench.node.call("container.list"))
    before = descriptors(bench)
    yield
    pid = bench.agent.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = now_s() + 3

    def at_rest() -> bool:
        # First the requests: the supervisor may not even have begun with the last one.
        return not bench.node._requests and not children.read_text() and descriptors(bench) == before

    while not at_rest() and now_s() < deadline:
        bench.wait(asyncio.sleep(0.02))
    assert descriptors(bench) == before
    assert children.read_text() == ""
    assert not bench.node._requests


# -- exec


def test_streams_are_kept_apart(bench: Bench) -> None:
    result = bench.sh("echo out; echo err >&2; exit 3")
    assert (result.out, result.err, result.status) == (b"out\n", b"err\n", 3)
    assert result.events[0]["event"] == "started"


@pytest.mark.parametrize(("script", "status", "number"), [("kill -9 $$", 137, 9), ("kill -INT $$", 130, 2)])
def test_the_end_by_a_signal_is_told(bench: Bench, script: str, status: int, number: int) -> None:
    answer = bench.sh(script).answer
    assert (answer["status"], answer["signal"]) == (status, number)


def test_environment_and_folder(bench: Bench, tmp_path: Path) -> None:
    result = bench.sh('echo "$A $B"; pwd', env={"A": "1", "B": "x y"}, cwd=str(tmp_path))
    assert result.out.decode() == f"1 x y\n{tmp_path}\n"


def test_bytes_arrive_unchanged(bench: Bench) -> None:
    assert bench.exec("printf", r"\377\000\303").out == b"\xff\x00\xc3"


def test_stdin_arrives_whole(bench: Bench) -> None:
    data = os.urandom(3 * WINDOW + 17)
    assert bench.exec("cat", stdin=data).out == data


def test_without_stdin_there_is_the_end_of_file_at_once(bench: Bench) -> None:
    assert bench.exec("cat").out == b""


def test_feeding_a_program_that_reads_nothing_ends_with_it(bench: Bench) -> None:
    assert bench.sh("exec <&-; sleep 0.2; exit 4", stdin=bytes(4 * WINDOW)).status == 4


def test_a_terminal(bench: Bench) -> None:
    result = bench.sh("test -t 0 && test -t 1 && tty && echo yes", tty=True)
    assert result.out.endswith(b"yes\r\n")
    assert result.out.startswith(b"/dev/pts/")


def test_all_that_was_written_to_a_terminal_arrives(bench: Bench) -> None:
    result = bench.sh("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done", tty=True)
    assert result.out.split() == [str(number).encode() for number in range(20000)]


def test_input_of_a_terminal_ends(bench: Bench) -> None:
    result = bench.exec("cat", stdin=b"typed\n", tty=True)
    assert result.out.count(b"typed\r\n") == 2  # the echo, and what cat wrote
    assert result.status == 0


@needs_root
@pytest.mark.parametrize("user", ["65534", "65534:65534", "nobody"])
def test_another_user(bench: Bench, user: str) -> None:
    assert bench.sh("id -u; grep Groups /proc/self/status", user=user).out.split()[:2] == [b"65534", b"Groups:"]


@needs_root
def test_the_second_net_holds_for_another_user_too(bench: Bench) -> None:
    """PR_SET_PDEATHSIG is cleared by a change of ids (prctl(2)); so it must be set after it."""
    program = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    assert bench.exec(python, "-c", program, user="65534", cwd="/").out == b"9\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"argv": ["no-such-program"]}, "there is no program 'no-such-program'"),
        ({"argv": ["/etc/passwd"]}, "did not start"),
        ({"argv": ["true"], "cwd": "/no/such/folder"}, "the folder /no/such/folder cannot be entered"),
        ({"argv": ["true"], "user": "no-such-user"}, "there is no user 'no-such-user'"),
        ({"argv": ["true"], "user": "1:x"}, "there is no user '1:x'"),
        ({"argv": ["\0"]}, "did not start"),
    ],
)
def test_what_cannot_run_is_a_node_error(bench: Bench, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(NodeError, match=words) as caught:
        bench.wait(bench.collect("exec", **arguments))
    assert not isinstance(caught.value, NodeLost)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "argv"),
        ({"argv": "true"}, "argv"),
        ({"argv": [1]}, "argv"),
        ({"argv": []}, "program"),
        ({"argv": ["true"], "env": 3}, "env"),
        ({"argv": ["true"], "cwd": 3}, "cwd"),
        ({"argv": ["true"], "tty": "yes"}, "tty"),
    ],
)
def test_wrong_attributes_are_named(bench: Bench, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=name):
        bench.call("exec", **arguments)


def test_an_unknown_verb_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="frobnicate"):
        bench.call("frobnicate")


def test_who_inherits_the_pipe_does_not_hold_the_request_up(bench: Bench) -> None:
    began_s = now_s()
    result = bench.sh("sleep 5 & echo $!")
    assert now_s() - began_s < 3
    os.kill(int(result.out), signal.SIGKILL)


def test_many_at_once(bench: Bench) -> None:
    async def all_of_them() -> list[Result]:
        return await asyncio.gather(*(bench.collect("exec", argv=["sh", "-c", f"echo {n}"]) for n in range(30)))

    assert [int(result.out) for result in bench.wait(all_of_them())] == list(range(30))


# -- signals and floods


async def started(bench: Bench, script: str, **more: Any) -> tuple[Request, list[bytes]]:
    """Start a script whose output is not acknowledged, and wait for its first bytes."""
    got: list[bytes] = []
    first = asyncio.Event()

    def keep(_stream: int, data: bytes) -> None:
        got.append(data)
        first.set()

    request = bench.node.start("exec", {"argv": ["/bin/sh", "-c", script]}, on_data=keep, **more)
    await first.wait()
    return request, got


def test_a_signal_reaches_the_whole_group(bench: Bench) -> None:
    async def scenario() -> dict[str, Any]:
        request, _ = await started(bench, "sleep 60 & echo ready; sleep 60")
        assert await bench.node.signal(request, signal.SIGTERM)
        return await request.done

    assert bench.wait(scenario())["signal"] == signal.SIGTERM


def test_a_signal_to_what_has_ended_is_told(bench: Bench) -> None:
    async def scenario() -> bool:
        request = bench.node.start("exec", {"argv": ["true"]})
        await request.done
        return await bench.node.signal(request, signal.SIGTERM)

    assert bench.wait(scenario()) is False


def test_a_signal_there_is_not(bench: Bench) -> None:
    async def scenario() -> None:
        request, _ = await started(bench, "echo; sleep 60")
        try:
            with pytest.raises(UserError, match="no signal 999"):
                await bench.node.signal(request, 999)
        finally:
            await bench.node.signal(request, signal.SIGKILL)
            await request.done

    bench.wait(scenario())


@pytest.mark.alone
def test_a_stream_that_nobody_reads_stops_at_its_window(bench: Bench) -> None:
    async def scenario() -> tuple[int, float]:
        request, got = await started(bench, "echo; cat /dev/zero")
        await asyncio.sleep(0.3)
        began_s = now_s()
        await bench.node.signal(request, signal.SIGKILL)
        answered_s = now_s() - began_s
        under_way = sum(map(len, got))
        for stream in (Kind.STDOUT, Kind.STDERR):
            request.consumed(stream, WINDOW)
        await request.done
        return under_way, answered_s

    under_way, answered_s = bench.wait(scenario())
    assert under_way == WINDOW
    assert answered_s < 0.5


@pytest.mark.alone
def test_a_flood_of_one_gigabyte_holds_no_signal_up(bench: Bench) -> None:
    gigabyte = 1 << 30
    total, answers = 0, []

    async def scenario() -> None:
        def count(stream: int, data: bytes) -> None:
            nonlocal total
            total += len(data)
            flood.consumed(stream, len(data))

        other, _ = await started(bench, "trap 'echo told' INT; echo; while :; do sleep 0.01; done")
        flood = bench.node.start("exec", {"argv": ["head", "-c", str(gigabyte), "/dev/zero"]}, on_data=count)
        while not flood.done.done():
            began_s = now_s()
            await bench.node.signal(other, signal.SIGINT)
            answers.append(now_s() - began_s)
            await asyncio.wait((flood.done,), timeout=0.2)
        await bench.node.signal(other, signal.SIGKILL)
        await other.done

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bench.wait(scenario(), 120)
    assert total == gigabyte
    assert max(answers) < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 << 10
    status = Path(f"/proc/{bench.agent.process.pid}/status").read_text()
    peak_kib = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kib < 64 << 10


# -- files


def got(bench: Bench, path: str) -> Coroutine[Any, Any, bytes]:
    return fetch_bytes(bench.node, "get", {"path": path}, 64 << 20, what=path)


def test_files_go_and_come_unchanged(bench: Bench, tmp_path: Path) -> None:
    data, path = os.urandom(WINDOW * 2 + 1), tmp_path / "file"
    assert bench.wait(bench.node.put(data, str(path), 0o600)) == len(data)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert bench.wait(got(bench, str(path))) == data
    assert [*tmp_path.iterdir()] == [path]


def test_an_empty_file(bench: Bench, tmp_path: Path) -> None:
    bench.wait(bench.node.put(b"", str(tmp_path / "empty")))
    assert bench.wait(got(bench, str(tmp_path / "empty"))) == b""


def test_a_file_that_is_larger_than_wanted(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(8 << 20))
    with pytest.raises(NodeError, match="more than 5000000 bytes"):
        bench.wait(fetch_bytes(bench.node, "get", {"path": str(tmp_path / "large")}, 5_000_000, what="it"))
    assert b"MemTotal" in bench.wait(got(bench, "/proc/meminfo"))  # the conversation goes on


def test_a_file_of_proc_has_no_size_but_content(bench: Bench) -> None:
    assert b"MemTotal" in bench.wait(got(bench, "/proc/meminfo"))


def test_a_file_that_is_not_there(bench: Bench) -> None:
    with pytest.raises(NotFound, match="/no/such"):
        bench.wait(got(bench, "/no/such"))


def test_what_is_no_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(NodeError, match="no regular file"):
            bench.wait(got(bench, str(path)), 5)


def test_a_place_that_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "file", Path("/proc/nothing")):
        with pytest.raises(NodeError, match="cannot be written"):
            bench.wait(bench.node.put(bytes(4 * WINDOW), str(path)))


def test_a_folder_is_not_replaced_and_nothing_stays_behind(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NodeError, match="folder"):
        bench.wait(bench.node.put(b"x", str(tmp_path / "folder")))
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"]


def test_a_disk_that_is_full(bench: Bench) -> None:
    """The limit on a file's size ends a write as a full disk does, midway."""
    before = resource.prlimit(bench.agent.process.pid, resource.RLIMIT_FSIZE, (WINDOW, resource.RLIM_INFINITY))
    path = bench.folder / "big"
    try:
        with pytest.raises(NodeError, match="big"):
            bench.wait(bench.node.put(bytes(8 * WINDOW), str(path)))
    finally:
        resource.prlimit(bench.agent.process.pid, resource.RLIMIT_FSIZE, before)
    assert not path.exists()
    assert not [*bench.folder.glob("big*")]
    assert bench.sh("echo on").out == b"on\n"


# -- helpers


def test_descriptors_are_passed_to_a_helper(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> tuple[bytes, int]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            script = "import os; os.write(11, os.read(10, 9)); print('said', *os.listdir('/proc/self/fd'))"
            fds = [theirs.fileno(), theirs.fileno()]
            spawned = await bench.node.spawn([sys.executable, "-c", script], fds=fds, log=tmp_path / "log")
            theirs.close()
            ours.send(b"hello")
            ours.shutdown(socket.SHUT_WR)
            ours.setblocking(False)
            return await asyncio.get_running_loop().sock_recv(ours, 100), await spawned.wait()

    assert bench.wait(scenario()) == (b"hello", 0)
    lines = (tmp_path / "log").read_text().split()
    assert lines[0] == "said"
    assert {"0", "1", "2", "10", "11"} <= set(lines[1:]) <= {"0", "1", "2", "3", "10", "11"}


def test_a_helper_that_is_not_there(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="no-such-helper"):
        bench.wait(bench.node.spawn(["no-such-helper"], log=tmp_path / "log"))


def test_a_helper_is_killed_and_its_signal_told(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> int:
        spawned = await bench.node.spawn(["sleep", "60"], log=tmp_path / "log")
        await spawned.kill()
        return await spawned.wait()

    assert bench.wait(scenario()) == -signal.SIGKILL


def test_a_helper_whose_start_is_given_up_does_not_stay(bench: Bench, tmp_path: Path) -> None:
    async def scenario() -> None:
        task = asyncio.ensure_future(bench.node.spawn(["sleep", "61"], log=tmp_path / "log"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    bench.wait(scenario())  # `nothing_leaks` sees to the rest


# -- the conversation


def test_the_handshake_tells_what_is_on_the_other_side(bench: Bench) -> None:
    assert bench.node.facts["protocol"] == PROTOCOL
    assert bench.node.facts["pid"] == bench.agent.process.pid


def test_a_killed_agent_is_a_lost_node(fresh: Bench) -> None:
    async def scenario() -> None:
        request, _ = await started(fresh, "echo; sleep 60")
        fresh.agent.process.kill()
        with pytest.raises(NodeLost, match="unknown"):
            await request.done
        assert fresh.node.lost.is_set()
        with pytest.raises(NodeLost, match="gone"):
            fresh.node.start("view", {})

    fresh.wait(scenario())


def test_feeding_a_lost_node_ends(fresh: Bench) -> None:
    async def scenario() -> None:
        request, _ = await started(fresh, "echo; sleep 60")
        asyncio.get_running_loop().call_later(0.2, fresh.agent.process.kill)
        await request.feed(bytes(4 * WINDOW))
        with pytest.raises(NodeLost):
            await request.done

    fresh.wait(scenario())


def test_bytes_that_are_no_frame_end_the_agent_and_all_it_started(fresh: Bench) -> None:
    async def scenario() -> None:
        request, _ = await started(fresh, "echo; sleep 60")
        fresh.node.write(b"\xff" * 64)
        with pytest.raises(NodeLost):
            await request.done

    fresh.wait(scenario())
    assert fresh.agent.process.wait(LIMIT_S) == 0
    assert not fresh.folder.exists()


def test_an_agent_that_talks_nonsense_is_a_lost_node() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        node = Node("vm", ours)
        theirs.send(b"login: login: login: ")
        with pytest.raises(NodeLost):
            await node.connect(5)
        theirs.close()

    asyncio.run(scenario())


def test_an_agent_of_another_version_is_told() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        node = Node("vm", ours)
        theirs.send(encode_json(Kind.HELLO, 0, {"protocol": 99}))
        with pytest.raises(LabError, match="99"):
            await node.connect(5)
        theirs.close()

    asyncio.run(scenario())


def test_an_agent_that_never_answers() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        node = Node("vm", ours)
        with pytest.raises(NodeLost, match=r"within 0\.1 s"):
            await node.connect(0.1)
        node.close()
        theirs.close()

    asyncio.run(scenario())


def test_a_new_hello_starts_a_fresh_conversation(fresh: Bench) -> None:
    async def scenario() -> bytes:
        _, got = await started(fresh, "echo; exec cat /dev/zero")
        await asyncio.sleep(0.2)
        fresh.node._greet()
        await fresh.node.call("container.list")
        before = sum(map(len, got))
        for stream in (Kind.STDOUT, Kind.STDERR):
            fresh.node.write(encode(Kind.CREDIT, 1, bytes([stream, 0, 1, 0, 0])))
        assert sum(map(len, got)) == before
        return (await fresh.collect("exec", argv=["echo", "anew"])).out

    assert fresh.wait(scenario()) == b"anew\n"


def test_a_hello_in_the_middle_of_a_flood_tears_no_frame(fresh: Bench) -> None:
    async def scenario() -> None:
        for _ in range(20):
            request = fresh.node.start("exec", {"argv": ["cat", "/dev/zero"]})
            await asyncio.sleep(0.01)
            fresh.node._greet()
            assert (await fresh.collect("exec", argv=["echo", "whole"])).out == b"whole\n"
            assert not request.done.done()

    fresh.wait(scenario())


def test_an_ended_conversation_ends_what_ran(images: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "run" / f"{SESSION}-1", images)
    result = bench.sh("sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 & echo $!")
    bench.close()
    assert bench.agent.process.returncode == 0
    assert not Path(f"/proc/{int(result.out)}").exists()


def test_a_run_folder_that_cannot_be_made_says_so(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="supervisor did not start") as caught:
        Bench(tmp_path / "file" / f"{SESSION}-1", images)
    assert "NotADirectory" in caught.value.where


# -- containers


@pytest.mark.needs("containers-on-host")
class TestContainers:
    """Containers of the node."""

    def test_a_one_shot(self, bench: Bench) -> None:
        result = bench.container("echo $$; hostname; exit 5", hostname="inner")
        assert (result.out, result.status) == (b"1\ninner\n", 5)
        assert len(result.events[0]["steps"]) > 10
        assert all(milliseconds >= 0 for _, milliseconds in result.events[0]["steps"])
        assert bench.call("container.list")["containers"] == []

    def test_a_named_one_stays_until_removed(self, bench: Bench) -> None:
        options = {"argv": ["sleep", "1000"]}
        bench.call("container.run", name="web", options=options, detach=True)
        with pytest.raises(UserError, match="web already"):
            bench.call("container.run", name="web", options=options, detach=True)
        result = bench.wait(
            bench.collect("container.exec", name="web", options={"argv": ["sh", "-c", "echo $$; cat /proc/1/comm"]})
        )
        assert result.out.split()[1] == b"sleep"
        assert [one["name"] for one in bench.call("container.list")["containers"]] == ["web"]
        assert bench.call("container.inspect", name="web")["state"]["status"] == "running"
        with pytest.raises(UserError, match="running"):
            bench.call("container.remove", name="web")
        bench.call("container.remove", name="web", force=True)
        with pytest.raises(NotFound, match="web"):
            bench.call("container.inspect", name="web")

    def test_logs_are_kept_and_bounded(self, bench: Bench) -> None:
        script = "head -c 1000000 /dev/zero | tr '\\0' x; echo end; exec sleep 1000"
        bench.call("container.run", name="noisy", options={"argv": ["sh", "-c", script]}, detach=True)
        try:
            deadline = now_s() + 5
            while not (logs := bench.wait(bench.collect("container.logs", name="noisy"))).out.endswith(b"end\n"):
                assert now_s() < deadline
            assert len(logs.out) + logs.answer["dropped_bytes"] == 1_000_004
            assert len(logs.out) == 256 * 1024
        finally:
            bench.call("container.remove", name="noisy", force=True)

    def test_a_program_that_is_not_there(self, bench: Bench) -> None:
        with pytest.raises(LabError, match="no-such"):
            bench.wait(bench.collect("container.run", options={"argv": ["no-such"]}))
        assert bench.call("container.list")["containers"] == []

    def test_an_image_that_is_not_there(self, bench: Bench) -> None:
        with pytest.raises(NotFound, match="no-such") as caught:
            bench.container("true", image="no-such")
        assert "busybox" in caught.value.hint

    def test_an_option_there_is_not(self, bench: Bench) -> None:
        with pytest.raises(UserError, match="color"):
            bench.container("true", color="red")

    def test_one_that_is_removed_while_a_request_waits_for_it(self, bench: Bench) -> None:
        async def scenario() -> dict[str, Any]:
            first = bench.node.start("container.run", {"name": "gone", "options": {"argv": ["sleep", "1000"]}})
            while not (await bench.node.call("container.list"))["containers"]:
                await asyncio.sleep(0.01)
            second = bench.node.start("container.exec", {"name": "gone", "options": {"argv": ["sleep", "1000"]}})
            await bench.node.call("container.remove", name="gone", force=True)
            return {"first": await first.done, "second": await second.done}

        answers = bench.wait(scenario())
        assert answers["first"]["signal"] == answers["second"]["signal"] == signal.SIGKILL

    @pytest.mark.needs("cgroups")
    def test_the_memory_limit_is_told_while_it_runs(self, bench: Bench) -> None:
        script = "x=0123456789abcdef; (while :; do x=$x$x; done) ; sleep 0.7; echo $?; exit 9"
        result = bench.container(script, memory_bytes=16 << 20)
        assert result.status == 9
        assert [event["limit"] for event in result.events if event["event"] == "limit"] == ["oom_kills"]
        assert result.answer["limits"]["oom_kills"] == 1

    @pytest.mark.needs("cgroups")
    def test_the_limit_of_processes_is_told(self, bench: Bench) -> None:
        result = bench.container("for i in 1 2 3 4 5 6 7 8; do sleep 0.1 & done; wait; true", pids_limit=4)
        assert "pids_denied" in [event.get("limit") for event in result.events]

    def test_a_signal_ends_a_container(self, bench: Bench) -> None:
        async def scenario() -> dict[str, Any]:
            request = bench.node.start("container.run", {"options": {"argv": ["sleep", "1000"]}})
            while not (await bench.node.call("container.list"))["containers"]:
                await asyncio.sleep(0.01)
            assert await bench.node.signal(request, signal.SIGINT)
            return await request.done

        assert bench.wait(scenario())["status"] in (130, 137)

    def test_explaining_does_nothing(self, bench: Bench) -> None:
        steps = bench.call("container.explain", options={"argv": ["true"]})["steps"]
        assert steps[0]["step"] == "clone"
        assert all(step["call"] and step["source"] for step in steps)
        assert bench.call("container.list")["containers"] == []

    def test_the_view_knows_whose_process_is_whose(self, bench: Bench) -> None:
        bench.call("container.run", name="seen", options={"argv": ["sleep", "1000"]}, detach=True)
        view = bench.wait(bench.node.view())
        bench.call("container.remove", name="seen", force=True)
        roles = {row["role"]: row for row in view["processes"]}
        assert roles["container"]["container"] == "seen"
        assert roles["container"]["pids"][-1] == 1
        assert roles["agent"]["pid"] == bench.agent.process.pid
        assert os.getpid() in [row["pid"] for row in view["processes"]]
