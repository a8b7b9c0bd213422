"""What COPY, ADD and WORKDIR do to an image's files: in a child, which mounts the overlay where nobody else sees it.

    builder ── fork ──▶ child: unshare(CLONE_NEWNS), overlay of the layers and an empty upper folder, copy, exit
    upper folder ──▶ layer

Every path of the image is opened as its own processes would (openat2(2), RESOLVE_IN_ROOT): no link in it leads out.
"""

# Plain system calls, relative to a descriptor; pathlib has none of these.

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.build.context import Item, Place, Signature, signature
from vmcontainer_kernel.container.build.lines import Heredoc
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.container.overlay import Overlay
from vmcontainer_kernel.container.step import Scene
from vmcontainer_kernel.errors import ContainerError, HostError, ImageError, LabError, UserError, from_json, to_json

__all__ = ["Bundle", "Writer", "in_roots"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 8 << 20
Bundle = tuple[Path, Sequence[Path]]
"""A folder that holds ``rootfs``, ``upper`` and ``work``, and the layers that lie below, lowest first."""


def in_roots(bundles: Sequence[Bundle], steward: Steward, action: Callable[[list[int]], None]) -> None:
    """Do `action` in a child that has these roots mounted and open, as root; raise what it raised."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _child(bundles, steward, action, write_fd)
    os.close(write_fd)
    try:
        with open(read_fd, "rb") as report:
            told = report.read()
    finally:
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(pid, 0)[1]
    if told:
        raise from_json(json.loads(told))
    if status:
        raise ContainerError("the process that copies files was killed", hint="is memory short?", where="build")


def _child(bundles: Sequence[Bundle], steward: Steward, action: Callable[[list[int]], None], report_fd: int) -> None:
    status = 1
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
        roots = _mount(bundles, steward)
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)  # a change of ids clears it (prctl(2))
        action(roots)
        status = 0
    except BaseException as error:
        told: BaseException = error
        if isinstance(error, OSError):
            hint = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            what = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            told = ContainerError(f"the files cannot be copied: {what}{error.strerror}", hint=hint, where="build")
        elif not isinstance(error, LabError):
            told = ContainerError(f"the files cannot be copied: {type(error).__name__}: {error}", where="build")
        with open(report_fd, "wb") as report:
            report.write(json.dumps(to_json(told)).encode())
    finally:
        os._exit(status)


def _mount(bundles: Sequence[Bundle], steward: Steward) -> list[int]:
    rootless, alone = os.geteuid() != 0, os.geteuid() != 0 and steward.ids is None
    steward.enter()
    ids = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWNS | (linux.CLONE_NEWUSER if alone else 0))
    if alone:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {ids[0]} 1"), ("gid_map", f"0 {ids[1]} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    return [_mount_one(folder, layers, rootless=rootless) for folder, layers in bundles]


def _mount_one(folder: Path, layers: Sequence[Path], *, rootless: bool) -> int:
    if not layers:  # an overlay has at least one layer: an empty one, as of FROM scratch
        (folder / "empty").mkdir(exist_ok=True)
        layers = [folder / "empty"]
    scene, root = Scene(-1), str(folder / "rootfs")
    Overlay(str(folder), root, tuple(str(one) for one in layers), user_namespace=rootless).mount(scene)
    if scene.root != root:
        raise HostError(
            "no layer can be made here: the run folder is on an overlay itself",
            hint="put it on another file system: VMCONTAINER_RUN=/tmp/…, or build in a machine: --on vm",
            where=str(folder),
        )
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Writer:
    """Copies into an open root. `owner`: None keeps each file's own; `mode`: None likewise; `seen`: what the files were
    when their digest was taken; `attributes`: extended ones are copied too, as an image's may be needed.
    """

    def __init__(
        self,
        root_fd: int,
        owner: tuple[int, int] | None = (0, 0),
        mode: int | None = None,
        seen: Mapping[str, Signature] | None = None,
        *,
        attributes: bool = False,
    ) -> None:
        self._root, self._owner, self._mode, self._seen = root_fd, owner, mode, seen or {}
        self._attributes = attributes
        self._modes: list[tuple[str, int]] = []

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it, unless it is there."""
        os.close(self._folder(path))

    def copy(self, place: Place, paths: Sequence[str], target: str, *, many: bool) -> None:
        """Copy files, and what is in folders, to `target`; `many`: it must be a folder."""
        for path in paths:
            for item in place.items(path):
                if item.below == "" and stat.S_ISDIR(item.status.st_mode):
                    self.make_folder(target)
                    continue
                self._write(item, *self._arrival(item, target, many=many))
        for path, mode in reversed(self._modes):
            fd = self._folder(path)
            os.fchmod(fd, mode)
            os.close(fd)

    def write(self, document: Heredoc, target: str) -> None:
        """Write a document of the Dockerfile."""
        folder, name = self._place(target, document.name)
        parent = self._folder(folder)
        try:
            with open(self._new_file(parent, name), "wb") as file:
                file.write(document.text.encode())
                self._own(file.fileno(), None)
                os.fchmod(file.fileno(), 0o644 if self._mode is None else self._mode)
        finally:
            os.close(parent)

    def _arrival(self, item: Item, target: str, *, many: bool) -> tuple[str, str]:
        """Return folder and name where an item goes."""
        if item.below:
            folder, name = posixpath.split(item.below)
            return posixpath.join(target, folder), name
        return self._place(target + "/" if many else target, posixpath.basename(item.path))

    def _place(self, target: str, name: str) -> tuple[str, str]:
        """Return folder and name for a file that goes to `target`: into it, if it is a folder."""
        if not target.endswith("/"):
            try:
                os.close(self._open(target))
            except OSError:
                return posixpath.split(target)
        return target, name

    def _open(self, path: str) -> int:
        way = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
        return linux.openat2(self._root, path or "/", os.O_RDONLY | os.O_DIRECTORY, way)

    def _folder(self, path: str) -> int:
        """Open a folder of the image, made if needed."""
        path = path.rstrip("/") or "/"
        try:
            return self._open(path)
        except FileNotFoundError:
            parent = self._folder(posixpath.dirname(path))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise _in_the_way(path, "no folder") from None
        try:
            name = posixpath.basename(path)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                raise _in_the_way(path, "a link that leads nowhere") from None
            fd = os.open(name, _FOLDER, dir_fd=parent)
            self._own(fd, None)
            os.fchmod(fd, 0o755)  # whatever the umask
            return fd
        finally:
            os.close(parent)

    def _write(self, item: Item, folder: str, name: str) -> None:
        parent = self._folder(folder)
        mode = item.status.st_mode
        try:
            if stat.S_ISDIR(mode):
                self._write_folder(item, parent, name, posixpath.join(folder, name))
            elif stat.S_ISREG(mode):
                self._write_file(item, parent, name)
            elif stat.S_ISLNK(mode):
                _make_room(parent, name, item.path)
                os.symlink(item.link(), name, dir_fd=parent)
                owner = self._owner or (item.status.st_uid, item.status.st_gid)
                os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
            else:
                raise UserError(f"{item.path} is no file, folder or link", hint="name it in .dockerignore")
        finally:
            os.close(parent)

    def _write_folder(self, item: Item, parent: int, name: str, path: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise _in_the_way(path, "no folder") from None
            return
        fd = os.open(name, _FOLDER, dir_fd=parent)
        self._own(fd, item.status)
        os.close(fd)
        self._modes.append((path, stat.S_IMODE(item.status.st_mode) if self._mode is None else self._mode))

    def _write_file(self, item: Item, parent: int, name: str) -> None:
        source = item.open()
        try:
            status = os.fstat(source)
            if item.path in self._seen and self._seen[item.path] != signature(status):
                problem = f"{item.path} was changed while it was copied"
                raise UserError(problem, hint="build again when nobody writes to it")
            target = self._new_file(parent, name)
            try:
                while os.sendfile(target, source, None, _CHUNK_BYTES):
                    pass
                self._own(target, status)
                # Only now: a new owner takes set-user-ID away (chown(2)).
                os.fchmod(target, stat.S_IMODE(status.st_mode) if self._mode is None else self._mode)
                if self._attributes:
                    _copy_attributes(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _new_file(self, parent: int, name: str) -> int:
        _make_room(parent, name, name)
        return os.open(name, _NEW_FILE, 0o600, dir_fd=parent)

    def _own(self, fd: int, status: os.stat_result | None) -> None:
        own = (status.st_uid, status.st_gid) if status else (0, 0)
        try:
            os.fchown(fd, *(self._owner or own))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            raise HostError(
                f"files cannot belong to {self._owner or own} here: an ordinary user's containers have one user, root",
                hint="leave --chown out, or build in a machine: --on vm",
                where="chown",
            ) from None


def _make_room(parent: int, name: str, shown: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        raise _in_the_way(shown, "a folder") from None


def _in_the_way(path: str, what: str) -> UserError:
    return UserError(f"{path} is in the image already, and is {what}", hint="copy to another place")


def _copy_attributes(source: int, target: int) -> None:
    """Copy what a program may need to run, such as file capabilities (capabilities(7)); the overlay's own are none."""
    attributes: dict[str, Any] = {key: os.getxattr(source, key) for key in os.listxattr(source)}
    for key, value in attributes.items():
        if key == "security.capability" or (key.startswith("user.") and not key.startswith("user.overlay.")):
            try:
                os.setxattr(target, key, value)
            except OSError as error:
                raise ImageError(f"the attribute {key} cannot be copied: {error.strerror}", where="copy") from error
