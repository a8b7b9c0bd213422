"""A node's containers over their whole life: stop, restart, wait, pause, policies, health, logs, attach, limits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_agent import Bench
from tests.patience import now_s
from vmcontainer_kernel.agent.protocol import CREDIT_AFTER, MAX_CHUNK, WINDOW, Kind
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, LabError, NotFound, SpecError, UserError

pytestmark = pytest.mark.needs("containers-on-host")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("lives")
    build_busybox(Store(folder / "images"))
    bench = Bench(folder / "run" / f"lives{os.getpid()}", folder / "images")
    yield bench
    bench.close()
    assert not bench.folder.exists()


@pytest.fixture(autouse=True)
def nothing_is_left(bench: Bench) -> Iterator[None]:
    fds = len([*Path(f"/proc/{bench.agent.process.pid}/fd").iterdir()])
    yield
    for one in bench.call("container.list")["containers"]:
        with contextlib.suppress(NotFound):  # a one-shot container that has just ended
            bench.call("container.remove", name=one["name"], force=True)
    for one in bench.call("network.list")["networks"]:
        bench.call("network.remove", name=one["name"])
    bench.call("container.list")
    eventually(lambda: len([*Path(f"/proc/{bench.agent.process.pid}/fd").iterdir()]) <= fds, bench)


def eventually(done: Callable[[], Any], bench: Bench, limit_s: float = 10.0) -> Any:
    deadline_s = now_s() + limit_s
    while not (found := done()):
        assert now_s() < deadline_s
        bench.wait(asyncio.sleep(0.02))
    return found


def run(bench: Bench, script: str, name: str = "web", **options: Any) -> dict[str, Any]:
    return bench.call("container.run", name=name, options={"argv": ["sh", "-c", script], **options}, detach=True)


def state(bench: Bench, name: str = "web") -> str:
    return bench.call("container.inspect", name=name)["state"]["status"]


def inspect(bench: Bench, name: str = "web") -> dict[str, Any]:
    return bench.call("container.inspect", name=name)


def logs(bench: Bench, **arguments: Any) -> bytes:
    return bench.wait(bench.collect("container.logs", name="web", **arguments)).out


# -- ends


def test_stop_asks_first(bench: Bench) -> None:
    run(bench, "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.02; done")
    eventually(lambda: b"up" in logs(bench), bench)
    answer = bench.call("container.stop", name="web")
    assert (answer["state"], answer["status"]) == ("stopped", 3)
    assert logs(bench) == b"up\ntold\n"


def test_stop_kills_what_does_not_listen(bench: Bench) -> None:
    run(bench, "trap '' TERM; echo up; while :; do sleep 0.02; done")
    eventually(lambda: b"up" in logs(bench), bench)
    began_s = time.monotonic()
    assert bench.call("container.stop", name="web", timeout_s=0.3)["status"] == 137
    assert time.monotonic() - began_s >= 0.3


def test_stop_sends_the_signal_that_was_asked_for(bench: Bench) -> None:
    run(bench, "trap 'exit 4' USR1; echo up; while :; do sleep 0.02; done", stop_signal="USR1", stop_timeout_s=5)
    eventually(lambda: b"up" in logs(bench), bench)
    assert bench.call("container.stop", name="web")["status"] == 4
    with pytest.raises(UserError, match="no signal 'FLY'"):
        run(bench, "true", name="other", stop_signal="FLY")


SERVES = "trap 'echo told; wait $!; exit 0' TERM; (trap 'exit 9' TERM INT; echo up; sleep 0.6; echo served) & wait"


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_only_the_first_process_is_told(bench: Bench, verb: str) -> None:
    """As Docker does: the first process ends the others in its own time, and what they are at comes to its end."""
    run(bench, SERVES)
    eventually(lambda: b"up" in logs(bench), bench)
    bench.call(f"container.{verb}", name="web")
    assert bench.call("container.wait", name="web")["status"] == 0
    assert logs(bench).split() == [b"up", b"told", b"served"]


def test_an_interrupt_is_for_all_that_a_terminal_would_reach(bench: Bench) -> None:
    """A shell hears of its trap only when the program it waits for has ended."""
    script = "trap 'exit 5' INT; echo up; sleep 60; true"

    async def scenario() -> dict[str, Any]:
        options = {"argv": ["sh", "-c", script]}
        request = bench.node.start("container.run", {"name": "web", "options": options})
        while b"up" not in (await bench.collect("container.logs", name="web")).out:
            await asyncio.sleep(0.02)
        await bench.node.signal(request, signal.SIGINT)
        return await request.done

    assert bench.wait(scenario())["status"] == 5


def test_a_stopped_one_starts_again_with_its_files(bench: Bench) -> None:
    run(bench, "echo once >>/note; cat /note; sleep 1000")
    eventually(lambda: b"once" in logs(bench), bench)
    bench.call("container.stop", name="web")
    with pytest.raises(UserError, match="not running"):
        bench.call("container.exec", name="web", options={"argv": ["true"]})
    bench.call("container.start", name="web")
    assert eventually(lambda: logs(bench).count(b"once") == 3, bench)
    with pytest.raises(UserError, match="running already"):
        bench.call("container.start", name="web")
    bench.call("container.restart", name="web", timeout_s=1)
    assert eventually(lambda: logs(bench).count(b"once") == 6, bench)


def test_create_then_start_and_read_its_streams(bench: Bench) -> None:
    bench.call("container.create", name="web", options={"argv": ["sh", "-c", "cat; echo err >&2; exit 6"]})
    assert state(bench) == "created"
    result = bench.wait(bench.collect("container.start", b"typed", name="web", attach=True))
    assert (result.out, result.err, result.status) == (b"typed", b"err\n", 6)
    assert state(bench) == "stopped"


def test_a_program_that_is_not_there_leaves_what_was_created(bench: Bench) -> None:
    bench.call("container.create", name="web", options={"argv": ["nosuch"]})
    with pytest.raises(LabError, match="no such program"):
        bench.call("container.start", name="web")
    assert eventually(lambda: state(bench) == "stopped", bench)


def test_waiting_for_the_end(bench: Bench) -> None:
    run(bench, "sleep 0.2; exit 9")
    assert bench.call("container.wait", name="web")["status"] == 9
    assert bench.call("container.wait", name="web")["status"] == 9
    with pytest.raises(NotFound, match="nobody"):
        bench.call("container.wait", name="nobody")


def test_removal_ends_the_waiting(bench: Bench) -> None:
    run(bench, "sleep 1000")

    async def scenario() -> dict[str, Any]:
        waiting = bench.node.start("container.wait", {"name": "web"})
        await bench.node.call("container.remove", name="web", force=True)
        return await waiting.done

    assert bench.wait(scenario())["status"] == 137


@pytest.mark.needs("cgroups")
def test_one_that_cannot_be_removed_does_not_end_the_others(bench: Bench) -> None:
    run(bench, "sleep 60", name="other")
    upper = bench.folder / "containers" / "stuck" / "upper"
    inside = ["nsenter", "-m", "-t", str(bench.agent.process.pid)]  # the supervisor's own mount namespace
    options = {"argv": ["sh", "-c", "read x; exit 3"], "interactive": True}
    bench.call("container.run", name="stuck", options=options, detach=True, remove=True)
    subprocess.run([*inside, "mkdir", str(upper / "x")], check=True)
    subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", str(upper / "x")], check=True)
    try:
        bench.call("container.kill", name="stuck", signal=9)
        eventually(lambda: state(bench, "stuck") == "stopped", bench)
        assert state(bench, "other") == "running"
    finally:
        subprocess.run([*inside, "umount", str(upper / "x")], check=True)
    bench.call("container.remove", name="stuck")  # it is listed, to try again


def test_a_pause_stops_time(bench: Bench) -> None:
    run(bench, "while :; do echo tick; sleep 0.01; done")
    eventually(lambda: logs(bench), bench)
    assert bench.call("container.pause", name="web") == {"state": "paused"}
    bench.wait(asyncio.sleep(0.05))
    before = len(logs(bench))
    bench.wait(asyncio.sleep(0.2))
    assert len(logs(bench)) == before
    assert state(bench) == "paused"
    with pytest.raises(UserError, match="paused"):
        bench.call("container.exec", name="web", options={"argv": ["true"]})
    with pytest.raises(UserError, match="is not running, it is paused"):
        bench.call("container.pause", name="web")
    assert bench.call("container.resume", name="web") == {"state": "running"}
    eventually(lambda: len(logs(bench)) > before, bench)
    bench.call("container.pause", name="web")
    assert bench.call("container.stop", name="web", timeout_s=1)["state"] == "stopped"


@pytest.mark.needs("cgroups")
def test_a_paused_one_can_be_removed(bench: Bench) -> None:
    run(bench, "sleep 1000")
    bench.call("container.pause", name="web")
    bench.call("container.remove", name="web", force=True)
    assert bench.call("container.list")["containers"] == []


# -- beginnings again


def test_on_failure_it_is_started_so_often(bench: Bench) -> None:
    run(bench, "echo up; exit 5", restart="on-failure:2")
    answer = bench.call("container.wait", name="web")
    assert answer["status"] == 5
    found = inspect(bench)
    assert (found["restarts"], found["state"]["status"], found["exit_status"]) == (2, "stopped", 5)
    assert logs(bench) == b"up\n" * 3


def test_success_is_no_failure(bench: Bench) -> None:
    run(bench, "echo up", restart="on-failure")
    bench.call("container.wait", name="web")
    bench.wait(asyncio.sleep(0.2))
    assert (logs(bench), inspect(bench)["restarts"]) == (b"up\n", 0)


def test_whoever_stops_it_has_the_last_word(bench: Bench) -> None:
    run(bench, "echo up; exit 1", restart="always")
    eventually(lambda: inspect(bench)["restarts"] >= 2, bench)
    bench.call("container.stop", name="web")
    before = logs(bench)
    bench.wait(asyncio.sleep(0.5))
    assert (logs(bench), state(bench)) == (before, "stopped")


def test_a_policy_there_is_not(bench: Bench) -> None:
    for policy in ("sometimes", "always:3", "on-failure:x"):
        with pytest.raises(SpecError, match="restart"):
            run(bench, "true", restart=policy)


# -- health


def test_health_is_checked(bench: Bench) -> None:
    health = {"argv": ["sh", "-c", "echo looked; test -e /well"], "interval_s": 0.05, "retries": 2}
    run(bench, "sleep 1000", health=health)
    assert inspect(bench)["health"]["status"] == "starting"
    eventually(lambda: inspect(bench)["health"]["status"] == "unhealthy", bench)
    found = inspect(bench)["health"]
    assert found["failing_streak"] >= 2
    assert found["log"][-1]["output"] == "looked\n"
    bench.wait(bench.collect("container.exec", name="web", options={"argv": ["touch", "/well"]}))
    eventually(lambda: inspect(bench)["health"]["status"] == "healthy", bench)
    assert bench.call("container.list")["containers"][0]["health"] == "healthy"
    assert logs(bench) == b""
    bench.call("container.stop", name="web")


def test_the_images_own_check(bench: Bench) -> None:
    store = Store(bench.folder.parent.parent / "images")
    busybox = store.resolve("busybox")
    check = {"Test": ["CMD-SHELL", "echo $HOME; test -e /well"], "Interval": 50_000_000, "Retries": 1}
    config = {**busybox.config, "config": {**busybox.config.get("config", {}), "Healthcheck": check}}
    store.add("checked", config, busybox.layers)
    run(bench, "sleep 1000", image="checked")
    eventually(lambda: inspect(bench)["health"]["status"] == "unhealthy", bench)
    assert inspect(bench)["health"]["log"][-1]["output"] == "/root\n"
    bench.wait(bench.collect("container.exec", name="web", options={"argv": ["touch", "/well"]}))
    eventually(lambda: inspect(bench)["health"]["status"] == "healthy", bench)
    run(bench, "sleep 1000", name="second", image="checked", health={"argv": ["NONE"]})
    assert "health" not in inspect(bench, "second") or inspect(bench, "second")["health"] is None


def test_a_check_that_hangs_is_a_failure(bench: Bench) -> None:
    health = {"argv": ["sleep", "1000"], "interval_s": 0.05, "timeout_s": 0.1, "retries": 1}
    run(bench, "sleep 1000", health=health)
    eventually(lambda: inspect(bench)["health"]["status"] == "unhealthy", bench)
    assert inspect(bench)["health"]["log"][-1]["exit_status"] == 137


def test_the_time_to_start_is_not_counted(bench: Bench) -> None:
    health = {"argv": ["false"], "interval_s": 0.05, "retries": 1, "start_period_s": 1000}
    run(bench, "sleep 1000", health=health)
    eventually(lambda: len(inspect(bench)["health"]["log"]) >= 3, bench)
    assert inspect(bench)["health"]["status"] == "starting"


# -- streams


def test_the_last_lines(bench: Bench) -> None:
    run(bench, "for i in 1 2 3; do echo $i; done; printf rest; echo err >&2; sleep 1000")
    eventually(lambda: b"rest" in logs(bench), bench)
    result = bench.wait(bench.collect("container.logs", name="web"))
    assert (result.out, result.err) == (b"1\n2\n3\nrest", b"err\n")
    assert logs(bench, tail=0) == b""
    assert logs(bench, since_s=time.time() + 5) == b""
    assert logs(bench, since_s=time.time() - 500) == b"1\n2\n3\nrest"
    with pytest.raises(UserError, match="tail"):
        logs(bench, tail=-1)


def test_what_a_second_process_writes_is_its_own(bench: Bench) -> None:
    run(bench, "echo first; exec sleep 1000")
    said = bench.wait(bench.collect("container.exec", name="web", options={"argv": ["echo", "second"]}))
    assert said.out == b"second\n"
    bench.call("container.exec", name="web", options={"argv": ["echo", "third"]}, detach=True)
    eventually(lambda: logs(bench), bench)
    assert logs(bench) == b"first\n"


def test_following_goes_on_until_the_end(bench: Bench) -> None:
    run(bench, "echo one; sleep 0.2; echo two; exit 7")
    result = bench.wait(bench.collect("container.logs", name="web", follow=True))
    assert (result.out, result.status) == (b"one\ntwo\n", 7)


def test_attaching_and_typing(bench: Bench) -> None:
    run(bench, "echo hello; read x; echo got $x; sleep 1000", interactive=True)
    eventually(lambda: b"hello" in logs(bench), bench)

    async def scenario() -> bytes:
        got, begun = b"", asyncio.Event()

        def keep(stream: int, data: bytes) -> None:
            nonlocal got
            got += data
            request.consumed(stream, len(data))
            if b"got" in got:
                begun.set()

        request = bench.node.start("container.attach", {"name": "web", "stdin": True}, on_data=keep)
        await request.feed(b"word\n")
        await asyncio.wait_for(begun.wait(), 5)
        assert (await bench.node.call("container.detach", request=request.number))["detached"]
        assert (await request.done)["detached"]
        return got

    assert bench.wait(scenario()) == b"got word\n"
    assert state(bench) == "running"


def test_typing_more_than_is_ever_read(bench: Bench) -> None:
    run(bench, "echo hello; sleep 1000", interactive=True)
    eventually(lambda: b"hello" in logs(bench), bench)

    async def type_much() -> None:
        request = bench.node.start("container.attach", {"name": "web", "stdin": True})
        for _ in range(WINDOW // MAX_CHUNK):
            await request.feed(bytes(MAX_CHUNK))
        await bench.node.call("container.list")  # all of it has come
        if not request.done.done():
            await bench.node.call("container.detach", request=request.number)
        await request.done

    bench.wait(type_much())
    with pytest.raises(ContainerError, match="does not read what is typed"):
        bench.wait(type_much())
    assert state(bench) == "running"


def test_a_terminal_is_attached_to(bench: Bench) -> None:
    run(bench, "tty; read x; echo got $x; exit 2", interactive=True, tty=True)
    eventually(lambda: b"/dev" in logs(bench), bench)
    result = bench.wait(bench.collect("container.attach", b"word\n", name="web", replay=True))
    assert b"got word\r\n" in result.out
    assert result.status == 2


def test_typing_into_what_reads_nothing(bench: Bench) -> None:
    run(bench, "sleep 1000")
    with pytest.raises(UserError, match="--interactive"):
        bench.call("container.attach", name="web", stdin=True)
    bench.call("container.stop", name="web")
    with pytest.raises(UserError, match="not running"):
        bench.call("container.attach", name="web")


def test_a_follower_that_reads_nothing_holds_nobody_up(bench: Bench) -> None:
    run(bench, "sleep 0.1; head -c 3000000 /dev/zero; echo end; sleep 1000")

    async def scenario() -> tuple[int, str]:
        got = {Kind.STDOUT: 0, Kind.STDERR: 0}
        told = ""

        def keep(stream: int, data: bytes) -> None:
            nonlocal told
            got[stream] += len(data)
            told += data.decode() if stream == Kind.STDERR else ""
            if reading:
                request.consumed(stream, len(data))

        reading = False
        request = bench.node.start("container.logs", {"name": "web", "follow": True}, on_data=keep)
        while not (await bench.collect("container.logs", name="web", tail=1)).out.endswith(b"end\n"):
            await asyncio.sleep(0.02)
        reading = True
        for stream in (Kind.STDOUT, Kind.STDOUT, Kind.STDOUT, Kind.STDOUT):
            request.consumed(stream, CREDIT_AFTER)
        while "not kept" not in told:
            await asyncio.sleep(0.01)
        await bench.node.call("container.detach", request=request.number)
        await request.done
        return got[Kind.STDOUT], told

    received, told = bench.wait(scenario())
    assert received < 3_000_004
    assert "came faster" in told


# -- looks and changes


def test_what_it_uses(bench: Bench) -> None:
    run(bench, "sleep 1000 & exec sleep 1001")

    def rows() -> list[dict[str, Any]]:
        return bench.call("container.top", name="web")["processes"]

    eventually(lambda: {row["command"] for row in rows()} == {"sleep 1000", "sleep 1001"}, bench)
    assert min(row["pids"][-1] for row in rows()) == 1
    [found] = bench.call("container.stats")["containers"]
    assert (found["name"], found["pids"]["current"]) == ("web", 2)
    assert found["network"] == {"received_bytes": 0, "sent_bytes": 0}


@pytest.mark.needs("cgroups")
def test_limits_change_while_it_runs(bench: Bench) -> None:
    run(bench, "sleep 1000", memory_bytes=64 << 20, pids_limit=20)
    bench.call("container.update", name="web", options={"memory_bytes": 32 << 20, "cpus": 0.5})
    found = inspect(bench)["stats"]
    assert (found["memory"]["limit_bytes"], found["cpu"]["limit_cpus"], found["pids"]["limit"]) == (32 << 20, 0.5, 20)
    with pytest.raises(UserError, match="memory"):
        bench.call("container.update", name="web", options={"memory_bytes": 1 << 50})
    bench.call("container.stop", name="web")
    bench.call("container.start", name="web")
    assert inspect(bench)["stats"]["memory"]["limit_bytes"] == 32 << 20


def test_nobody_looks_at_limits_that_tell_by_themselves(bench: Bench) -> None:
    def wakes() -> int:
        status = Path(f"/proc/{bench.agent.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("voluntary")).split()[1])

    async def rest() -> list[int]:
        request = bench.node.start("container.run", {"options": {"argv": ["sleep", "1000"], "memory_bytes": 32 << 20}})
        woken: list[int] = []
        # At first it has work to do, on a busy computer for longer; who looks again and again never comes to rest.
        while len(woken) < 8 and (not woken or woken[-1] > 1):
            before = wakes()
            await asyncio.sleep(0.8)
            woken.append(wakes() - before)
        bench.node.kill(request)
        await request.done
        return woken

    woken = bench.wait(rest())
    assert woken[-1] < 2, woken


def test_a_limit_is_told_when_it_strikes(bench: Bench) -> None:
    """Not only at the end: the process that was started lives on."""
    script = "(sleep 0.4; head -c 100m /dev/zero | tail -c 100m >/dev/null); echo after; sleep 1000; echo late"
    told: list[str] = []

    async def follow() -> None:
        arguments = {"options": {"argv": ["sh", "-c", script], "memory_bytes": 16 << 20}}
        request = bench.node.start("container.run", arguments, on_event=lambda event: told.append(event["event"]))
        deadline_s = now_s() + 10
        while "limit" not in told and now_s() < deadline_s:
            await asyncio.sleep(0.02)
        assert not request.done.done()
        bench.node.kill(request)

    bench.wait(follow())
    assert told[-1] == "limit"


def test_the_times_of_its_steps_are_kept(bench: Bench) -> None:
    run(bench, "sleep 0.1")
    bench.call("container.wait", name="web")
    steps = inspect(bench)["steps"]
    assert steps[0]["step"]
    assert all(one["ms"] >= 0 for one in steps)


# -- volumes


def test_a_volume_outlives_its_containers(bench: Bench) -> None:
    bench.container("echo kept >/data/note", volumes=["store:/data"])
    assert bench.container("cat /data/note", volumes=["store:/data:ro"]).out == b"kept\n"
    assert b"Read-only" in bench.container("touch /data/x", volumes=["store:/data:ro"]).err
    [found] = bench.call("volume.list")["volumes"]
    assert (found["name"], found["used_by"]) == ("store", [])
    assert found["size_bytes"] > 0
    run(bench, "sleep 1000", volumes=["store:/data"])
    with pytest.raises(UserError, match="in use by web"):
        bench.call("volume.remove", name="store")
    bench.call("container.remove", name="web", force=True)
    bench.call("volume.remove", name="store")
    assert bench.call("volume.list")["volumes"] == []
    with pytest.raises(NotFound, match="store"):
        bench.call("volume.inspect", name="store")


def test_an_empty_volume_is_filled_from_the_image(bench: Bench) -> None:
    look = "stat -c %a:%u /etc; cat /etc/hosts; ls -l /bin | wc -l"
    theirs = bench.container("ls /etc; " + look).out
    assert bench.container("ls /etc; " + look, volumes=["first:/etc:ro", "/bin"]).out == theirs
    bench.container("echo mine >/etc/passwd; rm /etc/group", volumes=["first:/etc"])
    assert bench.container("cat /etc/passwd; ls /etc/group", volumes=["first:/etc"]).out == b"mine\n"
    assert bench.container("ls /etc", volumes=["bare:/etc:nocopy"]).out == b""
    for name in ("first", "bare"):
        bench.call("volume.remove", name=name)


def test_a_volume_that_is_made_by_name(bench: Bench) -> None:
    bench.call("volume.create", name="mine", labels={"a": "b"})
    found = bench.call("volume.inspect", name="mine")
    assert found["labels"] == {"a": "b"}
    assert Path(found["mountpoint"]).is_dir()
    bench.call("volume.remove", name="mine")


def test_a_folder_of_the_node(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("of the node")
    shared = bench.container("cat /in/note; echo more >/in/more", volumes=[f"{tmp_path}:/in"])
    assert shared.out == b"of the node"
    assert (tmp_path / "more").read_text() == "more\n"
    with pytest.raises(NotFound, match="nothing at"):
        bench.container("true", volumes=[f"{tmp_path}/no:/in"])
    for wrong in ("../up:/in", f"{tmp_path}:in", f"{tmp_path}:/in:huge", f"{tmp_path}:/"):
        with pytest.raises(SpecError, match="volumes"):
            bench.container("true", volumes=[wrong])


def test_a_nameless_volume_and_memory(bench: Bench) -> None:
    script = "touch /data/x /fast/y && grep ' /fast ' /proc/mounts; df -k /dev/shm | tail -1"
    options = {"volumes": ["/data"], "tmpfs": ["/fast:size=64k,mode=700"], "shm_size_bytes": 1 << 20}
    out = bench.container(script, read_only=True, **options).out.decode()
    assert "size=64k,mode=700" in out
    assert "noexec" in out
    assert " 1024 " in out


def test_names_of_its_own(bench: Bench) -> None:
    out = bench.container("cat /etc/hosts", add_host=["db:10.0.0.9"], hostname="inner").out.decode()
    assert "10.0.0.9 db\n" in out
    assert "127.0.1.1 inner\n" in out


def test_more_groups(bench: Bench) -> None:
    assert bench.container("id -G", user="1000:1000", group_add=["7", "8"]).out == b"1000 7 8\n"


# -- networks


@pytest.mark.needs("slirp4netns")
def test_containers_of_a_network_find_each_other(bench: Bench) -> None:
    bench.call("network.create", name="lab")
    run(bench, "echo hello >/index.html; exec httpd -f -h / -p 80", name="server", network="lab", publish=["0:80"])
    try:
        asked = bench.container("wget -qO- http://server/; ip addr show eth0 | grep -c inet.*eth0", network="lab")
        assert asked.out == b"hello\n1\n"
        endpoint = inspect(bench, "server")["network"]
        [port] = endpoint["published"]
        url = f"http://{port['host_ip']}:{port['host_port']}/"
        assert eventually(lambda: urllib.request.urlopen(url, timeout=5).read(), bench) == b"hello\n"
        assert [one["container"] for one in bench.call("network.inspect", name="lab")["containers"]] == ["server"]
        with pytest.raises(UserError, match="in use by server"):
            bench.call("network.remove", name="lab")
        bench.call("container.restart", name="server", timeout_s=1)
        assert bench.container("sleep 0.2; wget -qO- http://server/", network="lab").out == b"hello\n"
        steps = bench.call("container.explain", options={"argv": ["true"], "network": "lab"})["steps"]
        assert "network" in [step["step"] for step in steps]
    finally:
        bench.call("container.remove", name="server", force=True)
    bench.call("network.remove", name="lab")
    with pytest.raises(NotFound, match="network lab"):
        bench.container("true", network="lab")


def test_a_network_is_shared(bench: Bench) -> None:
    run(bench, "exec sleep 1000")
    script = "readlink /proc/self/ns/net"
    inside = bench.wait(bench.collect("container.exec", name="web", options={"argv": ["sh", "-c", script]})).out
    assert bench.container(script, network="container:web").out == inside
    assert bench.container("ps -o args | grep -c 1000", pid="container:web").out >= b"1\n"
    told = run(bench, "true", name="second", ipc="container:web")["warnings"]
    assert told == inspect(bench, "second")["warnings"]
    assert "/dev/shm is its own" in told[0]


def test_a_place_with_an_odd_name(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("read\n")
    target = '/a "b" \\c'
    run(bench, "sleep 60", name="other")
    assert bench.container(f"cat '{target}/file'", volumes=[f"{tmp_path}:{target}"]).out == b"read\n"
    assert state(bench, "other") == "running"
