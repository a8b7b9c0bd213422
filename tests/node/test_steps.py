"""Every field of the specification, seen from inside by a small program: the root, mounts and devices."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.birth import Bundle

pytestmark = pytest.mark.needs("containers-on-host")


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    if os.geteuid() != 0:
        pytest.skip("cgroups: an ordinary user makes no devices, and mounts no folder of root's")
    yield Bundle(tmp_path / "bundle")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def options_of(text: str, path: str) -> set[str]:
    """The per-mount options of a line of /proc/self/mountinfo."""
    lines = [line.split() for line in text.splitlines() if " - " in line]
    return {option for words in lines if words[4] == path for option in words[5].split(",")}


def optional_fields(text: str, path: str) -> str:
    """How a mount spreads: shared:N, master:N, or nothing."""
    found = next(line for line in text.splitlines() if line.split()[4] == path)
    return " ".join(found.split(" - ")[0].split()[6:])


# -- the root


def test_the_root_is_the_bundles_folder(bundle: Bundle) -> None:
    bundle.out("echo kept > /made")
    assert (bundle.root / "made").read_text() == "kept\n"
    assert not (bundle.path / "upper").exists()


def test_an_absolute_root_and_mounts_below_it(bundle: Bundle, tmp_path: Path) -> None:
    bundle.root.rename(tmp_path / "elsewhere")
    bundle.config["root"]["path"] = str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/below").mkdir()
    before = f"mount -t tmpfs tmpfs {tmp_path}/elsewhere/below; echo deep > {tmp_path}/elsewhere/below/file"
    assert bundle.out("cat /below/file", before=before) == "deep"


def test_a_read_only_root(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True
    assert bundle.out("touch /x 2>/dev/null || echo refused; touch /dev/shm-ish && echo dev") == "refused\ndev"


def test_a_root_that_is_a_link_or_a_file_is_refused(bundle: Bundle) -> None:
    bundle.root.rename(bundle.path / "real")
    bundle.root.symlink_to("real")
    assert "root.path" in bundle.fails()
    bundle.root.unlink()
    bundle.root.write_text("")
    assert "root.path" in bundle.fails()


@pytest.mark.parametrize(
    ("propagation", "expected"), [("", ""), ("private", ""), ("shared", "shared:"), ("unbindable", "unbindable")]
)
def test_root_propagation(bundle: Bundle, propagation: str, expected: str) -> None:
    bundle.linux["rootfsPropagation"] = propagation
    fields = optional_fields(bundle.out("cat /proc/self/mountinfo"), "/")
    assert fields.startswith(expected) if expected else fields == ""


def test_a_slave_root_gets_the_nodes_mounts(bundle: Bundle, tmp_path: Path) -> None:
    """What is mounted on the node below the root later appears inside, and only then."""
    (bundle.root / "later").mkdir()
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    share = f"mount --bind {bundle.root} {bundle.root}; mount --make-shared {bundle.root}"
    late = f"(cat {ready}; mount -t tmpfs late {bundle.root}/later) >/dev/null &"
    script = "echo > /ready; i=0; while [ $i -lt 100 ]; do grep -q late /proc/mounts && echo seen && exit; sleep 0.05;"
    script += " i=$((i+1)); done; echo not"
    bundle.mount("/ready", "bind", ready, ["bind"])
    bundle.linux["rootfsPropagation"] = "slave"
    assert bundle.out(script, before=f"{share}\n{late}") == "seen"
    bundle.linux["rootfsPropagation"] = "private"
    script = script.replace("-lt 100", "-lt 10")
    assert bundle.out(script, before=f"{share}\n{late}") == "not"


# -- mounts


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (["ro"], {"ro"}, {"rw"}),
        (["ro", "rw"], {"rw"}, {"ro"}),
        (["nosuid", "nodev", "noexec"], {"nosuid", "nodev", "noexec"}, set()),
        (["noexec", "exec"], set(), {"noexec"}),
        (["noatime"], {"noatime"}, {"relatime"}),
        (["strictatime"], set(), {"relatime", "noatime"}),
        (["nodiratime"], {"nodiratime"}, set()),
        (["nosymfollow"], {"nosymfollow"}, set()),
    ],
)
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_mount_options(bundle: Bundle, kind: str, options: list[str], present: set[str], absent: set[str]) -> None:
    source = bundle.path / "source"
    source.mkdir()
    bundle.mount("/mnt", kind, source, [*options, *(["rbind"] if kind == "bind" else [])])
    found = options_of(bundle.out("cat /proc/self/mountinfo"), "/mnt")
    assert present <= found and not absent & found


def test_recursive_options_reach_the_mounts_below(bundle: Bundle) -> None:
    source = bundle.path / "source"
    (source / "below").mkdir(parents=True)
    before = f"mount -t tmpfs tmpfs {source}; mkdir {source}/below; mount -t tmpfs tmpfs {source}/below"
    bundle.mount("/only", "bind", source, ["rbind", "ro", "nosuid"])
    bundle.mount("/all", "bind", source, ["rbind", "rro", "rnoexec", "rnoatime"])
    text = bundle.out("cat /proc/self/mountinfo", before=before)
    assert {"ro", "nosuid"} <= options_of(text, "/only") and "ro" not in options_of(text, "/only/below")
    assert {"ro", "noexec", "noatime"} <= options_of(text, "/all/below")
    assert bundle.out("touch /only/below/x && ls /all/below", before=before) == "x"


def test_file_system_options_reach_the_file_system(bundle: Bundle) -> None:
    bundle.mount("/mnt", "tmpfs", "", ["size=64k", "mode=0711", "sync"])
    out = bundle.out("grep ' /mnt ' /proc/mounts; stat -c %a /mnt; (head -c 100000 /dev/zero > /mnt/x) 2>&1 || true")
    assert "size=64k" in out and "sync" in out and "711" in out and "error" in out


def test_a_bind_mount_takes_no_file_system_options(bundle: Bundle) -> None:
    bundle.mount("/mnt", "bind", bundle.path, ["bind", "size=64k"])
    assert "mounts[2].options" in bundle.fails()
    bundle.config["mounts"][-1]["options"] = ["bind", "sync"]
    assert "sync" in bundle.fails()


def test_files_and_folders_are_bound_and_their_places_made(bundle: Bundle) -> None:
    (bundle.path / "file").write_text("text")
    bundle.mount("/a/new/file", "bind", bundle.path / "file", ["bind", "ro"])
    bundle.mount("/another/folder", "none", bundle.path, ["rbind"])
    bundle.mount("/relative", "bind", "file", ["bind"])
    assert bundle.out("cat /a/new/file /another/folder/file /relative") == "text" * 3


def test_one_source_at_two_places(bundle: Bundle) -> None:
    (bundle.path / "source").mkdir()
    bundle.mount("/one", "bind", bundle.path / "source", ["bind"])
    bundle.mount("/two", "bind", bundle.path / "source", ["bind", "ro"])
    assert bundle.out("touch /one/x; ls /two; touch /two/y 2>/dev/null || echo refused") == "x\nrefused"


def test_a_missing_source_is_named(bundle: Bundle) -> None:
    bundle.mount("/mnt", "bind", "/no/such", ["bind"])
    assert "mounts[2].source: /no/such" in bundle.fails()


def test_an_unknown_file_system_is_named(bundle: Bundle) -> None:
    bundle.mount("/mnt", "nosuchfs")
    assert "mounts[2]: /mnt" in bundle.fails()


@pytest.mark.parametrize(
    ("option", "expected"), [("rprivate", ""), ("slave", "master:"), ("rslave", "master:"), ("shared", "shared:")]
)
def test_mount_propagation(bundle: Bundle, option: str, expected: str) -> None:
    source = bundle.path / "source"
    source.mkdir()
    before = f"mount -t tmpfs tmpfs {source}; mount --make-shared {source}"
    bundle.mount("/mnt", "bind", source, ["rbind", option])
    fields = optional_fields(bundle.out("cat /proc/self/mountinfo", before=before), "/mnt")
    assert fields.startswith(expected) if expected else fields == ""


def test_tmpcopyup(bundle: Bundle) -> None:
    folder = bundle.root / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text("text")
    os.chown(folder / "deep/file", 5, 6)
    (folder / "deep/file").chmod(0o640)
    (folder / "link").symlink_to("deep/file")
    bundle.mount("/data", "tmpfs", "", ["tmpcopyup"])
    assert bundle.out("cat /data/link; stat -c '%a %u %g' /data/deep/file; touch /data/new").split() == [
        "text640",
        "5",
        "6",
    ]
    assert not (folder / "new").exists()


def test_id_mapped_mount(bundle: Bundle) -> None:
    source = bundle.path / "source"
    source.mkdir()
    (source / "file").write_text("")
    mappings = [{"containerID": 0, "hostID": 1000, "size": 10}]
    bundle.mount("/mnt", "bind", source, ["bind", "idmap"], uidMappings=mappings, gidMappings=mappings)
    assert bundle.out("stat -c '%u %g' /mnt/file") == "1000 1000"
    assert (source / "file").stat().st_uid == 0


def test_id_mapping_that_cannot_be_is_named(bundle: Bundle) -> None:
    mappings = [{"containerID": 0, "hostID": 1000, "size": 10}]
    bundle.mount("/mnt", "bind", "/proc", ["bind"], uidMappings=mappings, gidMappings=mappings)
    assert "mounts[2]: /proc cannot be shown with other owners" in bundle.fails()


# -- no way out by a path


@pytest.mark.parametrize("way", ["/bin/../../..", "../../../../../..", ""])
def test_a_link_of_the_image_leads_a_mount_nowhere_else(bundle: Bundle, tmp_path: Path, way: str) -> None:
    """While the old root lies on top of the new one, ``..`` out of a folder of / leads to the node."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (bundle.root / "data").symlink_to(f"{way}{planted}")
    bundle.mount("/data/new", "tmpfs")
    bundle.mount("/data/file", "bind", bundle.path / "rootfs/bin/busybox", ["bind"])
    bundle.linux["devices"] = [{"path": "/data/null", "type": "c", "major": 1, "minor": 3}]
    text = bundle.out(f"cat /proc/self/mountinfo; ls -d {planted}/null")
    assert options_of(text, f"{planted}/new") and options_of(text, f"{planted}/file")
    assert text.endswith("null")
    assert list(planted.iterdir()) == []


