"""Machine code on the real /dev/kvm: every kind of exit, single steps, an end for code that has none."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.notebooks import Notebook
from tests.patience import now_s
from vmcontainer_kernel import doctor, magics
from vmcontainer_kernel.asm import Program
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.options import parse_asm
from vmcontainer_kernel.vm import accelerator, kvm
from vmcontainer_kernel.vm.assembly import Code, assemble
from vmcontainer_kernel.vm.kvm.guest import KEPT_EXITS, Report, Request
from vmcontainer_kernel.vm.kvm.machine import BareMachine

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.needs("kvm-real-mode"), pytest.mark.needs("assembler")]

# Two numbers added by the learner's own code, the sum written to the serial port as a character.
LESSON = """\
add ax, bx      # 2 + 3
add al, '0'     # as a character
mov dx, 0x3f8   # the serial port
out dx, al
mov al, 10
out dx, al
hlt
"""


def run(text: str, bits: int = 16, **change: object) -> Report:
    code = assemble(text, bits=bits)
    return kvm.run(Request(code.data, code.origin, bits, **change))  # type: ignore[arg-type]


def names(report: Report) -> list[str]:
    return [seen.name.removeprefix("KVM_EXIT_") for seen in report.exits]


def cell(line: str, text: str) -> Program:
    from vmcontainer_kernel.asm import run_cell

    program = run_cell(parse_asm(magics._CELLS["asm"], line), text)
    assert program
    return program


def test_a_lesson_adds_two_numbers_and_sees_each_exit() -> None:
    program = cell("--registers ax=2,bx=3", LESSON)
    assert program.output == "5\n"
    assert program.end == "KVM_EXIT_HLT"
    assert program.registers["ax"] == 10 and program.registers["dx"] == 0x3F8
    rows = [(row[1], row[2], row[3]) for row in program.table().rows]
    assert rows == [
        ("KVM_EXIT_IO", "out 0x3f8 ← 35 '5'", "5"),
        ("KVM_EXIT_IO", "out 0x3f8 ← 0a", "7"),
        ("KVM_EXIT_HLT", "waits for an interrupt", "8"),
    ]


def test_the_cell_magic_shows_the_table_and_fills_the_variable() -> None:
    shell = InteractiveShell.instance()
    magics.load(shell)
    try:
        result = shell.run_cell_magic("asm", "adder --registers ax=2,bx=3", LESSON)
        assert shell.user_ns["adder"] is result
        assert "ended with KVM_EXIT_HLT after 3 exits; output: '5\\n'" in repr(result)
        assert "out dx, al" in result._repr_html_()
        with pytest.raises(UserError, match="line 2"):
            shell.run_cell_magic("asm", "", "mvo ax, 1\n")
    finally:
        magics.unload(shell)
        InteractiveShell.clear_instance()


def test_each_step_tells_its_line_and_what_it_changed() -> None:
    program = cell("--steps 20", "mov cx, 2\nagain: dec cx\njnz again\nout 0x80, al\nhlt")
    rows = [(row[1].removeprefix("KVM_EXIT_"), row[3], row[5].split()[:1]) for row in program.table().rows]
    assert rows == [
        ("DEBUG", "2", ["cx=0x2"]),
        ("DEBUG", "3", ["cx=0x1"]),
        ("DEBUG", "4", []),
        ("DEBUG", "3", ["cx=0x0"]),
        ("DEBUG", "4", []),
        ("IO", "5", []),
        ("HLT", "6", []),
    ]


def test_steps_are_counted() -> None:
    report = run("again: jmp again", steps=5)
    assert (report.end, names(report)) == ("steps", ["DEBUG"] * 5)


@pytest.mark.parametrize("steps", [0, 50])
def test_memory_that_is_not_there_is_an_exit(steps: int) -> None:
    text = "mov ax, 0xb800\nmov ds, ax\nmov word ptr [2], 0x741\nmov bx, [4]\nadd word ptr [6], 3\nhlt"
    report = run(text, steps=steps)
    seen = [one for one in report.exits if one.name == "KVM_EXIT_MMIO"]
    assert [(one.data["direction"], one.data["address"], one.data["bytes"]) for one in seen] == [
        ("write", 0xB8002, b"A\x07"),
        ("read", 0xB8004, b"\xff\xff"),
        ("read", 0xB8006, b"\xff\xff"),
        ("write", 0xB8006, b"\x02\x00"),
    ]
    assert report.exits[-1].registers["rbx"] == 0xFFFF
    assert report.end == "KVM_EXIT_HLT"


def test_input_is_read_from_the_serial_port() -> None:
    text = "mov dx, 0x3fd\nin al, dx\nmov bl, al\nmov dx, 0x3f8\nin al, dx\nadd al, 1\nout dx, al\nhlt"
    report = run(text, input=b"A")
    assert report.output == b"B"
    assert report.exits[-1].registers["rbx"] == 0x61


@pytest.mark.parametrize(("text", "line"), [("mov bl, 0\ndiv bl\nhlt", "3"), ("nop\nint 0x10\nhlt", "3")])
def test_an_interrupt_that_nobody_handles_names_its_line(text: str, line: str) -> None:
    (row,) = cell("", text).table().rows
    assert "nobody handles it" in row[2] and row[3] == line


@pytest.mark.parametrize("bits", [32, 64])
def test_a_triple_fault_is_a_shutdown(bits: int) -> None:
    assert names(run("ud2", bits)) == ["SHUTDOWN"]


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_code_runs_in_every_mode(bits: int) -> None:
    register = {16: "cx", 32: "ecx", 64: "rcx"}[bits]
    text = f"mov {register}, 5\nagain: dec {register}\njnz again\nmov al, 65\nmov dx, 0x3f8\nout dx, al\nhlt"
    report = run(text, bits)
    assert (report.output, report.end) == (b"A", "KVM_EXIT_HLT")


@pytest.mark.parametrize(
    ("text", "steps"), [("x: jmp x", 0), ("x: out 0x80, al\njmp x", 0), ("x: jmp x", 1_000_000_000)]
)
def test_code_without_an_end_is_stopped(text: str, steps: int) -> None:
    begin_s = now_s()
    report = run(text, timeout_s=0.3, steps=steps)
    assert report.end == "deadline"
    assert 0.3 <= report.seconds < 5 and now_s() - begin_s < 15
    assert len(report.exits) <= KEPT_EXITS and sum(report.counts.values()) >= len(report.exits)


def test_what_kvm_cannot_emulate_is_named_or_works() -> None:
    lacking = kvm.abilities()["floating point (x87)"]
    report = run("fld1\nfstp st(0)\nhlt", 32)
    assert report.end == ("KVM_EXIT_INTERNAL_ERROR" if lacking else "KVM_EXIT_HLT")
    if lacking:
        assert report.exits[-1].data["instruction"].startswith(b"\xd9\xe8")
        assert "x87" in doctor.check("kvm-real-mode").reason


@pytest.mark.parametrize("seed", range(9))
def test_any_bytes_end_and_can_be_shown(seed: int) -> None:
    chance = random.Random(seed)
    # Half of them are made of what has to do with ports, halts, interrupts, modes and tables.
    frequent = bytes.fromhex("6c6d6e6ff3f40f01cdeceee4e68e22c0eafafb9d")
    data = chance.randbytes(64) if seed % 2 else bytes(chance.choices(frequent, k=64))
    bits, steps = (16, 32, 64)[seed % 3], chance.choice((0, 100))
    report = kvm.run(Request(data, bits=bits, registers={"rax": chance.getrandbits(bits)}, steps=steps, timeout_s=0.1))
    program = Program(Code(data, 0x7C00, bits), report, stepped=steps > 0)
    assert program.end and program.end in ("deadline", "steps", program.exits[-1].name)
    assert "stopped" in repr(program) or "ended with" in program._repr_html_()


def test_a_register_there_is_not_and_too_little_memory_are_refused() -> None:
    with pytest.raises(UserError, match="no such register"):
        run("hlt", registers={"foo": 1})
    with pytest.raises(UserError, match="does not fit"):
        run("hlt", memory_bytes=4096)


def test_the_hypervisor_in_the_documentation_works(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "kvm.md").read_text(), re.DOTALL)
    exec(program, {})
    assert capsys.readouterr().out.splitlines() == ["128 I", "128 i", "KVM_EXIT_HLT 0x7c09"]


def test_nothing_is_left_of_a_machine() -> None:
    def held() -> list[str]:
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if "kvm" in line] + [
            name for fd in Path("/proc/self/fd").iterdir() if "kvm" in (name := _target(fd))
        ]

    before = held()
    with BareMachine(4096) as machine:
        assert len(held()) >= len(before) + 4  # /dev/kvm, machine, virtual CPU, and its page
    assert held() == before
    machine.close()


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)  # noqa: PTH115 - one that is gone by now
    except OSError:
        return ""


def drivers() -> set[int]:
    """The programs that drive KVM for somebody."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and b"vmcontainer_kernel.vm.kvm\0run" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline_s = now_s() + limit_s
    while not condition():
        assert now_s() < deadline_s
        time.sleep(0.02)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"), tmp_path_factory.mktemp("run"))
    yield notebook
    notebook.close()


