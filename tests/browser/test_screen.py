"""A machine's screen in a real page: what is typed into the picture, the machine reads; it is drawn when it changes."""

from __future__ import annotations

import time

import pytest

from tests.browser.conftest import Notebooks

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("qemu")]

# A boot sector that writes each key to the screen, and to the serial port, where no view takes part.
ECHO = """%%asm echo --run qemu --timeout 2
again: mov ah, 0
int 0x16
mov ah, 0x0e
int 0x10
mov dx, 0x3f8
out dx, al
jmp again
"""
SERIAL = """
from vmcontainer_kernel.session import current
async def said():
    return current().machines.guest("echo").machine.console.tail(5)
print(current().wait(said()))
"""
PICTURE = "() => document.querySelector('.vmc-screen canvas').toDataURL()"


def test_what_is_typed_into_the_picture_the_machine_reads(notebook: Notebooks) -> None:
    page = notebook("%load_ext vmcontainer_kernel", ECHO, "%vm screen echo --live", "%vm rm echo")
    page.run(0)
    assert "runs on" in page.text(1)
    page.run(2)
    view = page.page
    view.wait_for_function("() => document.querySelector('.vmc-screen canvas')?.width === 720")
    view.locator(".vmc-screen canvas").click(position={"x": 40, "y": 40})
    assert view.evaluate("() => document.activeElement.className") == "vmc-screen"
    before = view.evaluate(PICTURE)
    view.keyboard.type("hello 42")
    view.keyboard.press("Shift+1")
    page.eventually(SERIAL, "hello 42!", timeout_s=20)
    view.locator(".vmc-screen-letters", has_text="hello 42!").wait_for(state="attached")
    assert view.evaluate(PICTURE) != before

    # A picture that does not change is not sent again; but for the cursor, which blinks, this one does not.
    pictures = [frame for frame in page.frames if b'"picture"' in frame]
    assert pictures
    time.sleep(2)
    assert len([frame for frame in page.frames if b'"picture"' in frame]) <= len(pictures) + 9

    view.keyboard.press("Shift+F6")
    assert view.evaluate("() => document.activeElement.innerText") == "Ctrl+Alt+Delete"
    view.keyboard.type("9")  # which means nothing to JupyterLab either
    assert page.ask(SERIAL).endswith("hello 42!")
    page.run(3)
    view.locator(".vmc-failure", has_text="echo").wait_for()
