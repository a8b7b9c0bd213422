"""Why KVM_RUN came back: struct kvm_run read into a value with the kernel's names. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import abi

__all__ = ["Exit", "decode"]


@dataclass(frozen=True)
class Exit:
    """An exit: its `reason` (a number), and the fields that this kind of exit has; bytes are bytes."""

    reason: int
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return its name in <linux/kvm.h>."""
        return abi.EXIT_NAMES.get(self.reason, f"KVM_EXIT_{self.reason}")


def decode(page: bytes) -> Exit:
    """Read what a virtual CPU shares with its process: struct kvm_run, and the data of ports behind it."""
    run = abi.kvm_run.from_buffer_copy(page)
    read = _READERS.get(run.exit_reason)
    return Exit(run.exit_reason, read(run.exit, page) if read else {})


def _io(exit_: Any, page: bytes) -> dict[str, Any]:
    io = exit_.io
    length = io.size * io.count
    return {
        "direction": "out" if io.direction == abi.KVM_EXIT_IO_OUT else "in",
        "port": io.port,
        "size_bytes": io.size,
        "count": io.count,
        "bytes": page[io.data_offset : io.data_offset + length],
    }


def _mmio(exit_: Any, page: bytes) -> dict[str, Any]:
    mmio = exit_.mmio
    return {
        "direction": "write" if mmio.is_write else "read",
        "address": mmio.phys_addr,
        "size_bytes": mmio.len,
        "bytes": bytes(mmio.data)[: mmio.len],
    }


def _debug(exit_: Any, page: bytes) -> dict[str, Any]:
    debug = exit_.debug
    return {"exception": debug.exception, "address": debug.pc, "dr6": debug.dr6}


def _fail_entry(exit_: Any, page: bytes) -> dict[str, Any]:
    return {"hardware_reason": exit_.fail_entry.hardware_entry_failure_reason, "cpu": exit_.fail_entry.cpu}


def _unknown(exit_: Any, page: bytes) -> dict[str, Any]:
    return {"hardware_reason": exit_.hw.hardware_exit_reason}


def _exception(exit_: Any, page: bytes) -> dict[str, Any]:
    return {"exception": exit_.ex.exception, "error_code": exit_.ex.error_code}


def _internal(exit_: Any, page: bytes) -> dict[str, Any]:
    internal = exit_.internal
    found: dict[str, Any] = {"suberror": abi.SUBERRORS.get(internal.suberror, str(internal.suberror))}
    words = list(internal.data[: min(internal.ndata, len(internal.data))])
    # KVM_INTERNAL_ERROR_EMULATION: flags, then a length and the bytes of the instruction that it cannot emulate.
    if found["suberror"] == "EMULATION" and len(words) > 2 and words[0] & 1:
        raw = b"".join(word.to_bytes(8, "little") for word in words[1:3])
        return {**found, "instruction": raw[1 : 1 + min(raw[0], 15)]}
    return {**found, "words": words}


def _system_event(exit_: Any, page: bytes) -> dict[str, Any]:
    return {"event": abi.SYSTEM_EVENTS.get(exit_.system_event.type, str(exit_.system_event.type))}


_READERS: dict[int, Callable[[Any, bytes], dict[str, Any]]] = {
    0: _unknown,
    1: _exception,
    abi.KVM_EXIT_IO: _io,
    abi.KVM_EXIT_DEBUG: _debug,
    abi.KVM_EXIT_MMIO: _mmio,
    abi.KVM_EXIT_FAIL_ENTRY: _fail_entry,
    abi.KVM_EXIT_INTERNAL_ERROR: _internal,
    abi.KVM_EXIT_SYSTEM_EVENT: _system_event,
}
