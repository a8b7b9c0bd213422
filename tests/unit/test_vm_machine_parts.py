"""Machines, the pure parts: command lines, the choice of an accelerator, the hypervisor view, reasons for an end."""

import asyncio
import dataclasses
import itertools
import json
import platform
import socket
from pathlib import Path

import pytest

from vmcontainer_kernel.errors import HostError, MachineError, UserError
from vmcontainer_kernel.vm import accelerator, kvm, qemu, template
from vmcontainer_kernel.vm.accelerator import Accelerator, Probe
from vmcontainer_kernel.vm.config import PLATFORMS, Drive, Firmware, MachineConfig, Multiboot, Wiring, accelerator_for
from vmcontainer_kernel.vm.console import FILE_LIMIT_BYTES, Console, last_words
from vmcontainer_kernel.vm.disks.disk import Disk
from vmcontainer_kernel.vm.guest import GuestImage

GUEST = GuestImage(Path("/g"), "0" * 16, Path("/g/vmlinuz"), Path("/g/initrd"), Path("/g/a,b.squashfs"), "6.1").boot
TCG = Accelerator("tcg", "no /dev/kvm")
CONFIG = MachineConfig("vm", GUEST, TCG)
GIB = 1 << 30


def options(command, name):
    return [value for option, value in itertools.pairwise(command) if option == name]


def test_each_device_is_a_part_of_the_command_line():
    command = qemu.argv(CONFIG, Wiring())
    assert command[0] == "qemu-system-x86_64"
    assert command[1:] == [word for device in qemu.DEVICES for word in device(CONFIG, Wiring())]
    assert "-nodefaults" in command and "-no-user-config" in command


def test_sockets_are_inherited_descriptors_in_order():
    sockets = [value for value in options(qemu.argv(CONFIG, Wiring()), "-chardev") if value.startswith("socket")]
    assert sockets == ["socket,id=qmp,fd=10", "socket,id=console,fd=11", "socket,id=agent,fd=12"]
    assert (qemu.QMP_FD, qemu.CONSOLE_FD, qemu.AGENT_FD) == (qemu.FIRST_FD, qemu.FIRST_FD + 1, qemu.FIRST_FD + 2)


def test_qemu_is_confined():
    assert options(qemu.argv(CONFIG, Wiring()), "-sandbox") == [
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    ]


def test_the_root_disk_is_read_only_and_its_commas_are_doubled():
    disks = options(qemu.argv(CONFIG, Wiring()), "-blockdev")
    assert all("read-only=on" in disk for disk in disks)
    assert "filename=/g/a,,b.squashfs" in disks[0]


def test_tcg_has_a_bounded_code_buffer_and_a_plain_cpu():
    command = qemu.argv(CONFIG, Wiring())
    assert options(command, "-accel") == ["tcg,tb-size=96"]
    assert options(command, "-cpu") == ["qemu64,+rdrand"]
    fast = MachineConfig("vm", GUEST, Accelerator("kvm", "it works"))
    assert options(qemu.argv(fast, Wiring()), "-accel") == ["kvm"]
    assert options(qemu.argv(fast, Wiring()), "-cpu") == ["host"]


def test_a_template_shares_its_memory_and_a_clone_does_not():
    ram = Path("/t/ram")
    (saved,) = [one for one in options(qemu.argv(CONFIG, Wiring(ram, save=True)), "-object") if "id=ram" in one]
    (cloned,) = [one for one in options(qemu.argv(CONFIG, Wiring(ram)), "-object") if "id=ram" in one]
    assert saved.endswith("share=on")
    assert cloned.endswith("share=off")
    assert "-incoming" in qemu.argv(CONFIG, Wiring(ram))
    assert "-incoming" not in qemu.argv(CONFIG, Wiring(ram, save=True))


def test_a_guest_that_may_get_processors_finds_their_places_taken_when_it_boots():
    growing = dataclasses.replace(CONFIG, max_cpus=3)
    newer = Wiring(qemu_version=(10, 0))
    found = [one for one in options(qemu.argv(growing, newer), "-device") if qemu.ROOM in one]
    assert found == ["qemu64-x86_64-cpu,apic-id=1,id=room1", "qemu64-x86_64-cpu,apic-id=2,id=room2"]
    assert qemu.room(CONFIG, newer) == qemu.room(growing, Wiring()) == ()
    assert qemu.room(growing, dataclasses.replace(newer, receive=True)) == ()
    assert qemu.room(dataclasses.replace(growing, accelerator=Accelerator("kvm", "")), newer) == ()


