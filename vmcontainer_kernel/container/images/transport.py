"""Images on their way in and out, carried by skopeo: from and to registries, archives and other layouts.

    source ──skopeo copy──▶ STORE/.incoming-…  an OCI layout, with links to the blobs there are already
                                   │  checked, unpacked
                                   ▼
                           STORE/blobs, index.json      under the store's lock

skopeo writes an ``index.json`` of its own; so it gets a layout of its own, and what it brought is then taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vmcontainer_kernel.container import files
from vmcontainer_kernel.container.images import shelf
from vmcontainer_kernel.container.images.store import Image, Store
from vmcontainer_kernel.errors import HostError, ImageError

__all__ = ["Progress", "adopt", "bring", "incoming", "run_skopeo", "silent"]

Progress = Callable[[str, int, int | None], None]
"""Called with the phase (asking, fetching, unpacking), bytes done, and bytes in all, None where nobody knows."""

_POLL_S = 0.1
_INCOMING = ".incoming-"

# What skopeo's messages hold → what to tell, and what to try. From containers/image and Go's net and crypto packages.
_EXPLANATIONS = {
    ("manifest unknown", "name unknown", "NAME_UNKNOWN", "not known to registry"): (
        "there is no such image",
        "check the name and tag",
    ),
    ("unauthorized", "authentication required", "denied", "invalid username"): (
        "the registry refuses access",
        "check the name; if it is private: skopeo login REGISTRY",
    ),
    ("server gave HTTP response to HTTPS client", "x509:", "tls:"): (
        "the registry's TLS certificate is not trusted",
        "only for a registry you trust on this network: without TLS verification",
    ),
    ("toomanyrequests", "429"): ("the registry refuses: too many requests", "wait, or skopeo login REGISTRY"),
    ("connection refused", "no such host", "i/o timeout", "unreachable", "dial tcp", "server misbehaving"): (
        "the registry cannot be reached",
        "check the name and the network",
    ),
    ("does not match", "did not match", "mismatch", "checksum", "unexpected EOF"): (
        "what came is not what the manifest names",
        "the data was damaged or tampered with",
    ),
    ("no space left",): ("the disk is full", "free some space in the cache (vmcontainer doctor shows where it is)"),
    ("policy.json", "rejected by policy"): (
        "the system's policy for images forbids it",
        "see containers-policy.json(5)",
    ),
    ("invalid reference format", "Invalid image name"): (
        "this is no name of an image",
        "such as docker.io/library/alpine:3.20",
    ),
    ("no such file", "does not exist"): ("there is nothing of that name", "check the path"),
}


def silent(phase: str, done_bytes: int, total_bytes: int | None) -> None:
    """Report to nobody."""


def run_skopeo(
    arguments: Sequence[str], *, what: str, folder: Path | None = None, watch: Callable[[], None] | None = None
) -> str:
    """Run skopeo in `folder` and return its output; `watch` is called ten times a second.

    Raises `HostError` if it is not installed, `ImageError` saying what is wrong with `what`.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                ["skopeo", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
        except FileNotFoundError as error:
            raise HostError("skopeo is not installed", hint="apt-get install skopeo") from error
        try:
            while _runs(child):
                if watch:
                    watch()
        finally:
            child.kill()
            child.wait()
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            raise _explained(errors.read().decode(errors="replace"), what)
        return output.read().decode(errors="replace")


def _runs(child: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_POLL_S)
        return False
    return True


def _explained(errors: str, what: str) -> ImageError:
    """Make an error of skopeo's own words, which are one line of ``key="value"`` pairs."""
    lines = [line for line in errors.splitlines() if line.strip()] or ["it said nothing"]
    told = lines[-1].partition("msg=")[2].strip('"').replace('\\"', '"') or lines[-1]
    for words, (message, hint) in _EXPLANATIONS.items():
        if any(word in told for word in words):
            return ImageError(f"{what}: {message}", hint=hint, where=told)
    return ImageError(f"{what}: skopeo failed", hint="see its message above", where=told)


def bring(
    store: Store,
    source: str,
    name: str,
    *,
    what: str,
    options: Sequence[str] = (),
    links: dict[str, Path] | None = None,
    total_bytes: int | None = None,
    progress: Progress = silent,
) -> Image:
    """Copy an image into the store under `name`, and unpack it; a refused one leaves nothing behind.

    `source` is one of skopeo's image names; a file or folder in it goes by the name of a link, made of `links`, because
    skopeo's names end at a colon.
    """
    with incoming(store) as folder:
        for link, path in (links or {}).items():
            (folder / link).symlink_to(path.absolute())

        def watch() -> None:
            progress("fetching", _fetched_bytes(folder), total_bytes)

        # Layers stay as they are, so that digests do; only of those in Docker's archives skopeo 1.9 says that they are
        # compressed when they are not.
        as_they_are = [] if source.startswith("docker-archive:") else ["--dest-oci-accept-uncompressed-layers"]
        run_skopeo(
            ["copy", "--quiet", *options, *as_they_are, source, "oci:image:x"], what=what, folder=folder, watch=watch
        )
        watch()
        found = Store(folder / "image").resolve("x")
        return _take_over(store, folder / "image", found, name, progress)


@contextlib.contextmanager
def incoming(store: Store) -> Iterator[Path]:
    """Give a folder in the store with an empty layout, ``image``, of the blobs that need not be brought again; with it
    goes all that nobody has taken over.
    """
    store.path.mkdir(parents=True, exist_ok=True)
    for old in store.path.glob(f"{_INCOMING}*"):
        with _held(old) as held:
            if held:  # its process is gone
                files.remove_tree(old)
    folder = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=store.path))
    blobs = folder / "image/blobs/sha256"
    with _held(folder):
        try:
            blobs.mkdir(parents=True)
            for blob in (store.path / "blobs/sha256").glob("[0-9a-f]*"):
                with contextlib.suppress(OSError):
                    os.link(blob, blobs / blob.name)
            yield folder
        finally:
            files.remove_tree(folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder, if nobody else does (flock(2): it goes with its process)."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _fetched_bytes(folder: Path) -> int:
    total_bytes = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            # More than one link: a blob the store had already.
            total_bytes += status.st_size if status.st_nlink == 1 and path.is_file() else 0
    return total_bytes


def adopt(store: Store, layout: Path, digests: Sequence[str], name: str) -> None:
    """Move the blobs of a layout on the same disk into the store."""
    came = Store(layout)
    with store.locked():
        (store.path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        for digest in dict.fromkeys(digests):
            try:
                came.blob_path(digest).replace(store.blob_path(digest))
            except FileNotFoundError as error:
                raise ImageError(f"{name}: blob {digest} did not come", hint="its layers are not all public") from error


def _take_over(store: Store, layout: Path, image: Image, name: str, progress: Progress) -> Image:
    manifest, config = Store(layout).documents(image)
    known = [
        (layer, diff_id)
        for layer, diff_id, path in zip(image.layers, image.diff_ids, store.layer_paths(image), strict=True)
        if path.is_dir() and not store.blob_path(layer.digest).exists()
    ]
    adopt(store, layout, [one.digest for one in (manifest, config, *image.layers)], name)
    try:
        progress("unpacking", 0, None)
        for layer, diff_id in known:
            store.check_layer(layer, diff_id)
        store.rootfs_layers(image)
        taken = store.name(name, manifest)
    except BaseException:
        shelf.discard(store, image.digest)
        raise
    progress("ready", image.size_bytes, image.size_bytes)
    return taken
