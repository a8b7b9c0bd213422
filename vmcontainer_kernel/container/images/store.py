"""The image store: an OCI image layout on disk, which skopeo and umoci can read, plus each layer unpacked once.

    STORE/oci-layout  index.json  blobs/sha256/HEX      image-spec, image-layout.md
    STORE/unpacked/sha256/HEX/      a layer's files, whole or not there at all: a lower layer of the overlay.
                                    HEX is the digest of the uncompressed archive (its ``diff_id`` in the configuration)
    STORE/unpacked/ids-N/HEX/       the same for an ordinary user's containers, with owners from N on (`ids`)
    STORE/unpacked/notes/HEX        what could not be kept of it

A name leads to a manifest, the manifest to a configuration and layers; each blob is named by its own SHA-256, and that
is checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vmcontainer_kernel.container.files import room_bytes
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.container.images import documents
from vmcontainer_kernel.container.images.compression import uncompressed
from vmcontainer_kernel.container.images.documents import REF_NAME, Blob, blob_of, descriptor, name_of
from vmcontainer_kernel.container.images.tree import is_opaque
from vmcontainer_kernel.container.images.unpack import MAX_UNPACKED_BYTES, Unpacked, unpack
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.container.spec import User
from vmcontainer_kernel.errors import ImageError, NotFound

__all__ = ["LAYER_TYPE", "REF_NAME", "Blob", "Image", "NewBlob", "Store"]

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_INDEX_WAITS_S = (0.002, 0.01, 0.05, 0.2, 0.0)
_NESTED = 4  # an index may lead to an index (image-index.md); nobody writes more


class Image(Record):
    """A resolved image; `layers` from the lowest up, `diff_ids` their digests uncompressed, `size_bytes` is what its
    blobs take.
    """

    name: str
    digest: str
    config: dict[str, Any]
    layers: tuple[Blob, ...]
    diff_ids: tuple[str, ...]
    size_bytes: int


class Store:
    """An OCI image layout in a folder, made if needed."""

    def __init__(self, path: Path | str, steward: Steward | None = None, *, unpacked: Path | str | None = None) -> None:
        """`unpacked`: where layers are unpacked that are not in the store already; an overlay could not keep their
        whiteouts (fs/overlayfs/dir.c, ovl_mknod).
        """
        self.path = Path(path)
        self.unpacked = Path(unpacked) if unpacked else self.path / "unpacked"
        self.steward = steward or Steward()
        self._cache: dict[str, Image] = {}
        self._stamp: tuple[int, int] | None = None

    def names(self) -> list[str]:
        """Return the names of all images."""
        return sorted(name for one in self.index() if (name := name_of(one)))

    def resolve(self, reference: str) -> Image:
        """Return the image of a name, ``name:tag`` or ``sha256:…``; no tag means ``latest``; raise `NotFound` with what
        there is.
        """
        self._forget_if_changed()
        if reference not in self._cache:
            self._cache[reference] = self._resolve(reference)
        return self._cache[reference]

    def _forget_if_changed(self) -> None:
        try:
            status = (self.path / "index.json").stat()
        except FileNotFoundError:
            return
        if self._stamp != (stamp := (status.st_mtime_ns, status.st_ino)):
            self._stamp = stamp
            self._cache.clear()

    def index(self) -> list[dict[str, Any]]:
        """Return the descriptors of all images (image-spec, image-index.md); an annotation holds the name."""
        try:
            data = self._index_bytes()
        except FileNotFoundError:
            return []
        what = f"{self.path}/index.json"
        return documents.entries(documents.parse(data, what), what)

    def _index_bytes(self) -> bytes:
        """Read the index. Other programs know no lock of ours, and skopeo empties the file before it writes it."""
        for wait_s in _INDEX_WAITS_S:
            data = (self.path / "index.json").read_bytes()
            if data and (not data.startswith(b"{") or data.rstrip().endswith(b"}")):
                break
            time.sleep(wait_s)
        return data

    def _resolve(self, reference: str) -> Image:
        tagged = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        for entry in self.index():
            name = name_of(entry)
            if name in (reference, tagged) or entry.get("digest") == reference:
                return self._read(str(name or reference), blob_of(entry))
        known = ", ".join(self.names())
        raise NotFound(
            f"there is no image {reference}",
            hint=f"there are: {known}" if known else "there is none yet: run vmcontainer setup",
            where=str(self.path),
        )

    def _read(self, name: str, blob: Blob) -> Image:
        blob, document = self._manifest(name, blob)
        try:
            config, layers = blob_of(document["config"]), tuple(blob_of(one) for one in document["layers"])
        except (KeyError, TypeError) as error:
            raise ImageError(f"{blob.digest} is no image manifest", hint=documents.REPAIR, where=name) from error
        size_bytes = blob.size_bytes + config.size_bytes + sum(one.size_bytes for one in layers)
        settings = self._document(config)
        documents.check_config(settings, name)
        return Image(name, blob.digest, settings, layers, documents.diff_ids(settings, len(layers), name), size_bytes)

    def documents(self, image: Image) -> tuple[Blob, Blob]:
        """Return an image's manifest and configuration; with its layers they are all blobs there are of it."""
        manifest, size_bytes = self.read_json(image.digest), self.blob_path(image.digest).stat().st_size
        media_type = str(manifest.get("mediaType") or documents.MANIFEST_TYPE)
        return Blob(media_type, image.digest, size_bytes), blob_of(manifest["config"])

    def _manifest(self, name: str, blob: Blob) -> tuple[Blob, dict[str, Any]]:
        for _ in range(_NESTED):
            document = self._document(blob)
            # One document must not be read as two kinds of thing (CVE-2021-41190).
            if (
                document.get("mediaType", blob.media_type) != blob.media_type
                or {"manifests", "layers"} <= document.keys()
            ):
                raise ImageError(f"{blob.digest} is not what its media type says", hint=documents.REPAIR, where=name)
            if blob.media_type not in documents.INDEX_TYPES:
                return blob, document
            blob = documents.choose(document, name)
        raise ImageError(f"image {name} is an index of an index of an index", where=name)

    def blob_path(self, digest: str) -> Path:
        """Return where a blob is; raise `ImageError` if the digest is none."""
        return self.path / "blobs" / "sha256" / documents.digest_value(digest)

    def _document(self, blob: Blob) -> dict[str, Any]:
        if blob.size_bytes > documents.MAX_BYTES:
            raise ImageError(
                f"{blob.digest} claims {blob.size_bytes} bytes: too many for a manifest", where=str(self.path)
            )
        with self.open_blob(blob) as stream:
            data = stream.read()
        return documents.parse(data, blob.digest)

    def read_json(self, digest: str) -> dict[str, Any]:
        """Return a manifest, index or configuration."""
        try:
            size_bytes = self.blob_path(digest).stat().st_size
        except FileNotFoundError as error:
            raise ImageError(f"blob {digest} is missing", hint=documents.REPAIR, where=str(self.path)) from error
        return self._document(Blob("", digest, size_bytes))

    @contextlib.contextmanager
    def open_blob(self, blob: Blob) -> Iterator[Any]:
        """Open a blob for reading, after its size and digest were found right (CVE-2021-41190: never trust the media
        type alone).
        """
        import hashlib

        path = self.blob_path(blob.digest)
        try:
            stream = path.open("rb")
        except FileNotFoundError as error:
            raise ImageError(f"blob {blob.digest} is missing", hint=documents.REPAIR, where=str(path)) from error
        with stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if size_bytes != blob.size_bytes:
                raise ImageError(
                    f"blob {blob.digest} has {size_bytes} bytes, not {blob.size_bytes}",
                    hint=documents.REPAIR,
                    where=str(path),
                )
            if hashlib.file_digest(stream, "sha256").hexdigest() != path.name:
                raise ImageError(
                    f"blob {blob.digest} is damaged: its content has another digest",
                    hint=documents.REPAIR,
                    where=str(path),
                )
            stream.seek(0)
            yield stream

    def layer_paths(self, image: Image) -> list[Path]:
        """Return where the unpacked layers are or will be, lowest first."""
        return [self._layer_path(diff_id.partition(":")[2]) for diff_id in image.diff_ids]

    def _layer_path(self, name: str) -> Path:
        found = self.path / "unpacked" / self.steward.layers / name
        return found if found.is_dir() else self.unpacked / self.steward.layers / name

    def rootfs_layers(self, image: Image) -> list[Path]:
        """Return the folders of the unpacked layers, lowest first; unpack those that are not yet."""
        paths = self.layer_paths(image)
        for layer, path in zip(image.layers, paths, strict=True):
            if not path.is_dir():
                self._unpack_once(layer, path)
        # The overlay does not look for this mark at a layer's root: what such a layer hides is left out here.
        opaque = [index for index, path in enumerate(paths) if is_opaque(path)]
        return paths[opaque[-1] if opaque else 0 :]

    def _unpack_once(self, layer: Blob, path: Path) -> None:
        # Nobody but us may reach a setuid program of a stranger's image.
        self.unpacked.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        with self.locked():
            if not path.is_dir():
                self._unpack(layer, path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time change the store (flock(2): released by the kernel even if we are killed)."""
        self.path.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _unpack(self, layer: Blob, path: Path) -> None:
        unfinished = path.parent / f".{path.name}.tmp"
        self.steward.remove_tree(unfinished)  # of a process that was killed; we hold the lock
        unfinished.mkdir(mode=0o755)
        try:
            with self.open_blob(layer) as stream:
                most_bytes = min(MAX_UNPACKED_BYTES, room_bytes(unfinished))
                diff_id, left_out = self.steward.do(
                    lambda: _values(unpack(stream, layer.media_type, unfinished, max_bytes=most_bytes))
                )
            self._match(layer, diff_id, f"sha256:{path.name}")
            if left_out:
                self._replace(self._note(path.name), documents.canonical(left_out))
            unfinished.rename(path)
        except BaseException:
            self.steward.remove_tree(unfinished)
            raise

    def check_layer(self, layer: Blob, diff_id: str) -> None:
        """Raise `ImageError` if a layer does not unpack to this; for one whose files are there, from another blob."""
        import hashlib

        digest = hashlib.sha256()
        with (
            self.open_blob(layer) as stream,
            uncompressed(stream, layer.media_type, MAX_UNPACKED_BYTES, digest) as chunks,
        ):
            for _ in chunks:
                pass
        self._match(layer, f"sha256:{digest.hexdigest()}", diff_id)

    def _match(self, layer: Blob, found: str, diff_id: str) -> None:
        if found != diff_id:
            raise ImageError(
                f"layer {layer.digest} unpacks to {found}: not what the configuration says",
                hint=documents.REPAIR,
                where=str(self.path),
            )

    def forget_layer(self, diff_id: str) -> None:
        """Remove an unpacked layer, if there is one; the caller holds the lock."""
        name = diff_id.partition(":")[2]
        roots = {self.path / "unpacked", self.unpacked}
        for folder in {root / owners for root in roots for owners in ("sha256", self.steward.layers)}:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rename(folder / f".{name}.tmp")
                self.steward.remove_tree(folder / f".{name}.tmp")
        (self.path / self._note(name)).unlink(missing_ok=True)

    def left_out(self, image: Image) -> list[str]:
        """Return what could not be kept of an image's unpacked layers, such as attributes that only root may set."""
        notes = [self.path / self._note(path.name) for path in self.layer_paths(image)]
        return [line for note in notes if note.exists() for line in json.loads(note.read_bytes())]

    def _note(self, name: str) -> str:
        return f"unpacked/notes/{name}"

    def add(self, name: str, config: dict[str, Any], layers: list[Blob]) -> Image:
        """Write configuration and manifest, and let `name` mean them; the same input gives the same digests."""
        config_blob = self.put(documents.canonical(config), documents.CONFIG_TYPE)
        manifest = {
            "schemaVersion": 2,
            "mediaType": documents.MANIFEST_TYPE,
            "config": descriptor(config_blob),
            "layers": [descriptor(layer) for layer in layers],
        }
        blob = self.put(documents.canonical(manifest), documents.MANIFEST_TYPE)
        return self.name(name, blob)

    def name(self, name: str, blob: Blob) -> Image:
        """Let `name` mean the image of a manifest; what it meant before stays, by its digest."""
        with self.locked():
            image = self._read(name, blob)
            for layer in image.layers:
                if not self.blob_path(layer.digest).exists():
                    raise ImageError(f"blob {layer.digest} is missing", hint="it was removed meanwhile: try again")
            index = self.index()
            others = [one for one in index if name_of(one) not in (None, name)]
            known = {blob.digest, *(one.get("digest") for one in others)}
            for one in index:
                if name_of(one) in (None, name) and one.get("digest") not in known:
                    others.append({key: value for key, value in one.items() if key != "annotations"})
                    known.add(one.get("digest"))
            self.write_index([*others, descriptor(blob) | {"annotations": {REF_NAME: name}}])
        return image

    def write_index(self, entries: list[dict[str, Any]]) -> None:
        """Replace the index; the caller holds the lock."""
        self._replace("oci-layout", documents.canonical({"imageLayoutVersion": "1.0.0"}))
        self._replace(
            "index.json",
            documents.canonical({"schemaVersion": 2, "mediaType": documents.INDEX_TYPES[0], "manifests": entries}),
        )

    @contextlib.contextmanager
    def new_blob(self, media_type: str) -> Iterator[NewBlob]:
        """Give what a blob can be written to piece by piece; afterwards its `blob` says which it became."""
        (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        path = self.path / "blobs" / f".new-{os.getpid()}-{threading.get_ident()}"
        try:
            with path.open("wb") as file:
                new = NewBlob(file, media_type)
                yield new
            path.replace(self.blob_path(new.blob.digest))
        finally:
            path.unlink(missing_ok=True)

    def put(self, data: bytes, media_type: str) -> Blob:
        """Write a blob under its digest."""
        import hashlib

        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._replace(self.blob_path(digest).relative_to(self.path), data)
        return Blob(media_type, digest, len(data))

    def _replace(self, name: Path | str, data: bytes) -> None:
        """Write a file so that it is seen whole or not at all; an equal one is left alone."""
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def find_user(self, image: Image, text: str) -> tuple[User, str]:
        """Return the ids and home folder of ``uid[:gid]`` or a name, by the image's own /etc/passwd and /etc/group
        (passwd(5)).
        """
        from vmcontainer_kernel.container.images import users

        return users.find_user(self.rootfs_layers(image), text)


class NewBlob:
    """A blob being written."""

    def __init__(self, file: IO[bytes], media_type: str) -> None:
        import hashlib

        self._file, self._media_type = file, media_type
        self._digest, self._size_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Add the next bytes."""
        self._digest.update(data)
        self._size_bytes += len(data)
        return self._file.write(data)

    @property
    def blob(self) -> Blob:
        """What was written until now."""
        return Blob(self._media_type, f"sha256:{self._digest.hexdigest()}", self._size_bytes)


def _values(unpacked: Unpacked) -> tuple[str, tuple[str, ...]]:
    return unpacked.diff_id, unpacked.left_out
