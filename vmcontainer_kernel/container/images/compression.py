"""A layer's bytes, decompressed while they are read: the work is done in a thread, ahead of the reader.

zlib and hashlib let go of the interpreter lock, so this is a second core's work. Python 3.11 has no zstd, and this
package uses the standard library only: the program `zstd` does it, as a child.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from vmcontainer_kernel.errors import HostError, ImageError

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["compression", "uncompressed"]

_CHUNK_BYTES = 256 << 10
_CHUNKS_AHEAD = 16
_END = object()


def compression(media_type: str) -> str:
    """Return gzip, zstd or nothing, from a layer's media type (image-spec, layer.md; Docker writes ``.tar.gzip``)."""
    for ending, name in ((".tar", ""), (".gzip", "gzip"), ("+gzip", "gzip"), ("+zstd", "zstd")):
        if media_type.endswith(ending):
            return name
    raise ImageError(f"layers of type {media_type!r} are not supported", hint="gzip, zstd and uncompressed ones are")


@contextlib.contextmanager
def uncompressed(stream: IO[bytes], media_type: str, max_bytes: int, digest: _Hash) -> Iterator[Iterator[bytes]]:
    """Give the uncompressed chunks of a file, `digest` being updated with them; `ImageError` if there are more than
    `max_bytes`.
    """
    name = compression(media_type)
    if name == "zstd":
        with _zstd(stream) as chunks, _ahead(_counted(chunks, max_bytes, digest)) as ahead:
            yield ahead
        return
    chunks = _gunzip(stream) if name else iter(lambda: stream.read(_CHUNK_BYTES), b"")
    with _ahead(_counted(chunks, max_bytes, digest)) as ahead:
        yield ahead


def _counted(chunks: Iterator[bytes], max_bytes: int, digest: _Hash) -> Iterator[bytes]:
    total_bytes = 0
    for chunk in chunks:
        total_bytes += len(chunk)
        if total_bytes > max_bytes:
            raise ImageError(
                f"the layer is larger than {max_bytes >> 20} MiB unpacked",
                hint="if the disk is full, free some space; it may be made to fill one: nothing of it was kept",
            )
        digest.update(chunk)
        yield chunk


def _gunzip(stream: IO[bytes]) -> Iterator[bytes]:
    """Decompress one gzip member after the other (RFC 1952), never more than a chunk at once."""
    import zlib

    gzip_format = 16 + zlib.MAX_WBITS
    member = zlib.decompressobj(gzip_format)
    data = b""
    try:
        while True:
            data = data or stream.read(_CHUNK_BYTES)
            if member.eof:
                if not data:
                    return
                member = zlib.decompressobj(gzip_format)
            chunk = member.decompress(data, _CHUNK_BYTES * 4)
            if not (data or chunk or member.eof):
                raise ImageError("the layer's gzip stream ends too early", hint="pull the image again")
            if chunk:
                yield chunk
            data = member.unused_data if member.eof else member.unconsumed_tail
    except zlib.error as error:
        raise ImageError(f"the layer is no gzip stream: {error}", hint="pull the image again") from error


@contextlib.contextmanager
def _zstd(stream: IO[bytes]) -> Iterator[Iterator[bytes]]:
    import subprocess

    try:
        child = subprocess.Popen(
            ["zstd", "-d", "-c", "-q"], stdin=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise HostError("zstd is not installed: a layer needs it", hint="apt-get install zstd") from error

    def chunks() -> Iterator[bytes]:
        assert child.stdout and child.stderr
        while chunk := child.stdout.read(_CHUNK_BYTES):
            yield chunk
        errors = child.stderr.read().decode(errors="replace").strip()
        if child.wait():
            raise ImageError(f"the layer is no zstd stream: {errors}", hint="pull the image again")

    with child:
        try:
            yield chunks()
        finally:
            child.kill()


@contextlib.contextmanager
def _ahead(chunks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """Run an iterator in a thread, a few chunks ahead; the thread is gone when the block is left."""
    ready: queue.Queue[Any] = queue.Queue(_CHUNKS_AHEAD)
    left = threading.Event()

    def put(item: object) -> bool:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return True
        return False

    def work() -> None:
        try:
            all(put(chunk) for chunk in chunks)
            put(_END)
        except BaseException as error:  # raised again where the chunks are read
            put(error)

    def taken() -> Iterator[bytes]:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="decompress")
    thread.start()
    try:
        yield taken()
    finally:
        left.set()
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        thread.join()
