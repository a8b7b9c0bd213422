"""What a guest says of itself, to lay beside what its hypervisor says: its PCI devices and its interrupt counters.

A guest may say anything: its answer is text to be shown, of bounded size, and what does not look right is left out.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from .drives import in_guest
from .errors import LabError

if TYPE_CHECKING:
    from .guests import Guest
    from .vm.observe.parts import Inside

__all__ = ["ask_inside", "parse_interrupts", "parse_pci"]

_LIMIT_S: Final = 5.0
_MOST: Final = 512
_SCRIPTS: Final = {
    "devices": """
for device in /sys/bus/pci/devices/*; do
    driver=$(readlink "$device/driver") || driver=
    echo "${device##*/} $(cat "$device/vendor" "$device/device" | tr '\\n' ' ') ${driver##*/}"
done
""",
    "interrupts": "cat /proc/interrupts",
}


async def ask_inside(guest: Guest, part: str) -> Inside:
    """Ask a guest for its side of a part of the hypervisor view; where it does not answer, the reason why."""
    from .vm.observe.parts import Inside

    if part not in _SCRIPTS:
        return Inside()
    if guest.agent is None or guest.paused:
        return Inside(reason="the guest is paused" if guest.paused else "there is no agent of ours in the guest")
    try:
        async with asyncio.timeout(_LIMIT_S):
            status, text = await in_guest(guest.agent, _SCRIPTS[part])
    except (LabError, TimeoutError) as error:
        return Inside(reason=f"the guest does not answer: {error or 'its time is up'}")
    if status:
        return Inside(reason=f"the guest could not tell: {text[:200]}")
    return Inside(pci=parse_pci(text)) if part == "devices" else Inside(interrupts=parse_interrupts(text))


def parse_pci(text: str) -> dict[str, dict[str, Any]]:
    """Read lines of ``0000:00:02.0 0x1af4 0x1001 virtio-pci`` by their address on the bus, as ``00:02.0``."""
    row = re.compile(r"0000:([0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) 0x([0-9a-f]{4}) 0x([0-9a-f]{4})\s*([\w.-]{0,60})")
    found = [match.groups() for match in filter(None, map(row.fullmatch, map(str.strip, text.splitlines()[:_MOST])))]
    return {
        address: {"vendor": vendor, "device": device, "driver": driver or None}
        for address, vendor, device, driver in found
    }


def parse_interrupts(text: str) -> list[dict[str, Any]]:
    """Read ``/proc/interrupts`` (proc_interrupts(5)): the counts of all processors together, and who asked for it."""
    head, *lines = text.splitlines()[:_MOST] or [""]
    cpus = len(head.split())
    found = []
    for line in lines:
        name, colon, rest = line.partition(":")
        words = rest.split()
        counts = [word for word in words[:cpus] if word.isascii() and word.isdigit()]
        if colon and counts and re.fullmatch(r"\s*\w{1,8}", name):
            what = " ".join(words[len(counts) :])[:80]
            found.append({"line": name.strip(), "count": sum(int(count[:18]) for count in counts), "what": what})
    return found
