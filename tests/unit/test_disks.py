"""Disks without a guest: every format out and in again, packages, overlays, a full disk."""

import asyncio
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vm.launcher import LocalLauncher
from vmcontainer_kernel.drives import Wanted, parse_wanted, run_program
from vmcontainer_kernel.errors import HostError, ImageError, LabError, NotFound, UserError
from vmcontainer_kernel.vm.disks import convert, making, nodes
from vmcontainer_kernel.vm.disks.disk import Disk, Layer
from vmcontainer_kernel.vm.disks.headers import identify
from vmcontainer_kernel.vm.disks.importing import import_image
from vmcontainer_kernel.vm.disks.ovf import DiskFile, read_disks, write_ovf
from vmcontainer_kernel.vm.disks.source import Source, open_source
from vmcontainer_kernel.vm.disks.store import Store

MIB = 1 << 20
SIZE = 3 * MIB + 512


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "disks")


@pytest.fixture
def run(tmp_path):
    """A runner as the supervisor's; it keeps what it ran."""
    launcher = LocalLauncher()

    def run(argv, fds, told):
        run.commands.append(argv)
        return asyncio.run(run_program(launcher, tmp_path, argv, fds, told))

    run.commands = []
    yield run
    assert launcher.left() == []


@pytest.fixture(scope="module")
def content():
    """A few megabytes, of which the middle is empty."""
    data = bytearray(SIZE)
    data[:MIB] = random.Random(4).randbytes(MIB)
    data[-1000:] = random.Random(5).randbytes(1000)
    return bytes(data)


def img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def content_of(store, run, name, folder):
    making.export(store, run, name, folder / "content.raw")
    return (folder / "content.raw").read_bytes()


def source_of(data, name="image"):
    return Source(name, len(data), lambda offset, count: data[offset : offset + count])


