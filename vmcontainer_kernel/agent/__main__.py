"""Start an agent: ``--fd N --run FOLDER --images FOLDER`` on the host, ``--guest`` as PID 1 of a guest."""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from ..container.cgroups import Cgroups
from ..container.ids import Steward
from ..container.images import Store
from ..container.ladder import GUEST, Footing, losses
from ..container.runtime import Runtime
from ..container.trial import find_footing
from ..container.volumes import Volumes
from .channel import Channel
from .containers import ContainerVerbs
from .server import Server
from .verbs import NodeVerbs

__all__ = ["main"]

GUEST_IMAGES = "/usr/share/vmcontainer/images"
GUEST_VOLUMES = "/var/lib/vmcontainer/volumes"
_RECONNECT_S = 10.0


def main(arguments: list[str]) -> None:
    """Serve until the other side is gone."""
    _name_process("vmc-agent")
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if arguments[:1] == ["--guest"]:
        _guest()
    else:
        _host(
            int(options["--fd"]), Path(options["--run"]), Path(options["--images"]), spares=options["--spares"] == "1"
        )


def _name_process(name: str) -> None:
    Path("/proc/self/comm").write_text(name) if Path("/proc/self/comm").exists() else None


def _host(fd: int, folder: Path, images: Path, *, spares: bool) -> None:
    from . import supervisor
    from .cage import CageVerbs

    supervisor.isolate()
    lock_fd = supervisor.lock(folder)
    session = folder.name
    footing = find_footing(images.parent / "probes")
    steward = Steward(footing.ids)
    supervisor.sweep(folder.parent, session, steward)
    # Beside the images: a volume outlives the session.
    volumes = Volumes(images.parent / "volumes", steward)
    cgroups, store = Cgroups.detect(session), Store(images, steward)
    runtime = Runtime(folder, store, session=session, cgroups=cgroups, volumes=volumes, footing=footing)
    try:
        server = Server(Channel(fd, passes_fds=True), _facts(footing))
        NodeVerbs(server, runtime, guest=False)
        ContainerVerbs(server, runtime, spares=spares)
        CageVerbs(server, cgroups)
        gc.freeze()  # a child that is cloned from here must not copy pages by collecting garbage
        server.run()
    finally:
        supervisor.end(runtime, folder)
        os.close(lock_fd)


def _facts(footing: Footing) -> dict[str, Any]:
    """Return what the other side is told first; `losses`: what containers lack here, for the user to know."""
    found = [] if footing.rung == GUEST.name else losses(footing, Cgroups.missing_reason())
    return {"node": "host", "pid": os.getpid(), "losses": found}


class GuestServer(Server):
    """A server whose channel may end for a moment: a clone is connected before it wakes."""

    def lost(self) -> bool:
        """Wait for the host a while; a guest without a host is of no use to anybody."""
        deadline = time.monotonic() + _RECONNECT_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if self._connected():
                return True
        return False

    def _connected(self) -> bool:
        """Tell whether the host has opened its end; else a virtio port hangs up (drivers/char/virtio_console.c)."""
        poll = select.poll()
        poll.register(self.channel.fd, 0)
        return not any(event & select.POLLHUP for _, event in poll.poll(0))


def _guest() -> None:
    from . import guest

    guest.set_up()
    _name_process("vmc-agent")
    session = "guest"
    runtime = Runtime(
        Path("/run/vmcontainer"),
        Store(GUEST_IMAGES),
        session=session,
        cgroups=Cgroups.detect(session),
        volumes=Volumes(Path(GUEST_VOLUMES)),
        guest=True,
    )
    server = GuestServer(Channel(guest.open_port(), passes_fds=False), {"node": "guest", "release": os.uname().release})
    NodeVerbs(server, runtime, guest=True)
    ContainerVerbs(server, runtime)
    guest.GuestVerbs(server)
    gc.freeze()
    server.run()
    guest.power_off()


if __name__ == "__main__":
    main(sys.argv[1:])
