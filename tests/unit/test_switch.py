"""The switch between machines: what it learns, what it cuts, and itself as a program."""

import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.vm import switch
from vmcontainer_kernel.vm.switch import FRAME_MAX_BYTES, QUEUE_MAX_BYTES, Cable, Table

A, B, C = (bytes.fromhex(f"5254000000{n:02x}") for n in (1, 2, 3))
ALL = b"\xff" * 6


def frame(target, sender, data=b"\x08\x00hello"):
    return target + sender + data


def packed(data):
    return len(data).to_bytes(4, "big") + data


def test_it_learns_who_is_where():
    table = Table()
    assert table.route(frame(ALL, A), 1, [1, 2, 3]) == [2, 3]
    assert table.route(frame(A, B), 2, [1, 2, 3]) == [1]
    assert table.route(frame(B, A), 1, [1, 2, 3]) == [2]
    assert table.route(frame(C, A), 1, [1, 2, 3]) == [2, 3], "nobody knows where C is"
    table.forget(2)
    assert table.route(frame(B, A), 1, [1, 3]) == [3]
    assert table.route(frame(A, A), 1, [1, 2]) == [], "it is where the frame came from"


def test_a_guest_that_makes_up_addresses_fills_no_memory():
    table = Table()
    for number in range(3 * switch.ADDRESSES_MAX):
        table.route(frame(ALL, b"\x02\x00" + number.to_bytes(4, "big")), 1, [1, 2])
    assert len(table._ports) == switch.ADDRESSES_MAX
    table.route(frame(B, ALL), 1, [1, 2])
    assert ALL not in table._ports, "a sender is one card, not a group"


@given(st.lists(st.binary(min_size=14, max_size=100), max_size=8), st.integers(1, 40))
def test_frames_come_out_as_they_went_in(frames, size):
    cable, came = Cable(), Cable()
    for one in frames:
        cable.put(one)
    data = bytes(cable.waiting)
    assert [one for at in range(0, len(data), size) for one in came.frames(data[at : at + size])] == frames


@pytest.mark.parametrize("size", [0, 13, FRAME_MAX_BYTES + 1, (1 << 32) - 1])
def test_a_length_that_no_frame_has_is_an_error(size):
    with pytest.raises(ValueError, match=str(size)):
        Cable().frames(size.to_bytes(4, "big"))


def test_who_does_not_read_misses_frames():
    cable = Cable()
    for _ in range(100):
        cable.put(b"x" * 60_000)
    assert len(cable.waiting) <= QUEUE_MAX_BYTES


def test_the_program_carries_frames_and_cuts_who_breaks_the_rules():
    control, theirs = socket.socketpair()
    cables = [socket.socketpair() for _ in range(3)]
    argv = [sys.executable, "-S", "-I", str(Path(switch.__file__)), str(theirs.fileno())]
    process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
    try:
        theirs.close()
        for ours, far in cables:
            socket.send_fds(control, [b"c"], [far.fileno()])
            far.close()
            ours.settimeout(20)
        one, two, three = (ours for ours, _ in cables)
        greeting = packed(frame(ALL, A))
        # The last one to be plugged in is heard by all when the first hears it.
        while not select.select([one], [], [], 0.1)[0]:
            three.sendall(packed(frame(ALL, C)))
        one.sendall(greeting)
        for other in (two, three):
            while (heard := other.recv(len(greeting), socket.MSG_WAITALL)) != greeting:
                assert heard == packed(frame(ALL, C))
        answer = frame(A, B)
        two.sendall(packed(answer))
        while (heard := one.recv(len(packed(answer)), socket.MSG_WAITALL)) != packed(answer):
            assert heard == packed(frame(ALL, C))
        three.sendall(b"\xff" * 4)
        assert three.recv(100) == b"", "it is cut, and was told nothing that was not for it"
        one.sendall(greeting)
        assert two.recv(100) == greeting
        status = Path(f"/proc/{process.pid}/status").read_text()
        uid = next(line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
        assert uid != "0"
        control.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        for ours, _ in cables:
            ours.close()
