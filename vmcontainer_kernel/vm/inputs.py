"""What a person does to a page, as what QEMU does to a machine's keyboard and pointer (QMP ``input-send-event``).

    ["key", "KeyA", true]   ["at", 320, 200]   ["button", 0, true]   ["wheel", -1]   ["text", "a"]

The page is not trusted: what it cannot have meant is left out. Names of keys are those of the browser's physical keys
(W3C UI Events KeyboardEvent code Values), so a guest's own keyboard layout decides what they write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from ..errors import UserError

__all__ = ["CODES", "Held", "key_event", "pointer_events", "read_events"]

SCALE: Final = 0x7FFF  # a pointer's axis, QMP's InputMoveEvent
MOST_EVENTS: Final = 256
BUTTONS: Final = ("left", "middle", "right")  # as MouseEvent.button counts them

_NAMED: Final = {
    "Minus": "minus",
    "Equal": "equal",
    "BracketLeft": "bracket_left",
    "BracketRight": "bracket_right",
    "Semicolon": "semicolon",
    "Quote": "apostrophe",
    "Backquote": "grave_accent",
    "Backslash": "backslash",
    "IntlBackslash": "less",
    "Comma": "comma",
    "Period": "dot",
    "Slash": "slash",
    "Space": "spc",
    "Enter": "ret",
    "Tab": "tab",
    "Backspace": "backspace",
    "Escape": "esc",
    "CapsLock": "caps_lock",
    "NumLock": "num_lock",
    "ScrollLock": "scroll_lock",
    "PrintScreen": "print",
    "Pause": "pause",
    "Insert": "insert",
    "Delete": "delete",
    "Home": "home",
    "End": "end",
    "PageUp": "pgup",
    "PageDown": "pgdn",
    "ArrowUp": "up",
    "ArrowDown": "down",
    "ArrowLeft": "left",
    "ArrowRight": "right",
    "ShiftLeft": "shift",
    "ShiftRight": "shift_r",
    "ControlLeft": "ctrl",
    "ControlRight": "ctrl_r",
    "AltLeft": "alt",
    "AltRight": "alt_r",
    "MetaLeft": "meta_l",
    "MetaRight": "meta_r",
    "ContextMenu": "menu",
    "NumpadAdd": "kp_add",
    "NumpadSubtract": "kp_subtract",
    "NumpadMultiply": "kp_multiply",
    "NumpadDivide": "kp_divide",
    "NumpadDecimal": "kp_decimal",
    "NumpadEnter": "kp_enter",
    "Lang1": "lang1",  # 한/영
    "Lang2": "lang2",  # 한자
    "IntlYen": "yen",
    "IntlRo": "ro",
}
# The browser's name of a physical key → QKeyCode of the QEMU QMP Reference Manual (all in 7.2 and later).
CODES: Final = (
    _NAMED
    | {f"Key{letter.upper()}": letter for letter in "abcdefghijklmnopqrstuvwxyz"}
    | {f"Digit{digit}": str(digit) for digit in range(10)}
    | {f"Numpad{digit}": f"kp_{digit}" for digit in range(10)}
    | {f"F{number}": f"f{number}" for number in range(1, 13)}
)

Event = dict[str, Any]


def key_event(name: str, *, down: bool) -> Event:
    """Return one key, by its QKeyCode, going down or up."""
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}}


def pointer_events(x: int, y: int, width: int, height: int) -> list[Event]:
    """Return the pointer's way to a point of a picture of that size."""
    sides = (("x", x, width), ("y", y, height))
    return [
        {"type": "abs", "data": {"axis": axis, "value": min(max(at, 0), size - 1) * SCALE // max(size - 1, 1)}}
        for axis, at, size in sides
    ]


def _button(name: str, *, down: bool) -> Event:
    return {"type": "btn", "data": {"button": name, "down": down}}


def read_events(told: object, width: int, height: int) -> list[Event]:
    """Return QEMU's events for what a page told, in its order; `width` and `height` are those of the picture."""
    found: list[Event] = []
    for one in told[:MOST_EVENTS] if isinstance(told, list) else []:
        match one:
            case ["key", str(code), bool(down)] if code in CODES:
                found.append(key_event(CODES[code], down=down))
            case ["at", int(x), int(y)]:
                found += pointer_events(x, y, width, height)
            case ["button", int(index), bool(down)] if 0 <= index < len(BUTTONS):
                found.append(_button(BUTTONS[index], down=down))
            case ["wheel", int(step)] if step:
                found += [_button("wheel-down" if step > 0 else "wheel-up", down=down) for down in (True, False)]
            case ["text", str(char)] if len(char) == 1:
                found += _typed(char)
    return found


def _typed(char: str) -> list[Event]:
    """Return the keys that write a letter on a keyboard of the United States, down and up; nothing if none does."""
    from .screen import keys

    names: Sequence[str] = ()
    with contextlib.suppress(UserError):
        names = keys(char)[0]
    return [key_event(name, down=True) for name in names] + [key_event(name, down=False) for name in reversed(names)]


class Held:
    """Which keys and buttons are down, so that none stays so when whoever pressed it is gone."""

    def __init__(self) -> None:
        self._down: dict[str, Event] = {}

    def note(self, events: Sequence[Event]) -> None:
        """Take note of what is sent."""
        for event in events:
            data = event["data"]
            if "down" in data:
                name = str(data.get("button") or data["key"]["data"])
                if data["down"]:
                    self._down[name] = event
                else:
                    self._down.pop(name, None)

    def release(self) -> list[Event]:
        """Return what lets all go."""
        events = [{**one, "data": {**one["data"], "down": False}} for one in reversed(self._down.values())]
        self._down.clear()
        return events
