"""What is known of a container between two commands: a folder below the root folder, one for each container.

    ROOT/ID/state.json    `Saved`, written to the side and moved into place
    ROOT/ID/config.json   the configuration it was made with; later changes to the bundle's do not matter (runtime.md)
    ROOT/ID/gate          a FIFO; the container's first process waits on it for `start`
    ROOT/ID/failed        why that process did not become the program, if it did not

Commands that change something hold a lock on the folder itself (flock(2)), so no lock file is left behind. The status
is not written down but looked at: it is a matter of which process exists, and of whether it still waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import HostError, NotFound, UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = ["Folder", "Process", "Saved", "default_root"]

_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
_DEAD = "ZX"  # zombie, dead (proc_pid_stat(5))


class Process(Record):
    """A process that another one cannot be taken for: pid 0 is none.

    `started` is when it began, in clock ticks since boot (proc_pid_stat(5), field 22); a pid alone may be reused.
    """

    pid: int = 0
    started: int = 0

    @classmethod
    def look(cls, pid: int) -> Process:
        """Return the process that has this pid now, or none."""
        fields = _stat(pid)
        return cls(pid, int(fields[19])) if fields and fields[0] not in _DEAD else cls()

    @property
    def alive(self) -> bool:
        """Tell whether it exists and has not ended."""
        return self.pid > 0 and Process.look(self.pid) == self


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; the second may hold spaces and brackets."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return os.read(fd, 4096).decode(errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:
        return []
    finally:
        os.close(fd)


class Saved(Record):
    """A container as it was left by the last command.

    `maker` is the command that is making it, until `complete`; `created` is a time as RFC 3339 has it; `cgroup` is the
    path of its groups, "" for none.
    """

    id: str
    bundle: str
    created: str
    owner: int
    maker: Process
    init: Process = Process()
    complete: bool = False
    cgroup: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a document."""
        plain = {name: getattr(self, name) for name in self._fields}
        return plain | {name: [plain[name].pid, plain[name].started] for name in ("maker", "init")}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Saved:
        """Read what `to_json` wrote."""
        return cls(**document | {name: Process(*document[name]) for name in ("maker", "init")})


def default_root() -> str:
    """Return where containers are kept if nobody says otherwise."""
    if os.geteuid() == 0:
        return "/run/vmcontainer/runtime"
    folder = os.environ.get("XDG_RUNTIME_DIR")
    if not folder:
        raise HostError("there is no folder for the state of containers", hint="set XDG_RUNTIME_DIR, or use --root")
    return f"{folder}/vmcontainer/runtime"


def check_id(name: str) -> None:
    """Raise `UserError` unless a name can be a container's id: it names a folder."""
    if not name or name in (".", "..") or not _LETTERS.issuperset(name) or len(name) > 255:
        raise UserError(f"a container's id is letters, digits and _ + - . , not {name!r}", where="id")


class Folder:
    """One container's folder, locked while it is used with ``with``."""

    def __init__(self, root: str, name: str) -> None:
        check_id(name)
        self.name = name
        self.path = f"{root}/{name}"
        self._fd = -1

    @classmethod
    def make(cls, root: str, name: str) -> Folder:
        """Make the folder of a new container; raise `UserError` if there is one of that id."""
        folder = cls(root, name)
        os.makedirs(root, 0o711, exist_ok=True)
        try:
            os.mkdir(folder.path, 0o700)
        except FileExistsError:
            raise UserError(
                f"container with id {name} exists", hint=f"delete it first: delete {name}", where=folder.path
            ) from None
        return folder

    def __enter__(self) -> Folder:
        while True:
            self._fd = self._open()
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                if os.stat(self.path).st_ino == os.fstat(self._fd).st_ino:
                    return self
            except FileNotFoundError:
                pass
            os.close(self._fd)  # it was deleted while we waited

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"container {self.name!r} does not exist", hint="see list", where=self.path) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        self._fd = -1

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder, so that others see all of it or nothing."""
        path = f"{self.path}/{name}"
        with open(f"{path}~", "w", encoding="utf-8") as stream:
            stream.write(text)
        os.rename(f"{path}~", path)

    def read(self, name: str) -> str:
        """Return the text of a file; "" if there is none."""
        try:
            with open(f"{self.path}/{name}", encoding="utf-8") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def save(self, saved: Saved) -> None:
        """Note how the container is now."""
        self.write("state.json", jsontext.dumps(saved.to_json()))

    def load(self) -> Saved | None:
        """Return the container as it was left; None if its maker ended before it wrote anything."""
        if not os.path.isdir(self.path):
            raise NotFound(f"container {self.name!r} does not exist", hint="see list", where=self.path)
        text = self.read("state.json")
        return Saved.from_json(jsontext.loads(text)) if text else None

    def open_gate(self) -> int:
        """Return a descriptor to the FIFO on which the container's process waits, or -1 if it does not wait."""
        try:
            return os.open(f"{self.path}/gate", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:  # ENXIO: nobody has it open for reading (fifo(7))
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            return -1

    def status(self, saved: Saved | None) -> str:
        """Return creating, created, running or stopped (runtime.md, "State")."""
        if saved is None or not saved.complete:
            return "creating" if saved is not None and saved.maker.alive else "stopped"
        if not saved.init.alive:
            return "stopped"
        gate = self.open_gate()
        if gate < 0:
            return "running"
        os.close(gate)
        return "created"

    def remove(self) -> None:
        """Remove the folder; the last one in it is what says that the container exists."""
        for name in sorted(os.listdir(self.path), key=lambda name: name == "state.json"):
            os.unlink(f"{self.path}/{name}")
        os.rmdir(self.path)


def now() -> str:
    """Return the time as RFC 3339 has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09}Z"


def names(root: str) -> list[str]:
    """Return the ids of all containers."""
    try:
        return sorted(os.listdir(root))
    except FileNotFoundError:
        return []
