"""``%vm update``, ``stats``: what machines have and use, changed and counted while they run."""

from __future__ import annotations

import time
from typing import Any

from ..arguments import parse_number, parse_size
from ..display import Table, size_text
from ..errors import UserError
from ..guests import Guest
from ..machines import Wish
from ..messages import say
from ..resizing import Change, resize
from ..session import Session
from .words import NAME, Verb, Words, flag, option, words

__all__ = ["VERBS"]

_STATS_S = 0.5


def _start(session: Session, given: Words, language: str) -> None:
    memory_bytes = None if given.memory is None else parse_size(given.memory)
    wish = Wish(memory_bytes, _whole(given.cpus, "--cpus", 1), max_cpus=_whole(given.max_cpus, "--max-cpus", 1))
    if not given.cold:
        session.wait(session.machines.ensure_all(given.names, wish))
        return
    for name in given.names:
        session.wait(session.machines.boot_cold(name, wish))


def _update(session: Session, given: Words, language: str) -> Table:
    change = Change(
        None if given.memory is None else parse_size(given.memory),
        _whole(given.cpus, "--cpus", 1),
        _whole(given.cpu_shares, "--cpu-shares", 2),
        _whole(given.cpu_quota, "--cpu-quota", -1),
    )
    if change == Change():
        raise UserError("%vm update: what is to be changed?", hint="as in: %vm update web --memory 512m --cpus 2")

    async def do() -> Any:
        return await resize(session.machines.guest(given.name), await session.host(), change)

    before, after, lacking = session.wait(do())
    for line in lacking:
        print(f"[{given.name}] {say('warning')}: {say(line)}")
    rows = [
        ("memory", "hypervisor", size_text(before.memory_bytes), size_text(after.memory_bytes)),
        ("memory", "guest", size_text(before.guest_total_bytes), size_text(after.guest_total_bytes)),
        ("memory that is free", "guest", size_text(before.guest_free_bytes), size_text(after.guest_free_bytes)),
        ("CPUs", "hypervisor", before.cpus, after.cpus),
        ("CPUs", "guest", before.guest_cpus, after.guest_cpus),
    ]
    if change.cpu_shares is not None:
        rows.append(("weight of its CPUs", "host", before.cpu_shares, after.cpu_shares))
    if change.cpu_quota_us is not None:
        rows.append(("cap on its CPUs", "host", _cap(before.cpu_quota_us), _cap(after.cpu_quota_us)))
    return Table(("what", "seen by", "before", "now"), rows)


def _cap(quota_us: int) -> str:
    return "none" if quota_us < 0 else f"{quota_us / 100_000:g} CPU"


def _whole(text: str | None, option: str, low: int) -> int | None:
    number = parse_number(text, option, whole=True, low=low)
    return None if number is None else int(number)


def _stats(session: Session, given: Words, language: str) -> Table:
    guests = [session.machines.guest(name) for name in given.names] or list(session.machines.guests.values())

    async def look() -> tuple[float, dict[str, Any], list[dict[str, Any]]]:
        answer = await (await session.host()).call("machine.stats")
        views = [await guest.machine.view() for guest in guests]
        return time.monotonic(), {one["name"]: one for one in answer["machines"]}, views

    first = session.wait(look())
    time.sleep(_STATS_S)
    return _table(guests, first, session.wait(look()))


def _table(guests: list[Guest], first: tuple[Any, ...], now: tuple[Any, ...]) -> Table:
    seconds = now[0] - first[0]
    rows = []
    for index, guest in enumerate(guests):
        name = guest.machine.config.name
        before, later = ((one[1].get(name, {}), one[2][index]) for one in (first, now))
        rows.append(_row(name, before, later, seconds))
    head = ("machine", "QEMU's CPU", "its vCPUs", "cap", "throttled", "guest has", "guest uses", "QEMU has", "at most")
    return Table(head, rows, "no machines")


def _row(name: str, before: tuple[Any, ...], now: tuple[Any, ...], seconds: float) -> tuple[Any, ...]:
    group, view = now
    cpu, memory = group.get("cpu") or {}, group.get("memory") or {}
    quota = cpu.get("limit_cpus")
    return (
        name,
        _share((before[0].get("cpu") or {}).get("usage_s"), cpu.get("usage_s"), seconds),
        _share(_vcpu_s(before[1]), _vcpu_s(view), seconds),
        "none" if quota is None else f"{quota:g} CPU",
        None if cpu.get("throttled_s") is None else f"{cpu['throttled_s']:.1f} s",
        size_text(view["memory"]["balloon_bytes"]),
        size_text(_used_bytes(view["memory"])),
        size_text(memory.get("usage_bytes") or view["memory"]["private_bytes"]),
        size_text(memory.get("limit_bytes")),
    )


def _used_bytes(memory: dict[str, Any]) -> int | None:
    """Return what a guest uses; to its kernel, what the balloon took is in use."""
    used: int | None = memory["guest_used_bytes"]
    return None if used is None else max(0, used - (memory["given_bytes"] - memory["balloon_bytes"]))


def _vcpu_s(view: dict[str, Any]) -> float | None:
    times = [cpu["cpu_s"] for cpu in view["vcpus"]]
    return None if None in times else sum(times)


def _share(before: float | None, now: float | None, seconds: float) -> str | None:
    return None if before is None or now is None else f"{max(0.0, now - before) / seconds:.1%}"


VERBS: dict[str, Verb] = {
    "start": Verb(
        _start,
        "make machines, all that are named or none, and run nothing in them yet",
        words("names", "their names"),
        option("-m", "--memory", metavar="SIZE", help="memory of each"),
        option("--cpus", metavar="N", help="virtual CPUs of each"),
        option("--max-cpus", metavar="N", help="how many each may get later"),
        flag("--cold", help="from the kernel on, without a template, one after the other"),
    ),
    "update": Verb(
        _update,
        "change memory, processors, weight and cap while it runs",
        NAME,
        option("-m", "--memory", metavar="SIZE", help="memory: more is plugged in, less is taken by the balloon"),
        option("--cpus", metavar="N", help="virtual CPUs; more only, up to --max-cpus"),
        option("-c", "--cpu-shares", metavar="N", help="its weight where CPUs are contended (others have 1024)"),
        option("--cpu-quota", metavar="US", help="CPU time in each 100000 us, as 50000 for half a CPU; -1: no cap"),
    ),
    "stats": Verb(
        _stats,
        "what machines use, as the host and the hypervisor count it",
        words("names", "their names", needed=False),
    ),
}
