"""Disks in running guests: plugged in and pulled out, shared, limited, and found again by the next machine."""

import subprocess
import time

import pytest

from tests.patience import now_s
from vmcontainer_kernel import cells, drives, magics
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.options import parse
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.session import Session
from vmcontainer_kernel.verbs import VERBS, disks
from vmcontainer_kernel.verbs.words import choose
from vmcontainer_kernel.vm.disks.store import Store

pytestmark = pytest.mark.needs("qemu")

MIB = 1 << 20


class Notebook:
    """A session, its `%vm disk`, and cells."""

    def __init__(self, session):
        self.session = session

    def verb(self, line):
        verb, words = choose(VERBS["vm"], "%vm", line, "ls")
        return verb.action(self.session, words, "en")

    def disk(self, line):
        return self.verb(f"disk {line}")

    def cell(self, machine, text):
        """Run a cell that must succeed; return what it writes."""
        guest = self.session.wait(self.session.machines.ensure(machine))
        status, output = self.session.wait(drives.in_guest(guest.node, text))
        assert status == 0, output
        return output.strip()

    def machine(self, name):
        return self.session.machines.guest(name).machine

    def nodes(self, machine):
        """Return the names of QEMU's block nodes that are of attached disks."""
        found = self.session.wait(self.machine(machine).execute("query-named-block-nodes"))
        return sorted(one["node-name"] for one in found if one["node-name"].startswith("data"))

    def sets(self, machine):
        """Return the sets of descriptors of attached disks; `handing` has those from 1000 on."""
        found = self.session.wait(self.machine(machine).execute("query-fdsets"))
        return sorted(one["fdset-id"] for one in found if one["fdset-id"] < 1000)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """One session for all: two machines, and disks in a folder of the tests' own."""
    folder = tmp_path_factory.mktemp("disks")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VMCONTAINER_RUN", str(folder / "run"))
        monkeypatch.setattr("vmcontainer_kernel.vm.disks.store.own_store", lambda: Store(folder / "store"))
        monkeypatch.setattr(disks, "_store", lambda: Store(folder / "store"))
        session = Session()
        yield Notebook(session)
        session.close()


def test_a_disk_outlives_its_machine_and_is_found_by_the_next(notebook, capsys):
    notebook.cell("a", "true")
    notebook.disk("create data --size 64m --fs ext4")
    notebook.disk("attach a data --mount /data")
    told = capsys.readouterr().out
    assert told.startswith("data is /dev/sd")
    link = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_data"
    assert link in told
    assert notebook.cell("a", f"echo kept > /data/x; readlink -f {link}") in told
    assert notebook.cell("a", "cat /sys/block/sd*/device/vpd_pg80 | tail -c 4") == "data"
    notebook.session.wait(notebook.session.machines.remove("a"))
    notebook.cell("b", "true")
    notebook.disk("attach b data --mount /mnt/data")
    assert notebook.cell("b", "cat /mnt/data/x; touch /mnt/data/y; ls /mnt/data | sort | tr '\\n' ' '").endswith("x y")
    notebook.disk("detach b data")
    assert notebook.nodes("b") == []
    assert notebook.sets("b") == []
    assert notebook.cell("b", "ls /sys/bus/scsi/devices | grep -c target || true") in ("0", "1")


def test_a_cell_begins_with_its_disks(notebook, capsys):
    notebook.disk("create mine --size 16m --fs ext4")
    for line, text in (("a --disk mine:/mine", "echo hers > /mine/x"), ("a --disk mine:/mine", "cat /mine/x")):
        options = parse(magics._CELLS["vm"], line)
        start = cells.vm_start(notebook.session, options, text, lambda phase, part: None)
        cells.run_cell(notebook.session, notebook.session.run("machine a", start), options, {}, lambda: None)
    assert capsys.readouterr().out == "hers\n"
    assert notebook.cell("a", "grep -c ' /mine ' /proc/mounts") == "1", "a second cell mounts nothing over it"
    notebook.disk("detach a mine")


