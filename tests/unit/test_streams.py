"""The agent's output on real pipes and sockets: what is read at once, and frames that go out in parts."""

from __future__ import annotations

import fcntl
import os
import socket

from vmcontainer_kernel.agent.channel import Channel
from vmcontainer_kernel.agent.protocol import MAX_CHUNK, MAX_OUTPUT, Decoder, Kind, encode
from vmcontainer_kernel.agent.streams import Output


def test_a_program_that_fills_its_pipe_gets_a_larger_one() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    sent: list[bytes] = []
    output = Output(1, Kind.STDOUT, reader, sent.append)
    usual = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(MAX_CHUNK - 1))
    output.pump()
    assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == usual
    os.write(writer, bytes(MAX_CHUNK))
    output.pump()
    assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) > usual
    assert os.write(writer, bytes(MAX_OUTPUT + 1)) == MAX_OUTPUT + 1
    output.pump()
    output.pump()
    os.close(writer)
    output.pump()
    frames = [frame for data in sent for frame in Decoder().feed(data)]
    assert [len(frame.payload) for frame in frames] == [MAX_CHUNK - 1, MAX_CHUNK, MAX_OUTPUT, 1, 0]


def test_what_is_no_pipe_is_read_as_it_is(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1024)
    sent: list[bytes] = []
    output = Output(1, Kind.STDOUT, os.open(path, os.O_RDONLY), sent.append)
    while output.open:
        output.pump()
    assert b"".join(frame.payload for data in sent for frame in Decoder().feed(data)) == path.read_bytes()


def test_a_long_frame_goes_out_in_parts_as_the_peer_reads() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), passes_fds=False)
    frames = [encode(Kind.STDOUT, 1, os.urandom(MAX_OUTPUT)), encode(Kind.STDERR, 2, b"short")]
    for frame in frames:
        channel.write(frame)
    assert channel.blocked
    got = b""
    while len(got) < sum(map(len, frames)):
        got += theirs.recv(100_001)
        channel.flush()
    assert got == b"".join(frames)
    assert not channel.blocked
    theirs.close()
    os.close(channel.fd)


def test_a_frame_that_is_half_sent_goes_out_whole_when_the_peer_begins_anew() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), passes_fds=False)
    long, waiting = encode(Kind.STDOUT, 1, os.urandom(MAX_OUTPUT)), encode(Kind.STDOUT, 1, b"of the old conversation")
    channel.write(long)
    channel.write(waiting)
    channel.restart()
    got = b""
    while channel.blocked:
        got += theirs.recv(1 << 20)
        channel.flush()
    theirs.setblocking(False)
    while len(got) < len(long):
        got += theirs.recv(1 << 20)
    assert got == long
    theirs.close()
    os.close(channel.fd)
