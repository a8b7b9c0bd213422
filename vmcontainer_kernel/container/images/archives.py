"""Images in files: OCI layouts and archives of them, and the archives that ``docker save`` writes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.images import shelf
from vmcontainer_kernel.container.images.compression import uncompressed
from vmcontainer_kernel.container.images.store import REF_NAME, Image, Store
from vmcontainer_kernel.container.images.tarball import Tape, entries
from vmcontainer_kernel.container.images.transport import Progress, bring, run_skopeo, silent
from vmcontainer_kernel.errors import ImageError, UserError

__all__ = ["FORMATS", "export_image", "import_images"]

FORMATS = ("oci-archive", "docker-archive")
_MAGIC = {b"\x1f\x8b": ".tar+gzip", b"\x28\xb5": ".tar+zstd"}
_DOCUMENT_BYTES = 4 << 20
_MAX_BYTES, _MAX_ENTRIES = 64 << 30, 100_000


def import_images(store: Store, path: Path, *, name: str = "", progress: Progress = silent) -> list[Image]:
    """Take the images out of an OCI layout (a folder), an OCI archive or an archive of ``docker save``; return them.

    Each keeps its name; `name` names the only one. The archive may be compressed with gzip or zstd. Raises `ImageError`
    for a file that is none of these.
    """
    links = {"source": path}
    found = _in_folder(path) if path.is_dir() else _in_archive(path)
    if name and len(found) != 1:
        raise UserError(f"{path} holds {len(found)} images, so one name is not enough")
    names = [shelf.full_name(name or _familiar(own)) if name or own else "" for _, own in found]
    if "" in names:
        raise UserError(f"{path} does not name its image", hint="give it a name")
    return [
        bring(store, source, own, what=str(path), links=links, progress=progress)
        for (source, _), own in zip(found, names, strict=True)
    ]


def _familiar(name: str) -> str:
    """Shorten a name of Docker Hub, as Docker itself shows it."""
    return name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name


def _in_folder(path: Path) -> list[tuple[str, str]]:
    index = Store(path).index()
    if not index:
        raise ImageError(f"{path} is no OCI image layout", hint="it has no index.json", where=str(path))
    return _in_index("oci", index)


def _in_index(transport: str, index: list[Any]) -> list[tuple[str, str]]:
    """Return what skopeo calls each image of an index, and the image's name."""
    names = [str((one.get("annotations") or {}).get(REF_NAME, "")) for one in index if isinstance(one, dict)]
    if len(names) > 1 and "" in names:
        raise ImageError("the layout has several images, and not all have names", hint="name them with skopeo copy")
    return [(f"{transport}:source:{name}" if name else f"{transport}:source", name) for name in names]


def _in_archive(path: Path) -> list[tuple[str, str]]:
    documents = _documents(path)
    if "manifest.json" in documents:
        images = documents["manifest.json"]
        if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
            raise ImageError(f"{path}: manifest.json lists no images", where=str(path))
        return [
            (f"docker-archive:source:{tag}" if tag else f"docker-archive:source:@{number}", str(tag))
            for number, image in enumerate(images)
            for tag in image.get("RepoTags") or [""]
        ]
    if "index.json" in documents:
        index = documents["index.json"]
        return _in_index("oci-archive", index.get("manifests") or [] if isinstance(index, dict) else [])
    raise ImageError(
        f"{path} is no archive of images", hint="it has neither manifest.json nor index.json", where=str(path)
    )


def _documents(path: Path) -> dict[str, Any]:
    """Read the two documents that tell what an archive is."""
    import hashlib

    try:
        with path.open("rb") as file:
            media_type = _MAGIC.get(file.read(2), ".tar")
            file.seek(0)
            with uncompressed(file, media_type, _MAX_BYTES, hashlib.sha256()) as chunks:
                return _wanted(Tape(chunks), path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


def _wanted(tape: Tape, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry, data in entries(tape, _MAX_ENTRIES):
        name = entry.name.removeprefix(b"./").decode(errors="replace")
        if name in ("manifest.json", "index.json") and entry.kind == "file" and entry.size <= _DOCUMENT_BYTES:
            try:
                found[name] = json.loads(data.take(entry.size))
            except ValueError as error:
                raise ImageError(f"{path}: {name} is no JSON: {error}", where=str(path)) from error
    return found


def export_image(store: Store, reference: str, path: Path, *, format: str = "oci-archive") -> None:
    """Write an image to a file in one of `FORMATS`; `docker load` and `podman load` read both. A file that is there is
    replaced, when the new one is whole.
    """
    if format not in FORMATS:
        raise UserError(f"there is no format {format}", hint=f"there are: {' '.join(FORMATS)}")
    image = store.resolve(reference)
    if image.name.startswith("sha256:"):
        raise UserError(f"{reference} has no name", hint="name it first: %container tag")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
        Path(folder, "store").symlink_to(store.path.absolute())
        target = f"{format}:image:{image.name}"
        # Compressed on its way, a layer is another blob: the image that comes back would have another digest.
        as_it_is = ["--preserve-digests"] if format == "oci-archive" else []
        source = f"oci:store:{image.name}"
        run_skopeo(["copy", "--quiet", *as_it_is, source, target], what=reference, folder=Path(folder))
        Path(folder, "image").replace(path)
