"""Bad days: what a container, or somebody beside it, uses up or takes away. Errors say so, nothing is left by halves,
and removal always works.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.engine import Engine, start_engine
from tests.node.test_agent import Bench
from tests.patience import now_s
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import HostError, LabError, UserError

pytestmark = [
    pytest.mark.needs("containers-on-host"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root: limits and mounts of one's own"),
]
LIMIT_S = 20.0
MOUNTS = 14
"""Doublings: 2 to this power are more than 10 000."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bad-days")
    build_busybox(Store(folder / "images"))
    bench = Bench(folder / "run" / f"bad{os.getpid()}", folder / "images")
    yield bench
    bench.close()
    assert not bench.folder.exists()


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "bench" not in request.fixturenames:
        return
    bench: Bench = request.getfixturevalue("bench")
    for one in bench.call("container.list")["containers"]:
        bench.call("container.remove", name=one["name"], force=True)
    assert [*(bench.folder / "containers").glob("*")] == []
    assert groups(bench) == []


def groups(bench: Bench) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"**/vmcontainer/{bench.folder.name}/*/")]


def detach(bench: Bench, script: str, name: str = "web", **options: Any) -> Any:
    return bench.call("container.run", name=name, options={"argv": ["sh", "-c", script], **options}, detach=True)


def until(condition: Callable[[], Any]) -> Any:
    deadline_s = now_s() + LIMIT_S
    while not (found := condition()):
        assert now_s() < deadline_s
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def engine_with(tmp_path: Path, before: str) -> Iterator[Engine]:
    """Start a driver in ``tmp_path/base``; `before` is shell, done in a mount namespace around it."""
    base = tmp_path / "base"
    base.mkdir()
    start_engine(base, 0).close()
    (base / "run").mkdir(exist_ok=True)
    engine = Engine(base, 0, before=before)
    try:
        yield engine
        engine("close")
        assert engine.groups() == []
        assert f"{base}/run/containers" not in engine("mounts")
    finally:
        assert engine.process.stdin
        engine.process.stdin.close()
        assert engine.process.wait(LIMIT_S) == 0


def test_a_bundle_is_removed_under_a_running_container(bench: Bench) -> None:
    """It lives on: what is mounted and open stays. Only its stored configuration is gone."""
    detach(bench, "echo up; exec sleep 100")
    shutil.rmtree(bench.folder / "containers/web")
    result = bench.wait(bench.collect("container.exec", name="web", options={"argv": ["echo", "still here"]}))
    assert result.out == b"still here\n"
    assert bench.call("container.inspect", name="web")["state"]["status"] == "running"
    bench.call("container.stop", name="web", timeout_s=0.1)
    with pytest.raises(LabError) as caught:
        bench.call("container.start", name="web")
    assert "containers/web" in f"{caught.value} {caught.value.where}"
    bench.call("container.remove", name="web", force=True)
    assert bench.call("container.list")["containers"] == []


def test_no_memory_for_the_set_up(bench: Bench) -> None:
    """The smallest limit there is: whoever asked is told that it is the memory."""
    result: Any
    try:
        result = bench.container("echo up; exec sleep 0", memory_bytes=1 << 20)
    except LabError as error:
        told = f"{error} {error.hint}"
        assert "memory" in told
    else:  # there was enough for a shell
        assert result.answer["status"] in (0, 137)
    assert bench.call("container.list")["containers"] == []


def test_a_fork_bomb(bench: Bench) -> None:
    """It stays in its limit, another process finds no room and is told so, and removal ends all of it."""
    detach(bench, "bomb() { bomb | bomb & }; bomb; sleep 100", pids_limit=30)
    until(lambda: bench.call("container.inspect", name="web")["events"]["pids_denied"] > 0)
    assert bench.call("container.inspect", name="web")["stats"]["pids"]["current"] <= 30
    bench.call("container.remove", name="web", force=True)
    assert bench.call("container.list")["containers"] == []


@pytest.mark.parametrize("room", [8, 12, 18, 24])
def test_no_descriptor_left(bench: Bench, room: int) -> None:
    """The agent may open no more files: containers are refused, those there are live on, and it all goes on later."""
    pid = bench.agent.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    opened = len([*Path(f"/proc/{pid}/fd").iterdir()])
    refused: list[LabError] = []
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + room, before[1]))
        for number in range(12):
            try:
                detach(bench, "exec sleep 100", f"c{number}")
            except LabError as error:
                refused.append(error)
        names = {one["name"] for one in bench.call("container.list")["containers"]}
        states = {one["status"] for one in bench.call("container.list")["containers"]}
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert refused
    assert all("open files" in str(one) for one in refused), refused
    assert states <= {"running"}
    for name in names:
        bench.call("container.remove", name=name, force=True)
    assert bench.container("echo again").out == b"again\n"


def test_a_full_disk(tmp_path: Path) -> None:
    """The program is told (ENOSPC); with no room for a bundle nothing is begun; removal needs no room."""
    with engine_with(tmp_path, f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/base/run") as engine:
        script = "dd if=/dev/zero of=/big bs=4k 2>&1; cat /big >/dev/null && echo alive; exec sleep 100"
        engine("create", name="big", options={"argv": ["sh", "-c", script]})
        told = engine("read_until", pid=engine("start", name="big"), text="alive")
        assert "No space left on device" in told
        with pytest.raises(HostError, match="no bundle could be written: No space left") as caught:
            engine.sh("true")
        assert "disk full" in caught.value.hint
        assert engine("list") == ["big"]
        engine("remove", name="big", force=True)
        assert engine.out("echo room") == "room"


def test_ten_thousand_mounts(tmp_path: Path) -> None:
    """On the node: none of them is in the container, whose own namespace is a copy of all at first."""
    crowd = tmp_path / "crowd"
    crowd.mkdir()
    double = f"for i in $(seq {MOUNTS}); do mkdir {crowd}/$i; mount --rbind {crowd} {crowd}/$i; done"
    before = f"mount -t tmpfs tmpfs {crowd} && mount --make-private {crowd} && {double}"
    with engine_with(tmp_path, before) as engine:
        assert engine("mounts").count(str(crowd)) > 10_000
        assert int(engine.out("wc -l < /proc/self/mountinfo")) < 60
        assert engine.out("echo again") == "again"


def test_an_image_without_a_command(bench: Bench) -> None:
    with pytest.raises(UserError, match="has no command of its own"):
        bench.call("container.run", name="", options={"entrypoint": []})
