"""A container's way into a network and out of it again, in the words of its options."""

from __future__ import annotations

import contextlib

from vmcontainer_kernel.container.container import Container
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.errors import LabError

__all__ = ["connect", "disconnect", "write_names"]


def write_names(networks: Networks, container: Container) -> None:
    """Write the files that its configuration mounts: /etc/hosts and its like; before the start."""
    options = container.options
    if options.named:
        hostname = options.hostname or container.name
        networks.prepare(container.name, hostname, options.network, extra_hosts=options.add_host)


def connect(networks: Networks, container: Container, pid: int) -> None:
    """Connect the network namespace of process `pid`, its first one; before the program runs."""
    options = container.options
    container.endpoint = networks.attach(
        container.name, pid, options.network, aliases=options.network_alias, publish=options.publish
    )


def disconnect(networks: Networks, container: Container) -> None:
    """Take it out, as its namespace has ended or never came to be."""
    container.endpoint = None
    if container.options.named:
        with contextlib.suppress(LabError, OSError):  # it ends with the helper of networks at the latest
            networks.detach(container.name)
