"""Live views: what each shows, where that comes from, and what its buttons do.

base.py joins a view of `vmcontainer_widgets` to a `Source`; every other module here makes one source and its view.
"""

from .base import Rendered
from .images import image_view
from .kernel import kernel_view
from .lab import lab_view
from .machine import machine_view
from .nesting import nesting_view
from .network import network_view
from .screen import screen_view
from .terminal import container_terminal, guest_terminal, serial_terminal
from .timeline import timeline_view

__all__ = [
    "Rendered",
    "container_terminal",
    "guest_terminal",
    "image_view",
    "kernel_view",
    "lab_view",
    "machine_view",
    "nesting_view",
    "network_view",
    "screen_view",
    "serial_terminal",
    "timeline_view",
]
