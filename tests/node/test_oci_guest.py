"""The runtime's command line in a guest, whose control groups are of version 2: the files the kernel has, the events,
and what is left of a runtime that was killed.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.guest_engine import GuestEngine

from .oci_runtime import KILLED

pytestmark = pytest.mark.needs("qemu")

PRELUDE = """
import json, os, shutil, signal, subprocess, sys, time
from vmcontainer_kernel.container.images.busybox import find_busybox
from vmcontainer_kernel.container.oci import __path__ as oci
from vmcontainer_kernel.container.oci import execute, launching, looking, update
from vmcontainer_kernel.container.oci.command import leave
from vmcontainer_kernel.container.oci.template import template

BASE = f"/run/oci-{os.getpid()}"
GROUP = f"/sys/fs/cgroup/oci-{os.getpid()}"
MAIN = f"{oci[0]}/__main__.py"
found = {}

def bundle(*args, resources=None):
    folder = f"{BASE}/bundle"
    if not os.path.exists(folder):
        os.makedirs(f"{folder}/rootfs/bin")
        shutil.copy(find_busybox(), f"{folder}/rootfs/bin/busybox")
        for name in "sh cat sleep tail true".split():
            os.symlink("busybox", f"{folder}/rootfs/bin/{name}")
    config = template()
    config["process"] |= {"terminal": False, "args": args or ["sleep", "600"]}
    config["root"]["readonly"] = False
    config["linux"] |= {
        "cgroupsPath": f"/oci-{os.getpid()}/c",
        "resources": resources or {},
        "devices": [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}],
    }
    with open(f"{folder}/config.json", "w") as stream:
        json.dump(config, stream)
    return folder

def command(*words):
    return [sys.executable, "-S", "-I", MAIN, "--root", f"{BASE}/state", *words]

def runtime(*words):
    '''Return status, output and errors; files, as a container keeps the descriptors open. A fork saves what starting
    Python costs in a machine without hardware's help.'''
    with open(f"{BASE}/out", "w+") as out, open(f"{BASE}/err", "w+") as err:
        pid = os.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_RDONLY)
            for target, fd in enumerate((null, out.fileno(), err.fileno())):
                os.dup2(fd, target)
            leave(["--root", f"{BASE}/state", *words])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()

def ok(*words):
    status, out, err = runtime(*words)
    assert status == 0, (words, err)
    return out

def files(*names):
    return {name: open(f"{GROUP}/c/{name}").read().strip() for name in names}

def until(done):
    end = time.monotonic() + 40
    while not done():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
"""
EPILOGUE = """
ok("delete", "--force", "c")
assert os.listdir(f"{BASE}/state") == []
assert not os.path.exists(f"{GROUP}/c")
if os.path.exists(GROUP):
    os.rmdir(GROUP)
