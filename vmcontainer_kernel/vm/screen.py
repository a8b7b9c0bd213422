"""A machine's screen, keyboard, pointer and power button, from the hypervisor's side: nothing in the guest takes part.

    screendump ──PNG──▶ a memory file that QEMU was given (add-fd) ──▶ Picture      xp 0xb8000 ──▶ its letters
    "ls\\n" ──keys──▶ send-key l, s, ret                                              click ──▶ input-send-event

A picture is made by QEMU of what the guest wrote to its display; here it is bytes of bounded size.
"""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ..errors import MachineError, UserError
from .inputs import pointer_events

__all__ = ["Picture", "Screen", "chord", "keys", "letters", "png_size", "press_power", "stands_still"]

PICTURE_LIMIT_BYTES: Final = 8 << 20
TEXT_ADDRESS: Final = 0xB8000  # of the VGA's text page, colour modes
COLUMNS, ROWS = 80, 25
TEXT_MODE: Final = (720, 400)  # what QEMU makes of 80 by 25 letters of 9 by 16 points
HOLD_MS: Final = 20
INTERRUPTS: Final = 1 << 9  # IF of the x86 flags
TYPE_LIMIT: Final = 2000

# QKeyCode of the QEMU QMP Reference Manual, for letters on a keyboard of the United States.
_PLAIN: Final = {
    " ": "spc",
    "\n": "ret",
    "\t": "tab",
    "\b": "backspace",
    "\x1b": "esc",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    "\\": "backslash",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
_SHIFTED: Final = dict(zip('!@#$%^&*()_+{}|:"~<>?', "1234567890-=[]\\;'`,./", strict=True))
_OTHER_NAMES: Final = {
    "enter": "ret",
    "return": "ret",
    "space": "spc",
    "escape": "esc",
    "del": "delete",
    "control": "ctrl",
    "win": "meta_l",
    "pageup": "pgup",
    "pagedown": "pgdn",
}
BUTTONS: Final = ("left", "middle", "right")


class Runs(Protocol):
    """What is needed of a machine."""

    async def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command."""

    async def add_file(self, descriptor: int) -> int:
        """Give QEMU an open file; return the number of its set, ``/dev/fdset/N``."""


@dataclass(frozen=True)
class Picture:
    """What was on the screen: a PNG, its size in points, and its letters if it was in text mode."""

    png: bytes
    width: int
    height: int
    text: str = ""

    @property
    def alt(self) -> str:
        """The picture in words, for those who do not see it."""
        return self.text or f"the machine's screen, {self.width} by {self.height} points, in graphics mode"


def png_size(png: bytes) -> tuple[int, int]:
    """Return width and height out of a PNG's first chunk (PNG specification, 11.2.2 IHDR); raises MachineError."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise MachineError("QEMU gave no picture of the screen", hint="try again", where=repr(png[:16]))
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def letters(dump: str) -> str:
    """Return the text page as lines out of HMP's ``xp /Nhx``: each cell is a letter (code page 437) and its colours."""
    cells = re.findall(r"0x([0-9a-f]{4})\b", re.sub(r"(?m)^[0-9a-f]+:", "", dump))
    text = bytes(int(cell, 16) & 0xFF for cell in cells).decode("cp437")
    shown = "".join(char if char.isprintable() else " " for char in text)
    lines = [shown[at : at + COLUMNS].rstrip() for at in range(0, len(shown), COLUMNS)]
    return "\n".join(lines).strip("\n")


def keys(text: str) -> list[tuple[str, ...]]:
    """Return the keys to press at once for each letter; raises UserError for one that such a keyboard has not."""
    return [_key(char) for char in text]


def _key(char: str) -> tuple[str, ...]:
    if char in _SHIFTED:
        return ("shift", *_key(_SHIFTED[char]))
    if char in _PLAIN:
        return (_PLAIN[char],)
    if char.isascii() and char.isalnum():
        return ("shift", char.lower()) if char.isupper() else (char,)
    hint = "letters, digits and signs of a US keyboard; other keys by name: %vm key NAME f2"
    raise UserError(f"no key types {char!r}", hint=hint)


def chord(words: str) -> tuple[str, ...]:
    """Return the keys of ``ctrl-alt-delete``, ``f2`` or ``a``; raises UserError for what cannot be a key's name."""
    names = [_OTHER_NAMES.get(word, word) for word in words.lower().split("-")]
    if not all(re.fullmatch(r"[a-z0-9_]{1,24}", name) for name in names):
        raise UserError(f"{words!r} is no key", hint="as in ctrl-alt-delete, f2, enter, a")
    return tuple(names)


async def press_power(machine: Runs) -> None:
    """Press the power button: a guest that listens to ACPI ends itself (QMP ``system_powerdown``)."""
    await machine.execute("system_powerdown")


async def stands_still(machine: Runs) -> bool:
    """Whether a PC's only processor waits for an interrupt that it does not let in (HLT after CLI)."""
    told = str(await machine.execute("human-monitor-command", command_line="info registers"))
    flags = re.search(r"(?:EFL|RFL)=([0-9a-f]+).*HLT=1", told)
    return flags is not None and not int(flags[1], 16) & INTERRUPTS


class Screen:
    """The screen, keyboard and pointer of one machine."""

    def __init__(self, machine: Runs) -> None:
        self._machine = machine

    async def picture(self) -> Picture:
        """Return what is on the screen now (QMP ``screendump``; PNG needs QEMU 7.1)."""
        memory = os.memfd_create("screen", os.MFD_CLOEXEC)
        try:
            # QEMU takes a file of a set only if it was opened as QEMU would have opened it: to be written.
            writing = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                number = await self._machine.add_file(writing)
            finally:
                os.close(writing)
            try:
                await self._machine.execute("screendump", filename=f"/dev/fdset/{number}", format="png")
            finally:
                await self._machine.execute("remove-fd", fdset_id=number)
            size_bytes = os.fstat(memory).st_size
            if size_bytes > PICTURE_LIMIT_BYTES:
                hint = "a guest can make its screen as large as it likes; it must be smaller to be shown"
                raise MachineError(f"the picture of the screen has {size_bytes >> 20} MiB", hint=hint)
            png = os.pread(memory, PICTURE_LIMIT_BYTES, 0)
        finally:
            os.close(memory)
        width, height = png_size(png)
        text = await self.text() if (width, height) == TEXT_MODE else ""
        return Picture(png, width, height, text)

    async def text(self) -> str:
        """Return the letters of a PC's text mode, from the display's own memory."""
        command = f"xp /{COLUMNS * ROWS}hx {TEXT_ADDRESS:#x}"
        return letters(str(await self._machine.execute("human-monitor-command", command_line=command)))

    async def press(self, names: Sequence[str]) -> None:
        """Press keys together and let them go (QMP ``send-key``)."""
        pressed = [{"type": "qcode", "data": name} for name in names]
        await self._machine.execute("send-key", keys=pressed, hold_time=HOLD_MS)
        # QEMU answers at once; a PS/2 keyboard holds 16 bytes, and what comes faster than it is read gets lost.
        await asyncio.sleep(2 * HOLD_MS / 1000)

    async def type(self, text: str) -> None:
        """Type a text, letter by letter."""
        if len(text) > TYPE_LIMIT:
            raise UserError(f"{len(text)} letters are too many to type", hint=f"at most {TYPE_LIMIT} at once")
        for names in keys(text):
            await self.press(names)

    async def click(self, x: int, y: int, button: str = "left") -> None:
        """Move the pointer to a point of the picture and click; the guest must know USB tablets."""
        if button not in BUTTONS:
            raise UserError(f"there is no button {button}", hint=f"there are: {', '.join(BUTTONS)}")
        picture = await self.picture()
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            raise UserError(f"{x}, {y} is not on the screen", hint=f"it has {picture.width} by {picture.height} points")
        place = pointer_events(x, y, picture.width, picture.height)
        await self._machine.execute("input-send-event", events=place)
        for down in (True, False):
            await self._machine.execute(
                "input-send-event", events=[{"type": "btn", "data": {"button": button, "down": down}}]
            )
            await asyncio.sleep(HOLD_MS / 1000)
