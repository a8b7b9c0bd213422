"""An ordinary user with a control group of his own (cgroup-v2.rst, "Delegation"): limits that are kept, in a guest."""

from __future__ import annotations

import json

import pytest

from tests.guest_engine import BASE, IMAGES, PACKAGE, GuestEngine

pytestmark = pytest.mark.needs("qemu")

# As systemd hands a tree to user@UID.service: the folder and three files belong to the user, his processes are below.
HAND_OVER = f"""
import os, shutil
own, home = "/sys/fs/cgroup/handed", "/tmp/handed"
os.makedirs(f"{{own}}/processes")
for folder in (own, f"{{own}}/processes"):
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(f"{{folder}}/{{name}}", 1000, 1000)
with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as stream: stream.write("+memory +pids +cpu")
os.makedirs(f"{{home}}/run")
shutil.copytree("{IMAGES}", f"{{home}}/store", symlinks=True, ignore=shutil.ignore_patterns("unpacked"))
for folder, folders, files in os.walk(home):
    for name in (folder, *(f"{{folder}}/{{one}}" for one in files)): os.lchown(name, 1000, 1000)
with open(f"{{own}}/processes/cgroup.procs", "w") as stream: stream.write(str(os.getpid()))
os.setgroups([]); os.setgid(1000); os.setuid(1000)
driver = ["/usr/bin/python3", "-S", "-B", "{BASE}/engine_driver.py", home, "climb", "groups"]
os.execve(driver[0], driver, {{"PYTHONPATH": "{PACKAGE}", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}})
"""
CLEAR = """
import os, shutil
for one in ("processes", "vmcontainer.rest"):
    if os.path.isdir(f"/sys/fs/cgroup/handed/{one}"): os.rmdir(f"/sys/fs/cgroup/handed/{one}")
left = [folder for folder, _, _ in os.walk("/sys/fs/cgroup/handed")][1:]
shutil.rmtree("/tmp/handed")
print(left)
"""


def test_limits_are_kept_in_a_tree_that_was_handed_over(guest_engine: GuestEngine) -> None:
    script = "id -u; cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; for i in 1 2 3 4 5 6 7 8; do sleep 9 & done"
    options = {"argv": ["/bin/sh", "-c", script], "memory_bytes": 1 << 26, "pids_limit": 5, "cpus": 0.5}
    options["without"] = ["seccomp"]  # compiling a filter takes seconds under emulation
    asked = [{"op": "ladder"}, {"op": "run", "name": "c", "options": options}, {"op": "close"}]
    lines = "".join(json.dumps(one) + "\n" for one in asked)
    done = guest_engine.exec(["/usr/bin/python3", "-S", "-B", "-c", HAND_OVER], stdin=lines.encode())
    assert (done.status, done.err) == (0, "")
    found, ran, closed = (json.loads(line) for line in done.out.splitlines())
    assert found["ok"]["rung"] == "one id", found
    assert ran.get("ok", {}).get("error", 1) is None, ran
    uid, *limits = ran["ok"]["out"].splitlines()
    assert (uid, limits[:3]) == ("0", [str(1 << 26), "5", "50000 100000"])
    assert "fork" in ran["ok"]["out"] and ran["ok"]["events"]["pids_denied"] > 0
    assert closed == {"ok": None}
    cleared = guest_engine.run_python(CLEAR)
    assert (cleared.out, cleared.err) == ("[]\n", "")
