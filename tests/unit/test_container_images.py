"""The image store: reproducible images, checked blobs, and layers that try to get out."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.container import files
from vmcontainer_kernel.container.images import LAYER_TYPE, REF_NAME, Image, Store, busybox, shelf, users
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import ContainerError, HostError, ImageError, NotFound, UserError


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return busybox.find_busybox()
    except HostError as error:
        pytest.skip(error.message)


def tar(*entries: tuple[str, dict[str, Any]], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, fields in entries:
            entry = tarfile.TarInfo(name)
            data = fields.pop("data", b"")
            entry.size = len(data)
            for key, value in fields.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def image_of(store: Store, *layers: bytes, ending: str = "", diff_ids: list[str] | None = None) -> Image:
    plain = [{"": bytes, "+gzip": gunzip, "+zstd": bytes}[ending](layer) for layer in layers]
    ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in plain] if diff_ids is None else diff_ids
    config = {"config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": ids}}
    return store.add("x:latest", config, [store.put(layer, LAYER_TYPE + ending) for layer in layers])


def gunzip(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError):
        return b""


def test_the_same_program_gives_the_same_image(tmp_path: Path, program: Path) -> None:
    first = build_busybox(Store(tmp_path / "a"))
    again = build_busybox(Store(tmp_path / "a"))
    other = build_busybox(Store(tmp_path / "b"), program)
    assert first == again == other
    index = json.loads((tmp_path / "a/index.json").read_text())
    assert [entry["annotations"][REF_NAME] for entry in index["manifests"]] == ["busybox:latest"]
    (layer,) = Store(tmp_path / "a").rootfs_layers(first)
    assert (layer / "bin/sh").readlink() == Path("busybox")
    assert stat.S_IMODE((layer / "tmp").stat().st_mode) == 0o1777
    assert (layer / "bin/busybox").stat().st_mtime == (layer / "etc").stat().st_mtime == 0
    assert not [*(tmp_path / "a/unpacked/sha256").glob(".*")]


def test_skopeo_reads_the_store(tmp_path: Path, program: Path) -> None:
    build_busybox(Store(tmp_path))
    try:
        result = subprocess.run(
            ["skopeo", "inspect", f"oci:{tmp_path}:busybox:latest"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("needs skopeo")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["Digest"] == Store(tmp_path).resolve("busybox").digest


def test_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(NotFound, match="no image busybox") as caught:
        store.resolve("busybox")
    assert "none yet" in caught.value.hint
    image = image_of(store, tar(("a", {})))
    assert store.resolve("x") == store.resolve("x:latest") == image
    assert store.resolve(image.digest).layers == image.layers
    with pytest.raises(NotFound) as caught:
        store.resolve("y")
    assert "x:latest" in caught.value.hint


@pytest.mark.parametrize("wanted", ["manifest", "config", "layer"])
@pytest.mark.parametrize("damage", ["changed", "longer", "gone"])
def test_damaged_blobs_are_found(tmp_path: Path, wanted: str, damage: str) -> None:
    image = image_of(Store(tmp_path), tar(("a", {})))
    manifest = json.loads(Store(tmp_path).blob_path(image.digest).read_bytes())
    digest = {"manifest": image.digest, "config": manifest["config"]["digest"], "layer": image.layers[0].digest}[wanted]
    path = Store(tmp_path).blob_path(digest)
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data.replace(data[:1], b"X", 1) if damage == "changed" else data + b" ")
    with pytest.raises(ImageError) as caught:
        store = Store(tmp_path)
        store.rootfs_layers(store.resolve("x"))
    assert caught.value.hint
    assert not [*(tmp_path / "unpacked").glob("sha256/*")]


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", '{"manifests": [3]}'),
        '{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "x"}}]}',
        '{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "x"}, "size": 3, "digest": "../"}]}',
    ],
)
def test_a_damaged_index_is_an_image_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ImageError):
        Store(tmp_path).resolve("x")


LINK, HARD, FOLDER = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}, {"type": tarfile.DIRTYPE}


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([("../out", {"data": b"x"})], "../out"),
        ([("a/../../out", {"data": b"x"})], "a/../../out"),
        ([("/out", {"data": b"x"})], "/out"),
        ([("l", LINK | {"linkname": "/"}), ("l/out", {"data": b"x"})], "l/out"),
        ([("l", LINK | {"linkname": ".."}), ("l/out", {"data": b"x"})], "l/out"),
        ([("d", FOLDER), ("d/l", LINK | {"linkname": "../.."}), ("d/l/out", {"data": b"x"})], "d/l/out"),
        ([("h", HARD | {"linkname": "../../out"})], "h"),
        ([("h", HARD | {"linkname": "/etc/passwd"})], "h"),
        ([("l", LINK | {"linkname": "/etc"}), ("h", HARD | {"linkname": "l/passwd"})], "h"),
        ([("n", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], "n"),
        ([("n", {"type": tarfile.BLKTYPE, "devmajor": 8})], "n"),
        ([("d", FOLDER), ("d/f", {"data": b"x"}), ("d", {"data": b"x"})], "d"),
        ([("h", HARD | {"linkname": "d"}), ("d", FOLDER)], "h"),
        ([("d", FOLDER), ("h", HARD | {"linkname": "d"})], "h"),
        ([(".wh.f", {}), ("h", HARD | {"linkname": "f"})], "h"),
        ([("h", {"data": b"x"}), ("h", HARD | {"linkname": ""})], "h"),
        ([(".wh.d/f", {"data": b"x"})], ".wh.d/f"),
        ([(".wh..wh.plnk", {})], ".wh..wh.plnk"),
        ([("x" * 256, {"data": b"x"})], "x" * 200),
        ([("d/" * 2100, FOLDER)], "d/" * 100),
        ([("f", {"data": b"x", "pax_headers": {"SCHILY.xattr.trusted.overlay.redirect": "/"}})], "f"),
        ([("f", {"uid": -1})], "f"),
        ([("f", {"type": b"Z"})], "f"),
        ([("d/.wh...", {})], "d/.wh..."),
        ([("f", {"data": b"x"}), ("f/g", {"data": b"x"})], "f/g"),
    ],
)
def test_hostile_layers(tmp_path: Path, entries: list[tuple[str, dict[str, Any]]], named: str) -> None:
    store = Store(tmp_path / "store")
    image = image_of(store, tar(*[(name, dict(fields)) for name, fields in entries]))
    with pytest.raises(ImageError) as caught:
        store.rootfs_layers(image)
    assert caught.value.where == named
    assert not (tmp_path / "out").exists() and not Path("/out").exists()
    assert not [*(tmp_path / "store/unpacked/sha256").iterdir()]


def test_a_file_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    store = Store(tmp_path / "store")
    (layer,) = store.rootfs_layers(
        image_of(store, tar(("f", LINK | {"linkname": str(victim)}), ("f", {"data": b"new"})))
    )
    assert victim.read_text() == "kept"
    assert not (layer / "f").is_symlink() and (layer / "f").read_text() == "new"


def test_a_truncated_layer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ImageError):
        store.rootfs_layers(image_of(store, tar(("a", {"data": b"x" * 5000}))[:2000]))
    for data in (b"garbage", tar(("a", {"data": os.urandom(5000)}), mode="w:gz")[:2000]):
        with pytest.raises(ImageError):
            store.rootfs_layers(image_of(store, data, ending="+gzip"))


def test_a_folders_mode_does_not_stop_what_goes_into_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (layer,) = store.rootfs_layers(image_of(store, tar(("d", FOLDER | {"mode": 0o511}), ("d/e/f", {"data": b"x"}))))
    assert stat.S_IMODE((layer / "d").stat().st_mode) == (0o511 if os.geteuid() == 0 else 0o711)
    assert (layer / "d").stat().st_mtime == 0


def test_compressed_and_unknown_layers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (layer,) = store.rootfs_layers(image_of(store, tar(("a", {"data": b"x"}), mode="w:gz"), ending="+gzip"))
    assert (layer / "a").read_bytes() == b"x"
    image = image_of(store, tar(("b", {})))
    strange = image.replace(layers=(image.layers[0].replace(media_type="application/x-tar.xz"),))
    with pytest.raises(ImageError, match=r"x-tar\.xz"):
        store.rootfs_layers(strange)


def test_whiteouts_become_the_overlays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        (layer,) = store.rootfs_layers(image_of(store, tar(("d", FOLDER), ("d/.wh.gone", {}), ("d/.wh..wh..opq", {}))))
    except ImageError as error:  # a file system without extended attributes
        pytest.skip(error.message)
    status = (layer / "d/gone").lstat()
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    assert any(name.endswith("overlay.opaque") for name in os.listxattr(layer / "d"))


def test_layers_are_unpacked_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = image_of(store, tar(*[(f"f{number}", {"data": b"x" * 999}) for number in range(200)]))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(Store(tmp_path).rootfs_layers(image))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({str(paths) for paths in found}) == 1
    assert len([*found[0][0].iterdir()]) == 200


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = image_of(store, tar(("a", {"data": b"x"})))
    (path,) = store.layer_paths(image)
    (path.parent / f".{path.name}.tmp" / "half").mkdir(parents=True)
    (layer,) = store.rootfs_layers(image)
    assert [one.name for one in layer.iterdir()] == ["a"]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_busybox_must_be_static(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(Path("/bin/ls").read_bytes())
    with pytest.raises(HostError) as caught:
        busybox.find_busybox(tmp_path / "busybox")
    assert "not static" in caught.value.where and "busybox-static" in caught.value.hint
    (tmp_path / "busybox").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(HostError):
        busybox.find_busybox(tmp_path / "busybox")


def test_users(tmp_path: Path) -> None:
    for name, text in {
        "passwd": "root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\nbad:x:y:0::/:\n",
        "group": "root:x:0:\nwheel:x:5:ann\n",
    }.items():
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc" / name).write_text(text)
    user, home = users.find_user([tmp_path], "ann")
    assert (user.uid, user.gid, user.additional_gids, home) == (7, 8, (5,), "/home/ann")
    assert users.find_user([tmp_path], "7:wheel")[0].gid == 5
    assert users.find_user([tmp_path], "99")[0].uid == 99
    for wrong, error in {
        "bob": NotFound,
        "bad": NotFound,
        "ann:nosuch": NotFound,
        "": UserError,
        "a/b": UserError,
        "99999999999": UserError,
    }.items():
        with pytest.raises(error):
            users.find_user([tmp_path], wrong)
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(NotFound):
        users.find_user([tmp_path], "root")


def test_removal_follows_nothing_and_stops_at_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/b/link").symlink_to(victim)
    (tree / "link").symlink_to(victim, target_is_directory=True)
    (tree / ".1").mkdir()
    (tree / ".1/x").write_text("")
    files.remove_tree(tree)
    files.remove_tree(tree)  # already gone
    assert not tree.exists() and (victim / "kept").exists()

    def busy(*_: Any, **__: Any) -> None:
        raise OSError(16, "busy")

    (tree / "a/b").mkdir(parents=True)
    monkeypatch.setattr("vmcontainer_kernel.container.files.os.rmdir", busy)
    with pytest.raises(ContainerError, match="something is mounted"):
        files.remove_tree(tree)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    image = image_of(store, tar(("a", {"data": b"x"}), ("b", {"data": b"x" * 9000})))

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ImageError, match="disk is full") as caught:
            store.rootfs_layers(image)
    assert caught.value.where == "a" and caught.value.hint
    assert not [*(tmp_path / "unpacked/sha256").iterdir()]
    assert store.rootfs_layers(image)


def test_the_configuration_must_name_the_layers(tmp_path: Path) -> None:
    store, layer = Store(tmp_path), tar(("a", {"data": b"x"}))
    other = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
    with pytest.raises(ImageError, match="unpacks to"):
        store.rootfs_layers(image_of(store, layer, diff_ids=[other]))
    assert not [*(tmp_path / "unpacked/sha256").iterdir()]
    for wrong in ([], [other, other], ["../x"]):
        with pytest.raises(ImageError):
            image_of(store, layer, diff_ids=wrong)


def test_a_document_is_not_read_as_two_things(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = image_of(store, tar(("a", {})))
    manifest = json.loads(store.blob_path(image.digest).read_bytes())
    for change in ({"manifests": []}, {"mediaType": "application/vnd.oci.image.index.v1+json"}):
        blob = store.put(json.dumps(manifest | change).encode(), manifest["mediaType"])
        with pytest.raises(ImageError, match="media type"):
            store.name("y:latest", blob)
    assert store.names() == ["x:latest"]


def test_a_layer_that_hides_all_below(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        paths = store.rootfs_layers(
            image_of(store, tar(("a", {})), tar((".wh..wh..opq", {}), ("b", {})), tar(("c", {})))
        )
    except ImageError as error:  # a file system without extended attributes
        pytest.skip(error.message)
    assert [sorted(one.name for one in path.iterdir()) for path in paths] == [["b"], ["c"]]


def test_only_we_reach_what_is_unpacked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.rootfs_layers(image_of(store, tar(("su", {"mode": 0o4755}))))
    assert stat.S_IMODE((tmp_path / "unpacked").stat().st_mode) == 0o700


def test_history_and_inspect(tmp_path: Path, program: Path) -> None:
    store = Store(tmp_path)
    image = build_busybox(store)
    (step,) = shelf.history(store, "busybox")
    assert step["layer"] == image.layers[0].digest and step["size_bytes"] == image.layers[0].size_bytes
    told = shelf.inspect(store, "busybox")
    assert told["names"] == ["busybox:latest"] and told["config"]["Cmd"] == ["sh"] and told["left_out"] == []
    assert [layer["diff_id"] for layer in told["layers"]] == list(image.diff_ids)
    (listed,) = shelf.list_images(store)
    assert (listed.name, listed.created) == ("busybox:latest", "1970-01-01T00:00:00Z")
