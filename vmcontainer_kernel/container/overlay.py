"""The overlay: image layers below, which are shared and never written, and the container's own folder for what it
writes.
"""

# Plain system calls: a path object costs a forked child copied pages, and hides which call it is.
# ruff: noqa: PTH102

from __future__ import annotations

import errno
import os

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.step import Scene
from vmcontainer_kernel.errors import ContainerError

__all__ = ["Overlay", "overlay_data"]

_PAGE_BYTES = 4096


def overlay_data(layers: tuple[str, ...], upper: str, work: str, *, user_namespace: bool = False) -> str:
    """Return the overlay's options; `layers` from the lowest up (overlayfs.rst: leftmost is topmost)."""
    lower = ":".join(_escape(layer) for layer in reversed(layers))
    # volatile (Linux 5.10): without it the end of the container flushes the node's whole disk; this upper layer need
    # not survive a crash.
    data = f"lowerdir={lower},upperdir={_escape(upper)},workdir={_escape(work)},volatile"
    if user_namespace:
        data += (
            ",userxattr"  # only the node's root may write the trusted.* attributes that overlayfs keeps its marks in
        )
    if len(data) >= _PAGE_BYTES:
        raise ContainerError(
            f"{len(layers)} layers need more than the {_PAGE_BYTES} bytes mount(2) takes",
            hint="use an image with fewer layers, or a shorter cache path (VMCONTAINER_CACHE)",
            where="overlay",
        )
    return data


def _escape(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\:," else letter for letter in path)


class Overlay(Record):
    """One container's root: `bundle` holds the folders upper and work, `root` is where it appears."""

    bundle: str
    root: str
    layers: tuple[str, ...]
    user_namespace: bool

    def data(self, folder: str) -> str:
        """Return the mount options with upper and work in `folder`."""
        return overlay_data(self.layers, f"{folder}/upper", f"{folder}/work", user_namespace=self.user_namespace)

    def mount(self, scene: Scene) -> None:
        """Mount it; where the bundle's own file system cannot be an upper layer, write to memory instead."""
        try:
            linux.mount("overlay", self.root, "overlay", linux.MS_NODEV, self.data(self.bundle))
            scene.root = self.root
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._mount_in_memory(scene)

    def _mount_in_memory(self, scene: Scene) -> None:
        """Put upper and work on a tmpfs of this mount namespace: the bundle is on an overlay itself, as inside another
        container.

        What the container writes is then gone when it stops.
        """
        linux.mount("tmpfs", self.root, "tmpfs", linux.MS_NODEV, "mode=755")
        for name in ("upper", "work", "root"):
            os.mkdir(f"{self.root}/{name}", 0o755)
        scene.root = f"{self.root}/root"
        linux.mount("overlay", scene.root, "overlay", linux.MS_NODEV, self.data(self.root))
