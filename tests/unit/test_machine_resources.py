"""What a machine may use, and how it grows: records in, documents and plans out."""

import json
import os
import subprocess
import sys

import pytest

from tests.unit.bpf_machine import disassemble, run
from vmcontainer_kernel.admission import Admission, private_bytes
from vmcontainer_kernel.agent import cage
from vmcontainer_kernel.container.seccomp.syscalls import ABIS, MACHINES, numbers
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.memory import available_threads
from vmcontainer_kernel.vm import qemu, resources
from vmcontainer_kernel.vm.accelerator import Accelerator
from vmcontainer_kernel.vm.config import MIB, DirectKernel, Drive, MachineConfig, Wiring
from vmcontainer_kernel.vm.disks.disk import Disk
from vmcontainer_kernel.vm.handing import hand, opened


def machine(**more):
    boot = DirectKernel("/boot/kernel", "/boot/initrd", "quiet", "/boot/root")
    return MachineConfig("web", boot, Accelerator("tcg", "a test"), **more)


@pytest.mark.parametrize(
    ("memory_mib", "cpus", "growth"),
    [
        (None, None, resources.Growth()),
        (256, None, resources.Growth(balloon_bytes=256 * MIB)),
        (200, None, resources.Growth(balloon_bytes=200 * MIB)),
        (257, None, resources.Growth(module_bytes=128 * MIB, balloon_bytes=257 * MIB)),
        (512, 3, resources.Growth(module_bytes=256 * MIB, cpus=2, balloon_bytes=512 * MIB)),
    ],
)
def test_a_plan_rounds_modules_up_and_leaves_the_rest_to_the_balloon(memory_mib, cpus, growth):
    wished = None if memory_mib is None else memory_mib * MIB
    assert resources.plan(machine(max_cpus=4), wished, cpus) == growth


@pytest.mark.parametrize(
    ("config", "memory_mib", "cpus", "words"),
    [
        (machine(), 95, None, "too few"),
        (machine(cpus=2), None, 1, "none can be taken away"),
        (machine(), None, 2, "--max-cpus 2"),
        (machine(), 5000, None, "no room"),
        (machine(arch="arm64"), 512, None, "no memory modules"),
        (machine(agent=False), 512, None, "no agent"),
    ],
)
def test_what_cannot_be_is_refused_and_says_why(config, memory_mib, cpus, words):
    wished = None if memory_mib is None else memory_mib * MIB
    with pytest.raises(UserError) as refusal:
        resources.plan(config, wished, cpus)
    assert words in str(refusal.value)


def test_what_was_plugged_in_is_there_at_the_next_start():
    slot = {"type": "qemu64-x86_64-cpu", "props": {"socket-id": 0, "core-id": 1, "thread-id": 0}}
    larger = resources.grown(machine(max_cpus=2), module_bytes=128 * MIB)
    larger = resources.grown(resources.grown(larger, module_bytes=256 * MIB), slot=slot)
    assert (larger.total_bytes, larger.total_cpus, larger.plugged_modules) == (640 * MIB, 2, 2)
    command = qemu.argv(larger, Wiring())
    assert "pc-dimm,id=module1,memdev=module1-ram" in command
    assert "qemu64-x86_64-cpu,id=processor0,socket-id=0,core-id=1,thread-id=0" in command
    assert command[command.index("-m") + 1] == "256M,slots=4,maxmem=4352M"
    assert command[command.index("-smp") + 1] == "1,maxcpus=2"


def test_the_next_processor_is_the_first_free_one():
    def slot(core, **more):
        return {"type": "cpu", "props": {"socket-id": 0, "core-id": core}, **more}

    assert resources.processor([slot(2), slot(1), slot(0, **{"qom-path": "/machine"})]) == slot(1)
    assert resources.processor([slot(0, **{"qom-path": "/machine"})]) is None


def test_a_cage_bounds_all_that_the_machine_was_given():
    config = resources.grown(machine(cpu_shares=512, cpu_quota_us=50_000), module_bytes=128 * MIB)
    document = resources.cage(config, Wiring(ram="/cache/ram"), [70_000], "vm")
    assert document["resources"]["memory_bytes"] == 384 * MIB + resources.OVERHEAD_BYTES
    assert document["resources"]["cpu_shares"] == 512
    assert document["resources"]["cpu_period_us"] == 100_000
    assert document["private"]
    assert not resources.cage(config, Wiring(ram="/cache/ram", save=True), [], "vm")["private"]
    read = cage.read_resources(document["resources"])
    assert (read.cpu.quota_us, read.memory.swap_bytes) == (50_000, read.memory.limit_bytes)


def test_how_many_fit_is_told_with_what_bounds_it():
    room = resources.Room(1000 * MIB, "the kernel's estimate", 1000)
    assert resources.fitting(room, 100 * MIB, 8)[0] == 10
    count, why = resources.fitting(resources.Room(1000 * MIB, "", 17), 100 * MIB, 8)
    assert (count, "17 threads" in why) == (2, True)
    assert resources.fitting(resources.Room(-5, "a group", 100), 100 * MIB, 8)[0] == 0


def test_what_is_being_made_counts_too():
    admission = Admission(lambda: ((1128 * MIB, "the kernel's estimate"), 1000))
    first = admission.reserve(6, 100 * MIB)
    with pytest.raises(UserError, match="50 more machines do not fit here: 4 would") as refusal:
        admission.reserve(50, 100 * MIB)
    assert "the kernel's estimate" in refusal.value.hint
    admission.reserve(4, 100 * MIB)
    with pytest.raises(UserError, match="one more machine does not fit here: 0 would"):
        admission.reserve(1, 100 * MIB)
    first.release()
    first.release()
    assert admission.reserve(6, 100 * MIB)


