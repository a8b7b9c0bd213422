"""Guest images, the pure parts: names of packages, kernel modules, archives, compression, the cache's folders."""

import ctypes
import gzip
import lzma
import os
import stat
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from vmcontainer_kernel.errors import HostError, MachineError, NotFound, UserError
from vmcontainer_kernel.vm import cache, contents, decompress, guest, initrd, modules, packages, systems, tree
from vmcontainer_kernel.vm.initrd import Entry
from vmcontainer_kernel.vm.modules import Module

DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
UBUNTU_24 = 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
FEDORA = 'NAME="Fedora Linux"\nPRETTY_NAME="Fedora Linux 42"\nID=fedora\n'


def record(name, depends="", pre_depends="", version="1"):
    lines = [f"Package: {name}", f"Version: {version}", f"SHA256: {name.encode().hex()}"]
    lines += [f"Pre-Depends: {pre_depends}"] if pre_depends else []
    lines += [f"Depends: {depends}"] if depends else []
    return "\n".join([*lines, "Description: words, linux-image-9-fake | more", ""])


PYTHON = {
    "python3-minimal": record("python3-minimal", "dpkg (>= 1.13.20)", "python3.12-minimal (>= 3.12.3-0~)"),
    "python3.12-minimal": record("python3.12-minimal", "libpython3.12-minimal (= 3.12.3), libexpat1", "libc6"),
    "libpython3.12-minimal": record("libpython3.12-minimal", "libc6 (>= 2.14)"),
}
DEBIAN_KERNEL = {
    "linux-image-cloud-amd64": record("linux-image-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)"),
    "linux-image-6.1.0-9-cloud-amd64": record("linux-image-6.1.0-9-cloud-amd64", "kmod, linux-base, initramfs-tools"),
}
DEBIAN_14_KERNEL = {
    "linux-image-cloud-amd64": record("linux-image-cloud-amd64", "linux-base-cloud-amd64, linux-image-7.2-cloud-amd64"),
    "linux-image-7.2-cloud-amd64": record(
        "linux-image-7.2-cloud-amd64",
        "dracut | initramfs-tools, linux-base-7.2-cloud-amd64 (= 7), linux-binary-7.2-cloud-amd64 (= 7), "
        "linux-modules-7.2-cloud-amd64 (= 7)",
    ),
}
UBUNTU_KERNEL = {
    "linux-image-virtual": record("linux-image-virtual", "linux-image-6.8.0-45-generic"),
    "linux-image-6.8.0-45-generic": record(
        "linux-image-6.8.0-45-generic", "kmod, linux-base (>= 4.5), linux-modules-6.8.0-45-generic"
    ),
    "linux-modules-6.8.0-45-generic": record("linux-modules-6.8.0-45-generic"),
}


def resolved(os_release, known):
    wanted = packages.names_for(os_release)
    return [one.name for one in packages.resolve(wanted, lambda name: known.get(name) or record(name))]


def test_debian_names():
    names = resolved(DEBIAN_12, PYTHON | DEBIAN_KERNEL)
    assert "linux-image-6.1.0-9-cloud-amd64" in names
    assert {"python3.12-minimal", "libpython3.12-minimal", "libpython3.12-stdlib", "busybox-static"} <= set(names)
    assert not {"linux-image-cloud-amd64", "python3-minimal", "dpkg", "kmod", "linux-image-9-fake"} & set(names)


def test_ubuntu_has_its_modules_in_a_package_of_their_own():
    names = resolved(UBUNTU_24, PYTHON | UBUNTU_KERNEL)
    assert {"linux-image-6.8.0-45-generic", "linux-modules-6.8.0-45-generic"} <= set(names)


def test_debian_14_has_the_kernel_its_modules_and_their_lists_apart():
    names = resolved(DEBIAN_12, PYTHON | DEBIAN_14_KERNEL)
    assert {f"linux-{part}-7.2-cloud-amd64" for part in ("binary", "modules", "base")} <= set(names)
    assert "linux-base-cloud-amd64" not in names


