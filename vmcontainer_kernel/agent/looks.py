"""Looking at containers and changing what can be changed while they run: logs, attach, stats, top, update, prune."""

from __future__ import annotations

import time
from typing import Any

from ..container.options import Options
from ..container.runtime import Runtime
from ..errors import ContainerError, UserError
from .jobs import Job
from .kept import Keeper
from .links import link_rows
from .logs import Follower
from .proc import PROC, read_text
from .processes import process
from .protocol import get_bool, get_int, get_map, get_number, get_str, get_strs
from .server import Call, Server

__all__ = ["Looks"]


class Looks:
    """The verbs ``container.logs|attach|detach|stats|top|update``."""

    def __init__(self, server: Server, runtime: Runtime, keeper: Keeper) -> None:
        self._server, self._runtime, self._keeper = server, runtime, keeper
        server.verbs |= {
            "container.logs": self.logs,
            "container.attach": self.attach,
            "container.detach": self.detach,
            "container.stats": self.stats,
            "container.top": self.top,
            "container.update": self.update,
        }

    def logs(self, call: Call) -> None:
        """Send what a container has written as this request's streams: name, tail (lines), since_s, follow."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        follow = get_bool(call.arguments, "follow", False) and kept.container.status == "running"
        tail, since_s = get_int(call.arguments, "tail", None), get_number(call.arguments, "since_s", None)
        if tail is not None and tail < 0:
            raise UserError("tail must be 0 or more lines", where="tail")
        position = kept.log.position(tail_lines=tail, since_s=since_s)
        self._follow(call, kept.log, position, follow=follow)

    def attach(self, call: Call) -> None:
        """Send a container's streams from now on and feed it what comes: name, replay (send the log first), stdin."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        job = kept.job
        if kept.container.status != "running" or job is None:
            raise UserError(
                f"container {kept.container.name} is not running, it is {kept.container.shown_status}",
                hint=f"%container start {kept.container.name}, or look at its output: %container logs",
            )
        stdin = get_bool(call.arguments, "stdin", False)
        if stdin and (job.input is None or not job.input.open):
            raise UserError(
                f"container {kept.container.name} reads nothing: it was made without --interactive",
                hint="make it with -i, or run a command in it: %container exec",
            )
        if stdin and job.input:
            job.input.request = call.request
        position = kept.log.position(tail_lines=None if get_bool(call.arguments, "replay", False) else 0)
        feed_to = (lambda data: self._feed(call.request, job, data)) if stdin else None
        self._follow(call, kept.log, position, follow=True, feed_to=feed_to)

    def _feed(self, request: int, job: Job, data: bytes) -> None:
        """Pass on what was typed; one who attaches has credit of his own, and what another has typed may still wait."""
        if job.input is None or len(data) <= job.input.room_bytes:
            self._server.feed(job, data)
            return
        self._server.transfers.pop(request).abandon()
        problem = f"container {job.subject} does not read what is typed: too much of it waits already"
        self._server.fail(
            request, ContainerError(problem, hint="it goes on; attach again to look at it", where="attach")
        )

    def _follow(self, call: Call, log: Any, position: int, *, follow: bool, feed_to: Any = None) -> None:
        request, server = call.request, self._server
        follower = Follower(
            request,
            log,
            server.send,
            lambda: server.forget(request),
            position=position,
            follow=follow,
            feed_to=feed_to,
        )
        server.transfers[request] = follower
        follower.pump()

    def detach(self, call: Call) -> dict[str, Any]:
        """End an attach or logs request of this conversation; the container does not notice: request."""
        follower = self._server.transfers.get(get_int(call.arguments, "request"))
        if not isinstance(follower, Follower):
            return {"detached": False}
        follower.finish({"detached": True})
        return {"detached": True}

    def stats(self, call: Call) -> dict[str, Any]:
        """Return what containers use now: names (empty: all that run)."""
        names = get_strs(call.arguments, "names", [])
        chosen = [self._runtime.get(name) for name in names] or [
            one for one in self._runtime.list() if one.status == "running"
        ]
        rows = []
        for one in chosen:
            pid = one.pid if one.status == "running" else 0
            network = _network(read_text(f"{PROC}/{pid}/net/dev")) if pid else None
            rows.append({**self._runtime.view(one), "network": network})
        return {"time_s": time.time(), "containers": rows}

    def top(self, call: Call) -> dict[str, Any]:
        """Return the processes of a container as rows of the kernel view: name."""
        container = self._runtime.get(get_str(call.arguments, "name"))
        if container.status != "running":
            raise UserError(f"container {container.name} is not running, it is {container.status}")
        rows = (process(pid) for pid in self._runtime.processes(container))
        return {"processes": [row for row in rows if row]}

    def update(self, call: Call) -> dict[str, Any]:
        """Change a container's limits: name, options (only what is to be changed)."""
        kept = self._keeper.get(get_str(call.arguments, "name"))
        given = get_map(call.arguments, "options")
        changed = Options.from_json({**given, "image": kept.container.options.image})
        self._runtime.update(kept.container, changed)
        if "restart" in given:
            kept.container.options = kept.container.options.replace(restart=changed.restart)
        return {}


def _network(text: str) -> dict[str, int]:
    """Return received and sent bytes of all interfaces but lo."""
    links = [link for link in link_rows(text) if link["name"] != "lo"]
    return {key: sum(link[key] for link in links) for key in ("received_bytes", "sent_bytes")}
