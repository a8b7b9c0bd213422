"""Frames between a notebook and an agent, and the typed reading of what is in them.

u32 payload length │ u8 kind │ u32 request │ payload          all big-endian

client                                    agent
  HELLO {"protocol": 1, ...}        ─▶
                                    ◀─    HELLO {"protocol": 1, ...}
  CALL 7 {"verb": "exec", ...}      ─▶
                                    ◀─    EVENT 7 {"event": "started", "pid": 41}
                                    ◀─    STDOUT 7 bytes ...
  CREDIT 7 (stream, bytes)          ─▶                              at most WINDOW bytes are under way
  CALL 8 {"verb": "signal", ...}    ─▶                              never waits behind stream 7
                                    ◀─    REPLY 8 {}
                                    ◀─    REPLY 7 {"status": 130}   or ERROR 7 {...}: ends request 7
"""

from __future__ import annotations

import struct

from ..container import jsontext
from ..errors import ProtocolError, UserError

TYPE_CHECKING = False  # an agent in a guest imports this as it starts, under emulation: see `guest`
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Final

__all__ = [
    "CREDIT_AFTER",
    "MAX_CHUNK",
    "MAX_CONTROL",
    "MAX_OUTPUT",
    "PORT_NAME",
    "PROTOCOL",
    "WINDOW",
    "Decoder",
    "Frame",
    "Kind",
    "check_hello",
    "encode",
    "encode_credit",
    "encode_header",
    "encode_json",
    "get_bool",
    "get_int",
    "get_map",
    "get_number",
    "get_str",
    "get_strs",
    "parse_credit",
    "parse_json",
]

PROTOCOL: Final = 1
PORT_NAME: Final = "org.vmcontainer.agent"  # the virtio-serial port in a guest
MAX_CHUNK: Final = 64 * 1024  # payload of one frame to a program; a pipe's capacity, pipe(7)
MAX_OUTPUT: Final = 512 * 1024  # payload of one frame from a program
MAX_CONTROL: Final = 4 * 1024 * 1024  # payload of one control frame; a view of some thousand processes fits
# Bytes of one stream that may be under way unacknowledged: an emulated guest needs 10 ms for an answer, and what it may
# send meanwhile bounds its speed.
WINDOW: Final = 2 * 1024 * 1024
CREDIT_AFTER: Final = 512 * 1024  # consumed bytes after which the receiver says so

_HEADER: Final = struct.Struct(">IBI")
_CREDIT: Final = struct.Struct(">BI")


class Kind:
    """Frame kinds; the numbers are the wire format."""

    HELLO: Final = 1
    CALL: Final = 2
    REPLY: Final = 3
    ERROR: Final = 4
    EVENT: Final = 5
    STDIN: Final = 6
    STDOUT: Final = 7
    STDERR: Final = 8
    CREDIT: Final = 9


_LIMIT: Final = {
    Kind.HELLO: 4096,
    Kind.CALL: MAX_CONTROL,
    Kind.REPLY: MAX_CONTROL,
    Kind.ERROR: MAX_CONTROL,
    Kind.EVENT: MAX_CONTROL,
    Kind.STDIN: MAX_CHUNK,
    Kind.STDOUT: MAX_OUTPUT,
    Kind.STDERR: MAX_OUTPUT,
    Kind.CREDIT: _CREDIT.size,
}


class Frame(tuple[int, int, bytes]):
    """One frame: kind, request (0 for HELLO), payload."""

    __slots__ = ()

    def __new__(cls, kind: int, request: int, payload: bytes) -> Frame:
        """Make one."""
        return tuple.__new__(cls, (kind, request, payload))

    @property
    def kind(self) -> int:
        """What sort of frame: `Kind`."""
        return self[0]

    @property
    def request(self) -> int:
        """Which request it belongs to."""
        return self[1]

    @property
    def payload(self) -> bytes:
        """What it carries."""
        return self[2]


