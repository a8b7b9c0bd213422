"""Every field of the specification, seen from inside by a small program: namespaces, the process, settings, hooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.birth import Bundle

pytestmark = pytest.mark.needs("containers-on-host")

RANGES = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    if os.geteuid() != 0:
        pytest.skip("cgroups: an ordinary user has no ranges of ids, nor real-time policies")
    return Bundle(tmp_path / "bundle")


@pytest.fixture
def other() -> Iterator[int]:
    """A process with namespaces of its own, to be joined: its pid."""
    command = ["unshare", "-Uripun", "--fork", "--kill-child", "sh", "-c", "hostname joined; echo up; exec sleep 60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "up\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield int(children[0])
    process.kill()
    process.wait()
    process.stdout.close()


def namespaces_of(pid: int | str) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/ns").iterdir()}


INSIDE = "for n in pid net ipc uts user cgroup time; do echo $n $(readlink /proc/self/ns/$n); done"


def inside(bundle: Bundle) -> dict[str, str]:
    return dict(line.split() for line in bundle.out(INSIDE).splitlines())  # type: ignore[misc]


# -- namespaces


def test_namespaces_left_out_are_the_nodes(bundle: Bundle) -> None:
    for kind in ("pid", "ipc", "uts", "network", "cgroup"):
        bundle.without(kind)
    found, mine = inside(bundle), namespaces_of("self")
    assert found == {name: mine[name] for name in found}


@pytest.mark.parametrize(("kind", "name"), [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")])
def test_a_namespace_is_joined_by_path(bundle: Bundle, other: int, kind: str, name: str) -> None:
    bundle.namespace(kind, f"/proc/{other}/ns/{name}")
    found, theirs, mine = inside(bundle), namespaces_of(other), namespaces_of("self")
    assert found[name] == theirs[name] != mine[name]
    assert {key for key in ("pid", "net", "ipc", "uts") if found[key] == mine[key]} == set()


def test_a_pod_shares_its_user_namespace_and_what_it_owns(bundle: Bundle, other: int) -> None:
    for kind, name in (("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")):
        bundle.namespace(kind, f"/proc/{other}/ns/{name}")
    found, theirs = inside(bundle), namespaces_of(other)
    assert {name: found[name] for name in ("user", "net", "ipc", "uts", "pid")} == {
        name: theirs[name] for name in ("user", "net", "ipc", "uts", "pid")
    }
    assert bundle.out("hostname; id -u; ls -d /proc/1") == "joined\n0\n/proc/1"


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        ("network", "/proc/self/ns/uts", "is not a network namespace"),
        ("network", "/etc/passwd", "is not a network namespace"),
        ("ipc", "/no/such", "cannot be opened"),
        ("mount", "/proc/self/ns/mnt", "a new mount namespace"),
    ],
)
def test_a_path_that_leads_to_no_such_namespace(bundle: Bundle, kind: str, path: str, words: str) -> None:
    bundle.namespace(kind, path)
    text = bundle.fails()
    assert words in text and "linux.namespaces" in text


def test_a_user_namespace_with_ranges(bundle: Bundle) -> None:
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = RANGES
    bundle.process["user"] = {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
    for path in (bundle.root, *bundle.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    out = bundle.out("id -u; id -g; id -G; cat /proc/self/uid_map; stat -c %u /dev /bin/busybox /dev/full")
    assert out.split() == ["7", "8", "8", "9", "10", "0", "100000", "65536", "0", "0", "65534"]
    bundle.process["user"] = {"uid": 70000, "gid": 0}
    assert "process.user" in bundle.fails()


def test_ranges_through_the_helper_programs(bundle: Bundle, tmp_path: Path) -> None:
    """An ordinary user's: newuidmap reads what he may map; root writes it itself, so the helpers are called here."""
    code = (
        "import os, sys\n"
        "from vmcontainer_kernel.container import linux, mappings\n"
        "from vmcontainer_kernel.container.spec import IdMapping, Linux\n"
        "ids = (IdMapping(0, os.getuid(), 1), IdMapping(1, 100000, 500))\n"
        "r, w = os.pipe(); r2, w2 = os.pipe()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os.close(w2); linux.prctl(4, 1); linux.unshare(linux.CLONE_NEWUSER); os.write(w, b'+'); os.read(r2, 1)\n"
        "    os._exit(0)\n"
        "os.read(r, 1)\n"
        "try: mappings.write_maps(pid, Linux(uid_mappings=ids, gid_mappings=ids))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(open(f'/proc/{pid}/uid_map').read())\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    extra = "echo 'nobody:100000:65536' > /etc/subuid; echo 'nobody:100000:65536' > /etc/subgid; "
    for allowed in (True, False):
        prepare = "mount -t tmpfs tmpfs /mnt; cp -r /etc/. /mnt/; mount --bind /mnt /etc; " + (
            extra if allowed else ": > /etc/subuid; : > /etc/subgid; "
        )
        python = Path(sys.executable).resolve()
        command = f"{prepare} exec setpriv --reuid=65534 --regid=65534 --clear-groups {python} -S -B {script}"
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "slave", "sh", "-ec", command],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path.cwd()))},
        )
        if allowed:
            assert done.stdout.split() == ["0", "65534", "1", "1", "100000", "500"], done
        else:
            assert "HostError newgidmap does not map these ids" in done.stdout, done


