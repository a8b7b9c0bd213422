"""How containers end, wait, rest and begin again: stop, restart, wait, pause, and the restart policy.

    running ──first process ends──▶ stopped ──policy says so──▶ (pause, doubled each time) ──▶ running
       └─stop: the stop signal ──grace passes──▶ SIGKILL

Nothing here blocks: what takes time is a timer or an answer given later.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any

from ..container.runtime import Runtime
from ..container.signals import number_of
from ..errors import LabError
from .jobs import Job
from .kept import Keeper, Kept
from .protocol import Kind, get_number, get_str
from .server import Call, Server

__all__ = ["Lives"]

GRACE_S = 10.0  # docker-stop(1)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _SETTLED_S = 0.1, 60.0, 10.0
Begin = Callable[..., None]


class Lives:
    """The verbs ``container.stop|restart|wait|pause|resume``; `begin` starts a kept container."""

    def __init__(self, server: Server, runtime: Runtime, keeper: Keeper, begin: Begin) -> None:
        self._server, self._runtime, self._keeper, self._begin = server, runtime, keeper, begin
        server.verbs |= {
            "container.stop": self.stop,
            "container.restart": self.restart,
            "container.wait": self.wait,
            "container.pause": self.pause,
            "container.resume": self.resume,
        }

    # -- verbs

    def stop(self, call: Call) -> dict[str, Any] | None:
        """Ask a container to end, kill it when the grace has passed, and answer then: name, timeout_s."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        if kept.container.status != "running":
            self._quit(kept)
            return self._state(kept)
        grace_s = self._grace_s(kept, call)
        kept.ended.append(lambda _: self._server.reply(call.request, self._state(kept)))
        self._ask_to_end(kept, grace_s)
        return None

    def restart(self, call: Call) -> None:
        """Stop a container if it runs, and start it: name, timeout_s."""
        kept = self._keeper.get(get_str(call.arguments, "name"))

        def again(_: dict[str, Any]) -> None:
            try:
                self._begin(kept, call.request)
            except (LabError, OSError) as error:
                self._server.fail(call.request, error)

        grace_s = self._grace_s(kept, call)
        kept.container.restarts = 0
        if kept.container.status != "running":
            again({})
            return
        kept.ended.append(again)
        self._ask_to_end(kept, grace_s)

    @staticmethod
    def _grace_s(kept: Kept, call: Call) -> float:
        own_s = kept.container.options.stop_timeout_s
        return get_number(call.arguments, "timeout_s", GRACE_S if own_s is None else own_s)

    def _ask_to_end(self, kept: Kept, grace_s: float) -> None:
        container = kept.container
        self.expect_end(kept)
        if container.paused:
            self._runtime.resume(container)
        options, image = container.options, container.image.config.get("config") or {}
        self._runtime.kill(container, number_of(options.stop_signal or str(image.get("StopSignal") or "SIGTERM")))
        kept.set_timer("kill", self._server.timers.after(grace_s, lambda: self._kill(kept)))

    def _kill(self, kept: Kept) -> None:
        if kept.container.status == "running":
            self._runtime.kill(kept.container, signal.SIGKILL, everything=True)

    def wait(self, call: Call) -> dict[str, Any] | None:
        """Answer when a container has ended for good, with its status: name."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        if kept.container.status == "running" or "restart" in kept.timers:
            kept.ended.append(lambda answer: self._server.reply(call.request, answer))
            return None
        return self._state(kept)

    def pause(self, call: Call) -> dict[str, Any]:
        """Freeze every process of a container: name."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        self._runtime.pause(kept.container)
        return self._state(kept)

    def resume(self, call: Call) -> dict[str, Any]:
        """Let a paused container go on: name."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        self._runtime.resume(kept.container)
        return self._state(kept)

    @staticmethod
    def _state(kept: Kept) -> dict[str, Any]:
        answer = kept.job.answer if kept.job and kept.job.wait_status is not None else {}
        return {"state": kept.container.shown_status, **answer}

    # -- what happens to a container

    def expect_end(self, kept: Kept) -> None:
        """Take note that somebody asked for its end: no error if it was still being set up, and no new start."""
        kept.stopping = True
        kept.cancel("restart", "health")
        for job in self._server.jobs.values():
            job.signalled = job.signalled or job.watches == kept.container.name

    def ended(self, kept: Kept, job: Job) -> None:
        """The first process has ended and all it wrote was read: start it again, or tell those who wait."""
        kept.cancel("kill", "health")
        container = kept.container
        again = not kept.one_shot and not kept.stopping and not job.failed
        if again and container.options.restart.wants(job.answer["status"], container.restarts):
            self._start_later(kept, job.answer["seconds"])
            return
        self._tell(kept, job.answer)

    def _start_later(self, kept: Kept, ran_s: float) -> None:
        container = kept.container
        if ran_s > _SETTLED_S:  # it had done its work: this is a new trouble
            container.restarts = 0
        pause_s = min(_FIRST_PAUSE_S * 2**container.restarts, _LONGEST_PAUSE_S)
        container.restarting = True
        kept.set_timer("restart", self._server.timers.after(pause_s, lambda: self._start_again(kept)))

    def _start_again(self, kept: Kept) -> None:
        container = kept.container
        container.restarting = False
        container.restarts += 1
        try:
            self._begin(kept)
        except (LabError, OSError) as error:
            kept.log.add(Kind.STDERR, f"[not started again: {error}]\n".encode())
            self._tell(kept, {"status": 125, "signal": 0, "seconds": 0.0, "limits": {}})

    def _quit(self, kept: Kept) -> None:
        """Stop what is between two starts."""
        if "restart" in kept.timers:
            kept.cancel("restart")
            kept.container.restarting = False
            self._tell(kept, kept.job.answer if kept.job else {})

    def _tell(self, kept: Kept, answer: dict[str, Any]) -> None:
        waiting, kept.ended = kept.ended, []
        for follower in (*kept.log.followers,):
            follower.finish(answer)
        for tell in waiting:
            tell(answer)

    def gone(self, kept: Kept) -> None:
        """A container was removed."""
        self._keeper.drop(kept.container.name)
        with contextlib.suppress(LabError):
            self._tell(kept, kept.job.answer if kept.job and kept.job.wait_status is not None else {"status": 137})
