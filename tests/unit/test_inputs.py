"""What a page tells of keys and pointer, as QEMU's events: a table, and nothing that a page could not have meant."""

from __future__ import annotations

from typing import Any

import pytest

from vmcontainer_kernel.vm.inputs import CODES, MOST_EVENTS, SCALE, Held, key_event, pointer_events, read_events

SIZE = (640, 480)


def keys_of(events: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    return [(one["data"]["key"]["data"], one["data"]["down"]) for one in events]


def test_keys_go_down_and_up_in_order() -> None:
    told = [["key", "ShiftLeft", True], ["key", "KeyA", True], ["key", "KeyA", False], ["key", "ShiftLeft", False]]
    assert keys_of(read_events(told, *SIZE)) == [("shift", True), ("a", True), ("a", False), ("shift", False)]


def test_letters_of_a_keyboard_without_places() -> None:
    assert keys_of(read_events([["text", "A"]], *SIZE)) == [
        ("shift", True),
        ("a", True),
        ("a", False),
        ("shift", False),
    ]
    assert read_events([["text", "한"], ["text", "ab"]], *SIZE) == []


def test_the_corners_of_the_picture_are_the_ends_of_the_axes() -> None:
    def axes(x: int, y: int) -> list[int]:
        return [one["data"]["value"] for one in pointer_events(x, y, *SIZE)]

    assert axes(0, 0) == [0, 0]
    assert axes(639, 479) == [SCALE, SCALE]
    assert axes(-5, 10**9) == [0, SCALE]
    assert [one["data"]["value"] for one in pointer_events(0, 0, 1, 1)] == [0, 0]


def test_buttons_and_the_wheel() -> None:
    told = [["at", 1, 2], ["button", 2, True], ["button", 2, False], ["wheel", -1]]
    found = read_events(told, *SIZE)
    assert [one["type"] for one in found] == ["abs", "abs", "btn", "btn", "btn", "btn"]
    assert [one["data"].get("button") for one in found[2:]] == ["right", "right", "wheel-up", "wheel-up"]


NONSENSE: list[Any] = [
    *(None, 5, "key", {}, [], [[]], [None], [["key"]], [["key", "KeyA"]], [["key", "KeyA", 1]], [["key", 5, True]]),
    *([["key", "Power", True]], [["at", 1]], [["at", "1", 2]], [["at", 1.5, 2]], [["button", 9, True]]),
    *([["button", -1, True]], [["wheel", 0]], [["wheel", "up"]], [["text", ""]], [["quit", 1, 2]]),
]


@pytest.mark.parametrize("told", NONSENSE, ids=repr)
def test_what_nobody_meant_is_left_out(told: object) -> None:
    assert read_events(told, *SIZE) == []


def test_one_message_is_bounded() -> None:
    assert len(read_events([["key", "KeyA", True]] * 10_000, *SIZE)) == MOST_EVENTS


def test_what_is_held_is_let_go_in_turn_and_once() -> None:
    held = Held()
    held.note(read_events([["key", "ControlLeft", True], ["key", "KeyC", True], ["button", 0, True]], *SIZE))
    held.note([key_event("c", down=False)])
    released = held.release()
    assert [one["data"].get("button") or one["data"]["key"]["data"] for one in released] == ["left", "ctrl"]
    assert not any(one["data"]["down"] for one in released)
    assert held.release() == []


def test_each_place_has_a_name_of_qemus_form() -> None:
    assert len(CODES) > 100
    assert all(name == name.lower() and name.replace("_", "").isalnum() for name in CODES.values())