def test_who_writes_has_it_alone_and_readers_share_it(notebook):
    for name in ("a", "b"):
        notebook.cell(name, "true")
    notebook.disk("create one --size 20m --fs ext2")
    notebook.disk("attach a one --mount /one")
    notebook.cell("a", "echo shared > /one/x")
    for way in ("", " --read-only"):
        with pytest.raises(UserError, match="disk one is in use by another machine"):
            notebook.disk(f"attach b one{way}")
    assert notebook.nodes("b") == []
    assert notebook.sets("b") == [], "a refused disk leaves nothing in QEMU"
    for line in ("rm one", "create two --from one", "flatten one", "attach a one --read-only"):
        if line != "flatten one":
            with pytest.raises(UserError):
                notebook.disk(line)
    notebook.cell("a", "cd /one && sleep 1000 >/dev/null 2>&1 &")
    with pytest.raises(UserError, match="at use in the guest"):
        notebook.disk("detach a one")
    assert notebook.cell("a", "cat /one/x; kill $(pidof sleep)") == "shared"
    detached(notebook, "a", "one")
    for name in ("a", "b"):
        notebook.disk(f"attach {name} one --read-only --mount /ro")
    assert notebook.cell("a", "cat /ro/x") == notebook.cell("b", "cat /ro/x") == "shared"
    assert notebook.cell("a", "touch /ro/x 2>/dev/null || echo refused") == "refused"
    assert {one["machine"] for one in notebook.disk("inspect one")["attached"]} == {"a", "b"}
    row = next(row for row in notebook.disk("ls").rows if row[0] == "one")
    assert set(row[4].split()) == {"a", "b"}
    for name in ("a", "b"):
        notebook.disk(f"detach {name} one")
    notebook.disk("rm one")


def detached(notebook, machine, disk):
    """Detach as soon as the program that was told to end has ended."""
    end = now_s() + 10
    while True:
        try:
            notebook.disk(f"detach {machine} {disk}")
            return
        except UserError:
            assert now_s() < end
            time.sleep(0.05)


def test_each_machine_has_an_overlay_and_one_is_written_back(notebook, capsys):
    notebook.disk("create base --size 32m --fs ext4")
    notebook.cell("a", "true")
    notebook.disk("attach a base --mount /base")
    notebook.cell("a", "echo base > /base/x")
    notebook.disk("detach a base")
    for name in ("a", "b"):
        notebook.cell(name, "true")
        notebook.disk(f"create of-{name} --from base")
        notebook.disk(f"attach {name} of-{name} --mount /over")
        assert notebook.cell(name, f"cat /over/x; echo {name} > /over/x") == "base"
    with pytest.raises(UserError, match="cannot be written to"):
        notebook.disk("attach a base")
    for line in ("commit of-a", "flatten of-a"):
        with pytest.raises(UserError):
            notebook.disk(line)
    assert [one["name"] for one in notebook.disk("inspect of-a")["chain"]] == ["of-a", "base"]
    for name in ("a", "b"):
        assert notebook.cell(name, "cat /over/x") == name
        notebook.disk(f"detach {name} of-{name}")
    notebook.disk("flatten of-b")
    notebook.disk("commit of-a")
    assert "written into base" in capsys.readouterr().out
    notebook.disk("rm of-a")
    for disk, content in (("base", "a"), ("of-b", "b")):
        notebook.disk(f"attach a {disk} --read-only --mount /seen-{disk}")
        assert notebook.cell("a", f"cat /seen-{disk}/x") == content
        notebook.disk(f"detach a {disk}")


