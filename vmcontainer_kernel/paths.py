"""Where things are kept: the cache (may be deleted any time) and the run folder (gone with its session). In the cache,
volumes/ holds the named volumes and disks/ the named disks, which nothing can make again.

cache/  volumes/  disks/  images/  guests/  templates/  probes/      $VMCONTAINER_CACHE or $XDG_CACHE_HOME/vmcontainer
run/    SESSION/  lock  containers/  machines/      $VMCONTAINER_RUN or /run/vmcontainer (root),
                                                    $XDG_RUNTIME_DIR/vmcontainer, /tmp/vmcontainer-UID
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import HostError

__all__ = ["cache_dir", "run_dir"]


def cache_dir(name: str = "") -> Path:
    """Return the cache folder or a part of it, made if needed (XDG Base Directory Specification)."""
    base: str | Path = os.environ.get("VMCONTAINER_CACHE", "")
    if not base:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vmcontainer")
    path = Path(base, name)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        hint = "set VMCONTAINER_CACHE to a folder that you can write"
        raise HostError(f"the cache folder {path} cannot be made: {error.strerror}", hint=hint) from error
    return path


def run_dir() -> Path:
    """Return the folder that holds one folder for each live session, made if needed; private to this user."""
    base = os.environ.get("VMCONTAINER_RUN")
    if not base and os.geteuid() == 0:
        base = "/run/vmcontainer"
    elif not base and os.environ.get("XDG_RUNTIME_DIR"):
        base = f"{os.environ['XDG_RUNTIME_DIR']}/vmcontainer"
    path = Path(base or f"/tmp/vmcontainer-{os.geteuid()}")
    hint = "set VMCONTAINER_RUN to a folder of your own"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise HostError(f"the run folder {path} cannot be made: {error.strerror}", hint=hint) from error
    if path.stat().st_uid != os.geteuid():
        raise HostError(f"the run folder {path} belongs to another user", hint=hint)
    return path
