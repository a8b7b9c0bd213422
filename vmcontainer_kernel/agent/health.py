"""Health checks: a command run in the container now and then, whose status says whether it does its work.

    starting ──a check succeeds──▶ healthy ◀──▶ unhealthy (after so many failures in a row)

What fails within the start period is not counted. The words and numbers are those of docker-run(1), --health-cmd.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

from ..container import signals
from ..container.options import ExecOptions
from ..container.requests import Health
from ..container.runtime import Runtime
from ..errors import LabError
from .jobs import Job, Stdio
from .kept import Kept
from .logs import Log
from .server import Server

__all__ = ["Checkups", "health_of"]

_KEPT_RESULTS, _KEPT_OUTPUT = 5, 4096
_NS = 1e9


def health_of(kept: Kept) -> Health | None:
    """Return the check that was asked for, or else the image's own (Docker image specification, "Healthcheck")."""
    asked = kept.container.options.health
    if asked is not None:
        return asked if asked.argv else None
    image: dict[str, Any] = (kept.container.image.config.get("config") or {}).get("Healthcheck") or {}
    test = [str(word) for word in image.get("Test") or []]
    if test[:1] == ["CMD-SHELL"]:
        argv = ("/bin/sh", "-c", *test[1:2])
    elif test[:1] == ["CMD"]:
        argv = tuple(test[1:])
    else:
        return None
    return Health(
        argv,
        interval_s=(image.get("Interval") or 30 * _NS) / _NS,
        timeout_s=(image.get("Timeout") or 30 * _NS) / _NS,
        start_period_s=(image.get("StartPeriod") or 0) / _NS,
        retries=image.get("Retries") or 3,
    )


class Checkups:
    """Runs the checks of every container that has one, as jobs without a request."""

    def __init__(self, server: Server, runtime: Runtime, requests: Iterator[int]) -> None:
        self._server, self._runtime, self._requests = server, runtime, requests

    def begin(self, kept: Kept) -> None:
        """A container was started."""
        health = health_of(kept)
        kept.container.health = "starting" if health else ""
        kept.health, kept.failing_streak = [], 0
        if health:
            self._later(kept, health)

    def _later(self, kept: Kept, health: Health) -> None:
        kept.set_timer("health", self._server.timers.after(health.interval_s, lambda: self._check(kept, health)))

    def _check(self, kept: Kept, health: Health) -> None:
        if kept.container.status != "running":
            return
        if kept.container.paused:
            self._later(kept, health)
            return
        stdio, log, began_s = Stdio.make(tty=False, stdin=False), Log(_KEPT_OUTPUT), time.time()
        try:
            launch = self._runtime.exec(kept.container, ExecOptions(argv=health.argv), stdio.child)
        except (LabError, OSError) as error:
            stdio.close_ours()
            self._note(kept, health, began_s, 125, str(error))
            return
        finally:
            stdio.close_child()

        def ended(job: Job) -> None:
            timer.cancel()
            status = 125 if job.failed else int(job.answer["status"])
            self._note(kept, health, began_s, status, str(job.error) if job.error else log.text())

        job = Job(
            next(self._requests), launch, stdio, self._server.send, log=log, role="health", detach=True, on_end=ended
        )
        timer = self._server.timers.after(health.timeout_s, lambda: signals.to_group(launch.pid, signal.SIGKILL))
        self._server.add(job)

    def _note(self, kept: Kept, health: Health, began_s: float, status: int, output: str) -> None:
        container = kept.container
        if container.status != "running" or not container.health:
            return
        kept.health = [*kept.health, {"began_s": began_s, "exit_status": status, "output": output}][-_KEPT_RESULTS:]
        begun_s = time.time() - (container.started_s or 0.0)
        if status == 0:
            kept.failing_streak = 0
            container.health = "healthy"
        elif container.health != "starting" or begun_s >= health.start_period_s:
            kept.failing_streak += 1
            if kept.failing_streak >= health.retries:
                container.health = "unhealthy"
        self._later(kept, health)
