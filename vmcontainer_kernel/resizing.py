"""Machines get more or less while they run: the hypervisor's part, the guest's, and the host's control group.

resize ──▶ bound of QEMU's group ──▶ module, processors, balloon (QMP) ──▶ processors switched on (agent)
       ◀── before and after, as the hypervisor and the guest see it
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from .errors import NodeError, UserError
from .guests import Guest
from .machines import USUAL_SHARES
from .memory import available_memory
from .node import Node

__all__ = ["Change", "Seen", "resize"]

_ANSWER_LIMIT_S = 60.0

# Processors are switched on; memory comes by itself, but a moment after QEMU has plugged it in (an ACPI event).
_SCRIPT = """
lacks() { while read key kib unit; do [ $key != MemTotal: ] || break; done < /proc/meminfo; [ $kib -lt "$1" ]; }
tries=0
while { [ $(nproc) -lt "$1" ] || lacks "$2"; } && [ $tries -lt 100 ]; do
  for file in /sys/devices/system/cpu/cpu[0-9]*/online; do
    [ -e "$file" ] && read on < "$file" && [ "$on" = 0 ] && echo 1 > "$file"
  done
  tries=$((tries + 1)); sleep 0.1
done
nproc; grep -E '^Mem(Total|Available):' /proc/meminfo
"""


@dataclass(frozen=True)
class Change:
    """What is asked for; None stays as it is. `cpu_quota_us` -1 takes the cap away."""

    memory_bytes: int | None = None
    cpus: int | None = None
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None


@dataclass(frozen=True)
class Seen:
    """Memory in bytes and processors, as the hypervisor gives them and as the guest's kernel finds them, and what the
    host's scheduler is told; -1 is no cap.

    What the balloon takes is no less in total to the guest's kernel, but less that is free. None: nobody can be asked.
    """

    memory_bytes: int
    cpus: int
    cpu_shares: int
    cpu_quota_us: int
    guest_total_bytes: int | None = None
    guest_free_bytes: int | None = None
    guest_cpus: int | None = None


async def resize(guest: Guest, host: Node, change: Change) -> tuple[Seen, Seen, list[str]]:
    """Change what a machine has; returns how it was, how it is, and what is not as asked.

    Raises UserError for what cannot be, before anything is changed.
    """
    from .vm.growing import grow
    from .vm.resources import limits_of, plan

    machine = guest.machine
    config = machine.config
    growth = plan(config, change.memory_bytes, change.cpus)
    if growth.module_bytes and growth.module_bytes > available_memory()[0]:
        raise UserError(f"{growth.module_bytes >> 20} MiB more are not free here", hint="end other machines: %vm ls")
    if guest.paused:
        raise UserError(f"machine {config.name} is paused", hint=f"%vm resume {config.name}")
    before = await _look(guest)
    shares = config.cpu_shares if change.cpu_shares is None else change.cpu_shares
    quota = config.cpu_quota_us if change.cpu_quota_us is None else change.cpu_quota_us
    wanted = replace(config, cpu_shares=shares, cpu_quota_us=quota)
    bounds = limits_of(replace(wanted, plugged_bytes=config.plugged_bytes + growth.module_bytes))
    answer = await host.call("machine.update", name=config.name, resources=bounds.document())
    machine.config = wanted
    await grow(machine, growth)
    after = await _look(guest, (before.guest_total_bytes or 0) + growth.module_bytes)
    # That a weight is a nice value here is told to whoever asks for one.
    told = [] if change.cpu_shares is None else answer["warnings"]
    return before, after, [*told, *_lacking(after, change)]


async def _look(guest: Guest, least_bytes: int = 0) -> Seen:
    """Ask both; the guest once it has switched its processors on, and has taken so much memory into use."""
    from .vm.growing import hypervisor_sees

    memory_bytes, cpus = await hypervisor_sees(guest.machine)
    config = guest.machine.config
    seen = Seen(memory_bytes, cpus, config.cpu_shares or USUAL_SHARES, config.cpu_quota_us or -1)
    if guest.agent is None:
        return seen
    text = await _output(guest.agent, ["/bin/sh", "-c", _SCRIPT, "sh", str(cpus), str(least_bytes >> 10)])
    try:
        found = text.split()
        total_bytes, free_bytes = int(found[2]) * 1024, int(found[5]) * 1024
        return replace(seen, guest_total_bytes=total_bytes, guest_free_bytes=free_bytes, guest_cpus=int(found[0]))
    except (IndexError, ValueError):
        raise NodeError(f"machine {guest.machine.config.name} does not tell what it has", where=text[:200]) from None


async def _output(node: Node, argv: list[str]) -> str:
    parts: list[bytes] = []

    def keep(stream: int, data: bytes) -> None:
        if len(parts) < 4:
            parts.append(data[:4096])
        request.consumed(stream, len(data))

    request = node.start("exec", {"argv": argv}, on_data=keep)
    try:
        await asyncio.wait_for(asyncio.shield(request.done), _ANSWER_LIMIT_S)
    except TimeoutError:
        node.kill(request)
        raise NodeError(
            f"machine {node.name} does not tell what it has", hint="it may be busy: look at its console with %vm logs"
        ) from None
    return b"".join(parts).decode(errors="replace")


def _lacking(after: Seen, change: Change) -> list[str]:
    lacking = []
    if change.memory_bytes is not None and after.memory_bytes - change.memory_bytes >= 1 << 20:
        kept = (after.memory_bytes - change.memory_bytes) >> 20
        lacking.append(f"the guest keeps {kept} MiB that it was asked to give back: it uses them")
    if after.guest_cpus is not None and after.guest_cpus < after.cpus:
        lacking.append(f"the guest uses {after.guest_cpus} of {after.cpus} processors: it did not switch the rest on")
    return lacking