def test_a_machine_without_a_network_has_no_card():
    assert "-netdev" not in qemu.argv(MachineConfig("vm", GUEST, TCG, network=False), Wiring())
    open_net = MachineConfig("vm", GUEST, TCG, restricted=False)
    assert options(qemu.argv(open_net, Wiring()), "-netdev") == ["user,id=net0,restrict=off"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"memory_bytes": 1 << 20}, "memory"),
        ({"memory_bytes": 64 * GIB}, "memory"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": 64}, "cpus"),
        ({"name": "../x"}, "name"),
        ({"name": "a,b"}, "name"),
        ({"name": ""}, "name"),
    ],
)
def test_machines_that_cannot_be_are_refused(change, where):
    config = MachineConfig(**{"name": "vm", "boot": GUEST, "accelerator": TCG} | change)
    with pytest.raises(UserError) as caught:
        qemu.check(config, host_cpus=2, host_memory_bytes=8 * GIB)
    assert caught.value.where == where
    assert caught.value.hint


def test_an_architecture_brings_its_program_board_cpu_and_console():
    boot = dataclasses.replace(GUEST, parameters=PLATFORMS["arm64"].quick)
    command = qemu.argv(MachineConfig("vm", boot, TCG, arch="arm64"), Wiring())
    assert command[0] == "qemu-system-aarch64"
    assert options(command, "-machine") == ["virt,memory-backend=ram"]
    assert options(command, "-cpu") == ["cortex-a57"]
    assert options(command, "-append")[0].startswith("console=ttyAMA0 ")


def test_another_processor_is_emulated_whatever_kvm_can_do():
    assert accelerator_for(platform.machine(), Accelerator("kvm", "fast")).name == "kvm"
    other = accelerator_for("s390x", Accelerator("kvm", "fast"))
    assert other.name == "tcg" and "s390x" in other.reason


def test_a_machine_without_our_agent_has_no_port_and_no_descriptor_for_one():
    command = qemu.argv(MachineConfig("vm", Firmware(), TCG, agent=False), Wiring())
    assert [one for one in options(command, "-chardev") if "fd=" in one] == [
        "socket,id=qmp,fd=10",
        "socket,id=console,fd=11",
    ]
    assert "-kernel" not in command


def test_a_pc_has_its_own_disk_controller_only_if_that_has_something_to_control():
    disk = Disk("d", Path("/d.iso"), "raw", 1 << 20, read_only=True)
    bare, with_cd = (MachineConfig("vm", GUEST, TCG, drives=drives) for drives in ((), (Drive(disk, "cdrom"),)))
    assert "sata=off" in options(qemu.argv(bare, Wiring()), "-machine")[0]
    assert "sata=off" not in options(qemu.argv(with_cd, Wiring()), "-machine")[0]


def test_firmware_tries_the_disks_in_order_and_never_guesses_a_format():
    drives = tuple(
        Drive(Disk(name, Path("/d", name), kind, 512, read_only=bus == "cdrom"), bus)
        for name, kind, bus in (
            ("a", "raw", "cdrom"),
            ("b", "qcow2", "virtio"),
            ("c", "raw", "floppy"),
            ("d", "raw", "sata"),
        )
    )
    command = qemu.argv(MachineConfig("vm", Firmware(), TCG, drives=drives, agent=False), Wiring())
    devices = [one for one in options(command, "-device") if "bootindex" in one]
    assert [one.partition(",")[0] for one in devices] == ["ide-cd", "virtio-blk-pci", "isa-fdc", "ide-hd"]
    assert [one.rpartition("=")[2] for one in devices] == ["1", "2", "3", "4"]
    blocks = [json.loads(one) for one in options(command, "-blockdev")]
    assert [one["driver"] for one in blocks if one["driver"] != "file"] == ["raw", "qcow2", "raw", "raw"]
    assert [one["read-only"] for one in blocks] == [True] * 2 + [False] * 6


def test_multiboot_modules_keep_their_words_and_commas():
    boot = Multiboot(Path("/x/xen"), ((Path("/x/vmlinuz"), "console=hvc0 a=1,2"), (Path("/x/initrd"), "")), "com1=1")
    command = qemu.argv(MachineConfig("vm", boot, TCG), Wiring())
    assert options(command, "-initrd") == ["/x/vmlinuz console=hvc0 a=1,,2,/x/initrd"]
    assert options(command, "-append") == ["com1=1"]


def test_a_screen_brings_a_keyboard_and_a_pointer():
    pc = qemu.argv(MachineConfig("vm", GUEST, TCG, screen=True), Wiring())
    arm = qemu.argv(MachineConfig("vm", GUEST, TCG, arch="arm64", screen=True), Wiring())
    assert "VGA,id=screen" in pc and "usb-tablet,id=pointer" in pc
    assert {"virtio-gpu-pci,id=screen,max_hostmem=64M", "usb-kbd,id=keyboard", "usb-tablet,id=pointer"} <= set(arm)
    assert not any("screen" in word for word in qemu.argv(CONFIG, Wiring()))