def test_procfs_appears_at_no_other_place(bundle: Bundle) -> None:
    (bundle.root / "proc").symlink_to("/tmp/fake")
    assert "/proc of the image is a link" in bundle.fails()
    (bundle.root / "proc").unlink()
    (bundle.root / "proc").write_text("")
    assert "/proc of the image is a link or a file" in bundle.fails()


def test_masked_and_read_only_paths(bundle: Bundle) -> None:
    (bundle.root / "secret").mkdir()
    (bundle.root / "secret/key").write_text("key")
    (bundle.root / "alias").symlink_to("bin/../secret/key")
    bundle.linux["maskedPaths"] = ["/proc/timer_list", "/secret", "/none", "/proc/version/none"]
    bundle.linux["readonlyPaths"] = ["/proc/sys", "/bin", "/none"]
    script = "cat /proc/timer_list | wc -c; ls /secret | wc -l; touch /bin/x 2>/dev/null || echo refused;"
    script += "(echo 1 > /proc/sys/kernel/shmmax) 2>/dev/null || echo refused"
    assert bundle.out(script).split() == ["0", "0", "refused", "refused"]
    bundle.linux["maskedPaths"] = ["/alias"]
    assert bundle.out("cat /secret/key | wc -c") == "0"


def test_a_false_null_device_masks_nothing(bundle: Bundle) -> None:
    bundle.config["mounts"] = bundle.config["mounts"][:1]
    (bundle.root / "dev").mkdir()
    (bundle.root / "dev/null").write_text("false")
    bundle.linux["maskedPaths"] = ["/proc/timer_list"]
    assert "null" in bundle.fails()


