"""The verb ``view``: who is to be seen on this node, and the dear parts of the kernel view that were asked for.

| part | what is in it |
|---|---|
| mounts | what is mounted for the node and each container, and the layers of overlays |
| network | links, addresses, routes and neighbours of the node, the bridges' place and each container |
| sockets | open sockets and who holds them |
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from ..container.container import Container
from ..container.runtime import Runtime
from ..container.seccomp.summary import summary
from ..errors import UserError
from .links import UNITS as LINK_UNITS
from .links import network_space
from .mounts import mount_spaces
from .observe import Observer
from .processes import MAX_PROCESSES, descendants
from .protocol import get_bool, get_int, get_str, get_strs
from .server import Call, Server
from .sockets import socket_spaces

__all__ = ["PARTS", "KernelViews"]

PARTS: Final = ("mounts", "network", "sockets")
_CROWD: Final = 64
"""A container with more processes is not walked, process by process, but told by its control group: it may fork faster
than we look, and who is a zombie in it does not matter then."""
_SHARE: Final = 100
_FULL_EVERY: Final = 4

Json = dict[str, Any]


class KernelViews:
    """What this node's kernel is seen to do; counters are read at each look, what seldom changes in turns."""

    def __init__(self, server: Server, runtime: Runtime, *, guest: bool) -> None:
        self._server, self._runtime, self._guest = server, runtime, guest
        cgroups = runtime.cgroups
        self._observer = Observer(agent_pid=os.getpid(), cgroup=cgroups.kind if cgroups else "none")
        self._containers: dict[str, Json] = {}
        self._turn = 0

    def view(self, call: Call) -> Json:
        """Return the kernel view of this node (docs/architecture.md): node, notebook_pid, `parts` wanted, `live`: the
        caller looks again and again, so that what seldom changes may be read in turns.
        """
        wanted = get_strs(call.arguments, "parts", [])
        if unknown := [part for part in wanted if part not in PARTS]:
            raise UserError(f"the kernel view has no part {unknown[0]}", hint=f"there are: {', '.join(PARTS)}")
        live, node = get_bool(call.arguments, "live", False), get_str(call.arguments, "node", "host")
        containers = self._seen(live=live)
        pids, total = self._pids(containers, get_int(call.arguments, "notebook_pid", 0))
        document = self._observer.look(
            node,
            containers,
            pids=pids,
            processes_total=total,
            machines=[job.pid for job in self._server.jobs.values() if job.role == "machine"],
            filters={one.name: summary(one.spec.linux.seccomp) for one in self._running()},
            fresh=not live,
        )
        parts = {part: self._part(part, node) for part in wanted}
        return document | ({"parts": parts} if parts else {})

    def _running(self) -> list[Container]:
        return [one for one in self._runtime.list() if one.status == "running"]

    def _seen(self, *, live: bool) -> list[Json]:
        """Return the containers' part; of each in turn all is read again, of the others what changes all the time."""
        self._turn += 1
        seen = {}
        for index, one in enumerate(self._runtime.list()):
            before = self._containers.get(one.id) if live and (index + self._turn) % _FULL_EVERY else None
            same = before is not None and before["started_s"] == one.started_s
            seen[one.id] = self._runtime.view(one, before if same else None)
        self._containers = seen
        return [*seen.values()]

    # -- processes

    def _pids(self, containers: list[Json], notebook_pid: int) -> tuple[list[int], int]:
        """Return whom to show, and how many there are.

        Of a host its init, the notebook, and what we started: the rest is not ours to show. Of a guest all but the
        kernel's own threads, which are no children of its init.
        """
        crowds = [one for one in self._running() if _size(containers, one.name) > _CROWD]
        first = 1 if self._guest else os.getpid()
        found = descendants(first, most=MAX_PROCESSES, leaves=[one.pid for one in crowds])
        total = len(found)
        for one in crowds:
            members = self._runtime.processes(one)
            found += [pid for pid in members if pid not in found][:_SHARE]
            total += len(members) - 1
        # What is made ahead is nobody's yet.
        waiting = {*self._runtime.starter.readiness.pids, *self._runtime.spares.pids}
        waiting |= {job.pid for job in self._server.jobs.values() if job.hidden}
        others = [] if self._guest else [1, notebook_pid]
        shown = [pid for pid in (*filter(None, others), *found) if pid not in waiting]
        return shown, total + len(others) - len(waiting.intersection(found))

    # -- parts

    def _part(self, part: str, node: str) -> Json:
        agent_pid = os.getpid()
        running = self._running()
        places: list[tuple[str, str | None, int]]
        places = [(node, None, agent_pid), *((one.name, one.name, one.pid) for one in running)]
        if part == "mounts":
            return mount_spaces(places)
        if part == "network":
            return self._network(places)
        if self._guest:
            return socket_spaces([(*place, self._holders(place[1])) for place in places])
        found = socket_spaces([(*place, self._holders(place[1])) for place in places[1:]])
        reason = "a host's own sockets are other people's too"
        return found | {"missing": {"spaces[]": reason}}

    def _holders(self, container: str | None) -> Iterable[int]:
        if container is None:
            return descendants(1, most=_CROWD, leaves=[one.pid for one in self._running()])
        return self._runtime.processes(self._runtime.get(container))

    def _network(self, places: list[tuple[str, str | None, int]]) -> Json:
        spaces = [{"name": name, "container": container, **network_space(pid)} for name, container, pid in places]
        networks = self._runtime.networks
        if helper_pid := networks.place_pid:
            spaces.insert(1, {"name": "bridges", "container": None, **network_space(helper_pid)})
        return {
            "spaces": spaces,
            "bridges": [networks.inspect(one["name"]) for one in networks.list()],
            "units": LINK_UNITS,
        }


def _size(containers: list[Json], name: str) -> int:
    """Return how many processes and threads a container has, by its group; 0 where nobody counts."""
    return next((one["pids"]["current"] or 0 for one in containers if one["name"] == name), 0)
