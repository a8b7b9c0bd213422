"""Machine code out of text: GNU as does it, so most of these need it; and what of it a learner is shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vmcontainer_kernel import asm, completion, magics
from vmcontainer_kernel.asm import Program, changed, explain, source_of
from vmcontainer_kernel.errors import HostError, UserError
from vmcontainer_kernel.options import parse_asm
from vmcontainer_kernel.vm import assembly
from vmcontainer_kernel.vm.assembly import Code, Line, assemble, boot_sector, parse_listing
from vmcontainer_kernel.vm.kvm.guest import Report, Seen

LISTING = """\
   1                       	.code16
   2                       	# nothing here
   3 0000 B80200           	start: mov ax, 2
   4 0003 68690000         	.ascii "hi"
   4      0000
   5 0009 909090           	.rept
 120 000c F4               	hlt
"""


def test_a_listing_is_read_with_shifted_numbers_and_real_sizes() -> None:
    assert parse_listing(LISTING, 0x7C00, 13, shift=1) == (
        Line(4, 0x7C00, 3, "start: mov ax, 2"),
        Line(5, 0x7C03, 6, '.ascii "hi"'),
        Line(6, 0x7C09, 3, ".rept"),
        Line(121, 0x7C0C, 1, "hlt"),
    )
    assert parse_listing("", 0, 0) == ()


def test_the_line_of_an_address() -> None:
    code = Code(b"\xb8\x02\x00\xf4", 0x7C00, 16, (Line(2, 0x7C00, 3, "mov ax, 2"), Line(3, 0x7C03, 1, "hlt")))
    found = [code.line_at(address) for address in (0x7BFF, 0x7C00, 0x7C02, 0x7C03, 0x7C04)]
    assert [line.number if line else None for line in found] == [None, 2, 2, 3, None]
    assert code.bytes_of(code.lines[0]) == b"\xb8\x02\x00"


@pytest.mark.needs("assembler")
def test_code_is_linked_for_its_address() -> None:
    code = assemble('  mov si, offset text\n  hlt\ntext: .asciz "hi"', first_line=2)
    assert code.data == b"\xbe\x04\x7c\xf4hi\0"
    assert [(line.number, line.address, line.size_bytes) for line in code.lines] == [
        (2, 0x7C00, 3),
        (3, 0x7C03, 1),
        (4, 0x7C04, 3),
    ]
    assert assemble("here: .long here", origin=0x100000, bits=32).data == b"\0\0\x10\0"
    assert assemble("mov rax, 1", bits=64).data == bytes.fromhex("48c7c001000000")


@pytest.mark.needs("assembler")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nop\nmvo ax, 1\nmov bx", "line 3: no such instruction"),
        ("nop\njmp nowhere", "line 3: undefined reference to `nowhere'"),
        ("mov ax, offset there\n.org 70000\nthere: nop", "line 2: .*too large"),
        (".data\n.word 1", "everything into one section"),
        ("# a comment", "no code"),
        (".fill 3000000000", "gave up"),
        (".rept 100000000\nnop\n.endr", "gave up"),
        (".macro a\na\n.endm\na", "nested too deeply"),
        ('.incbin "/dev/zero"', "line 2"),
        ("nop\udcff", "invalid character"),
        (".if", "line 2"),
    ],
)
def test_what_as_or_ld_refuses_is_told_with_the_cell_s_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        assemble(text, first_line=2)


@pytest.mark.needs("assembler")
def test_every_wrong_line_is_shown_with_its_text() -> None:
    with pytest.raises(UserError) as caught:
        assemble("nop\nmvo ax, 1\nmov bx", first_line=2)
    assert "line 3" in caught.value.where and "mvo ax, 1" in caught.value.where and "line 4" in caught.value.where


@pytest.mark.parametrize("change", [{"bits": 8}, {"origin": -1}, {"origin": 1 << 31}])
def test_what_is_no_mode_or_address_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(UserError):
        assemble("nop", **change)


def test_without_an_assembler_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as caught:
        assemble("nop")
    assert "binutils" in caught.value.hint


def test_an_assembler_of_another_processor_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("as", "ld"):
        (tmp_path / name).write_text("#!/bin/sh\necho unrecognized option >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("as")
    with pytest.raises(HostError):
        assembly.find_assembler()


def test_a_boot_sector_has_512_bytes_and_a_signature() -> None:
    sector = boot_sector(Code(b"\xf4", 0x7C00, 16))
    assert (len(sector), sector[:1], sector[1:510], sector[510:]) == (512, b"\xf4", bytes(509), b"\x55\xaa")
    assert len(boot_sector(b"\x90" * 510)) == 512
    assert boot_sector(sector) == sector
    for data in (b"\x90" * 511, b"\x90" * 512, b"\x90" * 513):
        with pytest.raises(UserError, match="room for 510"):
            boot_sector(data)


# -- what is shown


def seen(name: str, data: dict[str, object], before: int, after: int, **registers: int) -> Seen:
    return Seen(name, data, before, after, {"rflags": 2, "rip": after, **registers})


CODE = Code(
    b"\xe6\x80\xcd\x10\xf7\xf3\xf4",
    0x7C00,
    16,
    (
        Line(2, 0x7C00, 2, "out 0x80, al"),
        Line(3, 0x7C02, 2, "int 0x10"),
        Line(4, 0x7C04, 2, "div bx"),
        Line(5, 0x7C06, 1, "hlt"),
    ),
)


@pytest.mark.parametrize(
    ("one", "stepped", "number"),
    [
        (seen("KVM_EXIT_IO", {}, 0x7C00, 0x7C02), False, 2),
        (seen("KVM_EXIT_DEBUG", {}, 0x7C02, 0x7C00), True, 3),
        (seen("KVM_EXIT_IO", {}, 0x7C00, 0x7C02, rflags=0x10002), False, 3),
        (seen("KVM_EXIT_INTR", {}, 0x7C00, 0x7C04), False, 4),
        (seen("KVM_EXIT_SHUTDOWN", {}, 0x7C00, 0x7C06), False, 5),
        (seen("KVM_EXIT_HLT", {"interrupt": 0x10, "came_from": 0x7C04}, 0x7C00, 0x511), False, 3),
        (seen("KVM_EXIT_HLT", {"interrupt": 0, "came_from": 0x7C04}, 0x7C00, 0x501), False, 4),
        (seen("KVM_EXIT_HLT", {}, 0x7C00, 0x9000), False, None),
    ],
)
def test_the_line_that_caused_an_exit(one: Seen, stepped: bool, number: int | None) -> None:
    line = source_of(one, CODE, stepped=stepped)
    assert (line.number if line else None) == number


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("KVM_EXIT_IO", {"direction": "out", "port": 0x3F8, "bytes": b"A"}, "out 0x3f8 ← 41 'A'"),
        ("KVM_EXIT_IO", {"direction": "in", "port": 0x60, "bytes": b"\xff"}, "in 0x60 → ff"),
        ("KVM_EXIT_MMIO", {"direction": "write", "address": 0xB8000, "bytes": b"A\7"}, "write 0xb8000 ← 41 07"),
        ("KVM_EXIT_HLT", {}, "waits for an interrupt"),
        ("KVM_EXIT_HLT", {"interrupt": 0, "came_from": 0}, "interrupt 0x0 (divide error): nobody handles it"),
        ("KVM_EXIT_HLT", {"interrupt": 0x80, "came_from": 0}, "interrupt 0x80: nobody handles it"),
        ("KVM_EXIT_INTERNAL_ERROR", {"suberror": "EMULATION", "instruction": b"\xd9\xe8"}, "emulate d9 e8"),
        ("KVM_EXIT_INTERNAL_ERROR", {"suberror": "SIMUL_EX", "words": []}, "SIMUL_EX"),
        ("KVM_EXIT_FAIL_ENTRY", {"hardware_reason": 0x80000021, "cpu": 0}, "0x80000021"),
        ("KVM_EXIT_SYSTEM_EVENT", {"event": "RESET"}, "event RESET"),
        ("KVM_EXIT_SHUTDOWN", {}, "triple fault"),
        ("KVM_EXIT_99", {}, ""),
    ],
)
def test_an_exit_in_words(name: str, data: dict[str, object], words: str) -> None:
    assert words in explain(seen(name, data, 0, 0))


@pytest.mark.parametrize(
    ("after", "bits", "told"),
    [
        ({"rax": 5, "rip": 9}, 16, "ax=0x5"),
        ({"rax": 5}, 32, "eax=0x5"),
        ({"rax": 5, "r8": 1}, 64, "rax=0x5 r8=0x1"),
        ({"rax": 0x10000}, 16, "eax=0x10000"),
        ({"rflags": 0x46}, 16, "flags=PF ZF"),
        ({"rflags": 0x10002}, 16, ""),
        ({"ds": 0xB800}, 16, "ds=0xb800"),
        ({}, 16, ""),
    ],
)
def test_the_registers_that_changed(after: dict[str, int], bits: int, told: str) -> None:
    assert changed({"rflags": 2}, {"rflags": 2, **after}, bits) == told
    assert changed({"rflags": 0x46}, {"rflags": 2}, bits) == "flags=-"


def test_text_and_html_tell_the_same_and_hide_nothing() -> None:
    exits = [seen("KVM_EXIT_IO", {"direction": "out", "port": 0x80, "bytes": b"<"}, 0x7C00, 0x7C02)] * 60
    report = Report("deadline", {"rflags": 2}, exits, {"KVM_EXIT_IO": 70}, b"<b>", 0.1)
    program = Program(Code(CODE.data, CODE.origin, 16, CODE.lines, ("line 2: odd",)), report)
    text, html = repr(program), program._repr_html_()
    assert "after 70 exits (the first 50 are shown)" in text and "output: '<b>'" in text and "warning: line 2" in text
    assert text.count("KVM_EXIT_IO") == html.count("KVM_EXIT_IO") == asm.SHOWN_EXITS
    assert (
        "<caption>" in html
        and 'scope="col"' in html
        and 'scope="row"' in html
        and "<b>" not in html
        and "warning: line 2" in html
    )
    assert (program.output, program.end, len(program.exits)) == ("<b>", "deadline", 60)


def test_a_listing_is_shown_without_a_run() -> None:
    program = Program(CODE)
    assert "0x7c02   cd 10  3     int 0x10" in repr(program)
    assert "7 bytes for 0x7c00, 16-bit" in repr(program)
    assert (program.exits, program.output, program.registers, program.end) == ([], "", {}, "")


@pytest.mark.needs("assembler")
def test_without_kvm_it_is_said_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(request: object) -> Report:
        raise HostError("no machine by /dev/kvm", hint="modprobe kvm")

    monkeypatch.setattr(asm, "run", missing)
    with pytest.raises(HostError) as caught:
        asm.run_cell(parse_asm(magics._CELLS["asm"], ""), "hlt")
    assert caught.value.hint == f"modprobe kvm\n{asm.WITHOUT_KVM}"
    assert repr(asm.run_cell(parse_asm(magics._CELLS["asm"], "--run none"), "hlt")).startswith("address")


# -- options


def test_options_become_types() -> None:
    found = parse_asm(magics._CELLS["asm"], "x --registers ax=1,bx=0x20 --steps 5 --memory 1m --timeout 0.5 --bits 16")
    assert (found.name, found.steps, found.memory_bytes, found.timeout_s) == ("x", 5, 1 << 20, 0.5)
    assert found.register_values == {"rax": 1, "rbx": 32}
    plain = parse_asm(magics._CELLS["asm"], "")
    assert (plain.run, plain.origin, plain.bits, plain.memory_bytes) == ("kvm", 0x7C00, 16, 640 << 10)
    assert parse_asm(magics._CELLS["asm"], "--bits 64 --registers rsp=16").register_values == {"rsp": 16}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3x", "variable"),
        ("class", "variable"),
        ("--steps none", "--steps none"),
        ("--steps 0", "--steps 0"),
        ("--bits 8", "invalid choice"),
        ("--run xen", "invalid choice"),
        ("--run qemu --steps 3", "--steps: only for --run kvm"),
        ("--run qemu --memory 1m --registers ax=3", "--memory --registers: only for"),
        ("--run qemu --bits 32 --origin 0x8000", "--bits --origin: only for"),
        ("--origin here", "no number"),
        ("--memory none", "no size"),
        ("--memory 300m", "at most 256m"),
        ("--timeout 61", "at most 60"),
        ("--timeout x", "--timeout x"),
        ("--registers eax=1", "no register 'eax' in 16-bit mode"),
        ("--registers ax", "no number"),
        ("--registers ax=0x10000", "no number of 16 bits"),
        ("--registers ax=-1", "no number of 16 bits"),
        ("--input 'x", "No closing quotation"),
    ],
)
def test_a_wrong_option_is_named(line: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_asm(magics._CELLS["asm"], line)


def test_help_lists_every_option() -> None:
    magic = magics._CELLS["asm"]
    flags = [flag for action in magic.parser._actions for flag in action.option_strings]
    assert len(flags) > 8
    assert [flag for flag in flags if flag not in magic.__doc__] == []


def test_the_tab_key_knows_the_options() -> None:
    assert {"--steps", "--registers"} <= set(completion._candidates("%%", "asm", "--st", "--st"))
    assert completion._candidates("%%", "asm", "add", "add") == []