def test_many_disks_at_once_come_and_go_in_any_order(notebook):
    notebook.cell("a", "true")
    names = [f"many-{index}" for index in range(5)]
    for name in names:
        notebook.disk(f"create {name} --size 1m")
        notebook.disk(f"attach a {name}")
        notebook.cell("a", f"echo {name} > /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{name}")
    notebook.disk(f"detach a {names[2]}")
    notebook.disk(f"detach a {names[0]}")
    notebook.disk(f"attach a {names[2]} --read-only")
    read = "head -c 6 /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_"
    assert [notebook.cell("a", f"{read}{name}") for name in names[1:]] == names[1:]
    with pytest.raises(UserError, match="cannot be mounted"):
        notebook.disk(f"attach a {names[0]} --mount /nothing")
    assert names[0] not in drives.drives_of(notebook.machine("a")).attachments
    for name in names[1:]:
        notebook.disk(f"detach a {name}")
    assert (notebook.nodes("a"), notebook.sets("a")) == ([], [])


def test_a_limit_holds_and_is_lifted_while_the_disk_is_at_work(notebook):
    notebook.cell("a", "true")
    notebook.disk("create slow --size 32m")
    notebook.disk("attach a slow --bps 1m")
    write = "dd if=/dev/zero of=/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_slow bs=1M count=3 conv=fsync 2>/dev/null"
    started_s = time.monotonic()
    notebook.cell("a", write)
    assert time.monotonic() - started_s > 1.5
    found = notebook.disk("inspect slow")["attached"][0]
    assert (found["bps"], found["iops"]) == (MIB, None)
    notebook.disk("limit a slow --bps 0 --iops 9999")
    answer = notebook.session.wait(notebook.machine("a").execute("query-block"))
    inserted = next(one["inserted"] for one in answer if one["qdev"] == "data0-drive")
    assert (inserted["bps"], inserted["iops"]) == (0, 9999)
    notebook.disk("detach a slow")


def test_a_disk_is_there_after_a_reset(notebook):
    notebook.cell("a", "true")
    notebook.disk("create stays --size 8m")
    notebook.disk("attach a stays")
    notebook.cell("a", "echo before > /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_stays; sync")
    notebook.session.wait(notebook.session.machines.reset("a"))
    assert notebook.cell("a", "head -c 6 /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_stays") == "before"
    notebook.disk("detach a stays")


# 16-bit real mode: mov dx, 0x3f8; for each letter mov al, …; out dx, al. Then cli; hlt.
SPEAKS = b"\xba\xf8\x03" + b"".join(b"\xb0%c\xee" % letter for letter in b"from the disk\n") + b"\xfa\xf4"


def test_a_disk_of_another_hypervisor_boots_here(notebook, tmp_path):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(SPEAKS.ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, tmp_path / "disk.vmdk"], check=True)
    notebook.disk(f"import {tmp_path / 'disk.vmdk'} foreign")
    notebook.disk("create over --from foreign")
    notebook.verb("boot own --disk over --no-network")
    machine = notebook.machine("own")
    end = now_s() + 60
    while "from the disk" not in machine.console_tail(50):
        assert now_s() < end, machine.console_tail(50)
        time.sleep(0.1)
    for line in ("rm over", "attach a over", "create third --from over"):
        with pytest.raises(UserError):
            notebook.disk(line)
    with pytest.raises(UserError, match="in use by another machine"):
        notebook.verb("boot other --disk over")
    assert notebook.disk("inspect over")["attached"] == [{"machine": "own", "read_only": False}]
    notebook.verb("rm own")
    notebook.disk("rm over")


def test_what_cannot_be_is_told(notebook):
    notebook.cell("a", "true")
    with pytest.raises(UserError, match="no disk nothing"):
        notebook.disk("attach a nothing")
    with pytest.raises(UserError, match="not attached"):
        notebook.disk("detach a nothing")
    for line in ("attach a", "create x", "create x --from y --size 1m", "import x", "export x", "limit a", "eject a"):
        with pytest.raises(UserError):
            notebook.disk(line)
    notebook.disk("create rest --size 1m")
    notebook.session.wait(notebook.session.machines.pause("a"))
    with pytest.raises(UserError, match="paused"):
        notebook.disk("attach a rest")
    notebook.session.wait(notebook.session.machines.resume("a"))
    assert not (cache_dir("disks") / "rest").exists(), "the tests' disks are in a folder of their own"
