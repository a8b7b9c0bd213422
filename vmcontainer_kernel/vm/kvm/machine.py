"""A machine of one virtual CPU and one piece of memory and nothing else, driven by ioctl(2) on /dev/kvm.

    /dev/kvm ──KVM_CREATE_VM──▶ machine ──KVM_CREATE_VCPU──▶ virtual CPU ──mmap──▶ struct kvm_run
                                   ▲                            │   ▲
           KVM_SET_USER_MEMORY_REGION: our memory is its memory │   └─ KVM_GET/SET_REGS, KVM_GET/SET_SREGS
                                                                ▼
                                 KVM_RUN: the guest's code runs on this thread until it needs something: an exit

    with BareMachine(640 << 10) as machine:
        machine.write(0x7C00, code)
        machine.start(REAL, 0x7C00)
        while (exit := machine.run()).name == "KVM_EXIT_IO":
            print(exit)

KVM_RUN keeps its thread until the guest exits, which code that loops never does: in a notebook use `kvm.run`, which
has a program of its own and a deadline.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from types import TracebackType
from typing import Any, Final, Self

from ...errors import HostError, UserError
from . import abi
from .exits import Exit, decode
from .modes import Mode

__all__ = ["DEVICE", "BareMachine"]

DEVICE: Final = "/dev/kvm"
PAGE: Final = 4096
_TSS: Final = 0xFFFB_D000
_HINTS: Final = {
    errno.ENOENT: "there is no hardware virtualization here, or its module is not loaded: modprobe kvm",
    errno.EACCES: "sudo usermod -aG kvm $USER, then log in again",
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def _ioctl(name: str, fd: int, argument: Any = None) -> int:
    """Make a request by its name in `abi`. Raises OSError that names it.

    Not fcntl.ioctl: newer releases of Python make a call again that a signal has interrupted, and KVM_RUN must not be.
    """
    result: int = _libc.ioctl(fd, getattr(abi, name), argument)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


class BareMachine:
    """A machine with `memory_bytes` of memory from address 0 (whole pages).

    Raises HostError where there is no KVM, or none for this user.
    """

    def __init__(self, memory_bytes: int, device: str = DEVICE) -> None:
        self.memory_bytes = memory_bytes
        self._fds: list[int] = []
        try:
            kvm = self._keep(os.open(device, os.O_RDWR | os.O_CLOEXEC))
            self._make(kvm)
        except OSError as error:
            self.close()
            hint = _HINTS.get(error.errno or 0, "vmcontainer doctor kvm")
            raise HostError(f"no machine by {device}: {error.strerror}", hint=hint) from None

    def _make(self, kvm: int) -> None:
        if (version := _ioctl("KVM_GET_API_VERSION", kvm)) != abi.KVM_API_VERSION:
            raise OSError(0, f"KVM_GET_API_VERSION says {version} instead of {abi.KVM_API_VERSION}")
        machine = self._keep(_ioctl("KVM_CREATE_VM", kvm))
        # Older processors of Intel need three pages for real mode, where no memory is (api.rst, KVM_SET_TSS_ADDR).
        _ioctl("KVM_SET_TSS_ADDR", machine, _TSS)
        self.memory = mmap.mmap(-1, self.memory_bytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        region = abi.kvm_userspace_memory_region(0, 0, 0, self.memory_bytes, address)
        _ioctl("KVM_SET_USER_MEMORY_REGION", machine, ctypes.byref(region))
        self._vcpu = self._keep(_ioctl("KVM_CREATE_VCPU", machine))
        self._shared = mmap.mmap(self._vcpu, _ioctl("KVM_GET_VCPU_MMAP_SIZE", kvm))
        self.state = abi.kvm_run.from_buffer(self._shared)

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Give the machine back."""
        while self._fds:
            os.close(self._fds.pop())
        # The shared page keeps the virtual CPU, and what points into the page keeps that.
        self.__dict__.pop("state", None)
        if shared := self.__dict__.pop("_shared", None):
            shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into its memory. Raises UserError if they do not fit there."""
        if not 0 <= address <= address + len(data) <= self.memory_bytes:
            where = f"{address:#x} to {address + len(data):#x}, memory ends at {self.memory_bytes:#x}"
            raise UserError(f"{len(data)} bytes do not fit into memory at {address:#x}", where=where)
        self.memory[address : address + len(data)] = data

    def start(self, mode: Mode, address: int) -> None:
        """Bring the virtual CPU into a mode, about to run what is at `address`, its stack below it."""
        for place, data in mode.tables:
            self.write(place, data)
        sregs = self.sregs()
        mode.change(sregs)
        _ioctl("KVM_SET_SREGS", self._vcpu, ctypes.byref(sregs))
        # A reset leaves the processor's model in rdx; here all begin at 0. Bit 1 of rflags is always set.
        self.set_registers(rdx=0, rip=address, rsp=address, rflags=2)

    def regs(self) -> abi.kvm_regs:
        """Return the general registers."""
        regs = abi.kvm_regs()
        _ioctl("KVM_GET_REGS", self._vcpu, ctypes.byref(regs))
        return regs

    def set_registers(self, **values: int) -> None:
        """Change general registers, by their names in struct kvm_regs. Raises UserError for another name."""
        regs = self.regs()
        for name, value in values.items():
            if not hasattr(regs, name):
                raise UserError(f"{name}: there is no such register")
            setattr(regs, name, value)
        _ioctl("KVM_SET_REGS", self._vcpu, ctypes.byref(regs))

    def sregs(self) -> abi.kvm_sregs:
        """Return segments, tables and control registers."""
        sregs = abi.kvm_sregs()
        _ioctl("KVM_GET_SREGS", self._vcpu, ctypes.byref(sregs))
        return sregs

    def single_step(self, *, on: bool) -> None:
        """Exit with KVM_EXIT_DEBUG after each instruction, or no longer do so."""
        control = abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP if on else 0
        _ioctl("KVM_SET_GUEST_DEBUG", self._vcpu, ctypes.byref(abi.kvm_guest_debug(control)))

    def run(self) -> Exit:
        """Let the guest run until its next exit; a signal to this thread is one too (KVM_EXIT_INTR)."""
        try:
            _ioctl("KVM_RUN", self._vcpu)
        except InterruptedError:
            return Exit(abi.KVM_EXIT_INTR)
        return decode(bytes(self._shared))

    def answer(self, data: bytes) -> None:
        """Give the value of a read, of a port or of an address without memory, before the next `run`."""
        exit_ = self.state.exit
        if self.state.exit_reason == abi.KVM_EXIT_MMIO:
            ctypes.memmove(exit_.mmio.data, data, min(len(data), 8))
        else:
            place = exit_.io.data_offset
            self._shared[place : place + len(data)] = data

    def settle(self) -> Exit:
        """Finish the instruction of the last exit, without beginning another one; return what that led to.

        Until then the registers may be from before it (api.rst, "KVM_RUN": pending operations, `immediate_exit`). An
        instruction that reads and then writes leads to one more exit; else it is KVM_EXIT_INTR or KVM_EXIT_DEBUG.
        """
        self.state.immediate_exit = 1
        try:
            return self.run()
        finally:
            self.state.immediate_exit = 0
