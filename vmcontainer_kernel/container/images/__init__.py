"""Images: the store on disk, its layers, and where images come from and go to."""

from __future__ import annotations

from vmcontainer_kernel.container.images.store import LAYER_TYPE, REF_NAME, Blob, Image, Store

__all__ = ["LAYER_TYPE", "REF_NAME", "Blob", "Image", "Store"]