def encode(kind: int, request: int, payload: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    if len(payload) > _LIMIT[kind]:
        raise ProtocolError(
            f"a frame of kind {kind} may hold {_LIMIT[kind]} bytes, not {len(payload)}",
            hint="send less at once; files and streams are sent in chunks",
        )
    return _HEADER.pack(len(payload), kind, request) + payload


def encode_header(kind: int, request: int, length: int) -> bytes:
    """Return the beginning of a frame whose payload of `length` bytes, no more than its kind may hold, follows."""
    return _HEADER.pack(length, kind, request)


def encode_json(kind: int, request: int, document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a control frame."""
    return encode(kind, request, jsontext.compact(document).encode())


def encode_credit(request: int, stream: int, count: int) -> bytes:
    """Return the frame by which a receiver lets `count` more bytes of `stream` (a stream `Kind`) come."""
    return encode(Kind.CREDIT, request, _CREDIT.pack(stream, count))


def parse_credit(payload: bytes) -> tuple[int, int]:
    """Return (stream kind, bytes) of a CREDIT frame."""
    if len(payload) != _CREDIT.size:
        raise ProtocolError(f"a CREDIT frame of {len(payload)} bytes")
    stream, count = _CREDIT.unpack(payload)
    return stream, count


def parse_json(payload: bytes) -> dict[str, Any]:
    """Return the object in a control frame; ProtocolError if it is none."""
    try:
        document = jsontext.loads(payload.decode())  # of bytes it would guess: UTF-16, UTF-32
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a control frame that is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"a control frame that is a {type(document).__name__}, not an object")
    return document


class Decoder:
    """Cuts a byte stream into frames; raises ProtocolError at the first header that makes no sense."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> bool:
        """True while a frame has come in part."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield every frame that `data` completes."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEADER.size:
                length, kind, request = _HEADER.unpack_from(buffer, at)
                if length > _LIMIT.get(kind, -1):
                    raise ProtocolError(f"a frame header of kind {kind} and {length} bytes", hint=_RESET_HINT)
                start = at + _HEADER.size
                if len(buffer) < start + length:
                    break
                at = start + length
                yield Frame(kind, request, bytes(memoryview(buffer)[start:at]))
        finally:
            del buffer[:at]


_RESET_HINT = (
    "the other side is not an agent of this version, or is damaged: remove the machine (%vm rm NAME) and make it again"
)


def check_hello(document: Mapping[str, Any]) -> None:
    """Raise ProtocolError unless the other side speaks our protocol."""
    spoken = document.get("protocol")
    if spoken != PROTOCOL:
        raise ProtocolError(
            f"the agent speaks protocol {spoken!r}, this side {PROTOCOL}",
            hint="the guest image is of another version: run `vmcontainer setup`",
        )


def _typed(document: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], default: Any, what: str) -> Any:
    value = document.get(key, default)
    if value is default and default is not _REQUIRED:
        return default
    wrong_bool = isinstance(value, bool) and kinds is not bool
    if value is _REQUIRED or not isinstance(value, kinds) or wrong_bool:
        got = "missing" if value is _REQUIRED else repr(value)[:60]
        raise UserError(f"'{key}' must be {what}; it is {got}")
    return value


_REQUIRED: Final = object()
_BEYOND: Final = 10**15


def get_str(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> str:
    """Return a string attribute; UserError names the attribute if it is missing or of another type."""
    value: str = _typed(document, key, str, default, "a string")
    return value


def get_int(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> int:
    """Return an integer attribute."""
    value: int = _typed(document, key, int, default, "a whole number")
    return value


def get_number(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> float:
    """Return a numeric attribute; one that no clock or size can have, such as JSON's NaN, is refused."""
    value: float = _typed(document, key, (int, float), default, "a number")
    if value is not default and not abs(value) < _BEYOND:
        raise UserError(f"'{key}' must be a number of less than sixteen digits")
    return value


def get_bool(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> bool:
    """Return a boolean attribute."""
    value: bool = _typed(document, key, bool, default, "true or false")
    return value


def get_strs(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> list[str]:
    """Return an attribute that is a list of strings."""
    value: list[str] = _typed(document, key, (list, tuple), default, "a list of strings")
    if value is not default and not all(isinstance(item, str) for item in value):
        raise UserError(f"'{key}' must be a list of strings")
    return value


def get_map(document: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> dict[str, Any]:
    """Return an attribute that is an object."""
    value: dict[str, Any] = _typed(document, key, dict, default, "an object")
    return value
