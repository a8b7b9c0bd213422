"""The JSON documents of an image, checked where they are read: index, manifest and configuration (image-spec).

They come from strangers, so nothing in them is taken for granted; what is not as the specification has it is an
`ImageError`. Values in, values out: nothing here touches the disk.
"""

from __future__ import annotations

import json
import os
from typing import Any

from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ImageError

__all__ = [
    "ARCHITECTURES",
    "CONFIG_TYPE",
    "INDEX_TYPES",
    "MANIFEST_TYPE",
    "MAX_BYTES",
    "REF_NAME",
    "REPAIR",
    "Blob",
    "blob_of",
    "canonical",
    "check_config",
    "choose",
    "descriptor",
    "diff_ids",
    "digest_value",
    "entries",
    "name_of",
    "parse",
]

MAX_BYTES = 4 << 20  # of one document: what registries should take at least (distribution-spec, "Pushing Manifests")
REF_NAME = "org.opencontainers.image.ref.name"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
REPAIR = "make it again: vmcontainer setup"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_HEX = frozenset("0123456789abcdef")
_CONFIG_FIELDS = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), str),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild"), list),
    **dict.fromkeys(("Labels", "ExposedPorts", "Volumes", "Healthcheck"), dict),
}


class Blob(Record):
    """A descriptor: what kind of blob, its digest ``sha256:HEX`` and its size (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size_bytes: int


def parse(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object; `what` is its name in the error."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:  # the latter: brackets within brackets, thousands of them
        raise ImageError(f"{what} is no JSON: {error}", hint=REPAIR) from error
    if not isinstance(document, dict):
        raise ImageError(f"{what} is no JSON object", hint=REPAIR)
    return document


def entries(index: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """Return an index's descriptors, each with digest, size and perhaps a name (image-index.md)."""
    found = index.get("manifests")
    if not isinstance(found, list):
        raise ImageError(f"{what} lists no manifests", hint=REPAIR)
    for one in found:
        blob_of(one)
        if not isinstance(one.get("annotations") or {}, dict) or not isinstance(name_of(one), str | None):
            raise ImageError(f"{what} has annotations that are none: {one!r:.80}", hint=REPAIR)
    return found


def name_of(entry: dict[str, Any]) -> str | None:
    """Return the name that an index gives to an image."""
    return (entry.get("annotations") or {}).get(REF_NAME)


def blob_of(entry: Any) -> Blob:
    """Read a descriptor."""
    try:
        blob = Blob(str(entry.get("mediaType", "")), entry["digest"], entry["size"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ImageError(f"not a descriptor: {entry!r:.80}", hint=REPAIR) from error
    digest_value(blob.digest)
    if type(blob.size_bytes) is not int or blob.size_bytes < 0:
        raise ImageError(f"not a descriptor: {entry!r:.80}", hint=REPAIR)
    return blob


def descriptor(blob: Blob) -> dict[str, Any]:
    """Write a descriptor as manifests have it."""
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes}


def digest_value(digest: Any) -> str:
    """Return the hexadecimal part of a digest (descriptor.md, "Digests")."""
    algorithm, _, value = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if algorithm != "sha256" or len(value) != 64 or set(value) - _HEX:
        raise ImageError(f"{digest!r:.100} is no SHA-256 digest", hint=REPAIR)
    return str(value)


def choose(index: dict[str, Any], what: str) -> Blob:
    """Return which manifest of several is this computer's."""
    wanted = ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    for entry in entries(index, what):
        platform = entry.get("platform")
        if isinstance(platform, dict) and (platform.get("architecture"), platform.get("os", "linux")) == (
            wanted,
            "linux",
        ):
            return blob_of(entry)
    raise ImageError(f"image {what} has no variant for {wanted}", where=what)


def diff_ids(config: dict[str, Any], count: int, name: str) -> tuple[str, ...]:
    """Return the digests of the uncompressed layers, which a configuration must name (config.md, "rootfs")."""
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or len(found) != count:
        raise ImageError(f"the configuration of {name} does not name its {count} layers", hint=REPAIR, where=name)
    return tuple(f"sha256:{digest_value(digest)}" for digest in found)


def check_config(document: dict[str, Any], name: str) -> None:
    """Raise `ImageError` for a configuration with a field of the wrong type (config.md, "Properties")."""
    config, history = document.get("config"), document.get("history")
    if not isinstance(config or {}, dict):
        raise _wrong("config", name)
    for key, kind in _CONFIG_FIELDS.items():
        value = (config or {}).get(key)
        if value is None:
            continue
        if not isinstance(value, kind) or (kind is list and not all(isinstance(one, str) for one in value)):
            raise _wrong(f"config.{key}", name)
    if not isinstance(history or [], list) or not all(isinstance(one, dict) for one in history or []):
        raise _wrong("history", name)


def _wrong(field: str, name: str) -> ImageError:
    return ImageError(f"the configuration of {name} has a wrong {field}", hint="pull or make it again", where=field)


def canonical(document: Any) -> bytes:
    """Write a document so that the same gives the same bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
