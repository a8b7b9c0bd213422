"""What a hostile guest sends: never more than was asked for is kept, in memory or on the disk."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import struct
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.agent.protocol import Decoder, Frame, Kind, encode, encode_json
from vmcontainer_kernel.container import files, transfer
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, ImageError, LabError, NodeError
from vmcontainer_kernel.fetching import fetch, fetch_bytes
from vmcontainer_kernel.node import Node
from vmcontainer_kernel.sharing import changed

CHUNK = bytes(64 << 10)


class Flood:
    """The other end of a node's stream: it answers each call with bytes for as long as it may, and never ends."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream, self._decoder = stream, Decoder()
        self.signals: list[dict[str, Any]] = []
        self.sent = 0

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stream.setblocking(False)
        credit = 2 << 20
        request = 0
        while data := await loop.sock_recv(self._stream, 65536):
            for frame in self._decoder.feed(data):
                credit += self._take(frame)
                request = request or frame.request
            while credit >= len(CHUNK) and not self.signals:
                await loop.sock_sendall(self._stream, encode(Kind.STDOUT, request, CHUNK))
                credit -= len(CHUNK)
                self.sent += len(CHUNK)

    def _take(self, frame: Frame) -> int:
        if frame.kind == Kind.CREDIT:
            return int(struct.unpack(">BI", frame.payload)[1])
        call = json.loads(frame.payload)
        if call["verb"] == "signal":
            self.signals.append(call)
        return 0


def flooded(use: Callable[[Node], Awaitable[Any]]) -> Flood:
    async def main() -> Flood:
        ours, theirs = socket.socketpair()
        node, flood = Node("vm", ours), Flood(theirs)
        serving = asyncio.ensure_future(flood.serve())
        try:
            await asyncio.wait_for(use(node), 20)
            await asyncio.sleep(0.05)
        finally:
            serving.cancel()
            node.close()
            theirs.close()
        return flood

    return asyncio.run(main())


def test_a_flood_is_given_up_at_the_limit() -> None:
    kept = bytearray()

    async def use(node: Node) -> None:
        with pytest.raises(NodeError, match="/x: vm sends more than 5000000 bytes"):
            await fetch(node, "get", {"path": "/x"}, kept.extend, 5_000_000, what="/x")

    flood = flooded(use)
    assert len(kept) <= 5_000_000
    assert flood.sent <= 5_000_000 + (2 << 20) + len(CHUNK)
    assert [one["request"] for one in flood.signals] == [1]


def test_who_gives_up_waiting_keeps_nothing_more() -> None:
    file = io.BytesIO()

    async def use(node: Node) -> None:
        task = asyncio.ensure_future(fetch(node, "copy_out", {"path": "/"}, file.write, 1 << 40, what="/"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        file.close()  # a write would raise now

    assert flooded(use).signals


def test_what_fits_comes_whole() -> None:
    async def main() -> bytes:
        ours, theirs = socket.socketpair()
        node = Node("vm", ours)
        task = asyncio.ensure_future(fetch_bytes(node, "get", {"path": "/x"}, 6, what="/x"))
        await asyncio.sleep(0)
        for frame in (encode(Kind.STDOUT, 1, b"abc"), encode(Kind.STDOUT, 1, b"def"), encode(Kind.STDOUT, 1)):
            theirs.send(frame)
        theirs.send(encode_json(Kind.REPLY, 1, {}))
        try:
            return await asyncio.wait_for(task, 10)
        finally:
            node.close()
            theirs.close()

    assert asyncio.run(main()) == b"abcdef"


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **fields: Any) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry.tobuf(tarfile.GNU_FORMAT)


def pax(*records: str) -> bytes:
    data = "".join(f"{len(one) + 3 + (len(one) > 6)} {one}\n" for one in records).encode()
    return member("pax", tarfile.XHDTYPE, len(data)) + data.ljust(-(-len(data) // 512) * 512, b"\0")


END = bytes(1024)
BOMBS = {
    "a sparse file of GNU's old kind": member("x", tarfile.GNUTYPE_SPARSE) + END,
    "a sparse file, 0.1": pax("GNU.sparse.map=0,0", "GNU.sparse.size=9000000000000000000") + member("x") + END,
    "a sparse file, 1.0": pax("GNU.sparse.major=1", "GNU.sparse.minor=0") + member("x") + END,
    "a name of gigabytes": member("x", tarfile.GNUTYPE_LONGNAME, 8 << 30) + END,
    "attributes of gigabytes": member("x", tarfile.XHDTYPE, 8 << 30) + END,
    "attributes for all": member("x", tarfile.XGLTYPE, 512) + bytes(512) + member("y") + END,
    "a size below nothing": pax("size=-1536") + member("x") + END,
    "headers of headers": pax("comment=x") * 3000 + member("x") + END,
    "a time that is no number": pax("mtime=nan") + member("x") + END,
    "a time out of time": pax("mtime=1e300") + member("x") + END,
    "a file that is not there": member("x", size=8 << 30) + END,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_an_archive_cannot_grow(tmp_path: Path, bomb: bytes) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(ContainerError):
            transfer.unpack(folder, io.BytesIO(bomb))
    finally:
        os.close(folder)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= len(bomb)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_nor_can_a_lent_folder(bomb: bytes) -> None:
    chosen = io.BytesIO()
    try:
        changed(io.BytesIO(bomb), {}, chosen)
    except LabError as error:
        assert isinstance(error, ContainerError)
    assert len(chosen.getvalue()) <= len(bomb) + 20_000


def test_a_layer_may_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmcontainer_kernel.container.images import store as module

    store = Store(tmp_path / "images")
    image = build_busybox(store)
    store.forget_layer(image.diff_ids[0])
    monkeypatch.setattr(module, "room_bytes", lambda path: 100_000)
    with pytest.raises(ImageError, match="larger than"):
        store.rootfs_layers(image)
    assert [path for path in (tmp_path / "images/unpacked").rglob("*") if path.is_file()] == []


def test_some_of_a_disk_is_left_to_others(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    assert free - (1 << 30) - (1 << 28) <= files.room_bytes(tmp_path) < free
