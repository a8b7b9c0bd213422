"""Docker's and Podman's engines with this runtime, on ground of their own: a mount and a network namespace of the test,
all their files in its folder, all their groups below /vmcontainer. Nothing of theirs touches this computer's.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.node.oci_runtime import NOBODY, ROOT, our_runtime, wait_until
from tests.patience import now_s
from tests.reach import open_to_all
from vmcontainer_kernel.container.images.archives import export_image
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.container.images.store import Store

LIMIT_S = 90.0


class Engine:
    """An engine's command in a place of its own; `options` come right after the program, `run` after ``run``."""

    def __init__(self, place: int, command: list[str], options: list[str], *, cgroup: str) -> None:
        self.place = place
        self.command = [*command, *options]
        self.run_options = ["--network", "none", "--cgroup-parent", cgroup]
        self.cgroup = cgroup
        self.rm_options = ["--force"]

    def inside(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.place}", "--mount", "--net", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.inside(*self.command, *words)
        null = subprocess.DEVNULL
        return subprocess.run(command, check=False, stdin=null, capture_output=True, text=True, timeout=LIMIT_S)

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self("run", *self.run_options, *words)

    def remove(self, name: str) -> None:
        self.ok("rm", *self.rm_options, name)

    def on_a_terminal(self, *words: str, typed: bytes) -> tuple[str, int]:
        """Run a command on a terminal, type into it; return what it shows and its status."""
        master, slave = pty.openpty()
        command = self.inside(*self.command, *words)
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        shown, deadline = b"", now_s() + LIMIT_S
        os.write(master, typed)
        while now_s() < deadline:
            if select.select([master], [], [], 1.0)[0]:
                try:
                    shown += os.read(master, 65536)
                except OSError:  # EIO: the last one has closed it
                    break
        os.close(master)
        return shown.decode(errors="replace"), process.wait(10)


@contextlib.contextmanager
def place_of(base: Path, also: str = "true") -> Iterator[int]:
    """A process in new mount and network namespaces, with a loopback, a /run and a /dev/shm of its own (podman keeps
    its locks there); `also`: a command there.
    """
    script = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev/shm && mkdir /run/lock && ip link set lo up"
    script += f" && {also}"
    script += " && echo ready && exec sleep 600"
    command = ["unshare", "--mount", "--net", "--propagation", "slave", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        subprocess.run(["rm", "-rf", "--one-file-system", str(base)], check=True)


def image_archive(base: Path) -> Path:
    """The image of our own store as an archive that ``docker load`` reads."""
    store = Store(base / "store")
    build_busybox(store)
    path = base / "busybox.tar"
    export_image(store, "busybox", path, format="docker-archive")
    return path


def remove_groups(cgroup: str) -> None:
    """Remove the folders an engine leaves; a group that still holds a process makes this fail."""
    base = Path("/sys/fs/cgroup")
    for root in (base, *base.iterdir()):
        for path in (root / cgroup[1:], *(root / cgroup[1:]).glob("*")):
            if path.is_dir():
                for one in sorted((one for one in path.rglob("*") if one.is_dir()), reverse=True):
                    one.rmdir()
                path.rmdir()


@contextlib.contextmanager
def docker_engine(base: Path) -> Iterator[Engine]:
    """Debian's dockerd and its containerd."""
    cgroup, socket = f"/vmcontainer/docker-{os.getpid()}", f"unix://{base}/docker.sock"
    with our_runtime(base) as runtime, place_of(base) as place:
        engine = Engine(place, ["/usr/bin/docker", "--host", socket], [], cgroup=cgroup)
        engine.run_options += ["--runtime", "vmcontainer"]
        daemon = ["dockerd", "--host", socket, "--pidfile", f"{base}/pid", "--data-root", f"{base}/data"]
        daemon += [
            "--exec-root",
            f"{base}/exec",
            "--storage-driver",
            "vfs",
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
        ]
        daemon += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--cgroup-parent", cgroup]
        daemon += ["--add-runtime", f"vmcontainer={runtime.program}"]
        with (base / "daemon.log").open("w") as log:
            process = subprocess.Popen(engine.inside(*daemon), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(lambda: engine("version").returncode == 0 or process.poll() is not None)
            assert process.poll() is None, (base / "daemon.log").read_text()
            engine.ok("load", "--input", str(image_archive(base)))
            yield engine
        finally:
            for name in engine("ps", "-aq").stdout.split():
                engine("rm", "-f", name)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            remove_groups(cgroup)


@contextlib.contextmanager
def podman_engine(base: Path) -> Iterator[Engine]:
    """Debian's podman and conmon."""
    cgroup = f"/vmcontainer/podman-{os.getpid()}"
    with our_runtime(base) as runtime, place_of(base) as place:
        options = ["--root", f"{base}/root", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp"]
        options += ["--storage-driver", "vfs", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        engine = Engine(place, ["podman"], [*options, "--runtime", runtime.program], cgroup=cgroup)
        # Podman's own default asks for more than the hard limit, which needs CAP_SYS_RESOURCE.
        engine.run_options += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        engine.rm_options += ["--time", "0"]
        try:
            engine.ok("load", "--input", str(image_archive(base)))
            yield engine
        finally:
            engine("rm", "--all", "--force", "--time", "0")
            remove_groups(cgroup)


# The node's own files stay as they are: these lie on top of them for the engine alone.
RANGES = (
    "echo nobody:200000:65536 > /run/ranges && mount --bind /run/ranges /etc/subuid"
    f" && mount --bind /run/ranges /etc/subgid && install -d -m 700 -o {NOBODY} /run/user"
)


@contextlib.contextmanager
def rootless_podman(base: Path) -> Iterator[Engine]:
    """Podman of an ordinary user, who has a range of ids and no control groups."""
    open_to_all(base)
    shutil.copytree(ROOT / "vmcontainer_kernel", base / "package/vmcontainer_kernel")  # a checkout may be private
    home = base / "home"
    home.mkdir()
    archive = shutil.copy(image_archive(base), home)
    for path in (home, *home.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    with our_runtime(base, base / "package") as runtime, place_of(base, RANGES) as place:
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        user += ["env", "-C", str(home), f"HOME={home}", "XDG_RUNTIME_DIR=/run/user"]
        options = ["--root", f"{home}/root", "--runroot", "/run/user/podman", "--tmpdir", f"{home}/tmp"]
        options += ["--storage-driver", "vfs", "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        engine = Engine(place, [*user, "podman"], [*options, "--runtime", runtime.program], cgroup="")
        engine.run_options = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        engine.rm_options += ["--time", "0"]
        try:
            engine.ok("load", "--input", archive)
            yield engine
        finally:
            engine("rm", "--all", "--force", "--time", "0")
            end_processes_of(home)


def end_processes_of(home: Path) -> None:
    """End what belongs to this home: podman keeps a process that holds its user namespace for the next command."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


ENGINES = {"docker": docker_engine, "podman": podman_engine}
