"""Asks QEMU and proc(5) for the view of one machine: all of it, a part of it, or its next piece in turn.

    each turn          threads; the status, if there was an event
    every other        disks
    in between, each   balloon, migration, devices | translation or exits | memory on the host | nothing more

A command costs QEMU and us about half a millisecond each, ``x-query-jit`` and reading ``smaps_rollup`` two: so at two
turns a second, to look at a machine costs less than 1 % of a processor, QEMU's part included.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from ...errors import MachineError
from . import parts as dear
from .asking import Answers, Execute, Json, Question, ask, plain
from .balloon import BalloonStatistics
from .document import Facts, ProcTexts, document, gone_document, queue_name
from .parts import Inside
from .proc import read_smaps, read_stats

__all__ = ["TURNS", "Observer"]

REST_AFTER_S: Final = 6.0
TURNS: Final = 8
_ENDING_S: Final = 0.2
_NOBODY: Final = Inside()
_STATUS: Final = plain("query-status")
_TRAFFIC: Final = plain("query-blockstats")
_KVM: Final = Question("query-stats", "query-stats", {"target": "vcpu", "providers": [{"provider": "kvm"}]})


class Observer:
    """What is known of one machine, as far as it was asked for."""

    def __init__(
        self, execute: Execute, facts: Callable[[], Facts], gone: asyncio.Event, proc: Path = Path("/proc")
    ) -> None:
        """`execute` runs a QMP command, `facts` tells ours, `gone` is set once QEMU has ended."""
        self._execute, self._facts, self._gone, self._proc = execute, facts, gone, proc
        self._answers = Answers()
        self._rollup: str | None = None
        self._turn = 0
        self._happened: tuple[tuple[float, str, str], ...] = ()
        self._balloon = BalloonStatistics()
        self._resting: asyncio.TimerHandle | None = None
        self._background: asyncio.Task[None]
        if facts().accelerator == "kvm":
            self._answers.lose("x-query-jit", "the accelerator is KVM: the processor runs the guest's own code")
            self._counters = [_KVM]
        else:
            self._answers.lose("query-stats", "the accelerator is TCG: code is translated, there is nothing to exit to")
            self._counters = plain("x-query-jit")

    async def view(self, parts: Iterable[str] = (), inside: Inside = _NOBODY) -> Json:
        """Return the whole view, with the dear `parts` that are named."""
        await self._ask_for_all()
        return await self._finished(parts, inside)

    async def next(self, parts: Iterable[str] = ()) -> Json:
        """Return the view with its next piece renewed: what a live view asks for twice a second."""
        if self._turn == 0:
            await self._ask_for_all()
        else:
            happened = self._facts().events[-1:]
            await ask(self._execute, [] if happened == self._happened else _STATUS, self._answers)
            self._happened = happened
            await self._pieces()[self._turn % TURNS]()
        self._turn += 1
        return await self._finished(parts, _NOBODY)

    async def _ask_for_all(self) -> None:
        for piece in (self._disks, self._slow, self._engine, self._memory, self._network):
            await piece()

    def _pieces(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        first = (self._slow, self._disks, self._engine, self._disks)
        return (*first, self._memory, self._disks, self._nothing, self._traffic)

    async def _nothing(self) -> None:
        """A turn for the threads alone."""

    async def _disks(self) -> None:
        await ask(self._execute, _TRAFFIC, self._answers)

    async def _traffic(self) -> None:
        await self._disks()
        await self._network()

    async def _slow(self) -> None:
        self._rest_later()
        before = self._answers.values.get("qom-list")
        listing = Question("qom-list", "qom-list", {"path": "/machine/peripheral"})
        always = plain("query-cpus-fast", "query-balloon", "query-migrate")
        await ask(self._execute, [listing, *_STATUS, *always], self._answers)
        await self._balloon.read(self._execute, self._answers)
        if self._answers.values.get("qom-list") != before:
            await ask(self._execute, plain("query-pci", "query-rx-filter"), self._answers)

    async def _engine(self) -> None:
        await ask(self._execute, self._counters, self._answers)

    async def _memory(self) -> None:
        self._rollup = read_smaps(self._proc, self._facts().pid)

    async def _network(self) -> None:
        cards, _ = self._answers.read(lambda found: [str(card["name"]) for card in found], "query-rx-filter")
        paths = {name: f"/machine/peripheral/{name}/virtio-backend" for name in cards or ()}
        wanted = [
            Question(queue_name(name, queue), "x-query-virtio-queue-status", {"path": path, "queue": queue})
            for name, path in paths.items()
            for queue in (0, 1)
        ]
        await ask(self._execute, wanted, self._answers)

    async def _finished(self, parts: Iterable[str], inside: Inside) -> Json:
        asked = await self._ask_for_parts(parts)
        facts, now_s = self._facts(), time.time()
        if "query-status" not in self._answers.values:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _ENDING_S)
            if not self._gone.is_set():
                raise MachineError(self._answers.reasons["query-status"], hint="is QEMU overloaded? try again")
        if self._gone.is_set():
            return gone_document(self._facts(), now_s)
        threads, _ = self._answers.read(lambda cpus: [int(cpu["thread-id"]) for cpu in cpus], "query-cpus-fast")
        texts = ProcTexts(self._rollup, read_stats(self._proc, facts.pid, threads or ()))
        view = document(facts, self._answers, texts, now_s)
        for part in asked:
            smaps = read_smaps(self._proc, facts.pid, whole=True) if part == "memory" else None
            view.setdefault("parts", {})[part] = dear.part_document(part, facts, self._answers, smaps, inside)
        return view

    async def _ask_for_parts(self, parts: Iterable[str]) -> list[str]:
        asked: list[str] = [part for part in dear.PARTS if part in set(parts)]
        await ask(self._execute, [one for part in asked for one in dear.questions(part)], self._answers)
        if "queues" in asked:
            for stale in [name for name in self._answers.values if name.startswith("status of ")]:
                del self._answers.values[stale]
            for _ in range(2):
                await ask(self._execute, dear.queue_questions(self._answers), self._answers)
        return asked

    def _rest_later(self) -> None:
        """Let the balloon's polling end when no view was asked for in a while."""
        self.close()
        self._resting = asyncio.get_running_loop().call_later(REST_AFTER_S, self._rest)

    def _rest(self) -> None:
        if not self._gone.is_set():
            self._background = asyncio.create_task(self._balloon.rest(self._execute))

    def close(self) -> None:
        """Let go of the timer."""
        if self._resting is not None:
            self._resting.cancel()
