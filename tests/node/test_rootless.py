"""Each rung of the rootless ladder as its user meets it: what is found, what a container sees, what is told, and that
nothing is left behind. What a rung lacks is taken away in a mount namespace of the test's own.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import binder_profile
from tests.node.engine import NOBODY, Engine, prepare_base
from vmcontainer_kernel.container.ladder import BOUND, GUEST, ID_RANGES, ONE_ID
from vmcontainer_kernel.errors import HostError

FIRST, COUNT = 200_000, 65_536
# The node's own files stay as they are: these lie on top of them for the driver alone.
RANGES = (
    f"t=$(mktemp) && chmod 644 $t && echo 'nobody:{FIRST}:{COUNT}' > $t && mount --bind $t /etc/subuid"
    " && mount --bind $t /etc/subgid && rm $t"
)
NO_RANGES = "mount --bind /dev/null /etc/subuid && mount --bind /dev/null /etc/subgid"
# As a pod's masked paths: a folder that is not empty and a file.
COVER_PROC = "mount -t tmpfs none /proc/bus && mount --bind /dev/null /proc/interrupts"
COVER_SYS = "mount -t tmpfs none /sys/firmware"
NO_NEW_PRIVS = ("setpriv", "--no-new-privs")

pytestmark = [
    pytest.mark.needs("containers-on-host", "user-namespaces"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the package and an image; the layers get unpacked for each rung."""
    base = tmp_path_factory.mktemp("ladder")
    prepare_base(base, NOBODY)
    return base


def engine_on(base: Path, before: str, rights: tuple[str, ...] = ()) -> Engine:
    return Engine(base, NOBODY, before, words=("climb",), rights=rights)


