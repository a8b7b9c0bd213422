"""The hypervisor view as a person uses it, with a real machine: what is pressed on the page is looked up at QEMU."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from vmcontainer_widgets import HypervisorView

from tests.browser.conftest import Notebook, Notebooks, sample, violations
from tests.browser.stage import Stage

pytestmark = [pytest.mark.needs("chromium")]

MACHINE = "from vmcontainer_kernel.session import current; machine = current().machines.guest('looked').machine; "
PARTS = MACHINE + "print(sorted(part for one in machine.poller._followers for part in one.parts))"
SHELF = """
from vmcontainer_kernel.vm.state.shelf import Shelf
print([one.title for one in Shelf().snapshots() if one.title.startswith("looked:")])
"""


def qemu_says(page: Notebook, command: str) -> Any:
    """QEMU's own answer to a QMP command, past the view."""
    return json.loads(
        page.ask(f"{MACHINE}import json; print(json.dumps(current().wait(machine.execute({command!r}))))")
    )


def section(page: Notebook, name: str) -> Any:
    return page.page.locator("details.vmc-section", has=page.page.get_by_role("heading", name=name))


def opened(page: Notebook, name: str) -> Any:
    """Open or close a section by the keyboard."""
    found = section(page, name)
    found.locator("summary").first.press("Enter")
    return found


def press(page: Notebook, name: str) -> str:
    """Press a button, wait for what came of it; its answer."""
    button = page.page.get_by_role("button", name=name).first
    button.press("Enter")
    button.and_(page.page.locator("[aria-busy=false]")).wait_for(timeout=60_000)
    answer = page.page.locator(".vmc-answer").first
    assert answer.get_attribute("data-tone") == "good", answer.inner_text()
    return str(answer.inner_text())


@pytest.mark.needs("qemu")
@pytest.mark.needs("guest-image")
def test_a_machine_is_looked_into_and_changed(notebook: Notebooks) -> None:
    start = "%load_ext vmcontainer_kernel\n%vm start looked --max-cpus 2"
    page = notebook(start, "%vm view looked", "%vm rm looked", height=1400)
    assert page.text(0) == ""
    page.run(1)
    page.page.locator(".vmc-status", has_text="running").wait_for()

    assert page.ask(PARTS) == "[]"
    registers = opened(page, "Registers")
    registers.get_by_role("row", name="RIP").wait_for()
    assert page.ask(PARTS) == "['registers']"
    opened(page, "Registers")
    page.eventually(PARTS, "[]")
    twins_light_up(page)

    title = press(page, "Take a snapshot").split(",")[0]
    try:
        assert page.ask(SHELF) == f"['{title}']"
        grows_and_comes_back(page, title)
    finally:
        page.ask(f"%vm snapshot rm {title}")
    panics(page)
    page.run(2)


def grows_and_comes_back(page: Notebook, title: str) -> None:
    press(page, "Add a CPU")
    assert len(qemu_says(page, "query-cpus-fast")) == 2
    section(page, "Virtual CPUs").get_by_text("vCPU 1", exact=True).wait_for()
    page.page.get_by_label("Memory of the machine in MiB").fill("160")
    assert press(page, "Set memory").startswith("160 MiB")
    assert qemu_says(page, "query-balloon")["actual"] == 160 << 20
    opened(page, "Snapshots").get_by_role("listitem").filter(has_text=title).wait_for()
    before = page.ask(MACHINE + "print(machine.pid)")
    assert press(page, f"Restore {title}") == title
    page.page.get_by_text(re.compile(rf"^To the host this machine is one process: .*pid (?!{before}$)\d+$")).wait_for()
    assert len(qemu_says(page, "query-cpus-fast")) == 1


def panics(page: Notebook) -> None:
    """The first press asks for a second one."""
    panic = page.page.get_by_role("button", name="Make the kernel panic")
    panic.press("Enter")
    page.page.get_by_role("button", name="Really? Press again").wait_for()
    assert qemu_says(page, "query-status")["status"] == "running"
    page.page.get_by_role("button", name="Really? Press again").press("Enter")
    page.page.locator(".vmc-status", has_text="has ended").wait_for()
    assert page.ask(MACHINE + "print(machine.reason)") == "the guest's kernel panicked"


def twins_light_up(page: Notebook) -> None:
    """The same card in QEMU's tree and on the guest's bus; the driver's name came out of the guest."""
    found = opened(page, "Devices from both sides")
    listed = found.locator("tr[data-twin=net]")
    listed.get_by_text("virtio-pci").wait_for()
    listed.hover()
    assert [one.split()[0] for one in found.locator(".vmc-lit").all_inner_texts()] == ["net", "00:04.0"]
    found.locator("li[data-twin=disk]").focus()
    assert found.locator(".vmc-lit").count() == 2
    assert "⇄ disk" in found.locator("tr.vmc-lit").inner_text()
    opened(page, "Devices from both sides")


