"""Images made by strangers: a layer that leads out of its folder, and a blob that is not what its name says.

Each is tried on the store, and on an unpacker that does what the store's does not, so that the attack is known to work.
More hostile layers, and their names in the errors, are in tests/unit/test_container_images.py.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.unit.test_container_images import image_of, tar
from vmcontainer_kernel.container.images import LAYER_TYPE, Store
from vmcontainer_kernel.container.images import store as stores
from vmcontainer_kernel.container.images.store import Blob
from vmcontainer_kernel.container.images.unpack import Unpacked
from vmcontainer_kernel.errors import ImageError

LINK = {"type": tarfile.SYMTYPE}


def by_path_strings(archive: bytes, folder: Path) -> None:
    """Unpack as programs do that put a folder and a name together and open that."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.issym():
                path.symlink_to(entry.linkname)
            elif entry.islnk():
                path.hardlink_to(folder / entry.linkname)
            elif entry.isdir():
                path.mkdir()
            else:
                path.write_bytes(entries.extractfile(entry).read())  # type: ignore[union-attr]


def through_a_link(outside: Path) -> bytes:
    """A link out of the folder, then a file through it: what checks of names alone do not see."""
    return tar(("l", LINK | {"linkname": str(outside)}), ("l/made", {"data": b"attacked"}))


def past_the_longest_path(outside: Path) -> bytes:
    """Links through folders so deep that what resolves paths gives up at PATH_MAX, and takes the rest of the name for
    harmless: CVE-2025-4517, with a hard link to write the file behind it, and CVE-2025-4138.
    """
    name, letters = "d" * 247, "abcdefghijklmnop"
    entries: list[tuple[str, dict[str, Any]]] = []
    place = ""
    for letter in letters:
        entries += [(f"{place}{name}", {"type": tarfile.DIRTYPE}), (f"{place}{letter}", LINK | {"linkname": name})]
        place += f"{name}/"
    back = "/".join([*letters, "l" * 254])
    entries.append((back, LINK | {"linkname": "../" * len(letters)}))
    entries.append(("escape", LINK | {"linkname": f"{back}/{'../' * 30}{str(outside).lstrip('/')}"}))
    entries.append(("escape/made", {"data": b"attacked"}))
    return tar(*entries)


@pytest.mark.parametrize("make", [through_a_link, past_the_longest_path])
def test_a_layer_that_leads_out(tmp_path: Path, make: Any) -> None:
    """Entries are reached by descriptors, one name at a time, and no link is ever followed."""
    outside, naive = tmp_path / "outside", tmp_path / "naive"
    outside.mkdir()
    naive.mkdir()
    archive = make(outside)
    store = Store(tmp_path / "store")
    with pytest.raises(ImageError, match="leads through a link"):
        store.rootfs_layers(image_of(store, archive))
    assert [*outside.iterdir()] == []
    with contextlib.suppress(OSError):
        by_path_strings(archive, naive)
    assert [path.name for path in outside.iterdir()] == ["made"]


def test_a_blob_that_was_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob is what its digest and size say (CVE-2021-41190 is what comes of believing names); so is what is in it."""
    good, bad = (tar(("f", {"data": data})) for data in (b"good", b"evil"))
    store = Store(tmp_path)
    image = image_of(store, good)
    store.blob_path(image.layers[0].digest).write_bytes(bad)
    with pytest.raises(ImageError, match="is damaged"):
        store.rootfs_layers(image)

    @contextlib.contextmanager
    def trusting(self: Store, blob: Blob) -> Iterator[Any]:
        with self.blob_path(blob.digest).open("rb") as stream:
            yield stream

    monkeypatch.setattr(Store, "open_blob", trusting)
    with pytest.raises(ImageError, match="not what the configuration says"):
        store.rootfs_layers(image)

    def believing(stream: IO[bytes], kind: str, folder: Path, **limits: Any) -> Unpacked:
        return unpack(stream, kind, folder, **limits).replace(diff_id=image.diff_ids[0])

    unpack = stores.unpack
    monkeypatch.setattr(stores, "unpack", believing)
    (layer,) = store.rootfs_layers(image)
    assert (layer / "f").read_bytes() == b"evil"


def test_a_size_that_is_a_lie(tmp_path: Path) -> None:
    """Fewer bytes than the manifest says, or more: refused before anything is read of them."""
    store = Store(tmp_path)
    image = image_of(store, tar(("f", {"data": b"x"})))
    layer = image.layers[0]
    for size_bytes in (layer.size_bytes - 1, layer.size_bytes + 1):
        lie = image.replace(layers=(Blob(LAYER_TYPE, layer.digest, size_bytes),))
        with pytest.raises(ImageError, match=f"bytes, not {size_bytes}"):
            store.rootfs_layers(lie)
