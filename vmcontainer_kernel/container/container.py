"""A container as the runtime keeps it, and the documents that show it: OCI state, inspection, its part of the kernel
view.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.cgroups import Cgroup
from vmcontainer_kernel.container.images import Image
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.reports import exit_status
from vmcontainer_kernel.container.spec import Spec

__all__ = ["Container", "events", "inspect", "state", "stats", "view"]

_METERS = ("memory", "cpu", "pids", "io", "hugepages", "pressure")


@dataclass
class Container:
    """A container of this runtime: what it was made of, and what has become of it.

    `status`: created, running or stopped; `paused`: frozen while running;
    `restarting`: stopped, and to be started again. `wait_status`: as `os.waitpid` gave it.
    `signalled`: the signal that `kill` had to turn into SIGKILL because PID 1 of a namespace is deaf to signals it has
    no handler for (pid_namespaces(7)).
    """

    name: str
    id: str
    image: Image
    config: dict[str, Any]
    spec: Spec
    bundle: Path
    home: str = "/"
    cgroup: Cgroup | None = None
    status: str = "created"
    pid: int = 0
    started_s: float | None = None
    wait_status: int | None = None
    signalled: int | None = None
    gate_fd: int = -1
    layers: list[Path] = field(default_factory=list)
    options: Options = field(default_factory=Options)
    warnings: tuple[str, ...] = ()
    paused: bool = False
    restarting: bool = False
    work_used: bool = False
    endpoint: dict[str, Any] | None = None
    created_s: float = field(default_factory=time.time)
    finished_s: float | None = None
    restarts: int = 0
    health: str = ""
    steps_ms: list[tuple[str, float]] = field(default_factory=list)

    @property
    def shown_status(self) -> str:
        """The status as users read it: ``paused`` and ``restarting`` are none of the specification's four."""
        if self.status == "running":
            return "paused" if self.paused else "running"
        return "restarting" if self.restarting else self.status


def state(container: Container) -> dict[str, Any]:
    """Return the OCI state (runtime.md, "State")."""
    return {
        "ociVersion": container.config["ociVersion"],
        "id": container.id,
        "status": container.shown_status,
        "pid": container.pid if container.status == "running" else 0,
        "bundle": str(container.bundle),
        "annotations": dict(container.spec.annotations),
    }


def inspect(container: Container) -> dict[str, Any]:
    """Return all that is known of a container: its configuration, state, image, groups, use and exit."""
    image = container.image
    return {
        "name": container.name,
        "state": state(container),
        "config": container.config,
        "image": {"name": image.name, "digest": image.digest, "size_bytes": image.size_bytes},
        "cgroup": dict(container.cgroup.paths) if container.cgroup else None,
        "stats": stats(container),
        "events": events(container),
        "created_s": container.created_s,
        "started_s": container.started_s,
        "finished_s": container.finished_s,
        "exit_status": None if container.wait_status is None else exit_status(container.wait_status),
        "restarts": container.restarts,
        "health": container.health or None,
        "network": container.endpoint,
        "steps": [{"step": step, "ms": ms} for step, ms in container.steps_ms],
    }


def view(container: Container, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the container's part of the kernel view (docs/architecture.md, ``containers[]``).

    `before`: its part a moment ago, of which only what changes all the time is read again.
    """
    head = {
        "name": container.name,
        "id": container.id,
        "status": container.shown_status,
        "pid": container.pid if container.status == "running" else None,
        "image": container.image.name,
        "started_s": container.started_s,
        "exit_status": None if container.wait_status is None else exit_status(container.wait_status),
        "health": container.health or None,
    }
    return head | stats(container, before)


def stats(container: Container, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return memory, cpu and pids use and limits; None where nothing is counted, as before the start."""
    if container.cgroup is not None:
        with contextlib.suppress(FileNotFoundError):
            kept = {name: before[name] for name in _METERS} if before else None
            return container.cgroup.stats(kept)
    return Cgroup(container.name, {}, {}).stats()


def events(container: Container) -> dict[str, int]:
    """Return how often limits struck: oom_kills, pids_denied."""
    if container.cgroup is not None:
        with contextlib.suppress(FileNotFoundError):
            return container.cgroup.events()
    return {"oom_kills": 0, "pids_denied": 0}
