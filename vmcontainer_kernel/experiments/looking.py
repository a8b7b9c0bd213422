"""What a place looks like from inside: a text for any /bin/sh that tells the kernel, processes, users, devices, clock.

The answer is lines of ``name value``; whoever wrote it may be a guest, so it is read as a stranger's.
"""

from __future__ import annotations

from typing import Any, Final

from ..agent.processes import NAMESPACES

__all__ = ["FACTS", "LOOK", "read_facts"]

FACTS: Final = {
    "kernel": str,
    "boot_id": str,
    "host_name": str,
    "pid": int,
    "processes": int,
    "uid": int,
    "users": int,
    "devices": int,
    "mounts": int,
    "links": str,
    "cpus": int,
    "memory_kib": int,
    "uptime_s": float,
    "clock_s": int,
    **{f"{kind}_namespace": str for kind in NAMESPACES},
}
"""What is looked at, and what kind of value it is."""

_LONGEST: Final = 120

# Shell built-ins where they do: under emulation each program costs milliseconds. `set --` counts what a pattern finds.
LOOK: Final = """echo "kernel $(uname -r)"; echo "host_name $(uname -n)"; echo "pid $$"; echo "uid $(id -u)"
read -r line </proc/sys/kernel/random/boot_id && echo "boot_id $line"
set -- /proc/[0-9]*; echo "processes $#"; set -- /dev/*; echo "devices $#"
count=0; while read -r line; do count=$((count+1)); done </etc/passwd; echo "users $count"
count=0; while read -r line; do count=$((count+1)); done </proc/self/mountinfo; echo "mounts $count"
links=; while read -r line; do case $line in *:*) links="$links ${line%%:*}";; esac; done </proc/net/dev
echo "links$links"
count=0; while read -r line; do case $line in processor*) count=$((count+1));; esac; done </proc/cpuinfo
echo "cpus $count"
while read -r name value rest; do case $name in MemTotal:) echo "memory_kib $value";; esac; done </proc/meminfo
read -r value rest </proc/uptime && echo "uptime_s $value"; echo "clock_s $(date +%s)"
""" + "".join(f'echo "{kind}_namespace $(readlink /proc/self/ns/{kind})"\n' for kind in NAMESPACES)


def read_facts(text: str) -> dict[str, Any]:
    """Return what `LOOK` told; None for what it could not tell, or not in the right form."""
    found: dict[str, Any] = dict.fromkeys(FACTS)
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in FACTS and found[name] is None:
            found[name] = _value(FACTS[name], value.strip()[:_LONGEST])
    return found


def _value(kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None
