"""The layer reader against a model of it in Python dictionaries, against GNU tar, and against noise."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmcontainer_kernel.container.images import unpack as unpack_module
from vmcontainer_kernel.container.images.tree import is_opaque
from vmcontainer_kernel.container.images.unpack import Unpacked, unpack
from vmcontainer_kernel.errors import ImageError

TAR, GZIP = "layer.v1.tar", "layer.v1.tar+gzip"
calmly = settings(derandomize=True, deadline=None, max_examples=150)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Give a folder in which ``victim`` is what hostile layers are after."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "victim").mkdir()
        (Path(folder) / "victim/file").write_text("kept")
        yield Path(folder)


def outside(place: Path) -> list[tuple[Any, ...]]:
    found = [place, *(path for path in place.rglob("*") if "tree" not in path.relative_to(place).parts)]
    status = [(path, path.lstat()) for path in found]
    return [
        (str(path), one.st_mode, one.st_uid, one.st_nlink, one.st_mtime_ns if path != place else 0, one.st_size)
        for path, one in status
    ]


def unpacked(place: Path, data: bytes, media_type: str = TAR, **limits: int) -> tuple[Path, Unpacked]:
    """Unpack into ``tree``; nothing beside it may change, whatever comes of it."""
    tree = place / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    before = outside(place)
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return tree, unpack(file, media_type, tree, **limits)
    finally:
        assert outside(place) == before


# -- a model of what a layer means

Node = dict[str, Any]
OWN = 0 if os.geteuid() == 0 else 0o700  # an ordinary user keeps the rights to his own folders


class Refused(Exception):
    """The model's word for ImageError."""


def folder() -> Node:
    return {"kind": "folder", "below": {}, "opaque": False, "mode": 0o755}