@pytest.mark.parametrize("name", ["usr/lib/modules/6-x/vmlinuz", "boot/vmlinuz-6-x"])
def test_a_kernel_is_found_where_its_distribution_has_it(tmp_path, name):
    with pytest.raises(MachineError, match="kernel 6-x"):
        modules.kernel_file(tmp_path, "6-x")
    (tmp_path / name).parent.mkdir(parents=True)
    # As Ubuntu has it; whoever unpacked the package may read it.
    (tmp_path / name).write_bytes(b"kernel")
    (tmp_path / name).chmod(0o600)
    assert modules.kernel_file(tmp_path, "6-x").read_bytes() == b"kernel"


def test_a_descendant_takes_the_names_of_its_nearest_ancestor():
    assert packages.names_for(MINT).kernel_meta == "linux-image-virtual"


def test_an_unknown_distribution_is_refused_by_name():
    with pytest.raises(HostError, match="Fedora Linux 42") as caught:
        packages.names_for(FEDORA)
    assert "Debian" in caught.value.hint


def test_a_meta_package_that_leads_nowhere_is_an_error():
    with pytest.raises(MachineError, match="linux-image-cloud-amd64"):
        resolved(DEBIAN_12, PYTHON)


def test_an_epoch_is_written_as_apt_writes_it():
    assert packages.Package("zlib1g", "1:1.2", "00").file_name == "zlib1g_1%3a1.2_amd64.deb"


def test_another_processor_s_packages_have_their_own_kernel_and_folder():
    arm = packages.Origin("arm64")
    assert packages.names_for(DEBIAN_12, arm).kernel_meta == "linux-image-cloud-arm64"
    assert (packages.Origin().label, arm.label, packages.Origin("arm64", "trixie").label) == (
        "",
        "arm64",
        "trixie-arm64",
    )
    assert 'APT::Architecture "arm64";' in packages.apt_conf(Path("/s"), "", arm)
    assert packages.parse_record(record("a") + "Architecture: arm64\n").file_name == "a_1_arm64.deb"


def test_another_release_comes_from_the_same_mirrors():
    targets = "http://m/debian/ bookworm main\nhttp://m/security/ bookworm-security main\nhttp://x/ stable main\nodd\n"
    text = packages.other_sources(targets, {"ID": "nobody-s", "VERSION_CODENAME": "bookworm"}, "trixie")
    assert text == "deb http://m/debian/ trixie main\ndeb http://m/security/ trixie-security main\n"
    assert 'SourceParts "/dev/null"' in packages.apt_conf(Path("/s"), "", packages.Origin(release="trixie"))
    assert "base-files" in packages.names_for(DEBIAN_12, packages.Origin(release="trixie")).plain
    with pytest.raises(HostError, match="trixie"):
        packages.other_sources("http://x/ stable main", {"VERSION_CODENAME": "bookworm"}, "trixie")


def test_a_kernel_packed_for_efi_is_unpacked():
    payload = gzip.compress(b"the kernel")
    packed = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload + b"padding"
    assert initrd.vmlinux(packed) == b"the kernel"


@pytest.mark.parametrize(
    ("system", "arch", "origin"),
    [
        ("", "", ("x86_64", "")),
        ("", "arm64", ("arm64", "")),
        ("debian12", "", ("x86_64", "")),
        ("debian13", "arm64", ("arm64", "trixie")),
    ],
)
def test_a_system_s_name_says_where_its_packages_come_from(system, arch, origin):
    assert systems.origin_of(system, arch, ("debian", "bookworm")) == packages.Origin(*origin)


