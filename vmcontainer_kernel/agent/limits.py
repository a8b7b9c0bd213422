"""Tells the requests that follow a container when one of its limits strikes.

    job runs on ──▶ `Watch` of its container's group ──fd readable──▶ EVENT limit
                      └─ of what this kernel does not tell (`Watch.polled`): looked at now and then

A watch is made for what runs longer than a moment, as it takes longer to make than most programs run.
"""

from __future__ import annotations

from ..container.cgroups.watch import Watch
from ..container.runtime import Runtime
from .jobs import Job
from .kept import Keeper
from .server import Server

__all__ = ["Limits"]

_POLL_S = 0.25


class Limits:
    """The watches of one node's containers, each as long as somebody waits for a process in it."""

    def __init__(self, server: Server, runtime: Runtime, keeper: Keeper) -> None:
        self._server, self._runtime, self._keeper = server, runtime, keeper
        self._watches: dict[str, Watch] = {}

    def follow(self, job: Job) -> None:
        """A process was started in a container."""
        if not job.detach:
            self._server.timers.after(_POLL_S, lambda: self._begin(job))

    def ended(self, job: Job) -> None:
        """A process is about to be answered for: tell what has struck until its end."""
        kept = self._keeper.find(job.watches)
        if kept:
            job.note_limits(self._runtime.events(kept.container))
        if not any(one is not job for one in self._jobs(job.watches)):
            self._drop(job.watches)

    def _jobs(self, name: str) -> list[Job]:
        return [job for job in self._server.jobs.values() if job.watches == name and not job.detach]

    def _begin(self, job: Job) -> None:
        kept, name = self._keeper.find(job.watches), job.watches
        if self._server.jobs.get(job.request) is not job or kept is None:
            return
        group = kept.container.cgroup
        if name not in self._watches and group is not None:
            try:
                watch = self._watches[name] = group.watch()
            except OSError:  # the group is gone, so this is about to end
                return
            self._server.watch(watch.fd, lambda _: self._struck(name, watch))
        self._look(name)

    def _struck(self, name: str, watch: Watch, again_s: float = 0.02) -> None:
        """Tell what has struck; version 1 notifies before it kills and counts (mm/memcontrol-v1.c), so if there is
        nothing new, look again soon.
        """
        if self._watches.get(name) is not watch:
            return
        counts, jobs = watch.read(), self._jobs(name)
        if all(job.events == counts for job in jobs) and again_s < _POLL_S:
            self._server.timers.after(again_s, lambda: self._struck(name, watch, 2 * again_s))
        for job in jobs:
            job.note_limits(counts)

    def _look(self, name: str) -> None:
        """Look at the counts themselves, and again later if the kernel does not tell of a limit that was set."""
        kept, watch = self._keeper.find(name), self._watches.get(name)
        if kept is None or watch is None or not self._jobs(name):
            self._drop(name)
            return
        self._struck(name, watch, _POLL_S)
        limited = kept.container.spec.linux.resources.pids_limit is not None
        if limited and "pids_denied" in watch.polled:
            self._server.timers.after(_POLL_S, lambda: self._look(name))

    def _drop(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch:
            self._server.unwatch(watch.fd)
            watch.close()