def test_only_what_may_reboot_does():
    assert options(qemu.argv(CONFIG, Wiring()), "-action") == ["panic=shutdown,reboot=shutdown"]
    assert options(qemu.argv(dataclasses.replace(CONFIG, reboots=True), Wiring()), "-action") == [
        "panic=shutdown,reboot=reset"
    ]


def test_an_ordinary_machine_is_accepted():
    qemu.check(CONFIG, host_cpus=2, host_memory_bytes=8 * GIB)


def test_versions_are_read_and_nonsense_refused():
    assert qemu.version_of("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)") == (7, 2)
    assert qemu.version_of("QEMU emulator version 10.0.2") == (10, 0)
    with pytest.raises(HostError):
        qemu.version_of("command not found")


@pytest.mark.parametrize(("arch", "package"), [("x86_64", "qemu-system-x86"), ("arm64", "qemu-system-arm")])
def test_a_missing_qemu_names_its_package(monkeypatch, arch, package):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError) as caught:
        qemu.program_path(PLATFORMS[arch])
    assert caught.value.hint == f"apt-get install {package}"


def test_a_template_s_key_depends_on_what_its_state_depends_on():
    key = template.key_of(CONFIG, "qemu 1")
    assert key == template.key_of(CONFIG.named("other", "52:54:00:00:00:01"), "qemu 1")
    others = [
        template.key_of(CONFIG, "qemu 2"),
        template.key_of(MachineConfig("vm", GUEST, TCG, memory_bytes=512 << 20), "qemu 1"),
        template.key_of(MachineConfig("vm", GUEST, TCG, cpus=2), "qemu 1"),
        template.key_of(MachineConfig("vm", GUEST, TCG, cpu_model="max"), "qemu 1"),
        template.key_of(MachineConfig("vm", GUEST, Accelerator("kvm", "")), "qemu 1"),
    ]
    assert len({key, *others}) == 6


def test_a_template_may_be_copied_to_another_cache(monkeypatch, tmp_path):
    keys = set()
    for name in ("teacher", "student"):
        monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path / name))
        folder = tmp_path / name / "guests" / "0"
        image = GuestImage(folder, "0" * 16, folder / "vmlinuz", folder / "initrd", folder / "root", "6.1")
        keys.add(template.key_of(MachineConfig("vm", image.boot, TCG), "qemu 1"))
    assert len(keys) == 1


def test_fresh_addresses_are_qemu_s_and_differ():
    addresses = {template.fresh_mac() for _ in range(50)}
    assert len(addresses) > 45
    assert all(address.startswith("52:54:00:") and len(address) == 17 for address in addresses)


@pytest.mark.parametrize(
    ("probe", "name", "words"),
    [
        (Probe(machine="aarch64"), "tcg", "aarch64"),
        (Probe(exists=False), "tcg", "no /dev/kvm"),
        (Probe(openable=False), "tcg", "group kvm"),
        (Probe(failure="KVM_CREATE_VM: no"), "tcg", "does not work: KVM_CREATE_VM"),
        (Probe(reached={"machine": 0.001}, failure="reason 17"), "tcg", "real-mode code: reason 17"),
        (Probe(reached={"machine": 0.001, "real mode": 0.001}, failure="reason 17"), "tcg", "64-bit code: reason 17"),
        (Probe(reached={"loop": 0.3}), "tcg", "emulates"),
        (Probe(reached={"loop": 0.0001}), "kvm", "full speed"),
        (Probe(reached={"loop": 0.002}), "kvm", "full speed"),
    ],
)
def test_the_ladder(probe, name, words):
    found, reason = accelerator.verdict(probe)
    assert found == name
    assert words in reason


def test_the_environment_forces_and_a_wrong_word_is_refused(monkeypatch):
    monkeypatch.setenv("VMCONTAINER_ACCEL", "tcg")
    assert accelerator.choose() == Accelerator("tcg", "forced by VMCONTAINER_ACCEL")
    monkeypatch.setenv("VMCONTAINER_ACCEL", "warp")
    with pytest.raises(UserError, match="warp"):
        accelerator.choose()


def test_a_verdict_is_kept_until_the_next_boot(tmp_path, monkeypatch):
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path))
    monkeypatch.delenv("VMCONTAINER_ACCEL", raising=False)
    probes = []
    monkeypatch.setattr(accelerator, "_probe", lambda: probes.append(1) or Probe(reached={"loop": 0.0001}))
    assert accelerator.choose().name == "kvm"
    assert accelerator.choose().name == "kvm"
    assert len(probes) == 1
    monkeypatch.setattr(accelerator, "_boot_id", lambda: "another boot")
    accelerator.choose()
    assert len(probes) == 2
    accelerator.condemn("a guest did not start")
    assert accelerator.choose() == Accelerator("tcg", "a guest did not start")


