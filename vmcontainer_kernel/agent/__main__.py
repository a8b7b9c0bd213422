"""Start a host's agent: ``--fd N --run FOLDER --images FOLDER --spares 0|1``. A guest's begins in `guest.main`."""

from __future__ import annotations

import gc
import os
import sys
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


def main(arguments: list[str]) -> None:
    """Serve until the other side is gone."""
    if Path("/proc/self/comm").exists():
        Path("/proc/self/comm").write_text("vmc-agent")
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    folder, images = Path(options["--run"]), Path(options["--images"])
    _serve(int(options["--fd"]), folder, images, spares=options["--spares"] == "1")


def _serve(fd: int, folder: Path, images: Path, *, spares: bool) -> None:
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
        NodeVerbs(server, lambda: runtime, guest=False)
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


if __name__ == "__main__":
    main(sys.argv[1:])