def test_a_time_namespace(bundle: Bundle) -> None:
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 100000, "nanosecs": 5}, "monotonic": {"secs": 7}}
    node_s = float(Path("/proc/uptime").read_text().split()[0])
    out = bundle.out("cut -d ' ' -f 1 /proc/uptime; cat /proc/self/timens_offsets; readlink /proc/self/ns/time")
    lines = out.splitlines()
    assert 100000 <= float(lines[0]) - node_s < 100060
    assert lines[1].split() == ["monotonic", "7", "0"] and lines[2].split() == ["boottime", "100000", "5"]
    assert lines[3] != namespaces_of("self")["time"]
    bundle.linux["timeOffsets"] = {"monotonic": {"secs": -(10**12)}}
    assert "linux.timeOffsets" in bundle.fails()


def test_a_time_namespace_in_a_new_user_namespace(bundle: Bundle) -> None:
    bundle.namespace("time")
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 10}]
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 100000}}
    out = bundle.out("cut -d . -f 1 /proc/uptime; readlink /proc/self/ns/user; echo $$").split()
    assert int(out[0]) > 100000 and out[1] != namespaces_of("self")["user"] and out[2] == "1"


def test_names(bundle: Bundle) -> None:
    bundle.config |= {"hostname": "box", "domainname": "example.org"}
    assert bundle.out("hostname; cat /proc/sys/kernel/domainname").split() == ["box", "example.org"]


# -- settings


def test_settings_of_its_own_namespaces(bundle: Bundle) -> None:
    before = Path("/proc/sys/kernel/shmmni").read_text()
    bundle.linux["sysctl"] = {"kernel.shmmni": "123", "net/ipv4/conf/lo/forwarding": "1", "net.ipv4.ip_forward": "1"}
    files = "/proc/sys/kernel/shmmni /proc/sys/net/ipv4/conf/lo/forwarding /proc/sys/net/ipv4/ip_forward"
    assert bundle.out(f"cat {files}").split() == ["123", "1", "1"]
    assert Path("/proc/sys/kernel/shmmni").read_text() == before
    bundle.config["mounts"] = bundle.config["mounts"][1:]
    assert bundle.out("mkdir -p /proc; mount -t proc proc /proc; cat /proc/sys/kernel/shmmni") == "123"
    bundle.linux["sysctl"] = {"net.ipv4.nosuch": "1"}
    assert "linux.sysctl.net.ipv4.nosuch: this kernel has no such setting" in bundle.fails()
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "many"}
    assert "linux.sysctl.net.ipv4.ip_forward: it does not take 'many'" in bundle.fails()


def test_settings_are_written_to_procfs_only(bundle: Bundle) -> None:
    """A volume over a part of /proc would see what is written, or swallow it (CVE-2019-16884)."""
    false = bundle.path / "false/net/ipv4"
    false.mkdir(parents=True)
    (false / "ip_forward").write_text("")
    bundle.mount("/proc/sys", "bind", bundle.path / "false", ["bind"])
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert "is not the kernel's file" in bundle.fails()
    assert (false / "ip_forward").read_text() == ""


