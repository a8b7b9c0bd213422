"""What holds a machine, on real ones: its user, its group, its file; more and less of everything while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import now_s
from vmcontainer_kernel.admission import Admission
from vmcontainer_kernel.agent.protocol import Kind
from vmcontainer_kernel.errors import LabError, MachineError, NodeLost, UserError
from vmcontainer_kernel.machines import Wish
from vmcontainer_kernel.resizing import Change, resize
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.vm.config import MIB
from vmcontainer_kernel.vm.template import find_template, is_sound

LIMIT_S = 60.0
# Half of the memory is what a file system in memory may have usually.
LARGER = "mkdir /x; mount -t tmpfs -o size=90% none /x"
FILL = "dd if=/dev/zero of=/x/x bs=1M 2>&- count="
GROWABLE = Wish(max_cpus=2)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VMCONTAINER_SPARES", "0")
        session = Session()
        yield session
        session.close()


def shell(session: Session, name: str, text: str, limit_s: float = LIMIT_S) -> str:
    """Run a line in a machine and return what it wrote."""
    node = session.machines.guest(name).node

    async def run() -> str:
        parts: list[bytes] = []

        def keep(stream: int, data: bytes) -> None:
            parts.append(data)
            request.consumed(stream, len(data))

        request = node.start("exec", {"argv": ["/bin/sh", "-c", text]}, on_data=keep)
        await asyncio.wait_for(asyncio.shield(request.done), limit_s)
        return b"".join(parts).decode().strip()

    return session.wait(run())


def change(session: Session, name: str, **what: Any) -> tuple[Any, Any, list[str]]:
    async def do() -> Any:
        return await resize(session.machines.guest(name), await session.host(), Change(**what))

    return session.wait(do())


def counted(session: Session, name: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        return await (await session.host()).call("machine.stats", names=[name])

    return session.wait(ask())["machines"][0]


def private_bytes(pid: int) -> int:
    rows = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(rows["Private_Dirty:"]) * 1024


def until(condition: Any, limit_s: float = 30.0) -> None:
    end = now_s() + limit_s
    while not condition():
        assert now_s() < end, "it did not happen in time"
        time.sleep(0.05)


def made(session: Session, name: str, wish: Wish = GROWABLE) -> Any:
    """Return a machine of that name, made anew if it has ended."""
    guest = session.machines.guests.get(name)
    if guest and (guest.machine.gone.is_set() or guest.lost):
        session.wait(session.machines.remove(name))
    return session.wait(session.machines.ensure(name, wish))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give QEMU another user")
def test_qemu_is_a_user_without_rights_who_holds_only_what_it_was_given(session: Session) -> None:
    guest = made(session, "a")
    made(session, "b")
    status = dict(
        row.split(":\t", 1)
        for row in Path(f"/proc/{guest.machine.pid}/status").read_text().splitlines()
        if ":\t" in row
    )
    uid = int(status["Uid"].split()[0])
    assert len({*status["Uid"].split(), *status["Gid"].split()}) == 1
    assert 61184 <= uid < 65520
    assert uid != counted(session, "b")["uid"], "two machines could signal and trace each other"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", "0077")
    folder = Path(f"/proc/{guest.machine.pid}")
    assert (folder / "ns/ipc").readlink() != Path("/proc/self/ns/ipc").readlink()
    limits = (folder / "limits").read_text()
    assert next(row.split()[4] for row in limits.splitlines() if row.startswith("Max core")) == "0"
    held = {str(one.readlink()) for one in (folder / "fd").iterdir()}
    config = guest.machine.config
    allowed = {str(path) for path in (config.boot.kernel, config.boot.initrd, config.root)}
    allowed |= {"/dev/null", "/dev/urandom", str(find_template(config).ram)}
    assert {one for one in held if one.startswith("/")} <= allowed
    assert not any(str(path) in " ".join(guest.machine.command) for path in allowed - {"/dev/urandom", "/dev/null"})


def test_its_group_bounds_and_counts_it(session: Session) -> None:
    guest = made(session, "a")
    row = counted(session, "a")
    assert row["pid"] == guest.machine.pid
    assert row["memory"]["limit_bytes"] == 512 * MIB
    assert 4 <= row["pids"]["current"] < row["pids"]["limit"] == 130
    assert row["cpu"]["limit_cpus"] is None
    groups = Path(f"/proc/{guest.machine.pid}/cgroup").read_text()
    assert f"/{session.id}/vm:a" in groups


def test_a_cap_and_a_weight_are_changed_live_and_hold(session: Session) -> None:
    guest = made(session, "a")
    was, now_is, _ = change(session, "a", cpu_quota_us=20_000, cpu_shares=256)
    assert (was.cpu_shares, was.cpu_quota_us) == (1024, -1)
    assert (now_is.cpu_shares, now_is.cpu_quota_us) == (256, 20_000)
    before = counted(session, "a")["cpu"]
    started_s = time.monotonic()
    shell(session, "a", "timeout 2 sh -c 'while :; do :; done'")
    now = counted(session, "a")["cpu"]
    used = (now["usage_s"] - before["usage_s"]) / (time.monotonic() - started_s)
    assert now["limit_cpus"] == 0.2
    assert used < 0.3
    assert now["throttled_s"] > before["throttled_s"]
    change(session, "a", cpu_quota_us=-1, cpu_shares=1024)
    assert counted(session, "a")["cpu"]["limit_cpus"] is None
    assert guest.machine.config.cpu_shares == 1024


def test_memory_and_processors_are_plugged_in_while_it_runs(session: Session) -> None:
    guest = made(session, "grow")
    before, after, lacking = change(session, "grow", memory_bytes=384 * MIB)  # without a processor to wait for
    assert lacking == []
    assert (before.memory_bytes, before.cpus, before.guest_cpus) == (256 * MIB, 1, 1)
    assert after.guest_total_bytes - before.guest_total_bytes == 128 * MIB
    _, after, lacking = change(session, "grow", cpus=2)
    assert lacking == []
    assert (after.memory_bytes, after.cpus, after.guest_cpus) == (384 * MIB, 2, 2)
    assert counted(session, "grow")["memory"]["limit_bytes"] == (384 + 256) * MIB
    # The new memory is used: more than the machine was made with fits into it.
    assert shell(session, "grow", f"{LARGER}; {FILL}240; stat -c %s /x/x") == str(240 * MIB)
    assert shell(session, "grow", "grep -c ^processor /proc/cpuinfo") == "2"
    view = session.wait(guest.machine.view())
    assert len(view["vcpus"]) == 2
    assert view["memory"]["given_bytes"] == 384 * MIB
    with pytest.raises(UserError, match="none can be taken away"):
        change(session, "grow", cpus=1)
    with pytest.raises(UserError, match="at most 2 CPUs"):
        change(session, "grow", cpus=3)


def test_a_balloon_gives_memory_back_and_the_template_stays_whole(session: Session) -> None:
    guest = made(session, "balloon")
    template = find_template(guest.machine.config)
    stamp = template.ram.stat()
    shell(session, "balloon", f"{LARGER}; {FILL}100; rm /x/x")
    full = private_bytes(guest.machine.pid)
    assert full > 100 * MIB
    before, after, lacking = change(session, "balloon", memory_bytes=112 * MIB)
    assert lacking == []
    assert abs(after.memory_bytes - 112 * MIB) < MIB
    assert after.guest_free_bytes < before.guest_free_bytes - 100 * MIB
    until(lambda: private_bytes(guest.machine.pid) < full - 60 * MIB)
    now = template.ram.stat()
    assert (now.st_blocks, now.st_mtime_ns) == (stamp.st_blocks, stamp.st_mtime_ns), "the clones' file was written"
    assert is_sound(template)
    _, back, _ = change(session, "balloon", memory_bytes=256 * MIB)
    assert back.guest_free_bytes > after.guest_free_bytes + 100 * MIB
    assert shell(session, "balloon", f"{FILL}120; stat -c %s /x/x") == str(120 * MIB)
    # A clone that is woken afterwards finds the template's memory as it was.
    made(session, "after")
    assert shell(session, "after", "echo sound") == "sound"


def test_a_machine_that_reaches_its_bound_is_killed_alone_and_told(session: Session) -> None:
    guest, other = made(session, "oom"), made(session, "a")

    async def bound() -> None:
        host = await session.host()
        await host.call("machine.update", name="oom", resources={"memory_bytes": 120 * MIB})

    session.wait(bound())
    with pytest.raises(NodeLost) as lost:
        shell(session, "oom", f"{LARGER}; {FILL}150")
    better = session.wait(session.machines.explain_loss("oom", lost.value))
    assert isinstance(better, MachineError)
    assert "machine oom" in better.message
    assert "memory limit of its control group (OOM)" in better.message
    assert guest.machine.gone.is_set()
    assert shell(session, "a", "echo unharmed") == "unharmed"
    assert not other.machine.gone.is_set()
    until(lambda: not any(Path(one).exists() for one in counted_folders(other.machine.pid, "vm:oom")))


def counted_folders(pid: int, name: str) -> list[str]:
    rows = (row.split(":", 2) for row in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return [f"/sys/fs/cgroup/{names}{Path(path).parent}/{name}" for _, names, path in rows if "/vm:" in path]


def test_a_killed_qemu_is_told_with_its_last_lines_and_others_go_on(session: Session) -> None:
    guest = made(session, "killed")
    made(session, "a")
    shell(session, "killed", "echo these were its last words > /dev/ttyS0")
    until(lambda: "last words" in guest.machine.console_tail())
    os.kill(guest.machine.pid, 9)
    with pytest.raises(NodeLost) as lost:
        shell(session, "killed", "sleep 100")
    better = session.wait(session.machines.explain_loss("killed", lost.value))
    assert "signal 9" in better.message
    assert "these were its last words" in better.where
    assert shell(session, "a", "echo unharmed") == "unharmed"


def test_fifty_at_once_are_refused_before_one_is_started(session: Session) -> None:
    machines = session.machines
    there, usual = set(machines.guests), machines.admission
    machines.admission = Admission(lambda: ((1024 * MIB, "the test"), 10_000))
    try:
        with pytest.raises(UserError, match=r"50 more machines do not fit here: \d+ would") as refusal:
            session.wait(machines.ensure_all([f"many{number}" for number in range(50)], GROWABLE))
        assert "the test" in refusal.value.hint
        assert set(machines.guests) == there

        async def at_once() -> list[Any]:
            return await asyncio.gather(
                *(machines.ensure(f"many{n}", GROWABLE) for n in range(3)), return_exceptions=True
            )

        machines.admission = Admission(lambda: ((128 * MIB + 2 * machines._need_bytes(), "the test"), 10_000))
        outcomes = session.wait(at_once())
        refused = [one for one in outcomes if isinstance(one, LabError)]
        assert len(refused) == 1, "the third did not see the two that were being made"
        assert "one more machine does not fit here: 0 would" in str(refused[0])
    finally:
        machines.admission = usual
        for name in set(machines.guests) - there:
            session.wait(machines.remove(name))


# -- guests that mean harm


def test_a_guest_that_floods_its_console_is_remembered_in_part(session: Session) -> None:
    guest = made(session, "rogue")
    made(session, "a")
    shell(session, "rogue", "timeout 3 sh -c 'while :; do echo flooded flooded flooded flooded > /dev/ttyS0; done'")
    assert (guest.machine.folder / "console.log").stat().st_size <= 1 << 20
    assert "flooded" in guest.machine.console_tail()
    assert shell(session, "a", "echo unharmed") == "unharmed"


def test_a_guest_that_fills_its_memory_and_disk_hurts_itself_only(session: Session) -> None:
    guest = made(session, "rogue")
    made(session, "a")
    assert "No space left" in shell(session, "rogue", "dd if=/dev/zero of=/filled bs=1M count=1000 2>&1; rm /filled")
    # All of its memory: what its kernel then does, end something or panic, is its own affair.
    hog = "python3 -S -c 'import time; parts = [b\"x\" * (1 << 20) for _ in range(400)]; time.sleep(100)'"
    with pytest.raises((TimeoutError, AssertionError, NodeLost)):
        assert shell(session, "rogue", hog, limit_s=3.0) == "it fits"
    assert shell(session, "a", "echo unharmed") == "unharmed"
    if not guest.machine.gone.is_set():
        assert counted(session, "rogue")["memory"]["usage_bytes"] <= 512 * MIB
    session.wait(session.machines.remove("rogue"))
    assert shell(session, "a", "echo unharmed") == "unharmed"


LIES = {
    "a length beyond all bounds": b"\xff\xff\xff\xff\x07\0\0\0\1",
    "a kind there is not": b"\0\0\0\1\x63\0\0\0\1x",
    "an answer that is no JSON": b"\0\0\0\4\x03\0\0\0\1\xff\xfe\xfd\xfc",
    "an answer that is a number": b"\0\0\0\1\x03\0\0\0\1" + b"7",
    "a huge answer of brackets": b"\0\x20\0\0\x03\0\0\0\1" + b"[" * (1 << 21),
    "an event of the wrong shape": b"\0\0\0\2\x05\0\0\0\1[]",
    "a credit of the wrong length": b"\0\0\0\1\x09\0\0\0\1x",
    "another protocol": b"\0\0\0\x10\x01\0\0\0\0" + b'{"protocol": 99}',
}


@pytest.mark.parametrize("lie", LIES)
def test_an_agent_that_lies_is_let_go_and_nobody_else_notices(session: Session, lie: str) -> None:
    """The guest's end of the stream is a socket here: what comes through it is the same bytes."""
    import socket

    from vmcontainer_kernel.node import Node

    ours, theirs = socket.socketpair()

    async def talk() -> None:
        node = Node("rogue", ours)
        request = node.start("exec", {"argv": ["true"]}, on_event=lambda event: None)
        theirs.settimeout(LIMIT_S)
        await asyncio.to_thread(theirs.sendall, LIES[lie])
        await asyncio.wait_for(request.done, LIMIT_S)

    with theirs, pytest.raises(NodeLost) as lost:
        session.wait(talk())
    assert "rogue" in str(lost.value)
    assert lost.value.hint
    assert session.wait(asyncio.sleep(0, "the loop lives")) == "the loop lives"


