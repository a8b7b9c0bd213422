"""Unpacking a gzip layer of 100 MB beside ``tar -xzf``: from the compressed file to the whole tree.

Ours checks the digests of both archives and reaches every file by descriptors; tar does neither.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from tests.benchmarks.measure import Row, Series
from vmcontainer_kernel.container.images import LAYER_TYPE, Image, Store

LAYER_BYTES = 100 << 20
SMALL_BYTES = 64 << 10
GOAL = 1.3


def system_files(*, small: bool) -> Iterator[Path]:
    """Give files of this computer's programs and libraries: the small ones by name, or the large ones by size."""
    found = [path for path in Path("/usr").glob("[ls][ih][ba]*/**/*") if path.is_file() and not path.is_symlink()]
    sizes = {path: path.stat().st_size for path in found}
    if small:
        return iter(sorted(path for path in found if sizes[path] < SMALL_BYTES))
    return iter(sorted((path for path in found if sizes[path] >= 16 * SMALL_BYTES), key=lambda path: -sizes[path]))


def make_layer(store: Store, name: str, *, small: bool) -> Image:
    """Put an image of one layer into the store: as many files as make a gzip archive of its size."""
    import gzip
    import hashlib
    import tarfile

    digest = hashlib.sha256()

    class Both:
        def write(self, data: bytes) -> int:
            digest.update(data)
            return packed.write(data)

    files = system_files(small=small)
    with (
        store.new_blob(LAYER_TYPE + "+gzip") as blob,
        gzip.GzipFile(fileobj=blob, mode="wb", compresslevel=6, mtime=0) as packed,  # type: ignore[call-overload]
        tarfile.open(fileobj=Both(), mode="w|") as archive,  # type: ignore[call-overload]
    ):
        while blob.blob.size_bytes < LAYER_BYTES and (some := [*islice(files, 50 if small else 1)]):
            for path in some:
                archive.add(path, path.relative_to("/"), recursive=False)
    config = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]}}
    return store.add(name, config, [blob.blob])


def time_ms(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return (time.perf_counter() - begin_s) * 1e3


def rows(rounds: int) -> list[Row]:
    """Unpack two layers in turns with tar."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "store"))
        return [
            row
            for name, small in (("many small files", True), ("few large files", False))
            for row in _rows(store, make_layer(store, name.replace(" ", "-"), small=small), name, Path(folder), rounds)
        ]


def _rows(store: Store, image: Image, name: str, folder: Path, rounds: int) -> list[Row]:
    ours, tars = Series(), Series()
    (place,) = store.layer_paths(image)
    tree = folder / "tree"
    command = ["tar", "-xzf", str(store.blob_path(image.layers[0].digest)), "-C", str(tree)]
    for _ in range(rounds):
        os.sync()  # what one has written is not to be the other's burden
        tree.mkdir()
        tars.take(lambda: time_ms(lambda: subprocess.run(command, check=True)))
        shutil.rmtree(tree)
        os.sync()
        ours.take(lambda: time_ms(lambda: store.rootfs_layers(image)))
        shutil.rmtree(place)
    size = f"{image.layers[0].size_bytes / 1e6:.0f} MB"
    return [Row(f"unpacking {size}, {name}", ours, ("tar -xzf", tars), GOAL), Row("  tar -xzf", tars)]


if __name__ == "__main__":
    for line in rows(3):
        print(line.text())