ENDLESS = "%%asm --timeout 60\nagain: jmp again"


def test_the_interrupt_button_ends_a_run(notebook: Notebook) -> None:
    others = drivers()
    cell = notebook.start(ENDLESS)
    until(lambda: bool(drivers() - others))
    notebook.interrupt()
    assert cell.finish(20).error["ename"] == "KeyboardInterrupt"
    until(lambda: not drivers() - others)
    assert "ended with KVM_EXIT_HLT" in notebook.ok("%%asm\nhlt").text


@pytest.mark.needs("qemu")
def test_a_cell_is_a_machine_s_boot_sector(notebook: Notebook) -> None:
    text = "mov al, 'H'\nmov dx, 0x3f8\nout dx, al\nmov al, '5'\nout dx, al\nhlt"
    assert "machine hello runs" in notebook.ok(f"%%asm hello --run qemu\n{text}").out
    assert notebook.ok("%vm console hello --until H5 --timeout 60").out.endswith("H5")
    again = notebook.ok(f"%%asm hello --run qemu --timeout 60\n{text.replace('hlt', 'out 0xf4, al')}")
    assert again.out == "H5\n[lab] machine hello ended itself with 0x35\n"
    assert "room for 510" in notebook.fails("%%asm long --run qemu\n.fill 511", "UserError")


def test_a_run_ends_with_its_notebook(notebook: Notebook) -> None:
    others = drivers()
    notebook.start(ENDLESS)
    until(lambda: bool(drivers() - others))
    notebook.kill()
    until(lambda: not drivers() - others)


def test_the_ladder_is_climbed_and_timed() -> None:
    found = accelerator.find()
    assert [rung.name for rung in found.rungs] == list(accelerator.RUNGS)
    assert [rung.holds for rung in found.rungs[:4]] == [True] * 4
    assert all(rung.seconds is not None and rung.seconds > 0 for rung in found.rungs[:4])
    assert found.name == ("kvm" if found.rungs[-1].holds else "tcg")
