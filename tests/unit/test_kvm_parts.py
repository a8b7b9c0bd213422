"""KVM without QEMU, the pure parts: structures and numbers of the kernel's headers, exits as values, modes, devices."""

from __future__ import annotations

import ctypes
import struct
import sys

import pytest

from vmcontainer_kernel.errors import HostError, UserError
from vmcontainer_kernel.vm.kvm import abi, client, guest, probe
from vmcontainer_kernel.vm.kvm.exits import Exit, decode
from vmcontainer_kernel.vm.kvm.guest import Report, Request, Seen, Serial
from vmcontainer_kernel.vm.kvm.machine import BareMachine
from vmcontainer_kernel.vm.kvm.modes import LONG, MODES, PROTECTED, REAL, unhandled

# sizeof and offsetof, as a C compiler has them for x86-64 (linux/kvm.h of Linux 6.1).
SIZES = {
    abi.kvm_userspace_memory_region: 32,
    abi.kvm_regs: 144,
    abi.kvm_segment: 24,
    abi.kvm_dtable: 16,
    abi.kvm_sregs: 312,
    abi.kvm_guest_debug: 72,
}
OFFSETS = {
    (abi.kvm_regs, "rsp"): 48,
    (abi.kvm_regs, "rip"): 128,
    (abi.kvm_segment, "selector"): 12,
    (abi.kvm_segment, "type"): 14,
    (abi.kvm_segment, "unusable"): 22,
    (abi.kvm_sregs, "tr"): 144,
    (abi.kvm_sregs, "gdt"): 192,
    (abi.kvm_sregs, "cr0"): 224,
    (abi.kvm_sregs, "efer"): 264,
    (abi.kvm_sregs, "interrupt_bitmap"): 280,
    (abi.kvm_run, "immediate_exit"): 1,
    (abi.kvm_run, "exit_reason"): 8,
    (abi.kvm_run, "exit"): 32,
    (abi.kvm_guest_debug, "debugreg"): 8,
}
REQUESTS = {
    "KVM_GET_API_VERSION": 0xAE00,
    "KVM_CREATE_VM": 0xAE01,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04,
    "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46,
    "KVM_SET_TSS_ADDR": 0xAE47,
    "KVM_RUN": 0xAE80,
    "KVM_GET_REGS": 0x8090AE81,
    "KVM_SET_REGS": 0x4090AE82,
    "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84,
    "KVM_SET_GUEST_DEBUG": 0x4048AE9B,
}


def test_structures_are_laid_out_as_the_kernel_has_them() -> None:
    assert {structure: ctypes.sizeof(structure) for structure in SIZES} == SIZES
    assert {(one, name): getattr(one, name).offset for one, name in OFFSETS} == OFFSETS
    assert ctypes.sizeof(abi.kvm_run) == 32 + 256


def test_requests_have_the_kernel_s_numbers() -> None:
    assert {name: getattr(abi, name) for name in REQUESTS} == REQUESTS


def page(reason: int, layout: str, *values: int, data: bytes = b"") -> bytes:
    """A virtual CPU's page: the exit's own fields at 32, a port's data at 4096."""
    filled = bytearray(4096 + 64)
    struct.pack_into("<I", filled, 8, reason)
    struct.pack_into(layout, filled, 32, *values)
    filled[4096 : 4096 + len(data)] = data
    return bytes(filled)


@pytest.mark.parametrize(
    ("shared", "name", "data"),
    [
        (
            page(2, "<BBHIQ", 1, 1, 0x3F8, 2, 4096, data=b"AB"),
            "KVM_EXIT_IO",
            {"direction": "out", "port": 0x3F8, "size_bytes": 1, "count": 2, "bytes": b"AB"},
        ),
        (
            page(2, "<BBHIQ", 0, 2, 0x60, 1, 4096),
            "KVM_EXIT_IO",
            {"direction": "in", "port": 0x60, "size_bytes": 2, "count": 1, "bytes": b"\0\0"},
        ),
        (
            page(6, "<QQIB", 0xB8000, 0x0741, 2, 1),
            "KVM_EXIT_MMIO",
            {"direction": "write", "address": 0xB8000, "size_bytes": 2, "bytes": b"A\x07"},
        ),
        (page(4, "<IIQQ", 1, 0, 0x7C03, 0xFFFF4FF0), "KVM_EXIT_DEBUG", {"exception": 1, "address": 0x7C03}),
        (page(5, ""), "KVM_EXIT_HLT", {}),
        (page(8, ""), "KVM_EXIT_SHUTDOWN", {}),
        (page(9, "<QI", 0x80000021, 3), "KVM_EXIT_FAIL_ENTRY", {"hardware_reason": 0x80000021, "cpu": 3}),
        (page(0, "<Q", 7), "KVM_EXIT_UNKNOWN", {"hardware_reason": 7}),
        (page(1, "<II", 13, 8), "KVM_EXIT_EXCEPTION", {"exception": 13, "error_code": 8}),
        (page(24, "<I", 2), "KVM_EXIT_SYSTEM_EVENT", {"event": "RESET"}),
        (
            page(17, "<IIQB15s", 1, 4, 1, 3, b"\xd9\xe8\xf4" + bytes(12)),
            "KVM_EXIT_INTERNAL_ERROR",
            {"suberror": "EMULATION", "instruction": b"\xd9\xe8\xf4"},
        ),
        (
            page(17, "<IIQQ", 3, 2, 5, 6),
            "KVM_EXIT_INTERNAL_ERROR",
            {"suberror": "DELIVERY_EV", "words": [5, 6]},
        ),
        (page(17, "<II", 99, 999), "KVM_EXIT_INTERNAL_ERROR", {"suberror": "99", "words": [0] * 16}),
        (page(99, ""), "KVM_EXIT_99", {}),
    ],
)
def test_exits_are_decoded_by_name(shared: bytes, name: str, data: dict[str, object]) -> None:
    found = decode(shared)
    assert found.name == name
    assert {key: found.data[key] for key in data} == data
    assert found.data or not data