def test_the_kept_verdict_has_its_rungs(tmp_path, monkeypatch):
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path))
    monkeypatch.delenv("VMCONTAINER_ACCEL", raising=False)
    monkeypatch.setattr(accelerator, "_probe", lambda: Probe(reached={"open": 0.001}, failure="no more"))
    first, second = accelerator.choose(), accelerator.choose()
    assert first == second
    assert [rung.name for rung in second.rungs] == list(accelerator.RUNGS)


def test_what_kvm_can_do_is_kept_unless_it_was_too_slow_to_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("VMCONTAINER_CACHE", str(tmp_path))
    answers = [{"steps": "ended with deadline"}, {"steps": ""}]
    monkeypatch.setattr(kvm, "abilities", lambda: answers.pop(0))
    assert accelerator.abilities() == {"steps": "ended with deadline"}
    assert accelerator.abilities() == accelerator.abilities() == {"steps": ""}
    assert not answers


def test_a_rung_above_one_that_does_not_hold_was_not_tried():
    rungs = accelerator.ladder(Probe(reached={"open": 0.001, "version": 0.002}, failure="KVM_CREATE_VM: busy"))
    assert [rung.holds for rung in rungs] == [True, True, False, False, False]
    assert [rung.seconds for rung in rungs] == [0.001, 0.002, None, None, None]
    assert "busy" in rungs[2].told and rungs[3].told == rungs[4].told == "not tried"
    slow = accelerator.ladder(Probe(reached=dict.fromkeys(accelerator.RUNGS, 0.05)))
    assert [rung.holds for rung in slow] == [True, True, True, True, False]
    assert "emulates" in slow[-1].told
    assert all(rung.holds for rung in accelerator.ladder(Probe(reached=dict.fromkeys(accelerator.RUNGS, 0.0001))))


@pytest.mark.needs("kvm-real-mode")
def test_a_probe_that_hangs_is_a_reason_and_bounded(monkeypatch):
    monkeypatch.setattr(accelerator, "PROBE_LIMIT_S", 0.01)
    probe = accelerator._probe()
    assert "not answered" in probe.failure
    assert accelerator.verdict(probe)[0] == "tcg"


def test_a_damaged_template_is_found_out(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "ram").write_bytes(b"memory")
    (folder / "state").write_bytes(b"state")
    template._write_manifest(folder, "key", {})
    sound = template.Template(folder, "key", CONFIG, (7, 2))
    assert template.is_sound(sound)
    (folder / "state").write_bytes(b"State")
    assert not template.is_sound(sound)
    (folder / "state").write_bytes(b"state")
    assert template.is_sound(sound)
    (folder / "ram").write_bytes(b"memorx")
    assert not template.is_sound(sound)
    (folder / "ram").unlink()
    assert not template.is_sound(sound)


def test_a_machine_error_names_what_qemu_refused():
    with pytest.raises(MachineError):
        raise template._damaged(template.Template(Path("/gone"), "key", CONFIG, (7, 2)))


def test_a_flooded_console_keeps_its_end_in_bounded_space(tmp_path):
    async def flood():
        ours, theirs = socket.socketpair()
        console = Console(ours, tmp_path / "console.log")
        theirs.setblocking(False)
        for number in range(3000):
            await asyncio.get_running_loop().sock_sendall(theirs, b"line %05d %s\r\n" % (number, b"x" * 1000))
        await asyncio.get_running_loop().sock_sendall(theirs, b"\x1b[31mthe end\xff\x07")
        theirs.close()
        await asyncio.sleep(0.05)
        console.drain()
        return console.tail(2)

    lines = asyncio.run(flood()).splitlines()
    assert lines[0].startswith("line 02999")
    assert lines[1] == "the end\ufffd"
    assert (tmp_path / "console.log").stat().st_size <= FILE_LIMIT_BYTES
    assert (tmp_path / "console.log").read_bytes().endswith(b"the end\xff\x07")


def test_the_last_words_of_a_panic_are_its_first():
    trace = [f"[ 3.{number}] call {number}" for number in range(30)]
    assert last_words(["boot", *trace], 3) == trace[-3:]
    assert last_words(["boot", "[ 3.2] Kernel panic - not syncing: no init", *trace], 2)[0].endswith("no init")
    assert last_words(["one"], 5) == ["one"]
    assert last_words([], 5) == []
