"""Screens, keyboards and consoles, the pure parts: pictures, letters, keys, terminals' bytes."""

import asyncio
import os
import struct
import zlib

import pytest

from vmcontainer_kernel.errors import MachineError, UserError
from vmcontainer_kernel.vm.console import readable
from vmcontainer_kernel.vm.screen import Picture, Screen, chord, keys, letters, png_size


def png(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_picture_s_size_is_read_and_anything_else_refused():
    assert png_size(png(720, 400)) == (720, 400)
    for wrong in (b"", b"GIF89a" + bytes(30), png(1, 1)[:20]):
        with pytest.raises(MachineError, match="no picture"):
            png_size(wrong)


def test_letters_come_out_of_the_text_page_line_by_line():
    page = "A" + " " * 79 + "\xb3b" + " " * 78 + "\x01x" + " " * 78
    cells = [f"0x07{byte:02x}" for byte in page.encode("latin-1")]
    rows = [cells[at : at + 8] for at in range(0, len(cells), 8)]
    dump = "\r\n".join(f"{0xB8000 + 16 * number:016x}: {' '.join(row)}" for number, row in enumerate(rows))
    assert letters(dump) == "A\n│b\n x"


def test_a_text_becomes_keys_of_a_us_keyboard():
    assert keys("aZ 1!\n/?") == [
        ("a",),
        ("shift", "z"),
        ("spc",),
        ("1",),
        ("shift", "1"),
        ("ret",),
        ("slash",),
        ("shift", "slash"),
    ]
    with pytest.raises(UserError, match="é"):
        keys("é")


def test_a_chord_names_its_keys():
    assert chord("Ctrl-Alt-Del") == ("ctrl", "alt", "delete")
    assert chord("F2") == ("f2",)
    for wrong in ("", "ctrl-", "a b", 'a"'):
        with pytest.raises(UserError):
            chord(wrong)


def test_a_terminal_s_bytes_become_lines():
    assert readable(b"\x1b[1;31mred\x1b[0m\r\nnext") == "red\nnext"
    assert readable(b"\x1b[01;01Ha\x1b[1;2Hb\x1b[02;01Hc") == "\nab\nc"
    assert readable(b"\x1b[2J\x1b[=3h\xff\x07x") == "\ufffdx"


class Hypervisor:
    """Stands in for a machine: writes a picture where it is told, and remembers the rest."""

    def __init__(self, picture):
        self.picture, self.asked, self.files = picture, [], {}

    async def add_file(self, descriptor):
        self.files[7] = os.dup(descriptor)
        return 7

    async def execute(self, command, **arguments):
        self.asked.append((command, arguments))
        if command == "screendump":
            os.write(self.files[7], self.picture)
        if command == "remove-fd":
            os.close(self.files.pop(7))


def test_a_picture_goes_through_no_path_and_its_file_is_closed():
    machine = Hypervisor(png(1280, 800))
    picture = asyncio.run(Screen(machine).picture())
    assert (picture.width, picture.height, picture.text) == (1280, 800, "")
    assert [name for name, _ in machine.asked] == ["screendump", "remove-fd"]
    assert machine.asked[0][1]["filename"] == "/dev/fdset/7"
    assert not machine.files
    assert "1280 by 800" in picture.alt
    assert Picture(b"", 720, 400, "letters").alt == "letters"


def test_a_picture_that_is_too_large_is_refused():
    with pytest.raises(MachineError, match="9 MiB"):
        asyncio.run(Screen(Hypervisor(png(8000, 8000) + bytes(9 << 20))).picture())


def test_a_click_goes_to_a_point_of_the_picture_and_none_beside_it():
    machine = Hypervisor(png(101, 11))
    asyncio.run(Screen(machine).click(50, 10))
    (place, down, up) = [arguments["events"] for name, arguments in machine.asked if name == "input-send-event"]
    assert [one["data"]["value"] for one in place] == [0x7FFF // 2, 0x7FFF]
    assert [one[0]["data"]["down"] for one in (down, up)] == [True, False]
    for x, y, button in ((101, 0, "left"), (0, -1, "left"), (0, 0, "fourth")):
        with pytest.raises(UserError):
            asyncio.run(Screen(machine).click(x, y, button))