def test_modes_change_what_a_reset_leaves() -> None:
    sregs = abi.kvm_sregs()
    sregs.cs.base, sregs.cs.selector, sregs.cr0, sregs.idt.limit = 0xFFFF0000, 0xF000, 0x60000010, 0xFFFF
    REAL.change(sregs)
    assert (sregs.cs.base, sregs.cs.selector, sregs.cr0 & 1) == (0, 0, 0)
    PROTECTED.change(sregs)
    assert (sregs.cr0 & 0x80000001, sregs.cs.db, sregs.cs.l, sregs.ds.selector, sregs.idt.limit) == (1, 1, 0, 16, 0)
    LONG.change(sregs)
    assert (sregs.cr0 & 0x80000001, sregs.cs.db, sregs.cs.l, sregs.ds.db) == (0x80000001, 0, 1, 1)
    assert (sregs.cr3, sregs.cr4 & 0x20, sregs.efer) == (0x1000, 0x20, 0x500)
    assert {bits: mode.bits for bits, mode in MODES.items()} == {16: 16, 32: 32, 64: 64}


def test_every_interrupt_of_real_mode_leads_to_a_halt_that_tells_its_number() -> None:
    tables = dict(REAL.tables)
    for number in (0, 6, 0x10, 255):
        offset, segment = struct.unpack_from("<HH", tables[0], number * 4)
        assert tables[0x500][offset - 0x500] == guest.HLT
        assert (segment, unhandled(offset + 1)) == (0, number)
    assert unhandled(0x500) is unhandled(0x601) is unhandled(0x7C00) is None


def port(number: int, direction: str, data: bytes) -> Exit:
    return Exit(abi.KVM_EXIT_IO, {"port": number, "direction": direction, "bytes": data})


def test_the_serial_port_and_the_empty_bus() -> None:
    serial = Serial(b"hi")
    assert serial.serve(port(0x3FD, "in", b"\0")) == b"\x61"
    assert serial.serve(port(0x3F8, "in", b"\0")) == b"h"
    assert serial.serve(port(0x3F8, "in", b"\0\0\0")) == b"i\0\0"
    assert serial.serve(port(0x3FD, "in", b"\0")) == b"\x60"
    assert serial.serve(port(0x60, "in", b"\0\0")) == b"\xff\xff"
    assert serial.serve(port(0x3F8, "out", b"A")) == serial.serve(port(0x80, "out", b"B")) == b""
    read = Exit(abi.KVM_EXIT_MMIO, {"address": 0xB8000, "direction": "read", "bytes": b"\0" * 4})
    assert serial.serve(read) == b"\xff" * 4
    assert serial.output == b"A"
    serial.serve(port(0x3F8, "out", b"x" * (1 << 20)))
    assert len(serial.output) == guest.KEPT_OUTPUT_BYTES


def test_requests_and_reports_survive_the_wire() -> None:
    request = Request(b"\xf4\0\xff", input=b"\x80")
    assert Request(**guest.unpacked(guest.to_json(request))) == request
    seen = Seen("KVM_EXIT_IO", {"bytes": b"\0A", "port": 1}, 1, 2, {"rax": 2**64 - 1})
    report = Report("steps", {"rax": 0}, [seen], {"KVM_EXIT_IO": 1}, b"A", 0.1)
    document = guest.unpacked(guest.to_json(report))
    assert Report(**{**document, "exits": [Seen(**one) for one in document["exits"]]}) == report


def test_without_the_device_it_is_said_what_to_do() -> None:
    with pytest.raises(HostError, match="No such file") as caught:
        BareMachine(4096, "/dev/no-kvm")
    assert "modprobe" in caught.value.hint
    with pytest.raises(HostError, match="KVM_GET_API_VERSION: Inappropriate ioctl") as caught:
        BareMachine(4096, "/dev/null")
    assert "doctor" in caught.value.hint


def test_a_program_that_ends_badly_or_not_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="not answered after"):
        client.ask("abilities", 0.001)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HostError, match="status 1: it said nothing"):
        client.ask("abilities", 5)
    assert client.rungs(5) == ({}, "the program that drives KVM ended with status 1: it said nothing")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(b"\xf4", memory_bytes=4096), "does not fit into memory"),
        (Request(b""), "does not fit into memory"),
        (Request(b"\xf4" * 10, origin=0x9FFFB), "does not fit into memory"),
        (Request(b"\xf4", origin=-1), "does not fit into memory"),
        (Request(b"\xf4", origin=0x500), "the processor's tables in 16-bit mode"),
        (Request(b"\xf4" * 0x800, origin=0x900, bits=64), "the processor's tables in 64-bit mode"),
    ],
)
def test_code_must_fit_beside_the_tables(request_: Request, words: str) -> None:
    with pytest.raises(UserError, match=words):
        guest._prepared(request_, MODES[request_.bits])


def test_each_ability_is_tried_by_code_that_ends() -> None:
    assert len({ability.name for ability in probe.ABILITIES}) == len(probe.ABILITIES)
    assert all(ability.code[-1] == guest.HLT and ability.exits[-1] == probe.HLT for ability in probe.ABILITIES)
