"""Frames: every chunking gives them back, no bytes bring the decoder down, and a wrong attribute is named."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.agent import protocol
from vmcontainer_kernel.agent.protocol import Decoder, Frame, Kind
from vmcontainer_kernel.errors import ProtocolError, UserError

KINDS = sorted(value for name, value in vars(Kind).items() if name.isupper())
STREAMS = [Kind.STDIN, Kind.STDOUT, Kind.STDERR]
NUMBERS = st.integers(0, 2**32 - 1)
JSON = st.dictionaries(
    st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=4
)

frames = st.one_of(
    st.builds(Frame, st.sampled_from(STREAMS), NUMBERS, st.binary(max_size=300)),
    st.builds(lambda request, document: Frame(Kind.CALL, request, json.dumps(document).encode()), NUMBERS, JSON),
)


def fed(chunks: list[bytes]) -> list[Frame]:
    decoder = Decoder()
    return [frame for chunk in chunks for frame in decoder.feed(chunk)]


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 5000), max_size=10))
def test_frames_survive_any_chunking(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(protocol.encode(*frame) for frame in sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert fed([data[a:b] for a, b in itertools.pairwise(edges)]) == sent


@given(st.lists(frames, max_size=3))
def test_frames_survive_single_bytes(sent: list[Frame]) -> None:
    data = b"".join(protocol.encode(*frame) for frame in sent)
    assert fed([data[at : at + 1] for at in range(len(data))]) == sent


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_arbitrary_bytes_raise_nothing_but_protocol_errors(chunks: list[bytes]) -> None:
    try:
        fed(chunks)
    except ProtocolError as error:
        assert error.hint


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0), st.binary(min_size=1, max_size=4))
def test_damaged_frames_raise_nothing_but_protocol_errors(sent: list[Frame], at: int, noise: bytes) -> None:
    data = b"".join(protocol.encode(*frame) for frame in sent)
    at %= len(data)
    try:
        for frame in fed([data[:at] + noise + data[at + len(noise) :]]):
            assert frame.kind in KINDS
    except ProtocolError:
        pass


@given(st.binary(max_size=200))
def test_a_control_payload_is_an_object_or_a_protocol_error(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(protocol.parse_json(payload), dict)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"a": ' + b"9" * 100_000 + b"}",
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"\0",
    ],
    ids=["lists", "objects", "digits", "no UTF-8", "byte order mark", "NUL"],
)
def test_json_that_cannot_be_read_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_json(payload)


@given(st.lists(frames, min_size=1, max_size=4), st.integers(1, 3))
def test_frames_that_come_twice_are_given_twice(sent: list[Frame], times: int) -> None:
    data = b"".join(protocol.encode(*frame) * times for frame in sent)
    assert fed([data]) == [frame for frame in sent for _ in range(times)]


@given(st.lists(frames, min_size=1, max_size=4), st.integers(0))
def test_a_stream_that_breaks_off_gives_the_whole_frames_before(sent: list[Frame], at: int) -> None:
    data = b"".join(protocol.encode(*frame) for frame in sent)
    got = fed([data[: at % len(data)]])
    assert got == sent[: len(got)] and len(got) < len(sent)


def test_what_came_before_a_damaged_header_is_kept() -> None:
    decoder = Decoder()
    first = protocol.encode(Kind.STDOUT, 1, b"x")
    got = []
    with pytest.raises(ProtocolError, match="kind 99"):
        for frame in decoder.feed(first + b"\0\0\0\1\x63\0\0\0\1x"):
            got.append(frame)
    assert got == [Frame(Kind.STDOUT, 1, b"x")]


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (Kind.STDOUT, protocol.MAX_OUTPUT),
        (Kind.STDIN, protocol.MAX_CHUNK),
        (Kind.CALL, protocol.MAX_CONTROL),
        (Kind.CREDIT, 5),
    ],
)
def test_a_length_beyond_the_limit_is_refused_on_both_sides(kind: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        protocol.encode(kind, 1, b"x" * (length + 1))
    header = (length + 1).to_bytes(4, "big") + bytes([kind]) + b"\0\0\0\1"
    with pytest.raises(ProtocolError):
        fed([header])


def test_a_consumer_that_stops_loses_no_frame() -> None:
    decoder = Decoder()
    for _ in decoder.feed(b"".join(protocol.encode(Kind.STDOUT, number) for number in (1, 2, 3))):
        break
    assert [frame.request for frame in decoder.feed(b"")] == [2, 3]


@given(NUMBERS, st.sampled_from(STREAMS), NUMBERS)
def test_credit_round_trip(request: int, stream: int, count: int) -> None:
    [frame] = fed([protocol.encode_credit(request, stream, count)])
    assert frame.request == request
    assert protocol.parse_credit(frame.payload) == (stream, count)


@pytest.mark.parametrize("payload", [b"", b"1234", b"123456"])
def test_a_credit_of_another_size_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_credit(payload)


@pytest.mark.parametrize("spoken", [None, 0, 2, "1", True and 7])
def test_another_protocol_is_refused_with_what_to_do(spoken: Any) -> None:
    with pytest.raises(ProtocolError, match="protocol") as caught:
        protocol.check_hello({"protocol": spoken})
    assert "setup" in caught.value.hint


GETTERS = [
    (protocol.get_str, "text", [1, None, ["x"], True]),
    (protocol.get_int, 3, ["3", None, 3.0, True]),
    (protocol.get_number, 1.5, ["1", None, False]),
    (protocol.get_bool, True, [1, "yes", None]),
    (protocol.get_strs, ["a"], ["a", [1], None, {"a": 1}]),
    (protocol.get_map, {"a": 1}, [[], "a", None]),
]


@pytest.mark.parametrize(("getter", "right", "wrong"), GETTERS)
def test_typed_getters_name_the_attribute(getter: Any, right: Any, wrong: list[Any]) -> None:
    assert getter({"key": right}, "key") == right
    for value in wrong:
        with pytest.raises(UserError, match="'key' must be"):
            getter({"key": value}, "key")
    with pytest.raises(UserError, match=r"'key' must be .* missing"):
        getter({}, "key")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -(2**63), 10**400])
def test_a_number_beyond_reason_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="'timeout_s' must be a number"):
        protocol.get_number({"timeout_s": value}, "timeout_s")


@pytest.mark.parametrize(("getter", "right", "wrong"), GETTERS)
def test_typed_getters_take_a_default_for_what_is_missing_only(getter: Any, right: Any, wrong: list[Any]) -> None:
    assert getter({}, "key", right) == right
    with pytest.raises(UserError, match="'key'"):
        getter({"key": wrong[0]}, "key", right)
