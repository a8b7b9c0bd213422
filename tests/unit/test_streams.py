"""The agent's output on real pipes and sockets: what is read at once, and frames that go out in parts."""

from __future__ import annotations

import fcntl
import os
import socket

import pytest

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


def _decoded(data: bytes) -> list[tuple[int, int, bytes]]:
    return [tuple(frame) for frame in Decoder().feed(data)]


def test_what_fills_a_pipe_is_sent_without_being_read(monkeypatch) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), passes_fds=False)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    output = Output(7, Kind.STDOUT, reader, channel.write)
    output.splice = channel.splice
    text = os.urandom(MAX_CHUNK)
    os.write(writer, text)
    output.pump()
    assert theirs.recv(1 << 20) == encode(Kind.STDOUT, 7, text)
    monkeypatch.setattr(os, "read", lambda fd, count: pytest.fail("it was read"))
    os.write(writer, text[:5000])
    os.write(writer, text[5000:9000])
    credit_bytes = output.credit_bytes
    output.pump()
    assert _decoded(theirs.recv(1 << 20)) == [(Kind.STDOUT, 7, text[:9000])]
    assert output.credit_bytes == credit_bytes - 9000
    monkeypatch.undo()
    os.close(writer)
    output.pump()
    assert not output.open
    assert _decoded(theirs.recv(1 << 20)) == [(Kind.STDOUT, 7, b"")]
    os.close(channel.fd)
    theirs.close()


def test_what_the_channel_has_no_room_for_is_read_and_waits_in_order() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), passes_fds=False)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MAX_OUTPUT)
    sent, got, frames = [], b"", []
    for length in (MAX_OUTPUT, 100_000, MAX_OUTPUT, 1):
        sent.append(os.urandom(length))
        os.write(writer, sent[-1])
        assert channel.splice(Kind.STDOUT, 7, reader, MAX_OUTPUT) == length
        frames.append(length)
        while channel.blocked:
            got += theirs.recv(1 << 20)
            channel.flush()
    theirs.setblocking(False)
    while len(got) < sum(frames) + 9 * len(frames):
        got += theirs.recv(1 << 20)
    assert [payload for _, _, payload in _decoded(got)] == sent
    assert channel.splice(Kind.STDOUT, 7, reader, MAX_OUTPUT) == 0  # nothing is there
    channel.write(encode(Kind.STDERR, 7, bytes(MAX_OUTPUT)))
    os.write(writer, b"later")
    assert channel.blocked
    assert channel.splice(Kind.STDOUT, 7, reader, MAX_OUTPUT) == 0
    assert os.read(reader, 10) == b"later"
    os.close(channel.fd)
    for fd in (reader, writer):
        os.close(fd)
    theirs.close()


def test_a_frame_whose_end_was_to_be_spliced_goes_out_whole_when_the_peer_begins_anew() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours.detach(), passes_fds=False)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, MAX_OUTPUT)
    text = os.urandom(MAX_OUTPUT)
    os.write(writer, text)
    assert channel.splice(Kind.STDOUT, 7, reader, MAX_OUTPUT) == MAX_OUTPUT
    assert channel.blocked
    channel.write(encode(Kind.STDOUT, 7, b"of the old conversation"))
    channel.restart()
    channel.write(encode(Kind.STDOUT, 1, b"new"))
    got = b""
    while channel.blocked:
        got += theirs.recv(1 << 20)
        channel.flush()
    theirs.setblocking(False)
    while len(got) < MAX_OUTPUT + 9 + 9 + 3:
        got += theirs.recv(1 << 20)
    assert _decoded(got) == [(Kind.STDOUT, 7, text), (Kind.STDOUT, 1, b"new")]
    for fd in (reader, writer, channel.fd):
        os.close(fd)
    theirs.close()
