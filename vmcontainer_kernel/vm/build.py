"""Which QEMU and which CPU a saved machine belongs to: its state means nothing to another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..paths import cache_dir
from . import qemu
from .config import MachineConfig, Platform

__all__ = ["Build", "host_cpu", "qemu_build"]


@dataclass(frozen=True)
class Build:
    """A build of QEMU: its file (`identity`), its version, and what it says of itself (`text`)."""

    identity: str
    version: tuple[int, int]
    text: str


def qemu_build(platform: Platform) -> Build:
    """Return the build of QEMU that is installed; asked from QEMU once for each build."""
    program = qemu.program_path(platform)
    status = program.stat()
    identity = f"{program} {status.st_size} {status.st_mtime_ns}"
    store = cache_dir("probes") / f"{program.name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(store.read_text())
        if kept["identity"] == identity:
            return Build(identity, (kept["version"][0], kept["version"][1]), kept["text"])
    output = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    build = Build(identity, qemu.version_of(output), output.partition("\n")[0].replace("emulator version ", ""))
    temporary = store.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"identity": identity, "version": build.version, "text": build.text}))
    temporary.rename(store)
    return build


def host_cpu(config: MachineConfig) -> str:
    """Return what a guest on KVM sees of the host's CPU: a state saved on one model does not load on another."""
    if config.accelerator.name != "kvm":
        return ""
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor_id", "model", "flags")))