def test_a_system_that_cannot_be_had_is_refused_with_those_that_can():
    with pytest.raises(NotFound) as unknown:
        systems.origin_of("plan9", "", ("debian", "bookworm"))
    assert unknown.value.hint == "there are: debian12, debian13, xen"
    with pytest.raises(UserError) as foreign:
        systems.origin_of("ubuntu24.04", "", ("debian", "bookworm"))
    assert "debian12, debian13" in foreign.value.hint
    with pytest.raises(UserError) as processor:
        systems.origin_of("", "vax", ("debian", "bookworm"))
    assert "arm64" in processor.value.hint


def test_private_configuration_keeps_proxies_and_drops_hooks(tmp_path):
    dump = 'Acquire::http::Proxy "http://proxy:3128";\nAcquire::Languages "de";\nAPT::Update::Post-Invoke:: "rm";\n'
    text = packages.apt_conf(tmp_path, dump)
    assert 'Acquire::http::Proxy "http://proxy:3128";' in text
    assert "rm" not in text and '"de"' not in text
    assert f'Dir::State "{tmp_path}";' in text


def elf(strings):
    """The smallest 64-bit ELF file with a .modinfo section."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = b"\0".join(string.encode() for string in strings) + b"\0"
    info_at, names_at = 64, 64 + len(info)
    table = names_at + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )

    def section(name, kind, offset, size):
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0, 0) + section(1, 1, info_at, len(info)) + section(10, 3, names_at, len(names))
    return header + info + names + sections


def module(name, depends=(), softdeps=(), aliases=()):
    return modules.Module(name, f"kernel/{name}.ko", tuple(depends), tuple(softdeps), tuple(aliases))


def test_modinfo_is_read_from_an_elf_file():
    content = elf(["license=GPL", "alias=rtnl-link-veth", "depends=a-b,c", "softdep=pre: x-y z post: late", "name=m"])
    found = modules.read_module("my-mod", "kernel/my-mod.ko", content)
    assert (found.name, found.depends, found.softdeps) == ("my_mod", ("a_b", "c"), ("x_y", "z"))
    assert found.aliases == ("rtnl-link-veth",)


def test_a_file_that_is_no_module_is_refused():
    with pytest.raises(MachineError, match="ELF"):
        modules.modinfo(b"not a module")


def test_modules_load_after_what_they_need():
    known = {
        one.name: one for one in (module("a", ["b", "c"]), module("b", ["c"], ["soft"]), module("c"), module("soft"))
    }
    assert modules.load_order(known, ["a"], frozenset()) == ["soft", "c", "b", "a"]
    assert modules.load_order(known, ["a"], frozenset({"c", "soft"})) == ["b", "a"]


def test_a_missing_module_and_a_circle_are_errors_that_show_the_way():
    known = {one.name: one for one in (module("a", ["b"]), module("b", ["a"]), module("c", ["gone"]))}
    with pytest.raises(MachineError, match="circle") as caught:
        modules.load_order(known, ["a"], frozenset())
    assert caught.value.where == "a → b → a"
    with pytest.raises(MachineError, match="no module gone"):
        modules.load_order(known, ["c"], frozenset())


def test_an_absent_soft_dependency_is_passed_over():
    assert modules.load_order({"a": module("a", softdeps=["gone"])}, ["a"], frozenset()) == ["a"]


def test_modprobe_tables():
    known = {one.name: one for one in (module("a", ["b"]), module("b", ["c"]), module("c", aliases=["net-pf-1"]))}
    lines = modules.modules_dep(known).splitlines()
    assert lines[0] == "kernel/a.ko: kernel/b.ko kernel/c.ko"
    assert lines[2] == "kernel/c.ko:"
    assert modules.modules_alias(known) == "alias net-pf-1 c\n"


def test_modules_are_selected_with_their_needs_and_unpacked(tmp_path):
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/veth.ko.xz").write_bytes(lzma.compress(elf(["depends=base-mod"])))
    (tmp_path / "kernel/base_mod.ko").write_bytes(elf(["depends="]))
    (tmp_path / "kernel/other.ko").write_bytes(elf(["depends="]))
    found = modules.select(tmp_path, ["ve*"], frozenset())
    assert sorted(found) == ["base_mod", "veth"]
    assert found["veth"].path == "kernel/veth.ko"
    assert found["veth"].content.startswith(b"\x7fELF")


def test_cpio_is_what_other_programs_read(tmp_path):
    entries = [
        Entry("bin", stat.S_IFDIR | 0o755),
        Entry("bin/odd", stat.S_IFREG | 0o755, b"12345"),
        Entry("link", stat.S_IFLNK | 0o777, b"bin/odd"),
    ]
    archive = initrd.cpio(entries)
    assert archive == initrd.cpio(entries)
    subprocess.run(["busybox", "cpio", "-id"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/odd").read_bytes() == b"12345"
    assert os.access(tmp_path / "bin/odd", os.X_OK)
    assert (tmp_path / "link").readlink().name == "odd"


def test_the_ram_disk_loads_in_order_and_hands_over():
    script = initrd.init_script(["virtio", "virtio_blk"], "squashfs")
    assert script.index("modprobe -a virtio virtio_blk\n") < script.index("switch_root /root /sbin/init")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert initrd.INIT.startswith("#!/usr/bin/python3 -ISB\n")
    compile(initrd.INIT, "init", "exec")


def test_a_modules_signature_is_cut_off():
    signature = b"s" * 300
    signed = b"module" + signature + bytes(8) + struct.pack(">I", 300) + b"~Module signature appended~\n"
    assert modules.unsigned(signed) == b"module"
    assert modules.unsigned(b"module") == b"module"
    assert modules.unsigned(signed[-40:]) == b""  # cut short by somebody


def test_the_ram_disk_holds_what_modprobe_looks_for():
    two = [Module("virtio", "kernel/a/virtio.ko", (), (), (), b"1"), Module("blk", "b/blk.ko", ("virtio",), (), ())]
    archive = initrd.build_initrd(b"busybox", "6.1", two, "squashfs")
    assert b"blk.ko: virtio.ko\n" in archive
    assert b"lib/modules/6.1/virtio.ko\0" in archive
    assert b"bin/modprobe\0" in archive


def bzimage(payload):
    head = bytearray(3 * 512)
    head[0x1F1] = 2
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload) + 4)
    return bytes(head) + b"\0" * 16 + payload + struct.pack("<I", 0) + b"trailing"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_the_kernel_is_taken_out_of_its_wrapping(compress):
    kernel = b"\x7fELF" + os.urandom(1000)
    assert initrd.vmlinux(bzimage(compress(kernel))) == kernel


def test_a_kernel_in_an_unknown_wrapping_is_left_as_it_is():
    image = bzimage(b"unknown compression")
    assert initrd.vmlinux(image) == image
    assert initrd.vmlinux(b"\x7fELF" + b"\0" * 1024).startswith(b"\x7fELF")


def lz4_legacy(content):
    """The frame that ``lz4 -l`` writes and the kernel's build uses: blocks of 8 MiB."""
    library = ctypes.CDLL("liblz4.so.1")
    parts = [b"\x02\x21\x4c\x18"]
    for start in range(0, len(content), 8 << 20):
        block = content[start : start + (8 << 20)]
        output = ctypes.create_string_buffer(len(block) + 1000)
        size = library.LZ4_compress_default(block, output, len(block), len(output))
        parts += [struct.pack("<I", size), output.raw[:size]]
    return b"".join(parts)


