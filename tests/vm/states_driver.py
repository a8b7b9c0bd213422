"""A second notebook, as a process of its own: brings machines back, or saves one where there is no room.

python -m tests.vm.states_driver wake NAME COMMAND     prints what COMMAND writes in the machine that was suspended
python -m tests.vm.states_driver full FOLDER           puts a tiny disk where machines are saved, and saves one there
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.vm.sessions import Lab
from vmcontainer_kernel.errors import LabError


def wake(name: str, command: str) -> dict[str, object]:
    lab = Lab()
    try:
        lab.wait(lab.states.resume(name))
        out = lab.sh(name, command)
        names = sorted(name for _, name in lab.session.containers)
        inside = lab.wait(lab.session.machines.guest(name).node.call("container.list"))
        return {"out": out, "containers": names, "running": [one["status"] for one in inside["containers"]]}
    finally:
        lab.close()


def full(folder: str) -> dict[str, object]:
    Path(folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", folder], check=True)
    lab = Lab()
    try:
        lab.sh("vm", "echo before > /tmp/file")
        try:
            lab.wait(lab.states.snapshot("vm", "big"))
            error = ""
        except LabError as failed:
            error = f"{type(failed).__name__}: {failed}"
        left = [str(path) for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"]
        return {"error": error, "left": left, "out": lab.sh("vm", "cat /tmp/file")}
    finally:
        lab.close()


if __name__ == "__main__":
    print(json.dumps({"wake": wake, "full": full}[sys.argv[1]](*sys.argv[2:])))
