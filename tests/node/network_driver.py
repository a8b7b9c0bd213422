"""Drive the networks of a node as the agent does, in a network namespace of the test's own; JSON lines in and out.

    network_driver.py FOLDER MODE          MODE: host, guest (the node's own namespace has the bridges) or plain

It stands for the node: ``lo``, and an interface ``wan`` with 198.51.100.1/24, whose other end is a namespace that plays
the world outside (198.51.100.2). Containers are processes with a network namespace each, which run shell commands.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.network.networks import Networks
from vmcontainer_kernel.container.publish import read_publish
from vmcontainer_kernel.errors import LabError, to_json


class Driver:
    """A node, the world outside, and containers by name."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        if os.geteuid() == 0:
            linux.unshare(linux.CLONE_NEWNET)
            self.begin("outside")
            self._cable()
        self.networks = Networks(folder / "run", session=f"test-{folder.name}", guest=mode == "guest")
        self.taps: dict[str, int] = {}

    def _cable(self) -> None:
        outside = str(self.processes["outside"].pid)
        for line in (
            "link set lo up",
            f"link add wan type veth peer name wan netns {outside}",
            "address add 198.51.100.1/24 dev wan",
            "link set wan up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        self.run("outside", "ip address add 198.51.100.2/24 dev wan; ip link set wan up")
        # The kernel tells of a carrier some time later, and what is there at first is compared with what is left.
        while "state UP" not in subprocess.check_output(["ip", "link", "show", "wan"], text=True):
            time.sleep(0.01)

    def begin(self, name: str, *, user: bool = False) -> int:
        """Start a container's first process; it holds the namespaces and does nothing."""
        kinds = ["--user", "--map-root-user"] if user else []
        command = ["unshare", *kinds, "--net", "sh", "-c", "ip link set lo up; echo; exec cat"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        self.processes[name] = process
        return process.pid

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def run(self, name: str, script: str, *, background: bool = False) -> Any:
        """Run a shell script in a container, with the node's files but the container's /etc/hosts."""
        process = self.processes[name]
        # Killed with its container: nothing else would end a server that nobody asks any more.
        command = ["nsenter", "--target", str(process.pid), "--net", "unshare", "-m", "sh", "-c", script]
        if os.geteuid():
            command[3:4] = ["--user", "--preserve-credentials", "--net"]
        if background:
            self.processes[f"{name} {script}"] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            return None
        done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return {"status": done.returncode, "output": done.stdout, "errors": done.stderr}

    def node(self, script: str) -> Any:
        done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
        return {"status": done.returncode, "output": done.stdout, "errors": done.stderr}

    def create(self, name: str, **options: Any) -> Any:
        return self.networks.create(name, **options)

    def remove(self, name: str) -> None:
        self.networks.remove(name)

    def list(self) -> Any:
        return self.networks.list()

    def inspect(self, name: str) -> Any:
        return self.networks.inspect(name)

    def prepare(self, name: str, hostname: str, network: str) -> Any:
        return self.networks.prepare(name, hostname, network)

    def attach(self, name: str, network: str, publish: Any = (), aliases: Any = ()) -> Any:
        pid = self.processes[name].pid
        ports = [read_publish(one) for one in publish]
        return self.networks.attach(name, pid, network, aliases=aliases, publish=ports)

    def explain(self, name: str, network: str, publish: Any = ()) -> Any:
        return [*self.networks.explain(name, network, publish=[read_publish(one) for one in publish])]

    def detach(self, name: str) -> None:
        self.networks.detach(name)

    def forget(self, name: str) -> None:
        self.networks.forget(name)

    def tap(self, name: str, network: str) -> Any:
        answer = self.networks.tap(name, network)
        self.taps[name] = answer["fd"]
        return answer

    def helper(self) -> Any:
        client = self.networks._client
        return client.pid if client else None

    def close(self) -> None:
        self.networks.close()


def main() -> None:
    ctypes.PyDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: never outlive the test
    driver = Driver(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps({"ok": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(driver, request.pop("op"))(**request)}
        except LabError as error:
            answer = {"failed": to_json(error)}
        except Exception as error:
            answer = {"failed": {"error": type(error).__name__, "message": str(error), "hint": "", "where": ""}}
        print(json.dumps(answer), flush=True)
    for process in driver.processes.values():
        process.kill()


if __name__ == "__main__":
    main()