def test_events_and_streams_that_nobody_asked_for_are_not_kept(session: Session) -> None:
    import socket
    import tracemalloc

    from vmcontainer_kernel.agent.protocol import encode, encode_json
    from vmcontainer_kernel.node import Node

    ours, theirs = socket.socketpair()
    theirs.settimeout(LIMIT_S)
    chunk = b"".join(
        [encode(Kind.STDOUT, 4711, b"x" * 60_000), encode_json(Kind.EVENT, 4712, {"event": "y" * 1000})] * 16
    )

    async def talk() -> int:
        node = Node("rogue", ours)
        tracemalloc.start()
        for _ in range(64):
            await asyncio.to_thread(theirs.sendall, chunk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        node.close()
        return peak

    with theirs:
        assert session.wait(talk()) < 16 * MIB


def test_a_flood_beyond_its_credit_ends_the_conversation(session: Session) -> None:
    """A reader that is slow gives no credit; an agent that goes on sending must not fill the notebook's memory."""
    import socket

    from vmcontainer_kernel.agent.protocol import WINDOW, encode
    from vmcontainer_kernel.node import Node

    ours, theirs = socket.socketpair()
    theirs.settimeout(LIMIT_S)
    kept: list[int] = []

    async def talk() -> None:
        node = Node("rogue", ours)
        request = node.start("exec", {"argv": ["true"]}, on_data=lambda stream, data: kept.append(len(data)))
        frame = encode(Kind.STDOUT, 1, b"x" * 65_536)

        def flood() -> None:
            for _ in range(1000):
                theirs.sendall(frame)

        flooding = asyncio.ensure_future(asyncio.to_thread(flood))
        try:
            await asyncio.wait_for(request.done, LIMIT_S)
        finally:
            theirs.close()
            await asyncio.wait([flooding])
            flooding.exception()

    with theirs, pytest.raises(NodeLost, match="more than its credit"):
        session.wait(talk())
    assert sum(kept) <= WINDOW


def test_a_guest_that_never_answers_is_given_up_in_time(session: Session) -> None:
    guest = made(session, "rogue")
    made(session, "a")

    async def silence() -> None:
        await guest.machine.pause()  # nobody in it does anything any more

    session.wait(silence())
    with pytest.raises(TimeoutError):
        shell(session, "rogue", "echo late", limit_s=0.5)
    assert shell(session, "a", "echo unharmed") == "unharmed"
    session.wait(session.machines.remove("rogue"))
    assert "rogue" not in session.machines.guests


@pytest.mark.parametrize(
    ("doing", "why"), [("echo c > /proc/sysrq-trigger", "panicked"), ("echo b > /proc/sysrq-trigger", "rebooted")]
)
def test_panics_and_reboots_end_once_and_are_told(session: Session, doing: str, why: str) -> None:
    guest = made(session, "rogue")
    with pytest.raises(NodeLost) as lost:
        shell(session, "rogue", doing)
    better = session.wait(session.machines.explain_loss("rogue", lost.value))
    assert why in better.message
    assert guest.machine.gone.is_set()
    until(lambda: json.dumps(session.wait(guest.machine.view())["status"]) == '"gone"')
