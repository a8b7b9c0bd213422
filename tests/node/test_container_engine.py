"""The container runtime on this host: small commands report facts from inside, and nothing is left behind outside."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.engine import NOBODY, Engine, start_engine
from tests.patience import now_s
from vmcontainer_kernel.errors import HostError, LabError


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine as root, with control groups."""
    if os.geteuid() != 0:
        pytest.skip("cgroups: only root makes them here")
    engine = start_engine(tmp_path_factory.mktemp("rooted"), 0)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def rootless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine as an ordinary user."""
    engine = start_engine(tmp_path_factory.mktemp("rootless"), os.geteuid() or NOBODY)
    yield engine
    engine.close()


@pytest.fixture(params=["rooted", "rootless"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of both in turn."""
    found: Engine = request.getfixturevalue(request.param)
    found.is_root = request.param == "rooted"  # type: ignore[attr-defined]
    return found


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no container, group, folder, descriptor or child is left."""
    used = [name for name in ("engine", "rooted", "rootless") if name in request.fixturenames]
    if not used:
        yield
        return
    engine: Engine = request.getfixturevalue(used[0])
    before = engine("descriptors")
    yield
    for name in engine("list"):
        engine("remove", name=name, force=True)
    assert engine("descriptors") == before
    assert engine.groups() == []
    assert [*(engine.base / "run" / "containers").glob("*")] == []
    children = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
    assert children == []


# -- what the container sees


def test_first_process_is_pid_one_and_sees_only_its_own(engine: Engine) -> None:
    assert engine.out("echo $$; set -- /proc/[0-9]*; echo $#").split() == ["1", "1"]


def test_host_name_is_its_own(engine: Engine) -> None:
    assert engine.out("hostname") == "c"
    assert engine.out("hostname", hostname="web-1") == "web-1"
    assert os.uname().nodename not in ("c", "web-1")


def test_every_namespace_differs_from_the_node(engine: Engine) -> None:
    mine = engine("namespaces")
    inside = dict(
        line.split(" -> ")
        for line in engine.out("cd /proc/self/ns; for n in *; do echo $n '->' $(readlink $n); done").splitlines()
    )
    shared = {name for name in inside if inside[name] == mine[name]}
    assert shared == {"time", "time_for_children"} | ({"user"} if engine.is_root else set())  # type: ignore[attr-defined]


def test_network_namespace_has_only_a_loopback_and_it_is_up(engine: Engine) -> None:
    assert engine.out(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"
    ).split() == ["lo", "0x9", "up"]


def test_host_network_is_the_nodes(engine: Engine) -> None:
    node = engine("namespaces")["net"]
    assert engine.out("readlink /proc/self/ns/net", network="host") == node


@pytest.mark.parametrize(
    ("kind", "link"), [("pid", "pid"), ("uts", "uts"), ("ipc", "ipc"), ("net", "net"), ("cgroup", "cgroup")]
)
def test_a_namespace_can_be_left_out(engine: Engine, kind: str, link: str) -> None:
    assert engine.out(f"readlink /proc/self/ns/{link}", without=[kind]) == engine("namespaces")[link]


def test_capabilities_are_bounded(engine: Engine) -> None:
    status = dict(
        line.split(":\t") for line in engine.out("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status").splitlines()
    )
    fourteen = "00000000a80425fb"
    assert (status["CapBnd"], status["CapEff"], status["CapPrm"]) == (fourteen, fourteen, fourteen)
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_capabilities_can_be_added_and_dropped(engine: Engine) -> None:
    assert engine.out("grep CapBnd /proc/self/status", cap_drop=["ALL"]).endswith("\t0000000000000000")
    assert engine.out("grep CapEff /proc/self/status", cap_drop=["all"], cap_add=["net_admin"]).endswith(
        "\t0000000000001000"
    )


def test_protections_can_be_left_out(engine: Engine) -> None:
    result = engine.sh(
        "grep -E 'CapEff|NoNew' /proc/self/status; mount | grep -c 'on /proc/'",
        without=["caps", "no-new-privs", "mask"],
    )
    out = result["out"].split()
    assert int(out[1], 16) > 0xA80425FB
    assert out[3] == "0" and out[4] == "0"


def test_descriptors_are_three(engine: Engine) -> None:
    assert engine.out("ls /proc/$$/fd; true").split() == ["0", "1", "2"]


def test_paths_of_the_node_are_masked(engine: Engine) -> None:
    out = engine.out(
        "cat /proc/timer_list /proc/keys /proc/interrupts | wc -c; ls /sys/firmware | wc -l;"
        "ls /proc/acpi 2>/dev/null | wc -l"
    )
    assert out.split() == ["0", "0", "0"]


def test_settings_of_the_node_are_read_only(engine: Engine) -> None:
    out = engine.sh(
        "echo 1 > /proc/sys/kernel/domainname; echo 1 > /proc/irq/default_smp_affinity;"
        "mkdir /sys/fs/cgroup/x; echo 1 > /sys/kernel/profiling; echo end"
    )["out"]
    assert len([line for line in out.splitlines() if "Read-only" in line or "denied" in line or "No such" in line]) == 4
    assert out.endswith("end\n")


def test_only_six_devices_and_a_made_one_does_not_work(engine: Engine) -> None:
    listed = engine.out("find /dev -type c -o -type b | sort").split()
    assert listed == [f"/dev/{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero")]
    out = engine.out(
        "head -c 4 /dev/zero | od -An -tx1; echo x > /dev/null;"
        "mknod /tmp/n c 1 3 2>/dev/null; (echo x > /tmp/n) 2>/dev/null || echo refused"
    )
    assert out.split()[:4] == ["00"] * 4
    if engine.is_root:  # type: ignore[attr-defined]
        assert "refused" in out


def test_image_stays_as_it_is(engine: Engine) -> None:
    assert engine.out("rm -r /bin/ls /etc; echo new > /bin/new; test -e /bin/ls || test -e /etc || echo gone") == "gone"
    assert engine.out("ls /bin/ls /etc/passwd; test ! -e /bin/new && echo clean").split() == [
        "/bin/ls",
        "/etc/passwd",
        "clean",
    ]


def test_read_only_root(engine: Engine) -> None:
    out = engine.sh("touch /x; touch /tmp/y; echo z > /dev/shm/z && cat /dev/shm/z", read_only=True)["out"]
    assert out.count("Read-only file system") == 2
    assert out.endswith("z\n")


def test_environment_and_folder(engine: Engine) -> None:
    out = engine.out("env; pwd", env={"GREETING": "hi there"}, workdir="/srv/app")
    assert {"GREETING=hi there", "HOME=/root", "HOSTNAME=c", "/srv/app"} <= set(out.splitlines())


def test_users(rooted: Engine) -> None:
    assert rooted.out("id", user="guest") == "uid=1000(guest) gid=1000(guest) groups=100(users)"
    assert rooted.out("id -u; id -g; echo $HOME", user="42:43").split() == ["42", "43", "/"]
    assert rooted.out("grep CapEff /proc/self/status", user="nobody").endswith("\t0000000000000000")


def test_no_path_leads_out(engine: Engine) -> None:
    """The old root is gone: neither ``..`` nor a descriptor nor /proc/1/root leads to the node."""
    marker = engine.base / "marker"
    marker.write_text("node")
    out = engine.out(
        f"cd /; cat ../../../../{marker} 2>/dev/null; cat /proc/1/root{marker} 2>/dev/null; cat {marker} 2>/dev/null;"
        f"grep -c {engine.base} /proc/self/mountinfo; ls /"
    )
    assert "node" not in out.split()
    assert out.split()[0] == "1"  # the overlay's own options name its layers


def test_controlling_terminal_is_not_the_agents(engine: Engine) -> None:
    out = engine.out("cut -d ' ' -f 4-8 /proc/self/stat; (echo > /dev/tty) 2>&1 || true")
    fields = out.split()
    assert fields[3] == "0"  # tty_nr


def test_terminal(engine: Engine) -> None:
    script = "tty; echo typed > /dev/tty"
    out = engine("terminal", name="c", options={"argv": ["sh", "-c", script], "tty": True})
    assert out.split() == ["/dev/console", "typed"]


def test_a_bundle_on_an_overlay_writes_to_memory(rooted: Engine, tmp_path: Path) -> None:
    """Inside another container the run folder is on an overlay, which cannot be an upper layer."""
    for name in ("upper", "work", "lower", "base"):
        (tmp_path / name).mkdir()
    data = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    (tmp_path / "lower/run").mkdir()
    (tmp_path / "lower/store").mkdir()
    mounts = (
        f"mount -t overlay overlay -o {data} {tmp_path}/base && mount --bind {rooted.base}/store {tmp_path}/base/store"
    )
    second = Engine(tmp_path / "base", 0, before=mounts, package=rooted.base / "package")
    assert second.out("touch /made; ls /made; rm /etc/passwd; grep -c ' / overlay' /proc/mounts").split() == [
        "/made",
        "1",
    ]
    second("close")
    second.process.kill()
    second.process.wait()


# -- programs that cannot run


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["nosuch"], 127, "no such program nosuch in the image"),
        (["/bin/nosuch"], 127, "no such program /bin/nosuch in the image"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/etc"], 126, "cannot be run"),
    ],
)
def test_a_program_that_cannot_run(engine: Engine, argv: list[str], status: int, message: str) -> None:
    result = engine("run", name="c", options={"argv": argv})
    assert result["status"] == status
    assert message in result["error"]["message"]
    assert result["error"]["error"] == "ContainerError" and result["error"]["hint"]
    assert result["complete"]


def test_missing_interpreter_is_named_as_such(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sleep", "60"]})
    engine("start", name="c")
    pid = engine(
        "exec", name="c", options={"argv": ["sh", "-c", "printf '#!/bin/nosuch\\n' > /s; chmod +x /s; exec /s"]}
    )
    engine("finish", pid=pid)
    result = engine("finish", pid=engine("exec", name="c", options={"argv": ["/s"]}))
    assert result["status"] == 127 and "program that has to run it is not" in result["error"]["message"]


def test_workdir_that_is_a_file(engine: Engine) -> None:
    result = engine.sh("pwd", workdir="/etc/passwd")
    assert result["status"] == 125 and result["error"]["where"]


def test_image_command_is_the_default(engine: Engine) -> None:
    assert engine("run", name="c", options={})["status"] == 0  # sh, at the end of its input


# -- limits


def test_memory_limit_kills_and_counts(rooted: Engine) -> None:
    result = rooted.sh("tail /dev/zero; echo after", memory_bytes=32 << 20)
    assert result["events"]["oom_kills"] >= 1
    assert result["stats"]["memory"]["limit_bytes"] == 32 << 20
    assert rooted.out(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
        memory_bytes=32 << 20,
    ) == str(32 << 20)


def test_pids_limit_stops_a_fork_bomb_and_counts(rooted: Engine) -> None:
    result = rooted.sh("b() { b | b & b; }; (b) 2>/dev/null & sleep 1; echo alive", pids_limit=20)
    assert result["events"]["pids_denied"] >= 1
    assert result["stats"]["pids"]["limit"] == 20


def test_cpu_limit_throttles(rooted: Engine) -> None:
    result = rooted.sh("timeout 2 sh -c 'while :; do :; done'; true", cpus=0.05)
    cpu = result["stats"]["cpu"]
    assert cpu["limit_cpus"] == pytest.approx(0.05)  # so little that it is more than enough on a busy computer, too
    assert cpu["throttled_s"] > 0.1
    assert cpu["usage_s"] < 0.5


def test_view_has_the_contracts_shape(rooted: Engine) -> None:
    rooted(
        "create",
        name="c",
        options={
            "argv": ["sh", "-c", "echo up; exec sleep 60"],
            "memory_bytes": 64 << 20,
            "cpus": 0.5,
            "pids_limit": 9,
        },
    )
    rooted("read_until", pid=rooted("start", name="c"), text="up")
    view = rooted("view", name="c")
    assert view["status"] == "running" and view["name"] == "c" and view["image"] == "busybox:latest"
    assert (
        view["memory"]["limit_bytes"] == 64 << 20
        and view["memory"]["usage_bytes"] > 0
        and view["memory"]["oom_kills"] == 0
    )
    assert view["cpu"]["limit_cpus"] == 0.5 and view["cpu"]["usage_s"] > 0
    assert view["pids"] == {"current": 1, "limit": 9, "denied": 0}


def test_limits_without_control_groups_are_refused(rootless: Engine) -> None:
    for options in ({"memory_reservation_bytes": 1 << 25}, {"cpus": 1}, {"cpuset_cpus": "0"}):
        with pytest.raises(HostError, match="control groups") as caught:
            rootless.sh("true", **options)
        assert "--on vm" in caught.value.hint
    with pytest.raises(HostError, match="one user"):
        rootless.sh("true", user="guest")


# -- refused before anything is done


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("../x", {}, "cannot be a container's name"),
        ("", {}, "cannot be"),
        ("a" * 64, {}, "cannot be"),
        ("c", {"image": "nosuch"}, "no image nosuch"),
        ("c", {"memory_bytes": 1 << 49}, "more than this node has"),
        ("c", {"cpus": 4000}, "more than this node has"),
        ("c", {"without": ["mnt"]}, "mount namespace holds"),
        ("c", {"without": ["user"]}, "user namespace cannot"),
        ("c", {"colour": "red"}, "colour is not known"),
        ("c", {"argv": ["a\0b"]}, "argv\\[0\\] holds a NUL"),
        ("c", {"env": {"A": 1}}, "env.A must be a string"),
        ("c", {"user": "mallory"}, "no user mallory"),
        ("c", {"cap_add": ["FLY"]}, "no capability"),
        ("c", {"workdir": "relative"}, "process.cwd must be an absolute path"),
    ],
)
def test_bad_requests(engine: Engine, name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(LabError, match=match):
        engine("create", name=name, options={"argv": ["true"], **options})
    assert engine("list") == []


def test_name_in_use(engine: Engine) -> None:
    engine("create", name="c", options={})
    with pytest.raises(LabError, match="already"):
        engine("create", name="c", options={})


# -- lives


def test_exec_enters_every_namespace_and_the_group(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sleep", "60"], "env": {"A": "1"}})
    engine("start", name="c")
    script = (
        "for n in cgroup ipc mnt net pid uts user; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done;"
        "cat /proc/1/cgroup > /a; cat /proc/self/cgroup > /b; cmp /a /b && echo same;"
        "grep -E 'CapBnd|NoNew' /proc/self/status; ls /proc/$$/fd; echo $A $B; ps -o pid,ppid,pgid,sid | tail -n +2"
    )
    result = engine("finish", pid=engine("exec", name="c", options={"argv": ["sh", "-c", script], "env": {"B": "2"}}))
    assert result["status"] == 0, result
    lines = result["out"].split("\n")
    assert lines[0:14:2] == lines[1:14:2]
    assert lines[14] == "same"
    assert lines[15].endswith("a80425fb") and lines[16].endswith("1")
    assert lines[17:20] == ["0", "1", "2"] and lines[20] == "1 2"
    assert any(
        line.split()[1] == "0" and line.split()[0] == line.split()[2] == line.split()[3] for line in lines[22:] if line
    )
    assert engine("finish", pid=engine("exec", name="c", options={"argv": ["nosuch"]}))["status"] == 127


def test_exec_directly_after_start_waits_for_the_set_up(engine: Engine) -> None:
    for _ in range(5):
        engine("create", name="c", options={"argv": ["sleep", "60"]})
        engine("start", name="c")
        result = engine("finish", pid=engine("exec", name="c", options={"argv": ["cat", "/proc/1/comm"]}))
        assert result["out"] == "sleep\n"
        engine("remove", name="c", force=True)


def test_exec_in_a_stopped_container_is_refused(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["true"]})
    engine("finish", pid=engine("start", name="c"))
    with pytest.raises(LabError, match="not running, it is stopped"):
        engine("exec", name="c", options={"argv": ["true"]})
    assert engine("state", name="c")["status"] == "stopped"


def test_stopped_container_starts_again_with_its_files(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sh", "-c", "cat /kept; echo once >> /kept; (:); sleep 0"]})
    assert "No such file" in engine("finish", pid=engine("start", name="c"))["out"]
    assert engine("finish", pid=engine("start", name="c"))["out"] == "once\n"


def test_interrupt_ends_a_program_that_does_not_handle_it(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sh", "-c", "echo up; exec sleep 60"]})
    pid = engine("start", name="c")
    engine("read_until", pid=pid, text="up")
    time.sleep(0.1)
    engine("kill", name="c", signum=signal.SIGINT)
    result = engine("finish", pid=pid)
    assert (result["status"], result["signalled"]) == (-signal.SIGKILL, signal.SIGINT)


def test_interrupt_reaches_a_handler(engine: Engine) -> None:
    engine(
        "create",
        name="c",
        options={"argv": ["sh", "-c", "trap 'echo caught; exit 7' INT; echo up; while :; do sleep 0.05; done"]},
    )
    pid = engine("start", name="c")
    engine("read_until", pid=pid, text="up")
    engine("kill", name="c", signum=signal.SIGINT)
    result = engine("finish", pid=pid)
    assert (result["status"], result["signalled"]) == (7, None)
    assert "caught" in result["out"]


def test_force_removes_what_ignores_every_signal(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["sh", "-c", "trap '' INT TERM HUP; sleep 60 & sleep 60 & wait"]})
    engine("start", name="c")
    with pytest.raises(LabError, match="is running"):
        engine("remove", name="c")
    begin_s = now_s()
    engine("remove", name="c", force=True)
    assert now_s() - begin_s < 2


def test_force_removes_a_frozen_container(rooted: Engine) -> None:
    rooted("create", name="c", options={"argv": ["sh", "-c", "echo up; sleep 60 & wait"]})
    rooted("read_until", pid=rooted("start", name="c"), text="up")
    rooted("freeze", name="c")
    rooted("remove", name="c", force=True)


def test_force_removes_a_container_that_shares_the_pid_namespace(rooted: Engine) -> None:
    rooted(
        "create",
        name="c",
        options={"argv": ["sh", "-c", "(trap '' HUP; exec setsid sleep 61.5) & echo up; sleep 60"], "without": ["pid"]},
    )
    rooted("read_until", pid=rooted("start", name="c"), text="up")
    rooted("remove", name="c", force=True)
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert b"sleep\x0061.5\x00" not in commands


def test_bundle_with_deep_and_locked_folders_is_removed(engine: Engine) -> None:
    script = (
        "cd /tmp; i=0; while [ $i -lt 1500 ]; do mkdir d; cd d; i=$((i+1)); done; mkdir -p /tmp/l/m;"
        "touch /tmp/l/m/f; chmod 0 /tmp/l/m /tmp/l; ln -s / /tmp/root; echo made"
    )
    assert engine.out(script) == "made"


def test_bundle_garbage_of_an_earlier_run_is_replaced(engine: Engine) -> None:
    folder = engine.base / "run/containers/c"
    (folder / "upper/etc").mkdir(parents=True)
    (folder / "upper/etc/passwd").write_text("garbage")
    (folder / "config.json").write_bytes(b"\xff{")
    if not engine.is_root:  # type: ignore[attr-defined]
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    assert engine.out("head -n 1 /etc/passwd").startswith("root:")


def test_inspect_and_state(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["true"]})
    assert engine("state", name="c")["status"] == "created"
    document = engine("inspect", name="c")
    assert document["config"]["process"]["args"] == ["true"]
    assert document["image"]["digest"].startswith("sha256:")
    assert json.loads((engine.base / "run/containers/c/config.json").read_text()) == document["config"]
    with pytest.raises(LabError, match="no container x") as caught:
        engine("inspect", name="x")
    assert "c" in caught.value.hint


def test_explain_does_nothing_and_names_what_start_does(engine: Engine) -> None:
    steps = engine("explain", name="c", options={"argv": ["true"]})
    assert not (engine.base / "run/containers/c").exists()
    assert all(set(step) == {"step", "call", "why", "source"} and all(step.values()) for step in steps)
    done = engine("run", name="c", options={"argv": ["true"]})["steps"]
    groups = [] if not engine.is_root else ["group", "devices.deny", "devices.allow"]  # type: ignore[attr-defined]
    assert [step["step"] for step in steps] == ["clone", *groups, *(name for name, _ in done), "exec"]


def test_removed_image(engine: Engine) -> None:
    """A layer that is gone, or damaged, is named before anything is done."""
    index = engine.base / "store/index.json"
    kept = index.read_bytes()
    try:
        index.write_text('{"schemaVersion": 2, "manifests": []}')
        with pytest.raises(LabError, match="no image busybox") as caught:
            engine.sh("true")
        assert "none yet" in caught.value.hint
    finally:
        index.write_bytes(kept)
    assert engine.out("echo back") == "back"


def test_flood_of_output_does_not_block_removal(engine: Engine) -> None:
    engine("create", name="c", options={"argv": ["yes"]})
    engine("start", name="c")
    engine("remove", name="c", force=True)


def test_death_of_the_caller_ends_the_container(tmp_path: Path, engine: Engine) -> None:
    uid = os.geteuid() if engine.is_root else NOBODY  # type: ignore[attr-defined]
    base = engine.base / "second"
    base.mkdir()
    (base / "store").symlink_to(engine.base / "store")
    os.chown(base, uid, uid)
    second = Engine(base, uid, package=engine.base / "package")
    second("create", name="d", options={"argv": ["sh", "-c", "echo up; exec sleep 62.5"]})
    second("read_until", pid=second("start", name="d"), text="up")
    assert _counted(b"sleep\x0062.5\x00", 1)
    second.process.kill()
    second.process.wait()
    assert _counted(b"sleep\x0062.5\x00", 0)
    from vmcontainer_kernel.container.cgroups import Cgroups
    from vmcontainer_kernel.container.files import remove_tree

    if engine.is_root:  # type: ignore[attr-defined]
        groups = Cgroups.detect(f"test-{second.process.pid}")
        assert groups
        groups.close()
        assert not second.groups()
    remove_tree(base)


def _counted(command: bytes, wanted: int) -> bool:
    """Wait up to 2 s until so many processes have that command line."""
    deadline = now_s() + 2
    while (found := _count(command)) != wanted and now_s() < deadline:
        time.sleep(0.01)
    return found == wanted


def _count(command: bytes) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += path.read_bytes() == command
        except OSError:
            continue
    return found
