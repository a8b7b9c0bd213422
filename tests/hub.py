"""A real JupyterHub with the class's configuration, and students who use it as a browser does: HTTP and websockets.

python -m tests.hub            two students do lessons 1 to 3 at the same time, and what that costs is printed
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import websocket

from tests.patience import now_s
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.vm.accelerator import choose
from vmcontainer_kernel.vm.config import MachineConfig
from vmcontainer_kernel.vm.guest import find_guest
from vmcontainer_kernel.vm.template import find_template

ROOT = Path(__file__).parent.parent
# No name is hexadecimal: it must not be found in a container's id.
STUDENTS = {"mia": 64001, "ben": 64002}
LESSONS = ("01-welcome", "02-first-vm", "03-first-container")
LIMIT_S = 120.0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def share_images(folder: Path, memory_sizes: tuple[int | None, ...] = (None,)) -> None:
    """Link what this user has of images to where every student may read it."""
    guest = find_guest()
    assert guest is not None, "run ./lab setup"
    parts = ["images", "guests/packages.json", f"guests/{guest.path.name}"]
    for memory_bytes in memory_sizes:
        size = {"memory_bytes": memory_bytes} if memory_bytes else {}
        template = find_template(MachineConfig(name="vm", boot=guest.boot, accelerator=choose(), **size))
        assert template is not None, "run ./lab setup"
        parts += [f"templates/{template.path.name}"]
    for part in parts:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-al", cache_dir() / part, folder / part], check=True)


class Hub:
    """A hub on loopback; everything of it and of its students is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        public, hub, proxy = free_ports(3)
        self.url = f"http://127.0.0.1:{public}"
        self.password = secrets.token_hex(8)
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment |= {
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLASS_FOLDER": str(folder),
            "CLASS_LAB": str(ROOT),
            "CLASS_IMAGES": str(folder / "images"),
            "CLASS_URL": self.url,
            "CLASS_HUB_PORT": str(hub),
            "CLASS_PROXY_URL": f"http://127.0.0.1:{proxy}",
            "CLASS_PASSWORD": self.password,
        }
        with (folder / "hub.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "tests/hub_config.py")],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log[-4000:]
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{self.url}/hub/health", timeout=10).ok
            return False

        wait_for(ready, "the hub's answer")

    def close(self) -> None:
        """End it as an administrator does; it takes its proxy and the servers along."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()


@contextlib.contextmanager
def running_hub(folder: Path, memory_sizes: tuple[int | None, ...] = (None,)) -> Iterator[Hub]:
    """A hub with an empty home for each student, who cannot look into another's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o711)
    hub = None
    try:
        share_images(folder / "images", memory_sizes)
        for name, uid in STUDENTS.items():
            (folder / name).mkdir(mode=0o700)
            os.chown(folder / name, uid, uid)
        hub = Hub(folder)
        hub.wait_until_ready()
        yield hub
    finally:
        if hub:
            hub.close()
        shutil.rmtree(folder)
        for uid in STUDENTS.values():
            shutil.rmtree(run_folder(uid), ignore_errors=True)


def run_folder(uid: int) -> Path:
    """Where an ordinary user's sessions are (paths.run_dir)."""
    return Path(f"/tmp/vmcontainer-{uid}")


def wait_for(reached: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> None:
    deadline_s = now_s() + limit_s
    while not reached():
        assert now_s() < deadline_s, f"{what} did not come in {limit_s} s"
        time.sleep(0.1)


class Student:
    """A browser that has logged in."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name, self.uid = hub, name, STUDENTS[name]
        self.home = hub.folder / name
        browser = requests.Session()
        browser.get(f"{hub.url}/hub/login", timeout=LIMIT_S)
        form = {"username": name, "password": hub.password, "_xsrf": browser.cookies["_xsrf"]}
        answer = browser.post(f"{hub.url}/hub/login", data=form, allow_redirects=False, timeout=LIMIT_S)
        assert answer.status_code == 302, answer.text[-2000:]
        # The login gave a new cookie of the same name.
        xsrf = next(cookie.value for cookie in browser.cookies if cookie.name == "_xsrf" and cookie.path == "/hub/")
        answer = browser.post(
            f"{hub.url}/hub/api/users/{name}/tokens", headers={"X-XSRFToken": str(xsrf)}, json={}, timeout=LIMIT_S
        )
        assert answer.status_code == 201, answer.text
        self.token = answer.json()["token"]

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, self.hub.url + path, headers=headers, timeout=LIMIT_S, **options)

    @property
    def server(self) -> dict[str, Any]:
        return dict(self.ask("GET", f"/hub/api/users/{self.name}").json()["servers"].get("", {}))

    def start(self) -> None:
        answer = self.ask("POST", f"/hub/api/users/{self.name}/server")
        assert answer.status_code in (201, 202), answer.text
        wait_for(lambda: self.server.get("ready"), f"{self.name}'s server")

    def stop(self) -> None:
        answer = self.ask("DELETE", f"/hub/api/users/{self.name}/server")
        assert answer.status_code in (202, 204), answer.text
        wait_for(lambda: not self.server, f"the end of {self.name}'s server")

    def open(self, name: str = "mine") -> Notebook:
        """Open a notebook in the folder of the lessons."""
        path = f"course/en/{name}.ipynb"
        wish = {"path": path, "name": name, "type": "notebook", "kernel": {"name": "vmcontainer"}}
        session = self.ask("POST", f"/user/{self.name}/api/sessions", json=wish)
        assert session.status_code == 201, session.text
        return Notebook(self, session.json()["kernel"]["id"])


class Notebook:
    """A kernel behind the hub, spoken to as JupyterLab does (Jupyter's messages, one a websocket frame)."""

    def __init__(self, student: Student, kernel_id: str) -> None:
        url = student.hub.url.replace("http", "ws", 1)
        self._session = uuid.uuid4().hex
        self._socket = websocket.create_connection(
            f"{url}/user/{student.name}/api/kernels/{kernel_id}/channels?session_id={self._session}",
            header=[f"Authorization: token {student.token}"],
            timeout=LIMIT_S,
        )

    def run(self, code: str) -> tuple[str, str]:
        """Run a cell; return what it printed, and the name and text of its error."""
        number = uuid.uuid4().hex
        header = {
            **{"msg_id": number, "msg_type": "execute_request", "session": self._session, "username": ""},
            **{"version": "5.3", "date": ""},
        }
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self._socket.send(json.dumps(message))
        printed, error, open_ends = "", "", {"reply", "idle"}
        while open_ends:
            frame = self._socket.recv()
            if not isinstance(frame, str):  # a message with buffers: pictures of a widget
                continue
            answer = json.loads(frame)
            if answer["parent_header"].get("msg_id") != number:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind in ("display_data", "execute_result"):
                printed += content["data"].get("text/plain", "") + "\n"
            elif kind == "execute_reply":
                open_ends.discard("reply")
                error = "" if content["status"] == "ok" else f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                open_ends.discard("idle")
        return printed, error

    def ok(self, code: str) -> str:
        printed, error = self.run(code)
        assert not error, f"{code}\n{error}\n{printed}"
        return printed.strip()


def lesson_cells(name: str) -> list[tuple[str, bool]]:
    """Return a lesson's code cells, and whether each is meant to fail."""
    notebook = json.loads((ROOT / "course/en" / f"{name}.ipynb").read_text())
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [("".join(cell["source"]), "raises-exception" in cell["metadata"].get("tags", ())) for cell in cells]


def do_lesson(student: Student, name: str) -> float:
    """Run all cells of a lesson in a notebook of its own; return how long its slowest cell took, in seconds."""
    notebook = student.open(name)
    # Nobody is there to predict and to solve exercises (docs/teaching-form.md).
    notebook.run("import os; os.environ['VMCONTAINER_UNATTENDED'] = '1'")
    slowest_s = 0.0
    for code, fails in lesson_cells(name):
        began_s = time.monotonic()
        printed, error = notebook.run(code)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        assert bool(error) == fails, f"{student.name}, {name}:\n{code}\n{error}\n{printed}"
    return slowest_s


def processes_of(uid: int) -> dict[int, str]:
    """The command of each process of a user's, by its number; one that has ended and is not yet waited for is none."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = dict(line.partition(":\t")[::2] for line in (folder / "status").read_text().splitlines())
            if str(uid) in status["Uid"].split() and not status["State"].startswith("Z"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def left_of(student: Student) -> dict[str, Any]:
    """What there is of a student's beside what is in his home: processes, files of sessions, mounts, control groups."""
    run = run_folder(student.uid)
    pids = processes_of(student.uid)
    mounts = Path("/proc/mounts").read_text().splitlines()
    groups = (path for pattern in ("vmcontainer/*", "*/vmcontainer/*") for path in Path("/sys/fs/cgroup").glob(pattern))
    everything = {
        "processes": pids,
        "files": [str(path) for path in run.glob("*") if path.name != "lock"],
        "mounts": [line for line in mounts if str(run) in line or str(student.home) in line],
        "groups": [str(path) for path in groups if path.stat().st_uid == student.uid],
    }
    return {name: value for name, value in everything.items() if value}


def memory_bytes(pids: dict[int, str]) -> int:
    """The memory of processes, what they share counted in parts (Pss, proc_pid_smaps_rollup(5))."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
            total += next(int(row[1]) for row in rows if row[0] == "Pss:") * 1024
    return total


def main() -> None:
    """Let two students do the first three lessons at the same time, and print how that went."""
    subprocess.run([sys.executable, "-c", "import build; build.prepare()"], check=True, cwd=ROOT / "course")
    folder = Path("/tmp", f"vmcontainer-class-{os.getpid()}")
    with running_hub(folder, (None, 512 << 20)) as hub, ThreadPoolExecutor() as pool:
        students = [Student(hub, name) for name in STUDENTS]
        began_s = time.monotonic()
        list(pool.map(Student.start, students))
        print(f"both servers started: {time.monotonic() - began_s:.1f} s")
        for student in students:
            print(f"{student.name}: {memory_bytes(processes_of(student.uid)) / 2**20:.0f} MiB, the server alone")
        for lesson in LESSONS:
            began_s = time.monotonic()
            slowest_s = list(pool.map(lambda student, lesson=lesson: do_lesson(student, lesson), students))
            took_s = time.monotonic() - began_s
            print(f"{lesson}: all cells in {took_s:.1f} s, the slowest in", *(f"{one:.1f} s" for one in slowest_s))
        for student in students:
            print(f"{student.name}: {memory_bytes(processes_of(student.uid)) / 2**20:.0f} MiB, three idle notebooks")
        list(pool.map(lambda student: student.open().ok("%load_ext vmcontainer_kernel\n%vm start one"), students))
        for student in students:
            print(f"{student.name}: {memory_bytes(processes_of(student.uid)) / 2**20:.0f} MiB, and a machine")
        for student in students:
            began_s = time.monotonic()
            student.stop()
            wait_for(lambda student=student: not left_of(student), f"the end of what {student.name} had")
            print(f"{student.name}: stopped, nothing is left: {time.monotonic() - began_s:.1f} s")


if __name__ == "__main__":
    main()
