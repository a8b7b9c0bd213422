"""Xen in a guest, the parts that need no machine: its packages, what is added to them, the command line."""

import gzip
import os
import subprocess

import pytest

from tests.unit.test_vm_guest_parts import DEBIAN_12
from vmcontainer_kernel.errors import MachineError, UserError
from vmcontainer_kernel.vm import guest, packages, qemu, recipe, resources, systems, xen
from vmcontainer_kernel.vm.accelerator import Accelerator
from vmcontainer_kernel.vm.config import MIB, MachineConfig, Multiboot, Wiring

UBUNTU = 'ID=ubuntu\nVERSION_ID="24.04"\n'
ORIGIN = packages.Origin(hypervisor="xen")


def image(folder):
    parts = (folder / "vmlinuz", folder / "initrd", folder / recipe.ROOT)
    return recipe.GuestImage(folder, "0" * 16, *parts, "6.1", "x86_64", xen.XEN)


@pytest.fixture
def unpacked(tmp_path):
    """The files of the packages that matter here, and the base's kernel."""
    root, base = tmp_path / "root", tmp_path / "base"
    files = {
        "boot/xen-4.17-amd64.gz": gzip.compress(b"\x7fELF the hypervisor"),
        "boot/xen-4.17-amd64.efi": b"",
        "etc/xen/xl.conf": b"",
        "usr/bin/busybox": b"the programs",
        "usr/bin/xenstore": b"",
        "usr/lib/xen-4.17/bin/xl": b"",
        "usr/lib/xen-4.17/bin/oxenstored": b"",
        "usr/lib/xen-4.17/boot/hvmloader": b"",
        "usr/lib/xen-4.17/lib/python/grub/__init__.py": b"",
        "usr/lib/xen-common/bin/xen-utils-wrapper": b"",
        "usr/sbin/xen": b"",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "var").mkdir()
    (root / "usr/sbin/xl").symlink_to("../lib/xen-common/bin/xen-utils-wrapper")
    base.mkdir()
    (base / "vmlinuz").write_bytes(b"the kernel")
    xen.furnish(root, base)
    return root, base


@pytest.mark.parametrize(("text", "kernel"), [(DEBIAN_12, "linux-image-amd64"), (UBUNTU, "linux-image-generic")])
def test_a_guest_with_xen_has_the_general_kernel_and_xen_beside_the_usual_packages(text, kernel):
    wanted = xen.xen_packages(text, ORIGIN)
    assert wanted.kernel_meta == kernel
    assert set(packages.names_for(text).plain) <= set(wanted.plain)


def test_xen_s_packages_are_found_by_what_they_need():
    needs = {
        "linux-image-amd64": "linux-image-6.1.0-1-amd64",
        "python3-minimal": "python3.11-minimal",
        "xen-system-amd64": "xen-hypervisor-4.17-amd64, xen-hypervisor-common, xen-utils-4.17",
        "xen-utils-4.17": "libc6 (>= 2.35), libxenmisc4.17 (>= 4.17), python3:any, xen-utils-common",
        "xen-utils-common": "udev, xenstore-utils, ucf",
        "libxenmisc4.17": "libext2fs2, liblzma5, libuuid1, libyajl2",
    }

    def show(name):
        return f"Package: {name}\nVersion: 1\nSHA256: 00\nArchitecture: amd64\nDepends: {needs.get(name, '')}\n"

    names = {one.name for one in packages.resolve(xen.xen_packages(DEBIAN_12, ORIGIN), show)}
    assert {"xen-hypervisor-4.17-amd64", "xen-utils-4.17", "xen-utils-common", "xenstore-utils"} < names
    assert {"libxenmisc4.17", "liblzma5", "libuuid1", "libyajl2"} < names
    assert not names & {"libext2fs2", "python3", "udev", "ucf", "xen-hypervisor-common"}


def test_the_usual_guest_s_lock_file_does_not_tell_of_wishes_it_has_not():
    usual = guest._words(packages.names_for(DEBIAN_12))
    assert set(usual) == {"distribution", "kernel_meta", "python_meta", "plain"}
    assert set(guest._words(xen.xen_packages(DEBIAN_12, ORIGIN))) == {*usual, "more"}


def test_xen_is_taken_out_of_its_package_and_its_tools_are_linked(unpacked):
    root, base = unpacked
    assert (base / "xen").read_bytes() == b"\x7fELF the hypervisor"
    assert (root / "usr/sbin/xl").resolve() == root / "usr/lib/xen-4.17/bin/xl"
    assert (root / "var/lock").readlink().as_posix() == "../run/lock"
    left = {path.name for path in (root / "usr").rglob("*")}
    assert not left & {"oxenstored", "hvmloader", "grub", "xen-common", "xen"}
    assert all(os.access(root / "usr/sbin" / name, os.X_OK) for name in ("xen-start", "xl-exec"))


def test_a_second_domain_is_described_twice_with_the_same_kernel(unpacked):
    root, _ = unpacked
    first, second = ((root / f"etc/xen/pv{number}.cfg").read_text() for number in (1, 2))
    assert first.replace("pv1", "pv2") == second
    assert 'type = "pv"' in first
    assert (root / "usr/lib/xen-domain/vmlinux").read_bytes() == b"the kernel"
    disk = (root / "usr/lib/xen-domain/initrd").read_bytes()
    listing = subprocess.run(["busybox", "cpio", "-t"], check=True, input=disk, capture_output=True)
    assert {"init", "bin/busybox", "proc"} <= set(listing.stdout.decode().split())


def test_a_package_without_a_hypervisor_is_an_error(tmp_path):
    with pytest.raises(MachineError, match="no hypervisor"):
        xen.furnish(tmp_path, tmp_path)


def test_the_scripts_are_scripts():
    for script in (xen.START, xen.DOMAIN_INIT, xen.EXECUTE):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    compile(xen.INIT, "init", "exec")


def test_qemu_gets_xen_with_two_modules_and_enough_memory(tmp_path):
    boot = image(tmp_path).boot
    assert isinstance(boot, Multiboot)
    config = MachineConfig("xen", boot, Accelerator("tcg", ""), memory_bytes=xen.XEN.memory_bytes)
    command = qemu.argv(config, Wiring())
    modules = command[command.index("-initrd") + 1].replace(",,", "\0").split(",")
    assert command[command.index("-kernel") + 1] == str(tmp_path / "xen")
    assert modules[0].startswith(f"{tmp_path}/vmlinuz console=hvc0 ")
    assert modules[1] == str(tmp_path / "initrd")
    qemu.check(config, host_cpus=2, host_memory_bytes=1 << 30)
    assert not config.growable
    for wish in ((512 << 20, None), (None, 2)):
        with pytest.raises(UserError, match="hypervisor"):
            resources.plan(config, *wish)
    with pytest.raises(UserError) as caught:
        qemu.check(MachineConfig("xen", boot, Accelerator("tcg", "")), host_cpus=2, host_memory_bytes=1 << 30)
    assert f"{xen.XEN.memory_bytes // MIB} MiB" in caught.value.hint


def test_the_system_xen_is_this_computer_s_own_distribution_under_xen():
    assert systems.origin_of("xen", "", ("ubuntu", "noble")) == ORIGIN
    assert ORIGIN.label == "xen"
    assert [origin for one, origin in systems.guests_here(("debian", "bookworm")) if one.name == "xen"] == [ORIGIN]
    with pytest.raises(UserError, match="does not boot on arm64"):
        systems.origin_of("xen", "arm64", ("debian", "bookworm"))
