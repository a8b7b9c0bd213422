"""Images on their way in and out: a real registry, archives, other tools' view of our store."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.registry import Registry, require, running
from tests.patience import now_s
from vmcontainer_kernel.container.images import LAYER_TYPE, Blob, Image, Store, documents
from vmcontainer_kernel.container.images.archives import export_image, import_images
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.container.images.changes import Change, commit, diff, id_owners
from vmcontainer_kernel.container.images.pack import pack
from vmcontainer_kernel.container.images.pull import pull
from vmcontainer_kernel.container.images.shelf import list_images, prune, remove, tag
from vmcontainer_kernel.errors import ImageError, UserError

pytestmark = pytest.mark.needs("skopeo")


def blobs(store: Store) -> set[str]:
    return {path.name for path in (store.path / "blobs/sha256").iterdir()}


def nothing_half_done(store: Store) -> None:
    assert not [*store.path.glob(".incoming-*")] and not [*(store.path / "unpacked/sha256").glob(".*")]
    assert not [*(store.path / "blobs").glob(".*")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("source"))
    build_busybox(store)
    return store


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, source: Store) -> Iterator[Registry]:
    require("docker-registry")
    with running(tmp_path_factory.mktemp("registry")) as registry:
        registry.push(source.path, "busybox:latest", "course/busybox:1")
        yield registry


def test_pull(registry: Registry, source: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "a:b")  # skopeo's own names end at a colon
    told: list[tuple[str, int, int | None]] = []
    reference = f"{registry.place}/course/busybox:1"
    image = pull(store, reference, tls_verify=False, progress=lambda *report: told.append(report))
    assert store.names() == [reference] == [image.name]
    assert image.diff_ids == source.resolve("busybox").diff_ids
    (layer,) = store.rootfs_layers(image)
    assert (layer / "bin/busybox").read_bytes() == (source.layer_paths(image)[0] / "bin/busybox").read_bytes()
    assert next(phase for phase, *_ in told) == "asking" and told[-1][0] == "ready"
    fetched = [report for report in told if report[0] == "fetching"]
    assert fetched[-1][2] == image.layers[0].size_bytes <= fetched[-1][1]
    nothing_half_done(store)
    again = pull(store, reference, tls_verify=False, name="bb", progress=lambda *report: told.append(report))
    assert [report for report in told if report[0] == "fetching"][-1][2] == 0
    assert again.digest == image.digest and store.names() == [reference, "bb:latest"]
    assert pull(store, f"{registry.place}/course/busybox@{image.digest}", tls_verify=False, name="pinned")


def test_what_the_registry_changed_is_refused(registry: Registry, source: Store, tmp_path: Path) -> None:
    registry.push(source.path, "busybox:latest", "course/tampered:1")
    store = Store(tmp_path)
    manifest = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.place}/course/tampered:1"],
        check=True,
        capture_output=True,
    ).stdout
    path = registry.blob(json.loads(manifest)["layers"][0]["digest"])
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-100] + bytes(100))
        with pytest.raises(ImageError, match="not what the manifest names"):
            pull(store, f"{registry.place}/course/tampered:1", tls_verify=False)
    finally:
        path.write_bytes(before)
    assert not store.names() and not (tmp_path / "blobs").exists()
    nothing_half_done(store)


@pytest.mark.parametrize(
    ("reference", "tls_verify", "message"),
    [
        ("PLACE/course/nosuch:1", False, "no such image"),
        ("PLACE/course/busybox:nosuch", False, "no such image"),
        ("PLACE/course/busybox:1", True, "TLS certificate"),
        ("127.0.0.1:9/a:1", False, "cannot be reached"),
        ("nosuchhost.invalid/a:1", False, "cannot be reached"),
    ],
)
def test_why_a_pull_fails(registry: Registry, tmp_path: Path, reference: str, tls_verify: bool, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        pull(Store(tmp_path), reference.replace("PLACE", registry.place), tls_verify=tls_verify)
    assert caught.value.hint and caught.value.where
    assert not Store(tmp_path).names()


def test_a_private_registry(source: Store, tmp_path: Path) -> None:
    require("docker-registry")
    authfile = tmp_path / "auth.json"
    with running(tmp_path, private=True) as registry:
        password = base64.b64encode(b"ann:secret").decode()
        authfile.write_text(json.dumps({"auths": {registry.place: {"auth": password}}}))
        with pytest.raises(ImageError, match="refuses access"):
            pull(Store(tmp_path / "store"), f"{registry.place}/a:1", tls_verify=False)
        registry.push(source.path, "busybox:latest", "a:1", f"--authfile={authfile}")
        assert pull(Store(tmp_path / "store"), f"{registry.place}/a:1", tls_verify=False, authfile=authfile)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    for reference in ("", "-x", "a b", "A\0", "../x"):
        with pytest.raises(UserError):
            pull(Store(tmp_path), reference)


def test_a_hostile_image_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    store, hostile = Store(tmp_path / "store"), Store(tmp_path / "hostile")
    build_busybox(store)
    before = blobs(store)
    with hostile.new_blob(LAYER_TYPE) as target, tarfile.open(fileobj=target, mode="w|") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("../out"))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [target.blob.digest]}}
    hostile.add("bad:latest", config, [target.blob])
    registry.push(hostile.path, "bad:latest", "course/bad:1")
    with pytest.raises(ImageError, match=r"\.\./out"):
        pull(store, f"{registry.place}/course/bad:1", tls_verify=False)
    assert blobs(store) == before and store.names() == ["busybox:latest"]
    nothing_half_done(store)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "folder", "gzip"])
def test_export_and_import(source: Store, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image:1.tar"
    if kind == "folder":
        path = source.path
    else:
        export_image(source, "busybox", path, format="oci-archive" if kind == "gzip" else kind)
    if kind == "gzip":
        subprocess.run(["gzip", "-1", path], check=True)
        path = path.with_suffix(".tar.gz")
    store = Store(tmp_path / "store")
    (image,) = import_images(store, path)
    assert image.name == "busybox:latest" and image.diff_ids == source.resolve("busybox").diff_ids
    assert kind == "docker-archive" or image.digest == source.resolve("busybox").digest
    assert [*tmp_path.glob(".image*")] == []
    nothing_half_done(store)
    (other,) = import_images(store, path, name="other")
    assert store.names() == ["busybox:latest", "other:latest"] and other.digest == image.digest


def test_a_blob_that_is_not_the_layer_it_claims_to_be(source: Store, tmp_path: Path) -> None:
    store, forger = Store(tmp_path / "store"), Store(tmp_path / "forger")
    import_images(store, source.path)
    before = blobs(store)
    with forger.new_blob(LAYER_TYPE) as target, tarfile.open(fileobj=target, mode="w|") as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("evil"))
    forger.add("bad:latest", source.resolve("busybox").config, [target.blob])
    with pytest.raises(ImageError, match="not what the configuration says"):
        import_images(store, forger.path)
    assert blobs(store) == before and store.names() == ["busybox:latest"]


def test_what_is_no_archive(source: Store, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"noise" * 200)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for name in ("noise", "empty.tar", "nosuch", "store"):
        with pytest.raises(ImageError):
            import_images(Store(tmp_path / "store"), tmp_path / name)
    with pytest.raises(UserError, match="no format"):
        export_image(source, "busybox", tmp_path / "x", format="zip")


def test_umoci_reads_the_store(source: Store, tmp_path: Path) -> None:
    require("umoci")
    told = subprocess.run(
        ["umoci", "stat", "--json", "--image", f"{source.path}:busybox:latest"], check=True, capture_output=True
    ).stdout
    assert json.loads(told)["history"][0]["created_by"]
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", *rootless, "--image", f"{source.path}:busybox:latest", bundle],
        check=True,
        capture_output=True,
    )
    (ours,) = source.rootfs_layers(source.resolve("busybox"))
    theirs = bundle / "rootfs"
    names = {path.relative_to(ours) for path in ours.rglob("*")}
    assert names == {path.relative_to(theirs) for path in theirs.rglob("*")}
    for name in names:
        one, other = (ours / name).lstat(), (theirs / name).lstat()
        assert (one.st_mode, int(one.st_mtime), one.st_uid) == (other.st_mode, int(other.st_mtime), other.st_uid), name


# -- what a container changed


@pytest.fixture
def changed(tmp_path: Path) -> tuple[Store, Image, Path]:
    """Give a store with busybox, and an upper folder as the overlay leaves it."""
    store, upper = Store(tmp_path / "store"), tmp_path / "upper"
    image = build_busybox(store)
    upper.mkdir()
    for name in ("etc", "new", "home"):
        (upper / name).mkdir()
    (upper / "etc/hosts").write_text("changed")
    (upper / "new/file").write_text("new")
    (upper / "new/again").hardlink_to(upper / "new/file")
    (upper / "new/link").symlink_to("/etc/hosts")
    os.mkfifo(upper / "new/pipe")
    for gone in ("root", "etc/group", "nosuch"):
        os.mknod(upper / gone, stat.S_IFCHR, 0)
    os.setxattr(upper / "home", "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque", b"y")
    (upper / "home/mine").write_text("")
    for path in (upper, *upper.rglob("*")):
        os.utime(path, ns=(5 * 10**9 + 7, 5 * 10**9 + 7), follow_symlinks=False)
    return store, image, upper


def test_diff(changed: tuple[Store, Image, Path]) -> None:
    store, image, upper = changed
    assert [(one.kind, one.path) for one in diff(upper, store.rootfs_layers(image))] == [
        *(("C", "/etc"), ("D", "/etc/group"), ("C", "/etc/hosts"), ("C", "/home"), ("D", "/home/guest")),
        *(("A", "/home/mine"), ("A", "/new"), ("A", "/new/again"), ("A", "/new/file"), ("A", "/new/link")),
        *(("A", "/new/pipe"), ("D", "/root")),
    ]
    assert diff(upper, [*store.rootfs_layers(image), upper])[0] == Change("C", "/etc")


def test_commit(changed: tuple[Store, Image, Path], tmp_path: Path) -> None:
    store, image, upper = changed
    one = commit(store, image, upper, "mine:1", config={"Cmd": ["true"], "Env": None}, created_by="a cell", time_s=9)
    again = commit(store, image, upper, "mine:2", config={"Cmd": ["true"], "Env": None}, created_by="a cell", time_s=9)
    assert one.digest == again.digest
    assert one.config["config"] == {"Cmd": ["true"]}
    assert one.config["history"][-1] == {"created": "1970-01-01T00:00:09Z", "created_by": "a cell"}
    top = store.rootfs_layers(one)[-1]
    assert diff(top, store.rootfs_layers(image)) == [
        change for change in diff(upper, store.rootfs_layers(image)) if change.path != "/nosuch"
    ]
    assert (top / "new/file").stat().st_nlink == 2 and (top / "new/file").stat().st_mtime == 5
    with tarfile.open(store.blob_path(one.layers[-1].digest)) as archive:
        names = archive.getnames()
    assert {"home/.wh..wh..opq", ".wh.root", "etc/.wh.group"} <= set(names)
    if shutil.which("umoci"):
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        command = ["umoci", "unpack", *rootless, "--image", f"{store.path}:mine:1", str(tmp_path / "bundle")]
        subprocess.run(command, check=True, capture_output=True)
        root = tmp_path / "bundle/rootfs"
        assert not (root / "root").exists() and not (root / "home/guest").exists() and (root / "home/mine").exists()


def test_owners_are_the_containers(changed: tuple[Store, Image, Path]) -> None:
    store, image, upper = changed
    me = os.geteuid(), os.getegid()
    mine = commit(store, image, upper, "mine", owners=id_owners([(0, 9, 1), (7, me[0], 1)], [(8, me[1], 1)]), time_s=9)
    with tarfile.open(store.blob_path(mine.layers[-1].digest)) as archive:
        assert {(entry.uid, entry.gid) for entry in archive if not entry.name.endswith(".wh..wh..opq")} == {(7, 8)}
    with pytest.raises(ImageError, match=f"id {me[1]}"):
        commit(store, image, upper, "mine", owners=id_owners([(0, me[0], 1)], []))
    assert not [*(store.path / "blobs").glob(".*")]


def test_what_a_killed_pull_left_is_removed(source: Store, tmp_path: Path) -> None:
    export_image(source, "busybox", tmp_path / "a.tar")
    store = Store(tmp_path / "store")
    (store.path / ".incoming-killed/image/blobs").mkdir(parents=True)
    (store.path / ".incoming-alive").mkdir()
    alive = os.open(store.path / ".incoming-alive", os.O_RDONLY)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        import_images(store, tmp_path / "a.tar")
        assert [path.name for path in store.path.glob(".incoming-*")] == [".incoming-alive"]
    finally:
        os.close(alive)


def test_what_cannot_be_packed(tmp_path: Path) -> None:
    class Nowhere:
        def write(self, data: bytes) -> int:
            return len(data)

    (tmp_path / "d").mkdir()
    try:
        os.setxattr(tmp_path / "d", "trusted.overlay.redirect" if os.geteuid() == 0 else "user.overlay.redirect", b"/x")
    except OSError as error:
        pytest.skip(f"overlay: {error}")
    with pytest.raises(ImageError, match="/d is kept as"):
        pack(tmp_path, Nowhere())


# -- the shelf


def test_names_come_and_go(changed: tuple[Store, Image, Path]) -> None:
    store, image, upper = changed
    before = blobs(store)
    mine = commit(store, image, upper, "mine:1", time_s=9)
    assert tag(store, "mine:1", "other").digest == mine.digest
    assert remove(store, "mine:1", in_use=["other:latest"]) == 0
    with pytest.raises(ImageError, match="a container runs"):
        remove(store, "other", in_use=["other"])
    with pytest.raises(ImageError, match="a container runs"):
        remove(store, mine.digest, in_use=[mine.digest])
    layer = store.layer_paths(store.resolve("other"))[-1]
    store.rootfs_layers(mine)
    assert layer.is_dir()
    assert remove(store, "other") > 0
    assert blobs(store) == before and not layer.exists()
    assert store.rootfs_layers(store.resolve("busybox"))
    assert remove(store, "busybox") > 0 and not blobs(store) and not store.names()


def test_a_name_that_moves_leaves_its_image(changed: tuple[Store, Image, Path]) -> None:
    store, image, upper = changed
    first = commit(store, image, upper, "mine", time_s=9)
    second = commit(store, image, upper, "mine:latest", time_s=10)
    assert [one.name for one in list_images(store)] == ["busybox:latest", "mine", "mine:latest"]
    remove(store, "mine")
    third = commit(store, image, upper, "mine:latest", time_s=11)
    assert [one.name for one in list_images(store)] == ["busybox:latest", "mine:latest", ""]
    assert first.digest != second.digest and store.resolve(second.digest).digest == second.digest
    assert prune(store, in_use=[second.digest]) == 0
    assert prune(store) > 0
    assert store.resolve("mine").digest == third.digest and len(list_images(store)) == 2


# -- bad days, and others at work on the same store


def pushed(registry: Registry, name: str) -> Blob:
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.place}/{name}"]
    raw = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return Blob(documents.MANIFEST_TYPE, f"sha256:{hashlib.sha256(raw).hexdigest()}", len(raw))


def test_an_index_of_several_is_resolved_before_it_comes(registry: Registry, source: Store, tmp_path: Path) -> None:
    layout = Store(tmp_path / "layout")
    shutil.copytree(source.path, layout.path)
    image = layout.resolve("busybox")
    layout.add("other:1", {**image.config, "author": "another"}, list(image.layers))
    for name in ("busybox:latest", "other:1"):
        registry.push(layout.path, name, f"course/many:{name.partition(':')[0]}")
    blob, other = (pushed(registry, f"course/many:{tag}") for tag in ("busybox", "other"))
    ours = {"architecture": documents.ARCHITECTURES[os.uname().machine], "os": "linux"}
    entries = [(other, {"architecture": "s390x", "os": "linux"}), (other, {**ours, "os": "windows"}), (blob, ours)]
    index = {
        "schemaVersion": 2,
        "mediaType": documents.INDEX_TYPES[0],
        "manifests": [documents.descriptor(one) | {"platform": platform} for one, platform in entries],
    }
    request = urllib.request.Request(
        f"http://{registry.place}/v2/course/many/manifests/1",
        documents.canonical(index),
        {"Content-Type": documents.INDEX_TYPES[0]},
        method="PUT",
    )
    assert urllib.request.urlopen(request, timeout=30).status == 201
    told: list[tuple[str, int, int | None]] = []
    store = Store(tmp_path / "store")
    image = pull(
        store, f"{registry.place}/course/many:1", tls_verify=False, progress=lambda *report: told.append(report)
    )
    assert image.digest == blob.digest
    assert {total for phase, _, total in told if phase == "fetching"} == {image.layers[0].size_bytes}


def test_skopeo_writes_into_our_store(source: Store, tmp_path: Path) -> None:
    """skopeo takes no lock of ours, and empties index.json before it writes it: we wait for the rest."""
    store = Store(tmp_path / "store")
    build_busybox(store)
    held = store.resolve("busybox")
    errors: list[BaseException] = []
    over = threading.Event()

    def use() -> None:
        try:
            while not over.is_set():
                for name in Store(store.path).names():
                    assert store.resolve(name).diff_ids == held.diff_ids
        except BaseException as error:
            errors.append(error)

    user = threading.Thread(target=use)
    user.start()
    try:
        for name in ("one:1", "two:1", "one:1"):
            command = ["skopeo", "copy", "-q", f"oci:{source.path}:busybox:latest", f"oci:{store.path}:{name}"]
            subprocess.run(command, check=True, timeout=60)
            tag(store, name, f"{name}-ours")
    finally:
        over.set()
        user.join()
    assert not errors
    assert set(store.names()) == {"busybox:latest", "one:1", "two:1", "one:1-ours", "two:1-ours"}
    assert remove(store, "one:1") == 0 and remove(store, "two:1") == 0
    assert store.rootfs_layers(store.resolve("two:1-ours")) == store.layer_paths(held)


def test_two_pull_the_same(registry: Registry, tmp_path: Path) -> None:
    script = "import sys; from vmcontainer_kernel.container.images import Store\n"
    script += "from vmcontainer_kernel.container.images.pull import pull\n"
    script += "image = pull(Store(sys.argv[1]), sys.argv[2], tls_verify=False); print(image.digest)"
    store, reference = Store(tmp_path / "store"), f"{registry.place}/course/busybox:1"
    command = [sys.executable, "-c", script, str(store.path), reference]
    pulling = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {(one.communicate(timeout=90)[0], one.returncode) for one in pulling}
    assert said == {(f"{store.resolve(reference).digest}\n", 0)}
    assert store.names() == [reference] and len(store.index()) == 1
    nothing_half_done(store)


def test_killed_while_unpacking(tmp_path: Path) -> None:
    """Whoever comes next unpacks anew, over what the killed one left."""
    store = Store(tmp_path / "store")
    with store.new_blob(LAYER_TYPE) as target, tarfile.open(fileobj=target, mode="w|") as archive:  # type: ignore[call-overload]
        for number in range(20_000):
            archive.addfile(tarfile.TarInfo(f"{number % 50}/{number}"))
    image = store.add("many:1", {"rootfs": {"type": "layers", "diff_ids": [target.blob.digest]}}, [target.blob])
    script = "import sys; from vmcontainer_kernel.container.images import Store; store = Store(sys.argv[1])\n"
    script += "store.rootfs_layers(store.resolve('many:1'))"
    (place,) = store.layer_paths(image)
    with subprocess.Popen([sys.executable, "-c", script, str(store.path)]) as process:
        end_s = now_s() + 60
        while not (place.with_name(f".{place.name}.tmp") / "7").exists():
            assert process.poll() is None and now_s() < end_s
            time.sleep(0.001)
        process.kill()
    assert not place.exists() and place.with_name(f".{place.name}.tmp").exists()
    assert store.rootfs_layers(image) == [place] and len([*place.rglob("*")]) == 20_050
    nothing_half_done(store)


FULL = """
import sys
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.archives import import_images
from vmcontainer_kernel.errors import ImageError
from pathlib import Path
store = Store(sys.argv[1])
try:
    import_images(store, Path(sys.argv[2]))
except ImageError as error:
    print(error.message, "|", error.hint)
print(store.names(), sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root: mounts")
@pytest.mark.parametrize("size", ["600k", "3m"], ids=["while it comes", "while it is unpacked"])
def test_a_disk_that_is_full(source: Store, tmp_path: Path, size: str) -> None:
    big, archive = Store(tmp_path / "big"), tmp_path / "big.tar"
    with big.new_blob(LAYER_TYPE) as target, tarfile.open(fileobj=target, mode="w|") as layer:  # type: ignore[call-overload]
        for number in range(20):
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = 100_000
            layer.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [target.blob.digest]}}
    big.add("big:1", config, [target.blob])
    export_image(big, "big:1", archive)
    (tmp_path / "store").mkdir()
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && exec "$0" -c "$3" "$1" "$2"'
    command = ["unshare", "-m", "--propagation", "slave", "sh", "-c", script, sys.executable, str(tmp_path / "store")]
    done = subprocess.run([*command, str(archive), FULL], check=True, capture_output=True, text=True, timeout=60)
    message, _, rest = done.stdout.partition("\n")
    assert "the disk is full" in message and "free some space" in message
    assert rest in ("[] ['.lock']\n", "[] []\n")
