"""Let an ordinary user reach a test's folder: pytest's own folders are private to who runs it."""

from __future__ import annotations

import stat
from pathlib import Path

__all__ = ["open_to_all"]


def open_to_all(folder: Path) -> None:
    """Let everybody read the folder and pass those above it that are private; others, as /tmp, stay as they are."""
    folder.chmod(0o755)
    for above in folder.parents:
        mode = stat.S_IMODE(above.stat().st_mode)
        if not mode & stat.S_IXOTH:
            above.chmod(mode | 0o055)