KINDS = [
    ("raw", "raw", ""),
    ("qcow2", "qcow2", ""),
    ("qcow2", "qcow2", "compat=0.10"),
    ("qcow2", "qcow2", "extended_l2=on,cluster_size=128k"),
    ("qcow", "qcow", ""),
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("vmdk", "vmdk", "subformat=monolithicFlat"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vdi", "vdi", ""),
    ("vdi", "vdi", "static=on"),
    ("vhdx", "vhdx", ""),
    ("vhdx", "vhdx", "subformat=fixed"),
    ("vhd", "vpc", "force_size=on"),
    ("vhd", "vpc", "subformat=fixed,force_size=on"),
]


@pytest.mark.parametrize(("suffix", "format", "options"), KINDS)
def test_what_others_have_written_comes_in_unchanged(suffix, format, options, store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    image = tmp_path / f"in.{suffix}"
    if format != "raw":
        img("convert", "-f", "raw", "-O", format, *(["-o", options] if options else []), tmp_path / "in.raw", image)
    phases = []
    assert import_image(store, run, image, "data", report=lambda phase, part: phases.append((phase, part))) == ["data"]
    assert store.kept("data").size_bytes == SIZE
    assert content_of(store, run, "data", tmp_path) == content
    assert phases[-1] == ("importing data", 1.0)
    if os.geteuid() == 0:
        assert all("setpriv" in command for command in run.commands[:-1]), "strangers' images are read as nobody"


@pytest.mark.parametrize("suffix", ["raw", "qcow2", "vmdk", "vdi", "vhdx", "vhd", "ova"])
def test_what_is_written_for_others_comes_back_unchanged(suffix, store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    import_image(store, run, tmp_path / "in.raw", "data")
    target = tmp_path / f"out.{suffix}"
    making.export(store, run, "data", target)
    assert [one.name for one in tmp_path.glob("out*")] == [target.name], "no half files, no helpers"
    import_image(store, run, target, "back")
    assert content_of(store, run, "back", tmp_path) == content
    if suffix != "ova":
        driver = {"vhd": "vpc"}.get(suffix, suffix)
        with target.open("rb") as file:
            assert identify(open_source(file.fileno(), "out")).format == driver
        img("compare", "-f", driver, "-F", "raw", target, tmp_path / "in.raw")


def test_a_disk_is_written_to_the_folder_one_is_in(store, run, content, tmp_path, monkeypatch):
    (tmp_path / "in.raw").write_bytes(content)
    import_image(store, run, tmp_path / "in.raw", "data")
    monkeypatch.chdir(tmp_path)
    making.export(store, run, "data", Path("out.qcow2"))
    assert (tmp_path / "out.qcow2").stat().st_size > 0
    written = [word for word in run.commands[-1] if word.endswith("out.qcow2")]
    assert all(word.startswith(str(tmp_path)) for word in written) and written, "qemu-img runs in another folder"


# -- images that want other files read, or that are broken


def qcow2(tmp_path, *options, size="5M"):
    image = tmp_path / "image"
    img("create", "-q", "-f", "qcow2", *options, image, size)
    return image


def vmdk_text(*lines, parent="ffffffff"):
    return "\n".join(["# Disk DescriptorFile", "version=1", "CID=1", f"parentCID={parent}", *lines]).encode()


def with_backing(tmp_path, name):
    return qcow2(tmp_path, "-u", "-F", "raw", "-b", name).read_bytes()


def with_data_file(tmp_path):
    image = qcow2(tmp_path, "-o", f"data_file={tmp_path / 'other'},data_file_raw=on").read_bytes()
    return image.replace(str(tmp_path / "other").encode(), b"/etc/shadow".ljust(len(str(tmp_path / "other")), b" "))


def qed_with_backing(tmp_path):
    img("create", "-q", "-f", "raw", tmp_path / "below", "5M")
    img("create", "-q", "-f", "qed", "-b", tmp_path / "below", "-F", "raw", tmp_path / "image")
    return (tmp_path / "image").read_bytes()


def sparse_vmdk(tmp_path, change):
    img("create", "-q", "-f", "vmdk", tmp_path / "image", "5M")
    data = bytearray((tmp_path / "image").read_bytes())
    change(data)
    return bytes(data)


def hint_of_parent(data):
    at = data.index(b"# The Disk Data Base")
    line = b'#parentFileNameHint="/etc/shadow"'
    data[at : at + len(line)] = line


def no_capacity(data):
    data[12:20] = bytes(8)


def vhd_parent(tmp_path):
    img("create", "-q", "-f", "vpc", tmp_path / "image", "5M")
    data = bytearray((tmp_path / "image").read_bytes())
    struct.pack_into(">I", data, 60, 4)
    (at,) = struct.unpack_from(">Q", data, 16)
    name = "/etc/shadow".encode("utf-16-be")
    data[at + 64 : at + 64 + len(name)] = name
    return bytes(data)


def vdi_parent(tmp_path):
    img("create", "-q", "-f", "vdi", tmp_path / "image", "5M")
    data = bytearray((tmp_path / "image").read_bytes())
    data[440:456] = bytes(range(16))
    return bytes(data)


def vhdx_parent(tmp_path):
    img("create", "-q", "-f", "vhdx", tmp_path / "image", "5M")
    data = bytearray((tmp_path / "image").read_bytes())
    item = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    at = data.index(item)
    (offset,) = struct.unpack_from("<I", data, at + 16)
    table = data.rindex(b"metadata", 0, at)
    data[table + offset + 4] |= 2
    return bytes(data)


FOREIGN = [
    (lambda folder: with_backing(folder, "/etc/shadow"), "/etc/shadow"),
    (lambda folder: with_backing(folder, "../../etc/shadow"), "../../etc/shadow"),
    (lambda folder: with_backing(folder, 'json:{"driver":"file","filename":"/etc/shadow"}'), "json:"),
    (lambda folder: with_backing(folder, "nbd://127.0.0.1/x"), "nbd://127.0.0.1/x"),
    (with_data_file, "/etc/shadow"),
    (qed_with_backing, "below"),
    (lambda folder: vmdk_text('RW 100 FLAT "/etc/shadow" 0'), "/etc/shadow"),
    (lambda folder: vmdk_text('RW 100 FLAT "../shadow" 0'), "../shadow"),
    (lambda folder: vmdk_text('RW 100 FLAT ".." 0'), "'..'"),
    (lambda folder: vmdk_text('RW 100 SPARSE "nbd:unix:x"'), "nbd:unix:x"),
    (lambda folder: vmdk_text("RW 9 ZERO", 'parentFileNameHint="/etc/shadow"', parent="1234"), "/etc/shadow"),
    (lambda folder: vmdk_text("RW 9 ZERO", parent="1234"), "1234"),
    (lambda folder: sparse_vmdk(folder, hint_of_parent), "/etc/shadow"),
    (vhd_parent, "/etc/shadow"),
    (vdi_parent, "03020100-0504-0706"),
    (vhdx_parent, "differencing"),
]


@pytest.mark.parametrize(("make", "named"), FOREIGN)
def test_a_file_that_an_image_names_is_never_read(make, named, store, run, tmp_path):
    (tmp_path / "hostile").write_bytes(make(tmp_path))
    with pytest.raises(ImageError, match="another file, which is not read") as caught:
        import_image(store, run, tmp_path / "hostile", "x")
    assert named in caught.value.message
    assert (run.commands, store.names()) == ([], []), "no program has seen it"


def test_an_extent_is_a_file_beside_and_no_link(store, run, tmp_path):
    (tmp_path / "disk-flat.vmdk").symlink_to("/etc/hostname")
    (tmp_path / "disk.vmdk").write_bytes(vmdk_text('RW 2 FLAT "disk-flat.vmdk" 0'))
    with pytest.raises(UserError, match=r"disk-flat\.vmdk cannot be opened"):
        import_image(store, run, tmp_path / "disk.vmdk", "x")
    (tmp_path / "disk-flat.vmdk").unlink()
    (tmp_path / "disk-flat.vmdk").write_bytes(bytes(512))
    with pytest.raises(ImageError, match="ends before"):
        import_image(store, run, tmp_path / "disk.vmdk", "x")
    assert run.commands == []


def absurd_qcow2(tmp_path):
    data = bytearray(qcow2(tmp_path).read_bytes())
    struct.pack_into(">Q", data, 24, 1 << 60)
    return bytes(data)


def odd_qcow2(tmp_path):
    data = bytearray(qcow2(tmp_path).read_bytes())
    struct.pack_into(">Q", data, 24, 5 * MIB - 3)
    return bytes(data)


def encrypted_qcow2(tmp_path):
    data = bytearray(qcow2(tmp_path).read_bytes())
    struct.pack_into(">I", data, 32, 2)
    return bytes(data)


BROKEN = [
    (absurd_qcow2, "table has"),
    (encrypted_qcow2, "encrypted"),
    (odd_qcow2, "no number of sectors"),
    (lambda folder: qcow2(folder).read_bytes()[:300_000][:70], "ends inside"),
    (lambda folder: sparse_vmdk(folder, no_capacity), "makes no sense: 0 sectors"),
    (lambda folder: vmdk_text(), "names no extents"),
    (lambda folder: vmdk_text('RW 5 FLAT "a b c'), "makes no sense"),
    (lambda folder: vmdk_text("RW 999999999999999 ZERO"), "claims to be a disk of"),
    (lambda folder: b"", "it is empty"),
    (lambda folder: b"\x1f\x8b" + bytes(1000), "compressed"),
    (lambda folder: b"PK\x03\x04" + bytes(1000), "zip"),
    (lambda folder: b"LUKS\xba\xbe" + bytes(1000), "encrypted"),
]


@pytest.mark.parametrize(("make", "why"), BROKEN)
def test_what_makes_no_sense_is_told_without_a_program(make, why, store, run, tmp_path):
    (tmp_path / "hostile").write_bytes(make(tmp_path))
    with pytest.raises(ImageError, match=why):
        import_image(store, run, tmp_path / "hostile", "x")
    assert (run.commands, store.names()) == ([], [])


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_a_file_that_was_cut_is_refused_and_leaves_nothing(format, store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    img("convert", "-f", "raw", "-O", format, tmp_path / "in.raw", tmp_path / "image")
    whole = (tmp_path / "image").stat().st_size
    os.truncate(tmp_path / "image", whole - (1 << 20) - 512)
    with pytest.raises(ImageError):
        import_image(store, run, tmp_path / "image", "x")
    assert store.names() == []
    assert [one.name for one in store.ready().iterdir()] in ([], ["lock"])


def test_a_disk_larger_than_the_disk_is_refused(store, run, tmp_path):
    image = qcow2(tmp_path, size="200T")
    with pytest.raises(UserError, match="larger than the file system"):
        import_image(store, run, image, "x")
    with pytest.raises(UserError, match="larger than the file system"):
        making.create(store, run, "x", 200 << 40)
    assert store.names() == []


def test_a_large_disk_that_is_nearly_empty_is_taken_quickly(store, run, tmp_path):
    size_bytes = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize // 2 // MIB * MIB
    image = tmp_path / "image.vdi"
    img("create", "-q", "-f", "vdi", image, size_bytes)
    import_image(store, run, image, "x")
    assert store.kept("x").size_bytes == size_bytes
    assert store.document("x")["used_bytes"] < 64 * MIB


def test_a_wrong_format_is_told_and_raw_is_always_possible(store, run, content, tmp_path):
    image = qcow2(tmp_path)
    with pytest.raises(ImageError, match="it is qcow2, not vdi"):
        import_image(store, run, image, "x", "vdi")
    with pytest.raises(UserError, match="no such format"):
        import_image(store, run, image, "x", "png")
    import_image(store, run, image, "x", "raw")
    read = content_of(store, run, "x", tmp_path)
    assert read.rstrip(b"\0") == image.read_bytes().rstrip(b"\0")


def test_only_files_are_taken(store, run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="is no file"):
            import_image(store, run, path, "x")
    with pytest.raises(UserError, match="No such file"):
        import_image(store, run, tmp_path / "none", "x")


def test_a_private_file_is_lent_to_nobody(store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    (tmp_path / "in.raw").chmod(0o600)
    import_image(store, run, tmp_path / "in.raw", "x")
    assert content_of(store, run, "x", tmp_path) == content


HEADS = [b"", b"QFI\xfb\0\0\0\3", b"QFI\xfb\0\0\0\1", b"QED\0", b"KDMV\1\0\0\0", b"vhdxfile", b"conectix"]
HEADS += [b"# Disk DescriptorFile\n", b"# Disk DescriptorFile\nRW 7 ", bytes(64) + struct.pack("<I", 0xBEDA107F)]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=1200), st.integers(0, 3000))
def test_any_bytes_are_a_disk_or_an_image_error(head, noise, zeros):
    data = head + noise + bytes(zeros)
    try:
        header = identify(source_of(data))
    except ImageError as error:
        assert error.hint
    else:
        assert 0 < header.size_bytes <= 1 << 50


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_header_with_changed_bytes_is_a_disk_or_an_image_error(data):
    image = bytearray(data.draw(st.sampled_from(samples())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(image), 600) - 1))
        image[at] = data.draw(st.integers(0, 255))
    try:
        identify(source_of(bytes(image)))
    except ImageError as error:
        assert error.hint


_samples: list[bytes] = []


def samples():
    if not _samples:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for format in ("qcow2", "qcow", "qed", "vmdk", "vdi", "vpc"):
                img("create", "-q", "-f", format, Path(folder, format), "2M")
                _samples.append(Path(folder, format).read_bytes()[:400_000])
    return _samples


def test_a_guest_that_writes_a_footer_by_chance_keeps_its_raw_disk():
    data = bytes(4096) + b"conectix".ljust(512, b"\1")
    assert identify(source_of(data)).format == "raw"


# -- packages


def package(tmp_path, members, kind=tarfile.REGTYPE):
    path = tmp_path / "package.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind if not name.endswith(".ovf") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    return path


def ovf_of(*files):
    described = "".join(f'<File id="f{n}" href="{name}"/>' for n, name in enumerate(files))
    disks = "".join(f'<Disk diskId="d{n}" fileRef="f{n}" capacity="1"/>' for n in range(len(files)))
    return f"<Envelope><References>{described}</References><DiskSection>{disks}</DiskSection></Envelope>".encode()


@pytest.fixture
def stream(tmp_path, content):
    """A disk as packages have them."""
    (tmp_path / "in.raw").write_bytes(content)
    options = ("-o", "subformat=streamOptimized")
    img("convert", "-f", "raw", "-O", "vmdk", *options, tmp_path / "in.raw", tmp_path / "stream.vmdk")
    return (tmp_path / "stream.vmdk").read_bytes()


def test_all_disks_of_a_package_come_in(store, run, content, stream, tmp_path):
    members = [("m.ovf", ovf_of("one.vmdk", "two.vmdk")), ("one.vmdk", stream), ("two.vmdk", stream)]
    assert import_image(store, run, package(tmp_path, members), "m") == ["m", "m-2"]
    assert content_of(store, run, "m-2", tmp_path) == content


def test_a_package_is_checked_against_its_manifest(store, run, stream, tmp_path):
    ovf = ovf_of("d.vmdk")
    lines = [(name, hashlib.sha256(data).hexdigest()) for name, data in (("m.ovf", ovf), ("d.vmdk", stream))]
    manifest = "".join(f"SHA256({name})= {digest}\n" for name, digest in lines).encode()
    changed = stream[:-3] + b"xyz"
    for disk, text, why in (
        (changed, manifest, r"d\.vmdk is not what its manifest says"),
        (stream, manifest.splitlines(keepends=True)[0], r"does not tell the digest of d\.vmdk"),
        (stream, b"SHA256 whatever\n", "makes no sense"),
    ):
        path = package(tmp_path, [("m.ovf", ovf), ("m.mf", text), ("d.vmdk", disk)])
        with pytest.raises(ImageError, match=why):
            import_image(store, run, path, "m")
    assert (run.commands, store.names()) == ([], [])
    assert import_image(store, run, package(tmp_path, [("m.ovf", ovf), ("m.mf", manifest), ("d.vmdk", stream)]), "m")


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><Envelope>&b;</Envelope>'
FILE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/shadow">]><Envelope>&a;</Envelope>'


@pytest.mark.parametrize(
    ("ovf", "why"),
    [
        (BOMB, "document type"),
        (FILE, "document type"),
        (b"<Envelope>", "no XML"),
        (b"<a>" * 100, "too many"),
        (b"<a>" + b"<b/>" * 20_000 + b"</a>", "too many"),
        (b"<Envelope/>", "holds no disks"),
        (ovf_of("../../etc/shadow"), "not in the archive"),
        (ovf_of("/etc/shadow"), "not in the archive"),
        (b'<E><Disk diskId="d" fileRef="gone"/></E>', "not listed"),
        (ovf_of("d").replace(b"/></R", b' compression="gzip"/></R'), "compressed"),
        (b"<a>" + bytes(2 << 20), "more than"),
    ],
)
def test_a_hostile_description_is_refused(ovf, why, store, run, tmp_path):
    with pytest.raises(ImageError, match=why):
        import_image(store, run, package(tmp_path, [("m.ovf", ovf), ("d", bytes(5000))]), "m")
    assert (run.commands, store.names()) == ([], [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("d", tarfile.SYMTYPE), ("d", tarfile.LNKTYPE), ("d", tarfile.CHRTYPE), ("../d", tarfile.REGTYPE)],
)
def test_a_hostile_archive_is_refused(name, kind, store, run, tmp_path):
    with pytest.raises(ImageError, match="no plain file"):
        import_image(store, run, package(tmp_path, [("m.ovf", ovf_of("d")), (name, b"")], kind), "m")


def test_a_package_with_a_bad_second_disk_leaves_no_first_one(store, run, stream, tmp_path):
    hostile = vmdk_text('RW 100 FLAT "/etc/shadow" 0')
    members = [("m.ovf", ovf_of("one.vmdk", "two.vmdk")), ("one.vmdk", stream), ("two.vmdk", hostile)]
    with pytest.raises(ImageError, match="/etc/shadow"):
        import_image(store, run, package(tmp_path, members), "m")
    assert store.names() == []


def test_a_package_that_was_cut_is_refused(store, run, stream, tmp_path):
    path = package(tmp_path, [("m.ovf", ovf_of("d.vmdk")), ("d.vmdk", stream)])
    os.truncate(path, 512 * 3 + len(stream) // 2)
    with pytest.raises(ImageError):
        import_image(store, run, path, "m")
    assert store.names() == []


def test_what_is_written_as_a_package_reads_as_one(tmp_path):
    data = write_ovf('a"<b>&', "disk 1.vmdk", 5, 6, memory_mib=256, cpus=2)
    assert read_disks(data) == [DiskFile("disk1", "disk 1.vmdk")]


# -- disks of one's own


def test_an_overlay_is_made_whole_or_written_back(store, run, content, tmp_path):
    (tmp_path / "in.raw").write_bytes(content)
    import_image(store, run, tmp_path / "in.raw", "base")
    making.overlay(store, run, "work", "base")
    making.overlay(store, run, "more", "work")
    assert store.disk("more").chain == (Layer(store.file("work"), "qcow2"), Layer(store.file("base"), "qcow2"))
    assert [one["name"] for one in store.document("more")["chain"]] == ["more", "work", "base"]
    with pytest.raises(UserError, match="work lies on it"):
        store.writable("base")
    with pytest.raises(UserError, match="more lies on it"):
        store.remove("work")
    changed = bytes(reversed(content))
    write(store, "more", changed, tmp_path)
    assert content_of(store, run, "work", tmp_path) == content
    assert making.commit(store, run, "more") == "work"
    assert content_of(store, run, "work", tmp_path) == changed
    assert content_of(store, run, "base", tmp_path) == content
    making.flatten(store, run, "work")
    assert store.disk("work").chain == ()
    store.remove("base")
    assert content_of(store, run, "more", tmp_path) == changed
    store.remove("more")
    assert store.names() == ["work"]


def write(store, name, data, folder):
    """Write into a disk as a guest does, by a program that follows our nodes."""
    (folder / "new.raw").write_bytes(data)
    tree = nodes.file_name(making._chain(store.disk(name)))
    img("convert", "-n", "-f", "raw", "--target-image-opts", folder / "new.raw", opts_of(tree))


def opts_of(name):
    """Return ``json:…`` in the words of --target-image-opts."""

    def flat(prefix, node):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flat(f"{prefix}{key}.", value)
            elif value is not None:
                yield f"{prefix}{key}={value}"

    return ",".join(flat("", json.loads(name.removeprefix("json:"))))


def test_a_base_with_two_overlays_is_not_written_to(store, run):
    making.create(store, run, "base", 5 * MIB)
    for name in ("a", "b"):
        making.overlay(store, run, name, "base")
    with pytest.raises(UserError, match="b lies on it, too"):
        making.commit(store, run, "a")
    with pytest.raises(UserError, match="lies on no other"):
        making.commit(store, run, "base")


def test_a_file_system_is_made_with_the_disk(store, run, tmp_path):
    making.create(store, run, "data", 20 * MIB, "ext4")
    assert content_of(store, run, "data", tmp_path)[0x438:0x43A] == b"\x53\xef", "ext4's magic number"
    assert store.document("data")["used_bytes"] < 5 * MIB
    with pytest.raises(UserError, match="not made with 'ntfs'"):
        making.create(store, run, "other", 20 * MIB, "ntfs")


def test_names_that_cannot_be_and_disks_that_are_not(store, run):
    for name in ("", "..", "a/b", ".tmp-x", "x" * 64, "-x"):
        with pytest.raises(UserError):
            making.create(store, run, name, 5 * MIB)
    making.create(store, run, "data", 5 * MIB)
    with pytest.raises(UserError, match="there is a disk data already"):
        making.create(store, run, "data", 5 * MIB)
    with pytest.raises(NotFound, match="no disk date") as caught:
        store.disk("date")
    assert "data" in caught.value.hint
    with pytest.raises(UserError, match="cannot have 5 bytes"):
        making.create(store, run, "tiny", 5)


def test_a_disk_in_use_is_not_removed(store, run):
    making.create(store, run, "data", 5 * MIB)
    holder = "import fcntl,struct,sys;f=open(sys.argv[1],'rb');" + (
        "fcntl.fcntl(f,fcntl.F_OFD_SETLK,struct.pack('hhqqi4x',fcntl.F_RDLCK,0,101,1,0));print(1,flush=True);input()"
    )
    command = [sys.executable, "-c", holder, str(store.file("data"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        assert store.is_used("data", writing=True)
        for act in (store.remove, lambda name: making.overlay(store, run, "over", name)):
            with pytest.raises(UserError, match="machine"):
                act("data")
        process.communicate(b"\n")
    assert not store.is_used("data")
    store.remove("data")


def test_a_header_that_was_changed_behind_our_back_is_not_followed(store, run, tmp_path):
    making.create(store, run, "data", 5 * MIB)
    store.file("data").write_bytes(with_data_file(tmp_path))
    with pytest.raises(ImageError, match="no longer as it was made"):
        store.disk("data")
    making.create(store, run, "below", 5 * MIB)
    making.overlay(store, run, "over", "below")
    store.file("over").write_bytes(with_backing(tmp_path, "/etc/hostname"))
    assert content_of(store, run, "over", tmp_path) == bytes(5 * MIB), "its base is the one that is noted"


def test_what_a_killed_maker_has_left_is_swept(store, run):
    left = store.ready() / ".tmp-old"
    left.mkdir()
    (left / "disk.qcow2").touch()
    making.create(store, run, "data", 5 * MIB)
    assert not left.exists()


def test_a_chain_is_told_node_by_node():
    disk = Disk("w", Path("/w"), "qcow2", 5, chain=(Layer(Path("/b"), "raw"),))
    lower_file, lower, upper_file, upper = nodes.blockdev(disk, ["/dev/fdset/1", "/dev/fdset/2"], "data0")
    assert (lower_file["filename"], lower_file["read-only"]) == ("/dev/fdset/2", True)
    assert (lower["node-name"], lower["driver"], lower["read-only"]) == ("data0-1", "raw", True)
    assert (upper_file["filename"], upper_file["read-only"]) == ("/dev/fdset/1", False)
    assert (upper["backing"], upper["file"]) == ("data0-1", "data0-file")
    assert nodes.blockdev(Disk("w", Path("/w"), "qcow2", 5), ["f"], "x")[-1]["backing"] is None
    assert all(node["read-only"] for node in nodes.blockdev(disk.reading(), ["f", "g"], "x"))


def test_the_option_names_disk_folder_and_way():
    assert parse_wanted("data") == Wanted("data")
    assert parse_wanted("data:/srv/x:ro") == Wanted("data", True, "/srv/x")
    for text in ("data:rx", "data:/a:/b", "data:x/y"):
        with pytest.raises(UserError, match="neither a folder nor ro"):
            parse_wanted(text)


# -- a full disk

FULL = """
import asyncio, sys
from pathlib import Path
from tests.vm.launcher import LocalLauncher
from vmcontainer_kernel.drives import run_program
from vmcontainer_kernel.errors import HostError
from vmcontainer_kernel.vm.disks import making
from vmcontainer_kernel.vm.disks.importing import import_image
from vmcontainer_kernel.vm.disks.store import Store

launcher, small, image, work = LocalLauncher(), Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
def run(argv, fds, told):
    return asyncio.run(run_program(launcher, work, argv, fds, told))
def refused(function, *arguments):
    try:
        function(*arguments)
    except HostError as error:
        assert "the disk is full" in error.message, error
        return
    raise AssertionError("it was not refused")
there, elsewhere = Store(small), Store(work / "disks")
refused(import_image, there, run, image, "x")
assert there.names() == [] and [one.name for one in small.iterdir()] == ["lock"], list(small.iterdir())
import_image(elsewhere, run, image, "x")
refused(making.export, elsewhere, run, "x", small / "out.raw")
assert [one.name for one in small.iterdir()] == ["lock"], list(small.iterdir())
making.create(there, run, "small", 5 << 20)
print("done")
"""


@pytest.mark.needs("containers-on-host", "qemu")
def test_a_full_disk_is_told_and_nothing_half_is_left(tmp_path):
    image = tmp_path / "image.raw"
    image.write_bytes(random.Random(6).randbytes(24 * MIB))
    (tmp_path / "small").mkdir()
    mount = 'mount -t tmpfs -o size=30m small "$2" && exec "$1" -c "$5" "$2" "$3" "$4"'
    words = [sys.executable, tmp_path / "small", image, tmp_path, FULL]
    command = [
        "unshare",
        *(["-r"] if os.geteuid() else []),
        "-m",
        "--propagation",
        "slave",
        "sh",
        "-c",
        mount,
        "sh",
        *map(str, words),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "done\n", done.stderr


def test_what_qemu_img_says_is_told_in_our_words(tmp_path):
    def meant(status, output):
        with pytest.raises(LabError) as caught:
            convert.finished(status, output, tmp_path)
        return caught.value

    assert isinstance(meant(1, "(1.00/100%)\rqemu-img: error: No space left on device"), HostError)
    assert isinstance(meant(-25, ""), HostError)
    assert "in use" in meant(1, 'Failed to get shared "write" lock').message
    assert "qemu-utils" in meant(127, "").hint
    assert meant(-9, "").where == "qemu-img was ended by signal 9"
    assert convert.progress("    (1.00/100%)\r    (42.50/100%)\r") == 0.425


def test_limits_stand_before_the_program():
    words = convert.bounded(["qemu-img", "info"], 77, nobody=True)
    assert words[0] == "prlimit"
    assert "--fsize=77" in words
    assert words.index("setpriv") < words.index("qemu-img")
    assert {"--reuid=65534", "--no-new-privs", "--bounding-set=-all"} <= set(words)
    assert "setpriv" not in convert.bounded(["qemu-img"], 1, nobody=False)


def test_nobody_is_there_in_a_full_map_only(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for text, there in (("0 0 4294967295\n", True), ("0 1000 1\n", False), ("0 1000 1\n1 100000 65536\n", True)):
        (tmp_path / "map").write_text(text)
        assert convert.can_be_nobody(tmp_path / "map") is there


def test_a_program_that_is_given_up_is_ended(tmp_path, monkeypatch):
    launcher = LocalLauncher()

    def started(limit_s):
        program = run_program(launcher, tmp_path, ["sleep", "1000"], (), lambda output: None)
        return asyncio.run(asyncio.wait_for(program, limit_s))

    with pytest.raises(TimeoutError):
        started(0.3)
    assert launcher.left() == []
    monkeypatch.setattr("vmcontainer_kernel.drives.STUCK_S", 0.2)
    with pytest.raises(HostError, match="wrote nothing"):
        started(20.0)
    assert launcher.left() == []
    assert list(tmp_path.iterdir()) == []