@pytest.fixture(scope="module")
def ranges(base: Path) -> Iterator[Engine]:
    engine = engine_on(base, RANGES)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def one_id(base: Path) -> Iterator[Engine]:
    engine = engine_on(base, NO_RANGES)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bound(base: Path) -> Iterator[Engine]:
    """As in a pod: no new privileges, and /proc and /sys covered in parts."""
    engine = engine_on(base, f"{RANGES} && {COVER_PROC} && {COVER_SYS}", NO_NEW_PRIVS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bound_ranges(base: Path) -> Iterator[Engine]:
    engine = engine_on(base, f"{RANGES} && {COVER_PROC}")
    yield engine
    engine.close()


# -- ranges of ids


def test_ranges_are_found_and_mapped(ranges: Engine) -> None:
    found = ranges("ladder")
    assert (found["rung"], found["number"]) == (ID_RANGES.name, 2)
    assert found["losses"] == [ID_RANGES.lost]
    script = "cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; echo $$; id -u"
    rows = [line.split() for line in ranges.out(script).splitlines()]
    maps = [["0", str(NOBODY), "1"], ["1", str(FIRST), str(COUNT)]]
    assert rows == [*maps, *maps, ["allow"], ["1"], ["0"]]


def test_with_ranges_a_container_has_several_users(ranges: Engine) -> None:
    assert ranges.out("id", user="guest") == "uid=1000(guest) gid=1000(guest) groups=100(users)"
    assert ranges.out("id -G", user="nobody", group_add=["7"]) == "65534 7"
    # An image's files have the image's owners, and root may give files away.
    assert ranges.out("stat -c %u:%g /home/guest /etc/passwd /dev/pts/ptmx; stat -c %g /dev/pts").split() == [
        *("1000:1000", "0:0", "0:0", "0"),
    ]
    assert ranges.out("touch /f && chown 5:6 /f && su -s /bin/sh guest -c 'id -u; stat -c %u:%g /f'").split() == [
        *("1000", "5:6"),
    ]
    with pytest.raises(HostError, match="up to 65536, and 70000 is uid 70000"):
        ranges.sh("true", user="70000")


def test_what_sub_ids_own_is_unpacked_and_removed(ranges: Engine, base: Path) -> None:
    [layer] = (base / "store/unpacked" / f"ids-{FIRST}").iterdir()
    assert (layer / "home/guest").stat().st_uid == FIRST + 999
    assert layer.parent.parent.stat().st_mode & 0o077 == 0  # set-user-ID programs of a stranger's image
    ranges(
        "create", name="c", options={"argv": ["sh", "-c", "umask 077; mkdir -p /a/b; touch /a/b/f; chown -R 9:9 /a"]}
    )
    ranges("finish", pid=ranges("start", name="c"))
    left = base / "run/containers/c/upper/a"
    assert (left.stat().st_uid, stat.S_IMODE(left.stat().st_mode)) == (FIRST + 8, 0o700)
    ranges("remove", name="c")
    assert not (base / "run/containers/c").exists()


def test_a_volume_that_sub_ids_have_written_to_is_removed(ranges: Engine, base: Path) -> None:
    folder = base / "written"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    ranges.out("mkdir -m 700 /v/d && touch /v/d/f && chown -R 33:33 /v/d", volumes=[f"{folder}:/v"])
    assert (folder / "d/f").stat().st_uid == FIRST + 32
    ranges("remove_volume_of", path=str(folder))
    assert not folder.exists()


# -- one id


def test_one_id_says_whom_it_lacks_and_why(one_id: Engine) -> None:
    found = one_id("ladder")
    assert (found["rung"], found["number"]) == (ONE_ID.name, 3)
    assert found["losses"] == [ID_RANGES.lost, "containers have one user, root (/etc/subuid gives nobody no range)"]
    assert one_id.out("cat /proc/self/uid_map /proc/self/setgroups").split() == ["0", str(NOBODY), "1", "deny"]
    with pytest.raises(HostError, match="one user, root, not guest: /etc/subuid gives nobody no range") as caught:
        one_id.sh("true", user="guest")
    assert "one id" in caught.value.hint and "--on vm" in caught.value.hint


def test_no_new_privs_takes_newuidmaps_rights(base: Path) -> None:
    engine = engine_on(base, RANGES, NO_NEW_PRIVS)
    found = engine("ladder")
    assert found["rung"] == ONE_ID.name
    assert "no_new_privs is set" in found["losses"][1]
    assert engine.out("id -u") == "0"
    engine.close()


def test_memory_and_processes_are_limited_without_groups_and_the_difference_is_told(one_id: Engine) -> None:
    one_id("create", name="c", options={"argv": ["true"], "memory_bytes": 1 << 26, "pids_limit": 9})
    [told] = one_id("warnings", name="c")
    assert "control group" in told and "memory" in told and "process limit" in told
    one_id("remove", name="c")
    script = "ulimit -v; dd if=/dev/zero of=/dev/null bs=200M count=1 2>&1 || echo refused"
    out = one_id.out(script, memory_bytes=1 << 26)
    assert out.split()[0] == str(1 << 16) and "refused" in out
    assert "fork" in one_id.sh("for i in 1 2 3 4 5 6 7 8; do sleep 3 & done; true", pids_limit=5)["out"]
    with pytest.raises(HostError, match="--cpus"):
        one_id.sh("true", cpus=1)


# -- the node's /proc


def test_a_covered_proc_is_bound(bound: Engine) -> None:
    found = bound("ladder")
    assert (found["rung"], found["number"], found["bound"]) == (BOUND.name, 4, ["/proc", "/sys"])
    assert BOUND.lost in found["losses"] and "no_new_privs is set" in found["losses"][1]
    # A pid namespace all the same: nobody outside can be signalled. /proc/self is right, /proc/1 is the node's.
    outside = bound("pid")
    script = f"echo $$; readlink /proc/self; test -d /proc/{outside} && echo seen; kill -0 {outside} 2>&1; true"
    pid, itself, seen, refused = bound.out(script).split("\n", 3)
    assert (pid, seen) == ("1", "seen") and itself != "1" and "No such process" in refused
    rows = {line.split()[4]: line.split()[5] for line in bound.out("cat /proc/self/mountinfo").splitlines()}
    assert "ro" in rows["/proc"].split(",") and "ro" in rows["/sys"].split(",")
    assert {"/proc/bus", "/proc/interrupts", "/sys/firmware"} <= rows.keys()  # what was covered stays so


def test_a_bound_proc_is_no_way_out(bound: Engine) -> None:
    outside = bound("pid")
    for path in (f"/proc/{outside}/oom_score_adj", "/proc/sys/kernel/core_pattern"):
        assert "Read-only" in bound.sh(f"echo 5 > {path}")["out"], path
    for name in ("root/", "cwd/", "environ", "exe"):
        assert bound.sh(f"ls /proc/{outside}/{name} && cat /proc/{outside}/{name} > /dev/null")["status"] != 0, name
    assert bound.sh("mount -o remount,rw /proc || umount /proc")["status"] != 0
    # What the node has covered stays so even for who may unmount: it is locked (mount_namespaces(7)).
    script = "umount /proc/bus; umount /proc/bus || echo locked; ls /proc/bus"  # the first was the container's own
    assert bound.sh(script, cap_add=["SYS_ADMIN"])["out"].split("\n")[-2:] == ["locked", ""]


def test_with_a_bound_proc_ranges_and_settings_of_ones_own_are_kept(bound_ranges: Engine) -> None:
    found = bound_ranges("ladder")
    assert (found["rung"], found["bound"]) == (BOUND.name, ["/proc"])
    assert bound_ranges.out("id -un", user="guest") == "guest"
    script = "cat /proc/sys/net/ipv4/ip_default_ttl"
    assert bound_ranges.out(script, sysctls=["net.ipv4.ip_default_ttl=33"]) == "33"


# -- nothing


def test_where_namespaces_are_filtered_the_ladder_ends_in_a_guest(base: Path) -> None:
    shutil.copy(binder_profile.__file__, base / "package")
    python = str(Path(sys.executable).resolve())
    engine = engine_on(base, RANGES, (python, "-S", "-B", str(base / "package/binder_profile.py"), str(NOBODY)))
    found = engine("ladder")
    assert (found["rung"], found["number"]) == (GUEST.name, 5)
    assert all("EPERM" in reason for rung, reason in found["why"] if rung in (ONE_ID.name, BOUND.name))
    with pytest.raises(HostError, match="not let us make namespaces"):
        engine.sh("true")
    engine.close()
