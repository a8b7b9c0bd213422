"""A recording, from its file to its view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ["replay_view"]


def replay_view(name: str, language: str) -> Any:
    """Return a view that replays the recording in a file. Raises UserError if it cannot be read or is none."""
    from vmcontainer_widgets import Replay
    from vmcontainer_widgets.recording import read_recording
    from vmcontainer_widgets.views import VIEWS

    try:
        recording = read_recording(Path(name), frozenset(VIEWS))
    except (OSError, ValueError) as failure:
        error = getattr(failure, "strerror", None) or failure
        raise UserError(f"{name} cannot be replayed: {error}", hint="a view's Record button makes such files") from None
    return Replay(recording, language)
