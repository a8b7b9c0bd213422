"""When a limit strikes: a descriptor to wait on with all others, instead of reading counters again and again.

memory  v1  an eventfd that cgroup.event_control is told of, with memory.oom_control (cgroup-v1/memory.rst)
        v2  memory.events tells of a change by poll(2)'s POLLPRI, until it is read again
pids    v1  does not tell: `polled` names what must be read from time to time
        v2  pids.events, as memory.events
"""

from __future__ import annotations

import contextlib
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmcontainer_kernel.container.cgroups.group import Cgroup

__all__ = ["Watch"]

_EVENTS = {"oom_kills": "memory", "pids_denied": "pids"}


class Watch:
    """`fd` is readable when a limit may have struck; then `read` says how often each did.

    `polled`: the names of those events of which this kernel does not tell.
    """

    def __init__(self, group: Cgroup) -> None:
        self._group = group
        self._told: list[int] = []
        self._eventfds: list[int] = []
        self._seen = dict.fromkeys(_EVENTS, 0)
        self._epoll = select.epoll()
        polled = []
        try:
            for key, controller in _EVENTS.items():
                if group.versions.get(controller) == 2:
                    self._await_change(f"{group.paths[controller]}/{controller}.events")
                elif controller == "memory" and controller in group.paths:
                    self._await_oom(group.paths[controller])
                else:
                    polled.append(key)
        except BaseException:
            self.close()
            raise
        self.polled = tuple(polled)

    @property
    def fd(self) -> int:
        """The descriptor for select(2), poll(2) or epoll(7)."""
        return self._epoll.fileno()

    def _await_change(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._told.append(fd)
        os.read(fd, 4096)  # what was before is no news
        self._epoll.register(fd, select.EPOLLPRI)

    def _await_oom(self, folder: str) -> None:
        eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._eventfds.append(eventfd)
        control = os.open(f"{folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            registration = os.open(f"{folder}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(registration, f"{eventfd} {control}".encode())
            finally:
                os.close(registration)
        finally:
            os.close(control)
        self._epoll.register(eventfd, select.EPOLLIN)

    def read(self) -> dict[str, int]:
        """Return the counts of `Cgroup.events` and wait anew; those of a group that is gone are the last ones."""
        for fd in self._told:
            with contextlib.suppress(OSError):  # ENODEV: the group is gone
                os.lseek(fd, 0, os.SEEK_SET)
                os.read(fd, 4096)
        for fd in self._eventfds:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
        with contextlib.suppress(OSError):
            found = self._group.events()
            self._seen = {key: max(count, found[key]) for key, count in self._seen.items()}
        return dict(self._seen)

    def close(self) -> None:
        """Close all descriptors; the kernel forgets a registered eventfd with the last one."""
        self._epoll.close()
        for fd in (*self._told, *self._eventfds):
            os.close(fd)
        self._told, self._eventfds = [], []
