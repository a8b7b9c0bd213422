"""What a container changed: its upper folder compared with the layers below, and made into a new image."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.images.pack import Owners, pack
from vmcontainer_kernel.container.images.store import LAYER_TYPE, Image, Store
from vmcontainer_kernel.container.images.tree import FOLDER, Found, Parts, is_opaque, is_whiteout, walk
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ImageError

__all__ = ["Change", "commit", "diff", "id_owners", "upper_rows"]

_RETRIES = 3


class Change(Record):
    """One path and what became of it: ``A`` added, ``C`` changed, ``D`` deleted, as ``docker diff`` says it."""

    kind: str
    path: str


def diff(upper: Path, layers: Sequence[Path]) -> list[Change]:
    """Compare an overlay's upper folder with its layers, lowest first; sorted by path.

    A folder counts as changed when something in it did, as the overlay then has a copy of it.
    """
    top = os.open(upper, FOLDER)
    below = _Below(layers)
    try:
        changes = [change for found in walk(top) for change in _changes(found, below)]
    except OSError as error:
        raise ImageError(
            f"the changes cannot be read: {error.strerror}",
            hint="pause the container, so that nothing changes meanwhile",
            where=str(error.filename or upper),
        ) from error
    finally:
        os.close(top)
    return sorted(changes, key=lambda change: change.path)


def upper_rows(upper: Path, layers: Sequence[Path], *, most: int) -> tuple[list[dict[str, Any]], bool]:
    """Return what is in an upper folder now as rows for a view, and whether there are more than the `most` told.

    `kind` as `diff`; `path`; `type`: file, folder, link, device, pipe, socket; `mark`: how the overlay writes it down:
    ``whiteout`` (a character device 0:0 that hides a name), ``opaque`` (a folder that hides all below), else empty;
    `size_bytes`; `time_s`, when it was changed last. What is only hidden by an opaque folder has no type of its own.
    """
    for _ in range(_RETRIES):
        try:
            return _upper_rows(upper, layers, most)
        except FileNotFoundError:  # the container goes on while it is read
            continue
    return [], True


def _upper_rows(upper: Path, layers: Sequence[Path], most: int) -> tuple[list[dict[str, Any]], bool]:
    top, rows, below = os.open(upper, FOLDER), list[dict[str, Any]](), _Below(layers)
    try:
        for found in walk(top):
            for change in _changes(found, below):
                own = change.path == _change("", found.parts).path
                rows.append({"kind": change.kind, "path": change.path, **(_row(found) if own else _HIDDEN)})
            if len(rows) > most:
                return rows[:most], True
    finally:
        os.close(top)
    return rows, False


_HIDDEN: dict[str, Any] = {"type": "", "mark": "", "size_bytes": None, "time_s": None}
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def _row(found: Found) -> dict[str, Any]:
    status = found.status
    opaque = not found.name and is_opaque(found.fd)
    return {
        "type": _TYPES.get(stat.S_IFMT(status.st_mode), ""),
        "mark": "whiteout" if is_whiteout(status) else "opaque" if opaque else "",
        "size_bytes": status.st_size if stat.S_ISREG(status.st_mode) else None,
        "time_s": round(status.st_ctime, 3),
    }


def _changes(found: Found, below: _Below) -> list[Change]:
    if not found.parts:
        return []
    existed = below.has(found.parts)
    if is_whiteout(found.status):
        return [_change("D", found.parts)] if existed else []
    changes = [_change("C" if existed else "A", found.parts)]
    if not found.name and is_opaque(found.fd):
        kept = {os.fsencode(name) for name in os.listdir(found.fd)}  # noqa: PTH208 - by descriptor
        changes += [_change("D", (*found.parts, name)) for name in sorted(below.names(found.parts) - kept)]
    return changes


def _change(kind: str, parts: Parts) -> Change:
    return Change(kind, "/" + os.fsdecode(b"/".join(parts)))


class _Below:
    """The layers below, as the overlay merges them. Nobody writes to them, so they are read by path, each folder after
    it was seen to be one.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self._folders: dict[Parts, list[bytes]] = {(): [os.fsencode(layer) for layer in reversed(layers)]}

    def has(self, parts: Parts) -> bool:
        for folder in self.folders(parts[:-1]):
            status = _status(folder, parts[-1])
            if status:
                return not is_whiteout(status)
        return False

    def folders(self, parts: Parts) -> list[bytes]:
        """Return the folders that make up one folder, from the topmost layer down to the first that hides others."""
        if parts not in self._folders:
            found: list[bytes] = []
            for folder in self.folders(parts[:-1]):
                if status := _status(folder, parts[-1]):
                    if not stat.S_ISDIR(status.st_mode):
                        break
                    found.append(folder + b"/" + parts[-1])
                    if is_opaque(found[-1]):
                        break
            self._folders[parts] = found
        return self._folders[parts]

    def names(self, parts: Parts) -> set[bytes]:
        names = {name for folder in self.folders(parts) for name in os.listdir(folder)}  # noqa: PTH208 - bytes
        return {name for name in names if self.has((*parts, name))}


def _status(folder: bytes, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(folder + b"/" + name)
    except FileNotFoundError:
        return None


def commit(
    store: Store,
    base: Image,
    upper: Path,
    name: str,
    *,
    config: dict[str, Any] | None = None,
    created_by: str = "",
    comment: str = "",
    time_s: float | None = None,
    owners: Owners | None = None,
) -> Image:
    """Make the image `name` of `base` and what is in `upper`, and return it.

    `config` replaces keys of the image's own ``config`` (Cmd, Env, …; image-spec, config.md); a value of None removes
    one. The same upper folder and `time_s` give the same image. `owners`: see `id_owners`.
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))
    with store.new_blob(LAYER_TYPE) as target:
        pack(upper, target, owners=owners)
    layer = target.blob
    document = dict(base.config)
    document["created"] = created
    document["config"] = {
        key: value for key, value in ((document.get("config") or {}) | (config or {})).items() if value is not None
    }
    # The archive is stored as it is, so its digest is the blob's.
    document["rootfs"] = {"type": "layers", "diff_ids": [*base.diff_ids, layer.digest]}
    entry = {"created": created, "created_by": created_by, "comment": comment}
    document["history"] = [*(document.get("history") or []), {key: value for key, value in entry.items() if value}]
    return store.add(name, document, [*base.layers, layer])


def id_owners(uids: Sequence[tuple[int, int, int]], gids: Sequence[tuple[int, int, int]]) -> Owners:
    """Return what turns ids on disk into the container's: of a user namespace's maps (container id, host id, count)."""

    def inside(number: int, ranges: Sequence[tuple[int, int, int]]) -> int:
        for container_id, host_id, count in ranges:
            if host_id <= number < host_id + count:
                return container_id + number - host_id
        raise ImageError(f"a file belongs to id {number}, which the container does not have", hint="chown it first")

    return lambda uid, gid: (inside(uid, uids), inside(gid, gids))
