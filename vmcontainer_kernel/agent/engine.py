"""A guest's container engine, with the verbs that reach it: imported, as all below it, when one is first asked for.

Under emulation its ninety modules take as long to import as all the rest of a boot after the kernel's. A template has
them imported before it is saved (`guest.GuestVerbs.settle`), so no clone waits for them.
"""

from __future__ import annotations

from pathlib import Path

from ..container.cgroups import Cgroups
from ..container.images import Store
from ..container.runtime import Runtime
from ..container.volumes import Volumes
from .containers import ContainerVerbs
from .copies import GuestCopyVerbs
from .server import Server

__all__ = ["guest_engine"]

GUEST_RUN = "/run/vmcontainer"
GUEST_IMAGES = "/usr/share/vmcontainer/images"
GUEST_VOLUMES = "/var/lib/vmcontainer/volumes"
_SESSION = "guest"


def guest_engine(server: Server) -> Runtime:
    """Make the engine and add its verbs to a guest's server."""
    cgroups, volumes = Cgroups.detect(_SESSION), Volumes(Path(GUEST_VOLUMES))
    store = Store(GUEST_IMAGES, unpacked=f"{GUEST_RUN}/layers")  # the root is an overlay, /run is memory
    runtime = Runtime(Path(GUEST_RUN), store, session=_SESSION, cgroups=cgroups, volumes=volumes, guest=True)
    ContainerVerbs(server, runtime)
    GuestCopyVerbs(server)
    return runtime