shutil.rmtree(BASE)
print(json.dumps(found))
"""


def in_guest(engine: GuestEngine, source: str) -> dict[str, Any]:
    """Run Python beside the guest's control groups; it puts what it finds into `found`; nothing may be left of c."""
    result = engine.run_python(f"{PRELUDE}\nKILLED = {KILLED!r}\n{textwrap.dedent(source)}{EPILOGUE}")
    assert result.status == 0, result.err
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def test_limits_from_create_to_delete(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        limits = {
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
            "cpu": {"quota": 20000, "period": 40000, "shares": 512, "cpus": "0"},
            "pids": {"limit": 33},
            "devices": [{"allow": False, "access": "rwm"}],
            "unified": {"memory.high": "60000000"},
        }
        ok("create", "--bundle", bundle(resources=limits), "c")
        found["created"] = files("memory.max", "memory.swap.max", "cpu.max", "cpuset.cpus", "pids.max", "memory.high")
        ok("start", "c")
        pid = json.loads(ok("state", "c"))["pid"]
        found["in it"] = open(f"/proc/{pid}/cgroup").read().strip().endswith("/c")
        script = "cat /sys/fs/cgroup/memory.max /proc/self/cgroup; cat /dev/null; cat /dev/kmsg 2>&1"
        found["exec"] = runtime("exec", "c", "sh", "-c", script)[1].split("\\n")

        ok("pause", "c")
        found["paused"] = [files("cgroup.freeze")["cgroup.freeze"], json.loads(ok("state", "c"))["status"]]
        found["refused"] = runtime("exec", "c", "true")[0]
        ok("resume", "c")
        found["resumed"] = [files("cgroup.freeze")["cgroup.freeze"], json.loads(ok("state", "c"))["status"]]

        ok("update", "--memory", str(48 << 20), "--memory-swap", str(64 << 20), "--pids-limit", "22", "c")
        found["updated"] = files("memory.max", "memory.swap.max", "pids.max", "cpu.max")
        event = json.loads(ok("events", "--stats", "c"))
        found["event"] = [event["type"], event["data"]["memory"]["usage"]["limit"], event["data"]["pids"]["limit"]]
        found["cannot"] = runtime("update", "--memory", "1", "c")[2]
        """,
    )
    assert found["created"] == {
        "memory.max": str(64 << 20), "memory.swap.max": str(32 << 20), "cpu.max": "20000 40000", "cpuset.cpus": "0",
        "pids.max": "33", "memory.high": str(60_000_000 // 4096 * 4096),
    }  # fmt: skip
    assert found["in it"]
    assert found["exec"] == [str(64 << 20), "0::/", "cat: can't open '/dev/kmsg': Operation not permitted", ""]
    assert found["paused"] == ["1", "paused"]
    assert found["refused"] == 1
    assert found["resumed"] == ["0", "running"]
    assert found["updated"] == {
        "memory.max": str(48 << 20), "memory.swap.max": str(16 << 20), "pids.max": "22", "cpu.max": "20000 40000"
    }  # fmt: skip
    assert found["event"] == ["stats", 48 << 20, 22]
    assert "linux.resources.memory.limit" in found["cannot"]


def test_what_strikes_is_told(guest_engine: GuestEngine) -> None:
    found = in_guest(
        guest_engine,
        """
        limits = {"memory": {"limit": 16 << 20, "swap": 16 << 20}, "pids": {"limit": 4}}
        script = "(sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9) ; cat /go; tail /dev/zero; sleep 600"
        os.mkfifo(f"{bundle()}/rootfs/go")
        ok("run", "--detach", "--bundle", bundle("sh", "-c", script, resources=limits), "c")
        until(lambda: not files("pids.events")["pids.events"].endswith(" 0"))
        events = subprocess.Popen(command("events", "--interval", "600s", "c"), stdout=subprocess.PIPE, text=True)
        found["first"] = json.loads(events.stdout.readline())["type"]
        open(f"{BASE}/bundle/rootfs/go", "w").close()
        found["second"] = json.loads(events.stdout.readline())["type"]
        ok("kill", "c", "KILL")
        found["ended"] = events.wait(40)
        """,
    )
    assert found == {"first": "stats", "second": "oom", "ended": 0}


def test_what_a_killed_runtime_leaves_is_deleted(guest_engine: GuestEngine) -> None:
    """Version 2 groups are made before the process, which is born in them: other steps than with version 1."""
    found = in_guest(
        guest_engine,
        """
        runs = subprocess.Popen(command("run", "--bundle", bundle(), "c"), stdin=subprocess.DEVNULL)
        until(lambda: os.path.exists(f"{BASE}/state/c") and json.loads(ok("state", "c"))["status"] == "running")
        runs.kill()
        runs.wait()
        found["outlived"] = json.loads(ok("state", "c"))["status"]
        ok("delete", "--force", "c")

        package, null, found["kills"] = MAIN.partition("/vmcontainer_kernel/")[0], subprocess.DEVNULL, 0
        for left in range(8, 400, 16):
            words = command("create", "--bundle", bundle(), "c")[4:]
            line = [sys.executable, "-S", "-I", "-c", KILLED, package, str(left), *words]
            ended = subprocess.run(line, stdin=null, stdout=null, stderr=null).returncode
            found["kills"] += ended == -signal.SIGKILL
            ok("delete", "--force", "c")
            until(lambda: not os.path.exists(f"{GROUP}/c"))
            if ended == 0:
                break
        found["last"] = ended
        """,
    )
    assert found.pop("kills") > 3
    assert found == {"outlived": "running", "last": 0}