def shown(stage: Stage, document: dict[str, Any]) -> HypervisorView:
    view = HypervisorView(document=document)
    stage.show(view)
    return view


def toggle(stage: Stage, name: str) -> Any:
    found = stage.page.locator("details.vmc-section", has=stage.page.get_by_role("heading", name=name))
    found.locator("summary").first.press("Enter")
    stage.pump()
    return found


def test_what_cannot_be_told_says_why_and_what_is_closed_is_not_drawn(stage: Stage) -> None:
    document = {**sample("hypervisor"), "translation": None, "exits": [{"name": "io_exits", "count": 7}]}
    document["missing"] = {"translation": "the accelerator is KVM <b>"}
    command = ["qemu", "-accel", "kvm", "-S", "-device", "virtio-rng-pci,id=r"]
    document["qemu"] = {**document["qemu"], "command": command}
    view = shown(stage, document)
    rows = "details:has-text('How the guest') tbody tr"
    assert stage.page.locator(rows).count() == 0
    engine = toggle(stage, "How the guest's instructions run")
    assert "not available because the accelerator is KVM <b>" in engine.inner_text()
    assert engine.locator("tbody tr").inner_text().split() == ["io_exits", "7", "—"]
    options = toggle(stage, "QEMU's command line").locator("tbody tr").all_inner_texts()
    assert [one.split("\t")[0].strip() for one in options] == ["program", "-accel", "-S", "-device"]
    assert "who runs the guest's instructions" in options[1]
    assert "random numbers" in options[3]
    assert view.wanted == []
    assert "Asked for; it comes with the next look." in toggle(stage, "Virtqueues").inner_text()
    assert view.wanted == ["queues"]
    view.language = "ko"
    stage.pump()
    assert view.wanted == ["queues"], "what was open is open still"
    assert stage.errors == []


def open_all(stage: Stage) -> None:
    stage.page.locator("details:not([open])").evaluate_all("(all) => all.forEach((one) => (one.open = true))")
    stage.pump()


def test_everything_open_is_for_everybody(stage: Stage) -> None:
    view = shown(stage, sample("hypervisor-parts"))
    open_all(stage)
    assert view.wanted == ["devices", "interrupts", "memory", "queues", "registers", "snapshots"]
    open_all(stage)
    text = stage.page.locator(".vmc").inner_text()
    for words in (
        "RIP",
        "dma-chan",
        "virtio-balloon",
        "IO-APIC 4-edge ttyS0",
        "the machine comes from here",
        "1 of 2 places",
    ):
        assert words in text
    for width in (1280, 420):
        stage.page.set_viewport_size({"width": width, "height": 1000})
        stage.pump()
        assert stage.page.locator(".vmc").evaluate("(one) => one.scrollWidth <= one.clientWidth"), f"{width} pixels"
    stage.page.set_viewport_size({"width": 1280, "height": 1000})
    view.language = "ko"
    stage.pump()
    found = violations(stage.page, "main")
    assert not found, "\n".join(found)


def test_a_counter_that_is_not_renewed_each_time_has_a_steady_speed(stage: Stage) -> None:
    """The part is asked for every two seconds, the view has a document each half second."""
    view = shown(stage, sample("hypervisor-parts"))
    open_all(stage)
    row = stage.page.locator("details.vmc-section", has=stage.page.get_by_role("heading", name="Interrupts"))
    speed = row.locator("tr", has_text="timer").locator("td").last
    seen = []
    for step in range(1, 23):
        document = copy.deepcopy(view.document)
        document["time_s"] += 0.5
        document["parts"]["interrupts"]["guest"][0]["count"] += 50 if step in (4, 8) else 0
        view.document = document
        stage.pump()
        seen.append(speed.inner_text())
    assert seen[:4] == ["—", "—", "—", "25/s"]
    assert seen[4:12] == ["25/s"] * 8
    assert seen[-1] == "0.0/s"


def test_names_a_guest_chose_are_text(stage: Stage) -> None:
    document = sample("hypervisor-parts")
    hostile = "</script><img src=x onerror=alert(1)>\u202e"
    document["parts"]["devices"]["objects"][0]["type"] = hostile
    document["parts"]["devices"]["pci"][0]["guest"] = {"driver": hostile}
    document["parts"]["interrupts"]["guest"] = [{"line": hostile, "count": "1", "what": None}, None, 3]
    document["snapshots"] = [{"name": hostile, "of": hostile, "made_s": "x"}, "no object"]
    document["parts"]["registers"] = {"vcpus": [{"index": 0, "values": None}]}
    document["parts"]["queues"]["devices"][0]["queues"] = "none"
    shown(stage, document)
    open_all(stage)
    assert "onerror=alert(1)>\\u202e" in stage.page.locator(".vmc").inner_text()
    assert stage.page.locator(".vmc img").count() == 0
    assert stage.errors == []
