"""Systems side by side in one notebook: each gives its proof, and nothing of any is left when the kernel is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks import Notebook, processes, wait_until_nothing_is_left

pytestmark = [pytest.mark.needs(check) for check in ("containers-on-host", "qemu", "qemu-arm64", "assembler")]

FIRST_LIMIT_S = 600.0  # packages may have to be fetched, guest images and templates to be made
END_LIMIT_S = 3.0

SECTOR = """
mov si, offset text
cld
next: lodsb
test al, al
jz done
mov dx, 0x3f8
out dx, al
mov ah, 0x0e
int 0x10
jmp next
done: cli
hlt
text: .asciz "My own sector"
"""


@pytest.fixture(scope="module")
def other() -> str:
    """The name of another release of this computer's distribution."""
    from vmcontainer_kernel.vm.systems import GUESTS, own_system

    distribution, release = own_system()
    return next(one.name for one in GUESTS if one.distribution == distribution and one.release != release)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path, tmp_path / "run")
    yield notebook
    notebook.close()


def test_six_systems_at_once_and_nothing_of_them_afterwards(notebook: Notebook, tmp_path: Path, other: str) -> None:
    own = notebook.ok("%%vm\nuname -srm; . /etc/os-release; echo $PRETTY_NAME", FIRST_LIMIT_S).out.splitlines()
    arm = notebook.ok("%%vm arm --arch arm64\nuname -srm; echo $((6 * 7))", FIRST_LIMIT_S).out.splitlines()
    theirs = notebook.ok(
        f"%%vm other --system {other}\nuname -srm; . /etc/os-release; echo $PRETTY_NAME", FIRST_LIMIT_S
    ).out.splitlines()
    assert own[0].endswith("x86_64") and theirs[0].endswith("x86_64")
    assert own[0].split("-")[0] != theirs[0].split("-")[0] and own[1] != theirs[1]
    assert arm[0].endswith("aarch64") and arm[1] == "42"

    domains = notebook.ok("%%vm hypervisor --system xen\nxl list", FIRST_LIMIT_S).out.splitlines()
    assert domains[1].startswith("Domain-0 ") and len(domains) == 3, domains

    assert "machine sector has halted" in notebook.ok(f"%%asm sector --run qemu --timeout 30{SECTOR}").out
    assert "My own sector" in notebook.value("%vm screen sector")
    notebook.ok("%vm boot memory --system memtest", FIRST_LIMIT_S)
    screen = notebook.ok("%vm screen memory --until Memtest86+ --timeout 60").data[-1]
    assert {"image/png", "text/html", "text/plain"} <= set(screen)
    assert "<img" in screen["text/html"] and "Memtest86+" in screen["text/html"]

    names = notebook.value("%vm ls")
    assert all(f"{name} " in names for name in ("vm", "arm", "other", "hypervisor", "sector", "memory"))
    session = f"s{notebook.pid}-"
    run = tmp_path / "run"
    assert sum("qemu-system" in command for _, command in processes(run, session, but=notebook.pid)) >= 6
    for name in ("vm", "arm", "other", "hypervisor"):
        assert notebook.ok(f"%%vm {name}\necho still here").out == "still here\n"
    notebook.kill()
    wait_until_nothing_is_left(run, [session], END_LIMIT_S)


def test_machines_without_our_agent(notebook: Notebook) -> None:
    started = notebook.ok("%%asm own --run qemu --timeout 30\nmov al, 0x15\nout 0xf4, al").out
    assert "ended itself with 0x15" in started
    assert notebook.value("%vm ls") == "no machines"

    notebook.ok("%vm boot shell --system ipxe", FIRST_LIMIT_S)
    assert "%vm type shell" in notebook.fails("%%vm shell\ntrue", "UserError")
    assert "already" in notebook.fails("%vm boot shell --system ipxe", "UserError")
    notebook.ok("%vm screen shell --until Ctrl-B")
    notebook.ok("%vm key shell ctrl-b")
    notebook.ok("%vm screen shell --until iPXE>")
    notebook.ok("%vm type shell --enter 'echo I am: ${platform}'")
    notebook.ok("%vm screen shell --until 'I am: pcbios'")
    notebook.ok("%vm pause shell")
    assert "paused" in notebook.value("%vm ls")
    notebook.ok("%vm resume shell")
    notebook.ok("%vm reset shell")
    notebook.ok("%vm screen shell --until Ctrl-B")
    assert '"machine": "shell"' in notebook.value("%vm inspect shell").replace("'", '"')
    notebook.ok("%vm rm shell")
    assert notebook.value("%vm ls") == "no machines"


def test_a_system_without_our_agent_is_moved_suspended_and_branched(notebook: Notebook) -> None:
    """What it shows on its screen goes with it; it answers the keyboard wherever it is."""
    name = f"ipxe{notebook.pid}"  # suspended machines and snapshots are known to all notebooks
    notebook.ok(f"%vm boot {name} --system ipxe", FIRST_LIMIT_S)
    notebook.ok(f"%vm screen {name} --until Ctrl-B")
    notebook.ok(f"%vm key {name} ctrl-b")
    notebook.ok(f"%vm screen {name} --until iPXE>")
    notebook.ok(f"%vm migrate {name}")
    notebook.ok(f"%vm type {name} --enter 'echo moved on ${{platform}}'")
    notebook.ok(f"%vm screen {name} --until 'moved on pcbios'")
    notebook.ok(f"%vm suspend {name}")
    assert notebook.value("%vm ls") == "no machines"
    notebook.ok(f"%vm resume {name}")
    notebook.ok(f"%vm snapshot {name} here")
    try:
        notebook.ok(f"%vm clone --from {name}:here branch")
        notebook.ok("%vm type branch --enter 'echo branch of ${platform}'")
        screen = notebook.value("%vm screen branch --until 'branch of pcbios'")
        assert "moved on pcbios" in screen
        assert "branch of" not in notebook.value(f"%vm screen {name}")
    finally:
        notebook.ok(f"%vm snapshot rm {name}:here")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%vm boot x", "what is it to boot"),
        ("%vm boot x --system plan9", "memtest"),
        ("%vm boot x --cdrom /nonexistent", "no such file"),
        ("%vm boot host --system memtest", "own kernel"),
        ("%vm boot a,b --system memtest", "cannot be a machine's name"),
        ("%vm boot x --arch vax --cdrom /etc/hostname", "arm64"),
        ("%vm screen nobody", "no machine nobody"),
        ("%%vm x --system memtest\ntrue", "%vm boot NAME --system memtest"),
        ("%%vm x --arch vax\ntrue", "arm64"),
        ("%%asm x --run qemu --steps 3\nnop", "only for --run kvm"),
        ("%%asm x --run qemu\n.fill 600", "510"),
    ],
)
def test_what_cannot_be_booted_is_told_at_once(shared: Notebook, line: str, words: str) -> None:
    cell = shared.cell(line)
    assert cell.error and "Traceback" not in cell.failure, cell.describe()
    assert words in cell.failure


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("shared")
    notebook = Notebook(folder, folder / "run")
    yield notebook
    notebook.close()


def test_what_can_be_booted_is_listed(shared: Notebook) -> None:
    table = shared.value("%vm systems")
    assert all(name in table for name in ("memtest", "ipxe", "uefi", "arm64"))