def test_threads_that_are_left_are_those_of_the_tightest_group(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "loadavg").write_text("0.1 0.1 0.1 1/300 4711\n")
    (proc / "sys/kernel/threads-max").write_text("1000\n")
    (proc / "self/cgroup").write_text("5:pids:/a/b\n0::/\n")
    for name, most, now in (("a", "100", "40"), ("a/b", "max", "30")):
        (cgroup / "pids" / name).mkdir(parents=True)
        (cgroup / "pids" / name / "pids.max").write_text(most)
        (cgroup / "pids" / name / "pids.current").write_text(now)
    assert available_threads(proc, cgroup) == 60
    (proc / "self/cgroup").write_text("0::/\n")
    assert available_threads(proc, cgroup) == 700


def test_a_clone_needs_what_others_have_for_themselves(tmp_path):
    class One:
        pid = 7

    assert private_bytes([One], tmp_path) == 64 * MIB
    (tmp_path / "7").mkdir()
    (tmp_path / "7/smaps_rollup").write_text("head\nRss: 1 kB\nPrivate_Dirty: 102400 kB\n")
    assert private_bytes([One], tmp_path) == 100 * MIB


def test_no_file_of_a_machine_is_named_by_its_path(tmp_path):
    files = {name: tmp_path / name for name in ("kernel", "initrd", "root", "ram", "data")}
    for path in files.values():
        path.write_text(path.name)
    files["initrd"].chmod(0o600)
    boot = DirectKernel(files["kernel"], files["initrd"], "quiet", files["root"])
    drive = Drive(Disk("data", files["data"], "raw", 4))
    config = MachineConfig("web", boot, Accelerator("tcg", ""), drives=(drive,))
    handed = hand(config, Wiring(ram=files["ram"]), 13)
    command = [*qemu.argv(handed.config, handed.wiring), *handed.options]
    assert str(tmp_path) not in " ".join(command)
    with opened(handed) as (descriptors, groups):
        seen = {13 + index: os.pread(fd, 99, 0).decode() for index, fd in enumerate(descriptors)}
        assert sorted(seen.values()) == sorted(files)
        for fd in descriptors:
            assert os.geteuid() != 0 or os.fstat(fd).st_mode & 0o004 or seen[13 + descriptors.index(fd)] == "initrd"
    assert seen[int(handed.wiring.ram.name)] == "ram"
    assert seen[int(handed.config.boot.initrd.name)] == "initrd"
    number = int(handed.config.drives[0].disk.path.name)
    assert f"fd={number - 1000},set={number}" in handed.options
    if os.geteuid() == 0:
        assert groups == [files["ram"].stat().st_gid]
        assert groups[0] != 0


def test_a_file_that_is_gone_is_named(tmp_path):
    config = MachineConfig("web", DirectKernel(tmp_path / "none"), Accelerator("tcg", ""))
    with pytest.raises(Exception, match="cannot be opened") as error, opened(hand(config, Wiring(), 13)):
        pass
    assert error.value.where == str(tmp_path / "none")


@pytest.mark.parametrize(("shares", "nice"), [(None, 0), (1024, 0), (4096, 0), (819, 1), (512, 3), (2, 19)])
def test_a_weight_becomes_a_nice_value(shares, nice):
    assert cage.niceness(shares) == nice


CAGED = """
import contextlib, json, os, resource
from vmcontainer_kernel.agent.cage import Cage, Identity, enter, find_identity, keep_the_file, read_resources
session = None
limits = read_resources({"memory_bytes": 256 << 20, "cpu_shares": 512, "pids": 100})
enter(Cage("x", limits, find_identity([], []), True, keep_the_file()), None)
file = os.memfd_create("ram")
os.write(file, b"x" * 8192)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
hole = libc.fallocate(file, 3, ctypes.c_long(0), ctypes.c_long(4096))
status = dict(row.split(":", 1) for row in open("/proc/self/status"))
with contextlib.suppress(FileNotFoundError):
    session = int(open("/proc/self/autogroup").read().split()[-1])
print(json.dumps([os.getuid(), os.getgroups(), os.nice(0), resource.getrlimit(resource.RLIMIT_DATA)[0],
    resource.getrlimit(resource.RLIMIT_CORE)[0], int(status["NoNewPrivs"]), int(status["CapEff"], 16), hole,
    os.pread(file, 1, 0).decode(), session]))
"""


def test_without_a_group_a_process_is_bounded_by_itself():
    command = [sys.executable, "-c", CAGED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, start_new_session=True)
    uid, groups, nice, data, core, no_new_privs, capabilities, hole, first, session = json.loads(done.stdout)
    assert session in (3, None), "between sessions a nice value counts for nothing"
    assert (nice, data, core, no_new_privs) == (os.nice(0) + 3, (256 + 1024) * MIB, 0, 1)
    assert (hole, first) == (0, "x"), "the page is to stay, and QEMU is to think that it is gone"
    if os.geteuid() == 0:
        assert uid in range(61184, 65520)
        assert (groups, capabilities) == ([], 0)


@pytest.mark.parametrize(
    ("mode", "length", "verdict"),
    [(3, 4096, 0x50000), (3, 8192, 0x7FFF0000), (0, 4096, 0x50000 | 95), (16, 4096, 0x7FFF0000), (1, 4096, 0x7FFF0000)],
)
def test_the_file_of_a_template_keeps_its_pages(mode, length, verdict):
    abi = ABIS[MACHINES[os.uname().machine][0]]
    program = disassemble(cage.keep_the_file())
    assert run(program, abi.audit, numbers(abi.name)["fallocate"], (7, mode, 0, length))[0] == verdict
    assert run(program, abi.audit, numbers(abi.name)["write"], (7, mode, 0, length))[0] == 0x7FFF0000
