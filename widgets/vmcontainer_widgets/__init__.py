"""Live views of a virtual machine and of a Linux kernel.

They draw the JSON views of ``docs/architecture.md`` and know nothing else. Their classes are imported when first asked
for, so that `static_html` and `static_text` cost no widget library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .still import static_html, static_text

__all__ = ["static_html", "static_text"]

_MODULES = {"Replay": "replaying", "View": "view", "replay_html": "replaying"}


def __getattr__(name: str) -> Any:
    """Import the widget classes late (PEP 562): anywidget takes about 0.2 s."""
    if name not in _MODULES and not (name.endswith("View") and name[0].isupper()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES.get(name, 'views')}", __name__), name)
