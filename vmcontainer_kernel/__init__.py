"""Virtual machines and containers in notebook cells: ``%load_ext vmcontainer_kernel``."""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which costs a container runtime's command a third of its time to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["__version__", "load_ipython_extension", "unload_ipython_extension"]

__version__ = "0.1.0"


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics; a second ``%load_ext`` changes nothing. Heavy libraries are imported when first used."""
    from .magics import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """End everything this notebook started."""
    from .magics import unload

    unload(ipython)