def parts_of(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or any(part.startswith(".wh.") for part in parts[:-1]):
        raise Refused
    return parts


def descend(node: Node, parts: list[str], *, make: bool) -> Node:
    for part in parts:
        if part not in node["below"]:
            if not make:
                raise Refused
            node["below"][part] = folder()
        node = node["below"][part]
        if node["kind"] != "folder":
            raise Refused
    return node


def replaced(parent: Node, name: str) -> None:
    old = parent["below"].get(name)
    if old and old["kind"] == "folder" and old["below"]:
        raise Refused


def apply(root: Node, entry: dict[str, Any]) -> None:
    parts = parts_of(entry["name"])
    if not parts:
        if entry["kind"] != "folder":
            raise Refused
        root["mode"] = entry["mode"] | OWN
        return
    parent, name = descend(root, parts[:-1], make=True), parts[-1]
    if name.startswith(".wh."):
        hide(parent, name)
    elif entry["kind"] == "folder":
        old = parent["below"].get(name, {"kind": ""})
        if old["kind"] != "folder":
            parent["below"][name] = folder() | {"opaque": old["kind"] == "whiteout"}
        parent["below"][name]["mode"] = entry["mode"] | OWN
    else:
        new = linked(root, entry["link"], parts) if entry["kind"] == "link" else made(entry)
        replaced(parent, name)
        parent["below"][name] = new


def hide(parent: Node, name: str) -> None:
    if name == ".wh..wh..opq":
        parent["opaque"] = True
        return
    hidden = name.removeprefix(".wh.")
    if hidden in ("", ".", "..") or hidden.startswith(".wh."):
        raise Refused
    there = parent["below"].setdefault(hidden, {"kind": "whiteout"})
    if there["kind"] == "folder":
        there["opaque"] = True


def linked(root: Node, link: str, own_parts: list[str]) -> Node:
    target = parts_of_link(link)
    if not target or target == own_parts:  # the name is made free first, and then there is nothing to link to
        raise Refused
    source: Node | None = descend(root, target[:-1], make=False)["below"].get(target[-1])
    if not source or source["kind"] in ("folder", "whiteout"):
        raise Refused
    return source


def made(entry: dict[str, Any]) -> Node:
    kind, value = entry["kind"], {"file": entry["data"], "symlink": entry["link"]}.get(entry["kind"])
    if kind == "block" or (kind == "char" and entry["device"]) or (kind == "symlink" and not value):
        raise Refused
    return {"kind": "whiteout"} if kind == "char" else {"kind": kind, "value": value, "mode": entry["mode"]}


def parts_of_link(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise Refused
    return parts


def shown(node: Node) -> Any:
    """Tell what a reader of the tree would see."""
    if node["kind"] == "folder":
        return node["mode"], node["opaque"], {name: shown(below) for name, below in node["below"].items()}
    if node["kind"] == "whiteout":
        return "whiteout"
    return node["kind"], node["value"], node["mode"] if node["kind"] != "symlink" else 0


def seen(path: Path) -> Any:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if path.is_symlink():
        return "symlink", os.readlink(path), 0  # noqa: PTH115 - a path would lose "."
    if path.is_dir():
        return mode, is_opaque(path), {below.name: seen(below) for below in path.iterdir()}
    if stat.S_ISCHR(status.st_mode):
        return "whiteout" if status.st_rdev == 0 else "device"
    return ("fifo", None, mode) if stat.S_ISFIFO(status.st_mode) else ("file", path.read_bytes(), mode)


TYPES = {
    **{"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.LNKTYPE, "symlink": tarfile.SYMTYPE},
    **{"fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE},
}


def archive_of(entries: list[dict[str, Any]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry["name"])
            info.type, info.mode, info.linkname = TYPES[entry["kind"]], entry["mode"], entry["link"]
            info.devmajor = entry["device"]
            info.size = len(entry["data"]) if entry["kind"] == "file" else 0
            archive.addfile(info, io.BytesIO(entry["data"]))
    return buffer.getvalue()


part = st.sampled_from(["a", "b", "c", "é" * 60, "."])
hostile = st.sampled_from(["..", "", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh.", ".wh...", ".wh..wh.x"])
name = st.lists(st.one_of(*[part] * 12, hostile), min_size=1, max_size=4).map("/".join)
plain_name = st.sampled_from(["a", "b", "a/b", "a/b/c", "b/a", "a/.wh.b", ".wh.a", "a/.wh..wh..opq", "c"])
link = st.one_of(
    plain_name, name, st.sampled_from(["/victim/file", "../victim", "../../victim/file", "../victim/file", ""])
)
one_entry = st.fixed_dictionaries(
    {
        "name": st.one_of(plain_name, plain_name, name),
        "kind": st.sampled_from(
            ["file", "file", "folder", "folder", "link", "symlink", "symlink", "fifo", "char", "block"]
        ),
        "mode": st.sampled_from([0o755, 0o644, 0o4711, 0o700]),
        "link": link,
        "device": st.sampled_from([0, 0, 1]),
        "data": st.binary(max_size=1200),
    }
)
FORMS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@calmly
@given(entries=st.lists(one_entry, max_size=8), form=FORMS)
def test_a_layer_is_what_the_model_says_or_is_refused(place: Path, entries: list[dict[str, Any]], form: int) -> None:
    root: Node | None = folder()
    try:
        for entry in entries:
            # tarfile writes folders with a slash at the end, and an empty name as one: what is read is what counts.
            apply(root, entry | {"name": entry["name"] or "."})
    except Refused:
        root = None
    data = archive_of(entries, form)
    try:
        tree, done = unpacked(place, data)
    except ImageError as error:
        assert root is None, error
        return
    assert root is not None
    assert done.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert seen(tree) == shown(root)


@calmly
@given(entries=st.lists(one_entry, max_size=30), form=FORMS)
def test_a_layer_without_what_is_refused(place: Path, entries: list[dict[str, Any]], form: int) -> None:
    root, kept = folder(), []
    for entry in entries:
        trial = copy.deepcopy(root)
        try:
            apply(trial, entry)
        except Refused:
            continue
        root = trial
        kept.append(entry)
    tree, _ = unpacked(place, archive_of(kept, form))
    assert seen(tree) == shown(root)


@calmly
@given(
    entries=st.lists(one_entry, min_size=1, max_size=4),
    form=FORMS,
    changes=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=12)), max_size=6),
    cut=st.integers(0, 6000),
    checked=st.booleans(),
)
def test_noise_is_an_image_error_or_a_tree(
    place: Path, entries: list[dict[str, Any]], form: int, changes: list[tuple[int, bytes]], cut: int, checked: bool
) -> None:
    data = bytearray(archive_of(entries, form))
    for where, noise in changes:
        at = where % len(data)
        data[at : at + len(noise)] = noise
    for at in range(0, len(data) - 511, 512) if checked else ():
        # With a right checksum the noise gets past the first check.
        block = data[at : at + 512]
        block[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(block) if any(data[at : at + 512]) else bytes(8)
    try:
        unpacked(place, bytes(data[: len(data) - cut % len(data)]), max_bytes=1 << 20)
    except ImageError as error:
        assert error.message and error.hint


@calmly
@given(data=st.binary(max_size=300), media_type=st.sampled_from([TAR, GZIP, "layer.v1.tar+zstd"]), real=st.booleans())
def test_noise_instead_of_a_stream(place: Path, data: bytes, media_type: str, real: bool) -> None:
    if real and media_type == GZIP:
        data = bytes.fromhex("1f8b0800000000000003") + data
    elif real:
        data = bytes.fromhex("28b52ffd") + data
    try:
        unpacked(place, data, media_type)
    except ImageError as error:
        assert error.message


# -- what GNU tar writes


def gnu_tar(folder: Path, *options: str) -> bytes:
    return subprocess.run(["tar", "-C", folder, "-c", *options, "."], check=True, capture_output=True).stdout


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """Give a folder with files full of holes; one has more parts than a header of GNU's own format holds."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "many").open("wb") as file:
        for number in range(60):
            file.seek(number << 16)
            file.write(b"%d" % number * 2000)
        file.truncate(64 << 16)
    with (source / "hole").open("wb") as file:
        file.truncate(1 << 20)
    (source / "plain").write_bytes(b"x" * 1000)
    return source


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
    ids=" ".join,
)
def test_sparse_files(place: Path, holes: Path, options: list[str]) -> None:
    data = gnu_tar(holes, "--sparse", *options)
    assert len(data) < 2 << 20
    tree, _ = unpacked(place, data)
    for path in holes.iterdir():
        assert (tree / path.name).read_bytes() == path.read_bytes()
    assert (tree / "hole").stat().st_blocks == 0
    assert (tree / "many").stat().st_blocks < 60 * 64


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "pax"])
@pytest.mark.parametrize(
    ("program", "media_type"),
    [("cat", TAR), ("gzip", GZIP), ("zstd", "layer.v1.tar+zstd")],
    ids=["plain", "gzip", "zstd"],
)
def test_every_format_and_compression(place: Path, tmp_path: Path, form: str, program: str, media_type: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    source = tmp_path / "source"
    deep = source / ("d" * 40) / ("e" * 40) if form != "v7" else source / "d"
    if form in ("gnu", "pax"):
        deep /= "f" * 150
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(os.urandom(70_000))
    (deep / "setuid").write_bytes(b"")
    (deep / "setuid").chmod(0o4755)
    (deep / "name").symlink_to("file")
    (source / "again").hardlink_to(deep / "file")
    if form == "pax":
        (source / "latin\udce9").write_bytes(b"")
        os.utime(deep / "file", ns=(5_000_000_007, 5_000_000_007))
    data = gnu_tar(source, f"--format={form}")
    packed = subprocess.run([program], input=data, check=True, capture_output=True).stdout
    tree, done = unpacked(place, packed, media_type)
    assert done.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    pairs = [(path, tree / path.relative_to(source)) for path in [source, *source.rglob("*")]]
    assert len(pairs) == 1 + len([*tree.rglob("*")])
    for wanted, got in pairs:
        one, other = wanted.lstat(), got.lstat()
        assert (one.st_mode, one.st_uid, one.st_gid, one.st_nlink) == (
            *(other.st_mode, other.st_uid, other.st_gid, other.st_nlink),
        )
        assert (one.st_mtime_ns if form == "pax" else int(one.st_mtime)) == (
            other.st_mtime_ns if form == "pax" else int(other.st_mtime)
        )
        if wanted.is_file():
            assert wanted.read_bytes() == got.read_bytes()


def test_two_gzip_members_are_one_layer(place: Path) -> None:
    data = archive_of([{"name": "a", "kind": "file", "mode": 0o644, "link": "", "device": 0, "data": b"x" * 999}], 1)
    tree, _ = unpacked(place, gzip.compress(data[:700]) + gzip.compress(data[700:]), GZIP)
    assert (tree / "a").read_bytes() == b"x" * 999
    for wrong in (gzip.compress(data)[:-9], gzip.compress(data) + b"junk", b""):
        with pytest.raises(ImageError, match="gzip"):
            unpacked(place, wrong, GZIP)


# -- attributes


def with_xattrs(**attributes: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in (("f", tarfile.REGTYPE), ("d", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            info.pax_headers = {f"SCHILY.xattr.{key.replace('__', '.')}": value for key, value in attributes.items()}
            archive.addfile(info)
    return buffer.getvalue()


def test_attributes(place: Path) -> None:
    tree, done = unpacked(place, with_xattrs(user__colour="blue=green"))
    if done.left_out:
        assert "f: user.colour: " in done.left_out[0]  # a file system without them
        return
    assert os.getxattr(tree / "f", "user.colour") == os.getxattr(tree / "d", "user.colour") == b"blue=green"


def test_file_capabilities(place: Path) -> None:
    # struct vfs_cap_data, version 2: CAP_NET_RAW permitted and effective (linux/capability.h)
    value = bytes([1, 0, 0, 2, 0, 32, 0, 0, *[0] * 12])
    tree, done = unpacked(place, with_xattrs(security__capability=value.decode("latin-1")))
    assert done.left_out or os.getxattr(tree / "f", "security.capability") == value


def test_attributes_that_cannot_be_kept_are_told(place: Path) -> None:
    _, done = unpacked(place, with_xattrs(nosuchspace__x="y"))
    assert [line.rpartition(": ")[0] for line in done.left_out] == ["f: nosuchspace.x", "d/: nosuchspace.x"]


# -- bombs


def test_folders_deeper_than_are_kept_open(place: Path) -> None:
    """Names go down, up and down again; each folder's own time and mode are set when all is in it."""
    chain = [f"{number:02}" for number in range(90)]
    names = ["/".join(chain[:depth]) for depth in (90, 66, 65, 64, 63, 2, 89, 90, 1)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o711, number
            archive.addfile(entry)
            archive.addfile(tarfile.TarInfo(f"{name}/file{number}"))
    fds = len([*Path("/proc/self/fd").iterdir()])
    tree, _ = unpacked(place, buffer.getvalue())
    assert len([*Path("/proc/self/fd").iterdir()]) == fds
    for number, name in enumerate(names):
        status = (tree / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o711 | OWN and (tree / name / f"file{number}").is_file()
        assert status.st_mtime == max(at for at, other in enumerate(names) if other == name)


def test_too_much(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = archive_of([{"name": "z", "kind": "file", "mode": 0, "link": "", "device": 0, "data": bytes(5 << 20)}], 1)
    with pytest.raises(ImageError, match=r"z.*larger than 1 MiB"):
        unpacked(place, gzip.compress(zeros), GZIP, max_bytes=1 << 20)
    with pytest.raises(ImageError, match="larger than 1 MiB"):
        unpacked(place, gzip.compress(bytes(512) + bytes(5 << 20)), GZIP, max_bytes=1 << 20)
    many = [{"name": f"f{n}", "kind": "fifo", "mode": 0, "link": "", "device": 0, "data": b""} for n in range(30)]
    with pytest.raises(ImageError, match=r"f20.*one too many") as caught:
        unpacked(place, archive_of(many, 1), max_entries=20)
    assert caught.value.where == "f20"
    with pytest.raises(ImageError, match="too many folders"):
        unpacked(place, archive_of([many[0] | {"name": "a/" * 30 + "f"}], 1), max_entries=20)
    folders = [many[0] | {"name": f"{n:03}" + "d" * 240, "kind": "folder"} for n in range(30)]
    monkeypatch.setattr(unpack_module, "_KEPT_BYTES", 5000)
    with pytest.raises(ImageError, match=r"020d.*too long"):
        unpacked(place, archive_of(folders, 1))
    huge = tarfile.TarInfo("h")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(ImageError, match="not read"):
        unpacked(place, huge.tobuf() + bytes(1 << 20))


def test_a_sparse_bomb(place: Path) -> None:
    info = tarfile.TarInfo("s")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 50), "GNU.sparse.name": "s"}
    with pytest.raises(ImageError, match="'s' is larger"):
        unpacked(place, info.tobuf(tarfile.PAX_FORMAT))
    for wrong in ("4,1,0,1", "0,9", "0", "x,1", "0,1,9999999,1"):
        info.pax_headers = {"GNU.sparse.map": wrong, "GNU.sparse.size": "4", "GNU.sparse.name": "s"}
        with pytest.raises(ImageError, match="sparse map"):
            unpacked(place, info.tobuf(tarfile.PAX_FORMAT))


def test_headers_that_lie(place: Path) -> None:
    block = bytearray(tarfile.TarInfo("f").tobuf())
    block[0] += 1
    with pytest.raises(ImageError, match="'g' has a wrong header checksum"):
        unpacked(place, bytes(block))
    whole = tarfile.TarInfo("all")
    whole.type = tarfile.XGLTYPE
    for records, refused in (
        (b"11 path=xy\n", True),
        (b"13 comment=x\n", False),
        (b"99 path=xy\n", True),
        (b"x", True),
    ):
        whole.size = len(records)
        data = whole.tobuf() + records.ljust(512, b"\0")
        if refused:
            with pytest.raises(ImageError, match="all"):
                unpacked(place, data)
        else:
            unpacked(place, data)