def zstd(content):
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compress.restype = ctypes.c_size_t
    output = ctypes.create_string_buffer(len(content) + 1000)
    size = library.ZSTD_compress(output, ctypes.c_size_t(len(output)), content, ctypes.c_size_t(len(content)), 3)
    return output.raw[:size]


@pytest.mark.parametrize("compress", [lz4_legacy, zstd])
def test_formats_that_need_a_library(compress):
    content = os.urandom(100_000) + b"0" * 9_000_000
    packed = compress(content)
    assert len(packed) < len(content)
    assert decompress.decompress(packed) == content
    with pytest.raises(MachineError, match="damaged"):
        decompress.decompress(packed[: len(packed) // 2])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_damaged_data_is_an_error_of_ours(compress):
    packed = bytearray(compress(os.urandom(4096)))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(MachineError, match="damaged"):
        decompress.decompress(bytes(packed))


def test_unknown_data_is_returned_unchanged():
    assert decompress.decompress(zlib.compress(b"x")) == zlib.compress(b"x")


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    with cache.made(tmp_path / "good") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "good").exists()
    with pytest.raises(ValueError), cache.made(tmp_path / "bad") as folder:
        (folder / "file").write_text("x")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_lock_is_held_by_one(tmp_path):
    first = cache.try_lock(tmp_path / "lock")
    assert cache.try_lock(tmp_path / "lock") is None
    os.close(first)
    second = cache.try_lock(tmp_path / "lock")
    assert second is not None
    os.close(second)


def test_pruning_keeps_the_last_used_and_nothing_unfinished(tmp_path):
    for age, key in enumerate(["a" * 16, "b" * 16, "c" * 16]):
        (tmp_path / key).mkdir()
        os.utime(tmp_path / key, (1000 - age, 1000 - age))
    for name in ("apt", "packages", "tmp-left"):
        (tmp_path / name).mkdir()
    cache.prune(tmp_path, cache.KEYS, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a" * 16, "apt", "b" * 16, "packages"]


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    with pytest.raises(HostError, match="disk is full") as caught, cache.reported_when_full(tmp_path, "it", 400):
        raise OSError(28, "No space left on device")
    assert "VMCONTAINER_CACHE" in caught.value.hint
    with pytest.raises(PermissionError), cache.reported_when_full(tmp_path, "it", 400):
        raise PermissionError(13, "no")


def test_trimming_spares_what_it_should(tmp_path):
    for name in ("usr/share/doc/x", "usr/lib/python3.11/test/a.py", "usr/lib/python3.11/json/a.py", "boot/vmlinuz-1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tree.trim(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        "usr/lib/python3.11/json/a.py"
    ]


def test_busybox_does_not_replace_a_program(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/sbin").mkdir()
    (tmp_path / "usr/bin/python3").write_text("real")
    tree.link_busybox(tmp_path, ["bin/ls", "usr/bin/python3", "sbin/ip"])
    assert str((tmp_path / "usr/bin/ls").readlink()) == "busybox"
    assert str((tmp_path / "usr/sbin/ip").readlink()) == "../bin/busybox"
    assert (tmp_path / "usr/bin/python3").read_text() == "real"


def test_our_guest_files_exist_and_the_host_part_stays_out():
    names = {str(path.relative_to(guest.PACKAGE)) for path in tree.our_files(guest.PACKAGE)}
    assert {"__init__.py", "errors.py", "paths.py", "agent/protocol.py"} <= names
    assert not any(name.startswith("vm/") for name in names)
    assert set(contents.BOOT_MODULES) <= set(contents.MODULES)


def test_a_change_of_our_files_changes_the_image_but_not_its_base(tmp_path, monkeypatch):
    (tmp_path / "agent").mkdir()
    (tmp_path / "errors.py").write_text("1")
    monkeypatch.setattr(guest, "PACKAGE", tmp_path)
    some = [packages.Package("a", "1", "00")]
    base, image = guest._key(guest.OURS, some)
    (tmp_path / "errors.py").write_text("2")
    assert guest._key(guest.OURS, some)[0] == base
    assert guest._key(guest.OURS, some)[1] != image
    assert guest._key(guest.OURS, [packages.Package("a", "2", "01")])[0] != base


def test_no_guest_is_found_in_an_empty_or_damaged_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path))
    assert guest.find_guest() is None
    (tmp_path / "guests/packages.json").write_text('{"wanted": 1')
    assert guest.find_guest() is None
