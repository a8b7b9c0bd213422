"""The same shell text as process, container, machine and container in a machine: what it costs, sees and can reach.

    each round:   in turns, each place made anew ─▶ times: asked, started, first byte, end
    then, once:   each place made anew ─▶ text held at its end ─▶ memory, processor time
                                       └▶ one more command ─▶ what is seen (`looking`), what can be done (`attempts`)

In turns, as a shared computer drifts: what is compared was measured side by side. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import LabError, UserError
from ..machines import Report, quiet
from ..session import Session
from .attempts import ARCHITECTURES, Target, program, read_results, results
from .commands import Command, held_text
from .costs import UNITS, Measured, costs
from .looking import LOOK, read_facts
from .places import PLACES, Kind, Place
from .using import Use, cpu_seconds, use_of

__all__ = ["MOST_ROUNDS", "Wish", "compare"]

MOST_ROUNDS: Final = 20
_SAMPLE_S: Final = 0.02
_LOOK_S: Final = 30.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE: Final = Path("/proc/self/ns/pid")
_MARK: Final = b"\nattempts\n"

# The program comes as standard input: so it can run where nothing else of this computer's can be seen. mkdir(2) follows
# no link and takes no folder that is there.
_TRY: Final = """echo; echo attempts
for place in "${TMPDIR:-/tmp}" "$HOME" ""; do mkdir -m 700 "$place/.try-$$" 2>/dev/null && break; done && {
cd "$place/.try-$$" && cat >try && chmod 700 try && ./try; rm try; cd / && rmdir "$place/.try-$$"
}
"""


@dataclass(frozen=True)
class Wish:
    """What is compared: the text, how often it is timed, where, with which image, and how long a run may take."""

    text: str
    rounds: int = 3
    only: tuple[str, ...] = ()
    image: str = ""
    limit_s: float = 60.0

    def kinds(self) -> list[Kind]:
        """Return the places in their order; raises UserError for one there is not."""
        names = [one.name for one in PLACES]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise UserError(f"there is no place {' '.join(unknown)}", hint=f"there are: {' '.join(names)}")
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise UserError(f"--rounds {self.rounds}: 1 to {MOST_ROUNDS}", where="--rounds")
        return [one for one in PLACES if not self.only or one.name in self.only]


async def compare(session: Session, wish: Wish, report: Report = quiet) -> dict[str, Any]:
    """Carry out the comparison and return its document (docs/views.md); runs on the session's event loop.

    A place that there cannot be here is in the document with the reason. Cancelling it ends what is under way.
    """
    kinds, documents = wish.kinds(), {}
    missing: dict[str, str] = {}
    rounds: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
    total, done = len(kinds) * (wish.rounds + 1), 0
    await _prepare(session, kinds, report)
    with _target() as target:
        for number in range(wish.rounds + 1):
            for kind in kinds:
                last = number == wish.rounds
                doing = "measured and looked at" if last else f"round {number + 1} of {wish.rounds}"
                report(f"{kind.name}: {doing}", done / total)
                done += 1
                if kind.name in missing:
                    continue
                try:
                    if last:
                        documents[kind.name] = await _examine(session, kind, wish, target, rounds[kind.name])
                    else:
                        rounds[kind.name].append(await _round(session, kind, wish))
                except LabError as error:
                    missing[kind.name] = error.message
    report("", 1.0)
    return {
        "kind": "compare",
        "version": 1,
        "time_s": round(time.time(), 3),
        "text": wish.text[:4096],
        "places": [documents.get(kind.name) or {"name": kind.name, "missing": missing[kind.name]} for kind in kinds],
        "units": UNITS,
    }


async def _prepare(session: Session, kinds: Sequence[Kind], report: Report) -> None:
    """Do first what is done once for all cells of a notebook: it is no part of any round."""
    await session.host()
    if any(kind.machine for kind in kinds):
        with contextlib.suppress(LabError):  # the round that needs it tells why it cannot be
            await session.machines.prepare(report)


async def _round(session: Session, kind: Kind, wish: Wish) -> dict[str, Any]:
    """Run the text in a place made for it, as a cell does, and return its times from the asking."""
    async with Place(session, kind, wish.image) as place:
        outcome = await place.run(_shell(wish.text), begun_s=place.begun_s).outcome(wish.limit_s)
        return {
            "start": place.start,
            "started_ms": outcome.started_ms,
            "first_byte_ms": outcome.first_byte_ms,
            "end_ms": outcome.end_ms,
        }


def _shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


async def _examine(
    session: Session, kind: Kind, wish: Wish, target: Target, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    async with Place(session, kind, wish.image) as place:
        measured = await _measure(place, wish)
        facts, found = await _look(place, target)
    here = (_BOOT_ID.read_text().strip(), str(_PID_NAMESPACE.readlink()))
    same_numbers = (facts["boot_id"], facts["pid_namespace"]) == here
    return {
        "name": kind.name,
        "missing": None,
        "rounds": rounds,
        "sees": facts,
        "reaches": None if found is None else read_results(found, same_numbers=same_numbers),
        "output": measured.outcome.output(),
        **costs(rounds, measured),
    }


async def _measure(place: Place, wish: Wish) -> Measured:
    """Run the text once more, held at its end, and ask this computer what it has used by then."""
    if place.host_pid:  # a machine is awake once it has answered: what that took is not the text's
        await place.run(["/bin/true"]).outcome(wish.limit_s)
    before_s = cpu_seconds(place.host_pid) if place.host_pid else None
    marker, name = f"held-{secrets.token_hex(8)}", f"compare-{secrets.token_hex(3)}" if place.kind.container else ""
    command = place.run(_shell(held_text(wish.text, marker)), name=name, marker=marker, stdin=True)
    deadline_s = time.monotonic() + wish.limit_s
    try:
        use = await _watch(place, command, deadline_s)
        held = command.held.is_set() and not command.request.done.done()
        after_s = cpu_seconds(place.host_pid or command.pid) if held else None
        group = await _group(place, name) if held and name else None
        command.request.end_input()
        outcome = await command.outcome(max(0.01, deadline_s - time.monotonic()))
    except BaseException:
        command.node.kill(command.request)
        raise
    cpu_s = None if after_s is None else round(after_s - (before_s or 0.0), 4)
    return Measured(outcome, use, cpu_s, before_s, group)


async def _watch(place: Place, command: Command, deadline_s: float) -> Use | None:
    """Wait until the text has ended, and return the most that its processes used at once; a machine only grows, so it
    is asked at the end.
    """
    most: Use | None = None
    while not command.over and time.monotonic() < deadline_s:
        if not place.host_pid:
            most = _larger(most, use_of(command.pid)) if command.pid else None
        await command.wait(_SAMPLE_S)
    await command.wait(_LOOK_S, begun=True)
    return _larger(most, use_of(place.host_pid or command.pid))


def _larger(one: Use | None, other: Use | None) -> Use | None:
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda use: use.proportional_bytes)


async def _group(place: Place, name: str) -> dict[str, Any] | None:
    """Return what the container's control group counts on its node; None where there are none."""
    rows = (await place.node.call("container.stats", names=[name])).get("containers") or [{}]
    memory, cpu = rows[0].get("memory") or {}, rows[0].get("cpu") or {}
    if memory.get("usage_bytes") is None:
        return None
    return {"usage_bytes": memory["usage_bytes"], "peak_bytes": memory.get("peak_bytes"), "cpu_s": cpu.get("usage_s")}


# -- what is seen, and what can be done


async def _look(place: Place, target: Target) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Return the facts that a command there tells, and what came of each attempt; None where none could be made."""
    machine = os.uname().machine
    attempting = machine in ARCHITECTURES
    command = place.run(_shell(LOOK + (_TRY if attempting else "")), stdin=attempting)
    if attempting:
        await command.request.feed(program(machine, target))
        command.request.end_input()
    await command.outcome(_LOOK_S)
    text, _, data = command.written().partition(_MARK)
    return read_facts(text.decode("utf-8", "replace")), results(machine, data) if attempting else None


@contextlib.contextmanager
def _target() -> Iterator[Target]:
    """Give this notebook a file and a port that somebody else might reach, while the comparison lasts."""
    with tempfile.NamedTemporaryFile(prefix="vmcontainer-") as file, socket.create_server(("127.0.0.1", 0)) as server:
        yield Target(os.getpid(), file.name, server.getsockname()[1])
