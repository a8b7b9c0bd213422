"""Drive the container runtime from a clean, single-threaded process, as the agent does; JSON lines in, JSON lines out.

pytest's own process has threads and a large heap, so it must never clone. Requests: {"op": NAME, …}; see the functions.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.cgroups import Cgroups
from vmcontainer_kernel.container.ids import Steward
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.ladder import losses
from vmcontainer_kernel.container.options import ExecOptions, Options
from vmcontainer_kernel.container.reports import Launch, read_report
from vmcontainer_kernel.container.runtime import Container, Runtime
from vmcontainer_kernel.container.trial import find_footing
from vmcontainer_kernel.errors import LabError, to_json

LIMIT_S = 30.0


class Driver:
    """One runtime and the processes it has on the way."""

    def __init__(self, base: Path, *, climbs: bool = False, grouped: bool = True) -> None:
        session = f"test-{os.getpid()}"
        self.footing = find_footing(base / "probes") if climbs else None
        # An ordinary user might have a tree of his own, as a service of systemd's; the tests shall not depend on it.
        cgroups = Cgroups.detect(session) if grouped else None
        store = Store(base / "store", Steward(self.footing.ids if self.footing else None))
        self.runtime = Runtime(base / "run", store, session=session, cgroups=cgroups, footing=self.footing)
        self.running: dict[int, tuple[Launch, int, Container | None]] = {}

    def create(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        return self.runtime.state(self.runtime.create(name, Options.from_json(options)))

    def start(self, name: str) -> int:
        container = self.runtime.get(name)
        return self._launch(lambda stdio: self.runtime.start(container, stdio), container)

    def exec(self, name: str, options: dict[str, Any]) -> int:
        container = self.runtime.get(name)
        return self._launch(lambda stdio: self.runtime.exec(container, ExecOptions.from_json(options), stdio), None)

    def _launch(self, start: Any, container: Container | None) -> int:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            launch = start((null, write_fd, write_fd))
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
            os.close(null)
        self.running[launch.pid] = (launch, read_fd, container)
        return int(launch.pid)

    def terminal(self, name: str, options: dict[str, Any]) -> str:
        """Run a container on a terminal of its own and return what it writes there."""
        container = self.runtime.create(name, Options.from_json(options))
        master, slave = os.openpty()
        launch = self.runtime.start(container, (slave, slave, slave), controlling_tty=True)
        os.close(slave)
        out = b""
        while select.select([master], [], [], LIMIT_S)[0]:
            try:
                out += os.read(master, 65536)
            except OSError:  # EIO: the last one has closed it
                break
        os.close(master)
        os.close(launch.report_fd)
        self.runtime.exited(container, os.waitpid(launch.pid, 0)[1])
        self.runtime.remove(container)
        return out.decode().replace("\r", "")

    def finish(self, pid: int) -> dict[str, Any]:
        """Read all output and the report, reap, and tell everything."""
        launch, out_fd, container = self.running.pop(pid)
        output, begin_s = {out_fd: b"", launch.report_fd: b""}, time.monotonic()
        open_fds = set(output)
        while open_fds:
            for fd in select.select([*open_fds], [], [], LIMIT_S)[0]:
                data = os.read(fd, 65536)
                output[fd] += data
                if not data:
                    os.close(fd)
                    open_fds.discard(fd)
            if time.monotonic() - begin_s > LIMIT_S:
                os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        result: dict[str, Any] = {
            "status": os.waitstatus_to_exitcode(status),
            "out": output[out_fd].decode(errors="replace"),
        }
        report = read_report(output[launch.report_fd])
        result |= {
            "steps": report.steps,
            "complete": report.complete,
            "error": to_json(report.error) if report.error else None,
        }
        if container:
            self.runtime.exited(container, status)
            result |= {"events": self.runtime.events(container), "stats": self.runtime.stats(container)}
            result |= {"signalled": container.signalled}
        return result

    def read_until(self, pid: int, text: str) -> str:
        """Read output until it holds `text`."""
        fd, got = self.running[pid][1], b""
        while text.encode() not in got:
            if not select.select([fd], [], [], LIMIT_S)[0] or not (data := os.read(fd, 65536)):
                break
            got += data
        return got.decode(errors="replace")

    def run(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Do all of it, as `docker run --rm`."""
        self.create(name, options)
        try:
            return self.finish(self.start(name))
        finally:
            self.remove(name, force=True)

    def kill(self, name: str, signum: int, everything: bool = False) -> None:
        self.runtime.kill(self.runtime.get(name), signum, everything=everything)

    def remove(self, name: str, force: bool = False) -> None:
        self.runtime.remove(self.runtime.get(name), force=force)
        for pid, (launch, fd, _) in [*self.running.items()]:
            if not Path(f"/proc/{pid}").exists() or launch.pid == pid:
                os.close(fd)
                os.close(launch.report_fd)
                del self.running[pid]

    def freeze(self, name: str) -> None:
        group = self.runtime.get(name).cgroup
        assert group
        group.freeze()

    def ladder(self) -> dict[str, Any]:
        """Tell on which rung this is, what is lost there, and what containers were warned of."""
        found = self.runtime.footing
        return {**found.to_json(), "losses": losses(found), "number": found.number}

    def warnings(self, name: str) -> Any:
        return self.runtime.get(name).warnings

    def remove_volume_of(self, path: str) -> None:
        """Remove a folder that containers have written to."""
        self.runtime.store.steward.remove_tree(path)

    def inspect(self, name: str) -> dict[str, Any]:
        return self.runtime.inspect(self.runtime.get(name))

    def state(self, name: str) -> dict[str, Any]:
        return self.runtime.state(self.runtime.get(name))

    def view(self, name: str) -> dict[str, Any]:
        return self.runtime.view(self.runtime.get(name))

    def list(self) -> Any:
        return [container.name for container in self.runtime.list()]

    def explain(self, name: str, options: dict[str, Any]) -> Any:
        return list(self.runtime.explain(name, Options.from_json(options))["steps"])

    def descriptors(self) -> Any:
        return sorted(path.name for path in Path("/proc/self/fd").iterdir())

    def namespaces(self) -> dict[str, str]:
        return {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}

    def groups(self) -> Any:
        found = Path("/sys/fs/cgroup").glob(f"**/vmcontainer/test-{os.getpid()}/*")
        return [str(path) for path in found if path.is_dir()]

    def pid(self) -> int:
        return os.getpid()

    def children(self) -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    def mounts(self) -> str:
        return Path("/proc/self/mountinfo").read_text()

    def close(self) -> None:
        self.runtime.close()


def main() -> None:
    ctypes.PyDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: never outlive the test
    words = sys.argv[2:]
    driver = Driver(Path(sys.argv[1]), climbs="climb" in words, grouped="groups" in words or os.geteuid() == 0)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(driver, request.pop("op"))(**request)}
        except LabError as error:
            answer = {"failed": to_json(error)}
        except Exception as error:
            answer = {"failed": {"error": type(error).__name__, "message": str(error), "hint": "", "where": ""}}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
