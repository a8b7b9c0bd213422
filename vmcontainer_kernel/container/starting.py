"""From a container that is prepared to its first process, and to more processes in it: the parent's part.

plan ──▶ a child of ours, or of the process that is ready ──▶ groups, network, hooks, filter's agent ──▶ Launch
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from vmcontainer_kernel.container import connections, hooks, linux
from vmcontainer_kernel.container import container as observed
from vmcontainer_kernel.container.birth import adopt, bear, is_plain
from vmcontainer_kernel.container.cgroups import Cgroups
from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.entering import enter_child, enter_step
from vmcontainer_kernel.container.launch import Gate, Stdio
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.container.planning import begun, exec_plan, plan
from vmcontainer_kernel.container.ready import Entered, Readiness, Ready, Recipe
from vmcontainer_kernel.container.reports import Launch, Stopwatch
from vmcontainer_kernel.container.seccomp.install import has_listener, pass_on, seccomp_steps, waiting_for
from vmcontainer_kernel.container.spec import Process
from vmcontainer_kernel.container.step import Step, explained

__all__ = ["Starter", "recipe_of"]


def recipe_of(container: Container, *, tty: bool) -> Recipe:
    """Return what makes the steps of a container's first process, wherever that is done."""
    spec, judged = container.spec, None
    if not has_listener(spec.linux.seccomp):
        # Compiled here, and the profile, which is long, left at home.
        judged = seccomp_steps(spec.linux.seccomp)
        spec = spec.replace(linux=spec.linux.replace(seccomp=None))
    layers, networked = tuple(str(path) for path in container.layers), container.options.networked
    group = container.cgroup
    return partial(plan, spec, str(container.bundle), layers, group, tty=tty, networked=networked, seccomp=judged)


class Starter:
    """Starts processes of containers; one waits ready for that (`ready`) if `readiness.make` was called."""

    def __init__(self, cgroups: Cgroups | None, networks: Networks) -> None:
        self._cgroups, self._networks = cgroups, networks
        self.readiness = Readiness()

    def start(self, container: Container, stdio: Stdio, *, tty: bool) -> tuple[Launch, int]:
        """Start the first process; return it and the descriptor for `launch.has_executed`."""
        return self._bear(container, recipe_of(container, tty=tty), stdio)

    def start_recipe(self, container: Container, recipe: Recipe, stdio: Stdio) -> tuple[Launch, int]:
        """Start a first process that executes other steps than the plan's."""
        return self._bear(container, recipe, stdio)

    def _bear(self, container: Container, recipe: Recipe, stdio: Stdio) -> tuple[Launch, int]:
        spec, bundle, group, note = container.spec, str(container.bundle), container.cgroup, Stopwatch()
        made = group is None or group.has_version_2  # born in it, so it must be there before
        if group and made:
            self._make_group(container, note)
        group_fd = group.open_for_birth() if group else -1

        def make_group() -> None:
            nonlocal made
            if not made:
                self._make_group(container, note)
            made = True

        def set_up(pid: int, gate: Gate) -> None:
            """Do the parent's part while the child mounts."""
            note("cloned")
            make_group()
            self._set_up(container, pid, gate, note)

        ready = self.readiness.take() if is_plain(spec) else None
        try:
            clone = ready.clone(recipe, meanwhile=make_group) if ready else None
            steps: Sequence[Step] = () if ready else recipe()
            launch, gate_fd = bear(spec, bundle, steps, stdio, set_up, group_fd=group_fd, clone=clone)
        finally:
            if group_fd >= 0:
                os.close(group_fd)
        group_told = (group.describe,) if group else ()
        explain = (partial(explained, partial(begun, spec)), *group_told, partial(explained, recipe))
        return launch.replace(way=_way(ready), marks=tuple(note.marks), explain=explain), gate_fd

    def _set_up(self, container: Container, pid: int, gate: Gate, note: Stopwatch) -> None:
        spec = container.spec
        if container.cgroup:
            adopt(spec, container.cgroup, pid)
            gate()
            note("adopted")
        if container.options.networked:
            connections.connect(self._networks, container, pid)
            gate()
            note("connected")

        def state() -> dict[str, Any]:
            return {**observed.state(container), "status": "creating", "pid": pid}

        hooks.answer(spec.hooks, gate, state, str(container.bundle))
        pass_on(spec.linux.seccomp, state, pid, gate.fd)

    def _make_group(self, container: Container, note: Stopwatch) -> None:
        if self._cgroups and container.cgroup:
            self._cgroups.make(container.cgroup)
            note("grouped")

    def enter(self, container: Container, extra: Process, stdio: Stdio, *, tty: bool) -> Launch:
        """Start one more process: same namespaces, same groups, own session and process group."""
        where, group = container.spec.linux, container.cgroup
        judged, user_namespace = seccomp_steps(where.seccomp), "user" in where.kinds
        recipe = partial(exec_plan, extra, user_namespace=user_namespace, tty=tty, seccomp=judged)
        flags = sum(linux.NAMESPACE_FLAGS[kind] for kind in where.kinds)
        set_up = waiting_for(where.seccomp, lambda: observed.state(container))
        ready = None if set_up else self.readiness.take()
        clone = partial(ready.clone, recipe, _nothing, Entered(flags, group)) if ready else None
        steps: Sequence[Step] = () if ready else recipe()
        launch = enter_child(flags, container.pid, steps, stdio, group, set_up=set_up, clone=clone)
        explain = (partial(explained, lambda: [enter_step(flags, group), *recipe()]),)
        return launch.replace(way=_way(ready), explain=explain)


def _way(ready: Ready | None) -> str:
    return "ready" if ready else "forked"


def _nothing() -> None:
    """There is nothing to do while the process is made."""
