"""Live views of a virtual machine and of a Linux kernel.

They draw the JSON views of ``docs/architecture.md`` and know nothing else. `HypervisorView` and `KernelView` are
imported when first asked for, so that `static_html` and `static_text` cost no widget library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .static import static_html, static_text

if TYPE_CHECKING:
    from .views import HypervisorView, KernelView

__all__ = ["HypervisorView", "KernelView", "static_html", "static_text"]


def __getattr__(name: str) -> Any:
    """Import the widget classes late (PEP 562): anywidget takes about 0.2 s."""
    if name not in ("HypervisorView", "KernelView"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import views

    return getattr(views, name)