def test_oom_score(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 321
    assert bundle.out("cat /proc/self/oom_score_adj") == "321"
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = RANGES
    assert bundle.out("cat /proc/self/oom_score_adj") == "321"


# -- the process


def test_umask_and_limits(bundle: Bundle) -> None:
    bundle.process["user"]["umask"] = 0o027
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    out = bundle.out("umask; grep -E 'open files|core file' /proc/self/limits")
    words = out.split()
    assert words[0] == "0027" and words[words.index("files") + 1 : words.index("files") + 3] == ["77", "88"]


def test_a_limit_above_the_nodes_is_named(bundle: Bundle) -> None:
    """Where this process may raise it, it is raised."""
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 5000, "hard": 5000}]
    outcome = bundle.run("ulimit -Hn", before="ulimit -n 4096")
    if outcome.error:
        assert outcome.error["where"] == "process.rlimits" and "RLIMIT_NOFILE" in outcome.error["message"]
    else:
        assert outcome.out == "5000"


@pytest.mark.parametrize(
    ("scheduler", "policy_number", "nice"),
    [
        ({"policy": "SCHED_BATCH", "nice": 5}, 3, 5),
        ({"policy": "SCHED_IDLE"}, 5, None),
        ({"policy": "SCHED_FIFO", "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, 1, None),
        ({"policy": "SCHED_RR", "priority": 7}, 2, None),
        ({"policy": "SCHED_OTHER", "nice": -3}, 0, -3),
    ],
)
def test_scheduler(bundle: Bundle, scheduler: dict[str, object], policy_number: int, nice: int | None) -> None:
    bundle.process["scheduler"] = scheduler
    stat = bundle.out("read line < /proc/$$/stat; echo $line").rpartition(")")[2].split()
    assert int(stat[38]) == policy_number  # proc_pid_stat(5), field 41
    assert nice is None or int(stat[16]) == nice


def test_a_deadline(bundle: Bundle) -> None:
    times = {"runtime": 10_000_000, "deadline": 30_000_000, "period": 50_000_000}
    bundle.process["scheduler"] = {"policy": "SCHED_DEADLINE", **times}
    outcome = bundle.run("read line < /proc/$$/stat; echo $line")
    if outcome.error:  # other groups' real-time limits may leave no room
        assert outcome.error["where"] == "process.scheduler"
    else:
        assert outcome.out.rpartition(")")[2].split()[38] == "6"


def test_a_schedule_that_cannot_be_is_named(bundle: Bundle) -> None:
    times = {"runtime": 3000, "deadline": 2000, "period": 1000}
    bundle.process["scheduler"] = {"policy": "SCHED_DEADLINE", **times}
    assert "process.scheduler" in bundle.fails()


@pytest.mark.parametrize(
    ("name", "word"), [("IDLE", "idle"), ("BE", "best-effort: prio 6"), ("RT", "realtime: prio 6")]
)
def test_io_priority(bundle: Bundle, name: str, word: str) -> None:
    bundle.process["ioPriority"] = {"class": f"IOPRIO_CLASS_{name}", "priority": 0 if name == "IDLE" else 6}
    assert word in bundle.out("ionice -p $$")


def test_personality(bundle: Bundle) -> None:
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert bundle.out("uname -m") in ("i686", "armv8l")


def test_capabilities_that_cannot_be_given_are_told(bundle: Bundle) -> None:
    node = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapPrm" in line)[7:], 16)
    names = ["CAP_CHOWN", "CAP_SYS_RESOURCE"]
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bundle.process["capabilities"] = {name: names for name in sets}
    outcome = bundle.run("grep Cap /proc/self/status")
    wanted = (1 | 1 << 24) & node
    assert [int(line.split()[1], 16) for line in outcome.out.splitlines()] == [wanted] * 5
    assert bool(outcome.warnings) == (wanted != 1 | 1 << 24)
    assert all("SYS_RESOURCE" in warning for warning in outcome.warnings)


def test_capabilities_of_an_ordinary_user(bundle: Bundle) -> None:
    names = ["CAP_NET_BIND_SERVICE"]
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bundle.process["capabilities"] = {name: names for name in sets}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    lines = bundle.out("grep Cap /proc/self/status").splitlines()
    assert {int(line.split()[1], 16) for line in lines} == {1 << 10}


def test_nothing_is_imported_once_the_root_has_changed(bundle: Bundle) -> None:
    """A module of the image's would run with all rights: every Python module of the child must be there before."""
    for folder in {path for path in sys.path if path.endswith(("python3.11", "lib-dynload"))} | {"/usr/lib/python3"}:
        place = bundle.root / folder.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("resource", "subprocess", "shlex", "traceback", "tempfile", "stat", "errno"):
            (place / f"{name}.py").write_text("open('/imported', 'w').close()")
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 3}
    bundle.mount("/data", "tmpfs", "", ["tmpcopyup"])
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    bundle.linux["sysctl"] = {"kernel.shmmni": "123"}
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    bundle.out("true")
    bundle.process["cwd"] = "/bin/busybox"
    bundle.fails()
    assert not (bundle.root / "imported").exists()


# -- hooks


def hook(path: Path, body: str, **more: object) -> dict[str, object]:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return {"path": str(path), "args": [path.name, "one"], "env": ["PATH=/bin:/usr/bin", "A=1"], **more}


def test_hooks_run_where_and_when_they_should(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    place = "$(readlink /proc/self/ns/net) $(pwd) $1 $A"
    note = f'state=$(cat); echo $0 {place} >> {log}; echo "$state" >> {log}.state'
    inside = "cat > /state; echo startContainer $1 $(pwd) $(hostname) >> /log"
    bundle.config["hostname"] = "box"
    (bundle.root / "hook").write_text(f"#!/bin/sh\n{inside}\n")
    (bundle.root / "hook").chmod(0o755)
    mounts = f"mount -t tmpfs planted {bundle.root}/planted; grep -c ' {bundle.root} ' /proc/self/mountinfo >> {log}"
    (bundle.root / "planted").mkdir()
    bundle.config["hooks"] = {
        "prestart": [hook(tmp_path / "prestart", note)],
        "createRuntime": [hook(tmp_path / "runtime", note)],
        "createContainer": [hook(tmp_path / "container", f"{note}; {mounts}")],
        "startContainer": [{"path": "/hook", "args": ["hook", "two"], "env": ["PATH=/bin"]}],
    }
    out = bundle.out("readlink /proc/self/ns/net; cat /log; grep -c '^planted /planted' /proc/mounts; cat /state")
    net, started, planted, state = out.splitlines()
    node, lines = namespaces_of("self")["net"], [line.split() for line in log.read_text().splitlines()]
    assert [line[0].rpartition("/")[2] for line in lines] == ["prestart", "runtime", "container", "1"]
    assert [line[1] for line in lines[:3]] == [node, node, net] != [net] * 3
    assert {tuple(line[2:]) for line in lines[:3]} == {(str(bundle.path), "one", "1")}
    assert started == "startContainer two / box" and planted == "1"
    states = [json.loads(line) for line in Path(f"{log}.state").read_text().splitlines()]
    assert all(one == states[0] and one["status"] == "creating" and one["pid"] > 1 for one in states)
    assert json.loads(state) == {**states[0], "status": "created"}


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_ends_the_container(bundle: Bundle, tmp_path: Path, point: str) -> None:
    bundle.config["hooks"] = {point: [hook(tmp_path / "ok", "true"), hook(tmp_path / "hook", "echo no reason; exit 3")]}
    text = bundle.fails("echo ran")
    assert f"hooks.{point}[1]" in text and "status 3: no reason" in text


def test_a_start_hook_that_fails_ends_the_container(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"startContainer": [{"path": "/no/such"}]}
    text = bundle.fails("echo ran")
    assert "hooks.startContainer[0]" in text and "No such file" in text


@pytest.mark.parametrize("point", ["createRuntime", "createContainer"])
def test_a_hook_that_takes_too_long_is_ended(bundle: Bundle, tmp_path: Path, point: str) -> None:
    bundle.config["hooks"] = {point: [hook(tmp_path / "hook", "sleep 61.25 & wait", timeout=1)]}
    assert "took longer than 1 s" in bundle.fails()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert b"sleep\x0061.25\x00" not in commands


def test_hooks_around_a_user_namespace(bundle: Bundle, tmp_path: Path) -> None:
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = RANGES
    (bundle.root / "planted").mkdir()
    for path in (bundle.root, *bundle.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    body = f"readlink /proc/self/ns/user; mount -t tmpfs planted {bundle.root}/planted"
    bundle.config["hooks"] = {
        "createRuntime": [hook(tmp_path / "runtime", "test $(id -u) = 0")],
        "createContainer": [hook(tmp_path / "container", body)],
        "startContainer": [{"path": "/bin/touch", "args": ["touch", "/started"], "env": ["PATH=/bin"]}],
    }
    assert bundle.out("ls /started; grep -c '^planted /planted' /proc/mounts").split() == ["/started", "1"]