# -- devices


def test_default_devices(bundle: Bundle) -> None:
    script = "for n in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$n; done; ls -l /dev"
    out = bundle.out(script)
    assert "/dev/null character special file 1:3 666" in out and "/dev/tty character special file 5:0 666" in out
    assert "ptmx -> pts/ptmx" in out and "fd -> /proc/self/fd" in out


@pytest.mark.parametrize("nodev", [False, True])
def test_a_listed_device_can_be_used(bundle: Bundle, nodev: bool) -> None:
    """Made where made ones work, else the node's own file is shown."""
    if nodev:
        bundle.config["mounts"][1]["options"].append("nodev")
    device = {"type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 3, "gid": 4}
    path = "/dev/zero" if nodev else "/dev/mine"
    bundle.linux["devices"] = [{"path": path, **device}, {"path": "/run/deep/pipe", "type": "p", "fileMode": 0o620}]
    out = bundle.out(f"head -c 3 {path} | wc -c; stat -c '%t:%T %a %u:%g' {path}; stat -c '%F %a' /run/deep/pipe")
    lines = out.splitlines()
    assert lines[0] == "3" and lines[2] == "fifo 620"
    assert lines[1].startswith("1:5") and (nodev or lines[1] == "1:5 600 3:4")


def test_a_device_over_another_file_is_refused(bundle: Bundle) -> None:
    (bundle.root / "file").write_text("")
    bundle.linux["devices"] = [{"path": "/file", "type": "c", "major": 1, "minor": 3}]
    assert "linux.devices[0]" in bundle.fails()


def test_devices_without_a_file_system_for_them(bundle: Bundle) -> None:
    """The root's own /dev gets what it lacks, and keeps what is right."""
    bundle.config["mounts"] = bundle.config["mounts"][:1]
    (bundle.root / "dev").mkdir()
    os.mknod(bundle.root / "dev/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert bundle.out("echo x > /dev/null; head -c 2 /dev/zero | wc -c") == "2"


def test_devices_of_a_bound_dev_are_the_nodes(bundle: Bundle) -> None:
    bundle.config["mounts"][1] = {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind", "ro"]}
    assert "devices" not in bundle.run("true").steps
    assert bundle.out("ls /dev/pts/ptmx") == "/dev/pts/ptmx"


# -- control groups without a group of its own


def test_a_group_mount_without_a_group_shows_the_nodes(bundle: Bundle) -> None:
    bundle.mount("/sys", "sysfs", "", ["ro"])
    bundle.mount("/sys/fs/cgroup", "cgroup", "", ["ro", "nosuid", "nodev", "noexec"])
    inside = bundle.out("ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo refused").split()
    assert inside[-1] == "refused"
    assert set(subprocess.check_output(["ls", "/sys/fs/cgroup"], text=True).split()) <= set(inside)


def test_remount(bundle: Bundle) -> None:
    """A mount that is there already gets other options: one of this configuration, or the root's own."""
    bundle.mount("/mnt", "tmpfs", "", ["size=64k"])
    bundle.mount("/mnt", "tmpfs", "", ["remount", "size=128k", "ro"])
    bundle.mount("/dev", "bind", "/dev", ["bind", "remount", "noexec"])
    text = bundle.out("cat /proc/self/mountinfo; grep -c ' /mnt ' /proc/mounts; grep ' /mnt ' /proc/mounts")
    assert "ro" in options_of(text, "/mnt") and "noexec" in options_of(text, "/dev")
    assert "size=128k" in text and text.splitlines()[-2] == "1"


def test_groups_can_be_written_when_asked(bundle: Bundle) -> None:
    bundle.mount("/sys", "sysfs", "", ["ro"])
    bundle.mount("/sys/fs/cgroup", "cgroup", "", ["nosuid"])
    text = bundle.out("cat /proc/self/mountinfo")
    assert "rw" in options_of(text, "/sys/fs/cgroup")
    assert "ro" in options_of(text, "/sys")


def test_id_mapped_by_the_containers_own_mapping(bundle: Bundle) -> None:
    """The files of a bind mount belong to the container's root, though on the disk they are the node's root's."""
    source = bundle.path / "source"
    source.mkdir()
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.mount("/mapped", "bind", source, ["rbind", "ridmap"])
    bundle.mount("/plain", "bind", source, ["rbind"])
    for path in (bundle.root, *bundle.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    assert bundle.out("stat -c %u /mapped /plain; touch /mapped/new").split() == ["0", "65534"]
    assert (source / "new").stat().st_uid == 0
