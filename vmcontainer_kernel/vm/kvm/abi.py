"""What the kernel and a program that drives /dev/kvm agree on: request numbers, structures, names of exits.

Names and layouts are those of <linux/kvm.h> and, for x86-64, <asm/kvm.h>; what each request does is told in the
kernel's Documentation/virt/kvm/api.rst. Only what is used here is written down.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from typing import Final

__all__ = [
    "EXIT_NAMES",
    "KVM_API_VERSION",
    "KVM_CREATE_VCPU",
    "KVM_CREATE_VM",
    "KVM_EXIT_DEBUG",
    "KVM_EXIT_FAIL_ENTRY",
    "KVM_EXIT_HLT",
    "KVM_EXIT_INTERNAL_ERROR",
    "KVM_EXIT_INTR",
    "KVM_EXIT_IO",
    "KVM_EXIT_IO_OUT",
    "KVM_EXIT_MMIO",
    "KVM_EXIT_SHUTDOWN",
    "KVM_EXIT_SYSTEM_EVENT",
    "KVM_GET_API_VERSION",
    "KVM_GET_REGS",
    "KVM_GET_SREGS",
    "KVM_GET_VCPU_MMAP_SIZE",
    "KVM_GUESTDBG_ENABLE",
    "KVM_GUESTDBG_SINGLESTEP",
    "KVM_RUN",
    "KVM_SET_GUEST_DEBUG",
    "KVM_SET_REGS",
    "KVM_SET_SREGS",
    "KVM_SET_TSS_ADDR",
    "KVM_SET_USER_MEMORY_REGION",
    "SUBERRORS",
    "SYSTEM_EVENTS",
    "kvm_dtable",
    "kvm_guest_debug",
    "kvm_regs",
    "kvm_run",
    "kvm_segment",
    "kvm_sregs",
    "kvm_userspace_memory_region",
]

# Structures have the kernel's own names and fields: whoever reads the header finds them here.


class kvm_userspace_memory_region(ctypes.Structure):
    """KVM_SET_USER_MEMORY_REGION: memory of this process becomes memory of the guest."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class kvm_regs(ctypes.Structure):
    """KVM_GET_REGS, KVM_SET_REGS: the general registers."""

    _fields_ = (
        *((name, c_uint64) for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")),
        *((name, c_uint64) for name in ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")),
        ("rip", c_uint64),
        ("rflags", c_uint64),
    )


class kvm_segment(ctypes.Structure):
    """A segment register: what the program sees (`selector`) and what the processor made of it."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        *((name, c_uint8) for name in ["type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding"]),
    )


class kvm_dtable(ctypes.Structure):
    """Where the table of segments (GDT) or of interrupts (IDT) lies."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class kvm_sregs(ctypes.Structure):
    """KVM_GET_SREGS, KVM_SET_SREGS: segments, tables and control registers, which make the processor's mode."""

    _fields_ = (
        *((name, kvm_segment) for name in ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"]),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *((name, c_uint64) for name in ["cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"]),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class kvm_guest_debug(ctypes.Structure):
    """KVM_SET_GUEST_DEBUG: stop after each instruction; the debug registers are for breakpoints."""

    _fields_ = (("control", c_uint32), ("pad", c_uint32), ("debugreg", c_uint64 * 8))


class _hw(ctypes.Structure):
    _fields_ = (("hardware_exit_reason", c_uint64),)


class _fail_entry(ctypes.Structure):
    _fields_ = (("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32))


class _ex(ctypes.Structure):
    _fields_ = (("exception", c_uint32), ("error_code", c_uint32))


class _io(ctypes.Structure):
    _fields_ = (
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    )


class _debug(ctypes.Structure):
    _fields_ = (("exception", c_uint32), ("pad", c_uint32), ("pc", c_uint64), ("dr6", c_uint64), ("dr7", c_uint64))


class _mmio(ctypes.Structure):
    _fields_ = (("phys_addr", c_uint64), ("data", c_uint8 * 8), ("len", c_uint32), ("is_write", c_uint8))


class _internal(ctypes.Structure):
    _fields_ = (("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class _system_event(ctypes.Structure):
    _fields_ = (("type", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16))


class _exit(ctypes.Union):
    _fields_ = (
        ("hw", _hw),
        ("fail_entry", _fail_entry),
        ("ex", _ex),
        ("io", _io),
        ("debug", _debug),
        ("mmio", _mmio),
        ("internal", _internal),
        ("system_event", _system_event),
        ("padding", c_uint8 * 256),
    )


class kvm_run(ctypes.Structure):
    """The page that a virtual CPU shares with this process: why KVM_RUN came back. `exit` is a union, nameless in C."""

    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit", _exit),
    )


_KVMIO: Final = 0xAE


def _request(direction: int, number: int, size_bytes: int) -> int:
    """Return an ioctl's number (<asm-generic/ioctl.h>): two bits of direction, 14 of size, a byte of driver, a byte."""
    return direction << 30 | size_bytes << 16 | _KVMIO << 8 | number


def _io_(number: int) -> int:
    return _request(0, number, 0)


def _iow(number: int, structure: type[ctypes.Structure]) -> int:
    return _request(1, number, ctypes.sizeof(structure))


def _ior(number: int, structure: type[ctypes.Structure]) -> int:
    return _request(2, number, ctypes.sizeof(structure))


# Of /dev/kvm itself.
KVM_API_VERSION: Final = 12
KVM_GET_API_VERSION: Final = _io_(0x00)
KVM_CREATE_VM: Final = _io_(0x01)
KVM_GET_VCPU_MMAP_SIZE: Final = _io_(0x04)
# Of a machine.
KVM_CREATE_VCPU: Final = _io_(0x41)
KVM_SET_USER_MEMORY_REGION: Final = _iow(0x46, kvm_userspace_memory_region)
KVM_SET_TSS_ADDR: Final = _io_(0x47)
# Of a virtual CPU.
KVM_RUN: Final = _io_(0x80)
KVM_GET_REGS: Final = _ior(0x81, kvm_regs)
KVM_SET_REGS: Final = _iow(0x82, kvm_regs)
KVM_GET_SREGS: Final = _ior(0x83, kvm_sregs)
KVM_SET_SREGS: Final = _iow(0x84, kvm_sregs)
KVM_SET_GUEST_DEBUG: Final = _iow(0x9B, kvm_guest_debug)

KVM_GUESTDBG_ENABLE: Final = 1
KVM_GUESTDBG_SINGLESTEP: Final = 2

KVM_EXIT_IO: Final = 2
KVM_EXIT_DEBUG: Final = 4
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTR: Final = 10
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_SYSTEM_EVENT: Final = 24

KVM_EXIT_IO_OUT: Final = 1

# Those that an x86 processor can cause; the others are of other architectures.
EXIT_NAMES: Final = {
    0: "KVM_EXIT_UNKNOWN",
    1: "KVM_EXIT_EXCEPTION",
    2: "KVM_EXIT_IO",
    3: "KVM_EXIT_HYPERCALL",
    4: "KVM_EXIT_DEBUG",
    5: "KVM_EXIT_HLT",
    6: "KVM_EXIT_MMIO",
    7: "KVM_EXIT_IRQ_WINDOW_OPEN",
    8: "KVM_EXIT_SHUTDOWN",
    9: "KVM_EXIT_FAIL_ENTRY",
    10: "KVM_EXIT_INTR",
    11: "KVM_EXIT_SET_TPR",
    12: "KVM_EXIT_TPR_ACCESS",
    16: "KVM_EXIT_NMI",
    17: "KVM_EXIT_INTERNAL_ERROR",
    21: "KVM_EXIT_WATCHDOG",
    24: "KVM_EXIT_SYSTEM_EVENT",
    26: "KVM_EXIT_IOAPIC_EOI",
    27: "KVM_EXIT_HYPERV",
    29: "KVM_EXIT_X86_RDMSR",
    30: "KVM_EXIT_X86_WRMSR",
    31: "KVM_EXIT_DIRTY_RING_FULL",
    32: "KVM_EXIT_AP_RESET_HOLD",
    33: "KVM_EXIT_X86_BUS_LOCK",
    34: "KVM_EXIT_XEN",
    37: "KVM_EXIT_NOTIFY",
    39: "KVM_EXIT_MEMORY_FAULT",
}

# KVM_INTERNAL_ERROR_*
SUBERRORS: Final = {
    1: "EMULATION",
    2: "SIMUL_EX",
    3: "DELIVERY_EV",
    4: "UNEXPECTED_EXIT_REASON",
}

# KVM_SYSTEM_EVENT_*
SYSTEM_EVENTS: Final = {1: "SHUTDOWN", 2: "RESET", 3: "CRASH", 4: "WAKEUP", 5: "SUSPEND", 6: "SEV_TERM"}
