"""The agent's end of the helper: started with the first network, asked one thing after the other."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.network.plan import Operation
from vmcontainer_kernel.errors import HostError, from_json

__all__ = ["Client"]

_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from vmcontainer_kernel.container.network.helper import main; main(int(sys.argv[2]))"
)
_FD = 3
_ANSWER_S = 30.0
_END_S = 10.0
_MAX_MESSAGE_BYTES = 64 * 1024


class Client:
    """A running helper; `log`: where it tells of what it could not undo, and why it did not start."""

    def __init__(self, log: Path) -> None:
        """Start it."""
        self._log = log
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -E -P: neither the notebook's environment nor its folder changes what is imported; but, unlike the agent, it
        # needs a library of the notebook's.
        program = sys.executable or "/usr/bin/python3"
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        copies = ((null_fd, 0), (log_fd, 1), (log_fd, 2), (theirs.fileno(), _FD))
        try:
            # Without copying this process (posix_spawn(3)); in a session of its own, so that no interrupt reaches it.
            self.pid = os.posix_spawn(
                program,
                [program, "-E", "-P", "-c", _CODE, str(Path(__file__).parents[3]), str(_FD)],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for fd, target in copies],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
            )
        finally:
            theirs.close()
            os.close(log_fd)
            os.close(null_fd)
        self._pidfd = os.pidfd_open(self.pid)
        self._socket = ours
        self._socket.settimeout(_ANSWER_S)

    def do(self, operations: Sequence[Operation], fds: Sequence[int] = ()) -> tuple[list[dict[str, Any]], list[int]]:
        """Have operations done, all or none; return their results and the descriptors that came with them."""
        answer, received = self._ask({"do": [one.request() for one in operations]}, fds)
        return answer["results"], received

    def undo(self, owners: Sequence[str]) -> None:
        """Have what was done for these undone, the newest first."""
        self._ask({"undo": [*owners]}, ())

    def counts(self) -> dict[str, Any]:
        """Return what `helper.Helper.counts` counts."""
        counts: dict[str, Any] = self._ask({"count": True}, ())[0]["counts"]
        return counts

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([json.dumps(request).encode()], rights)
            data, received, _, _ = socket.recv_fds(self._socket, _MAX_MESSAGE_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise self._lost(f"{error.strerror or error}") from error
        if not data:
            raise self._lost("it ended")
        answer = json.loads(data)
        if "error" in answer:
            raise from_json(answer)
        return answer, received

    def _lost(self, reason: str) -> HostError:
        told = self._log.read_text(errors="replace")[-2000:].strip() if self._log.exists() else ""
        self.close(patience_s=0.0)
        hint = "containers keep running without them; make the networks and the containers again"
        return HostError(f"the process that keeps this node's networks is lost: {reason}", hint=hint, where=told)

    @property
    def lost(self) -> bool:
        """True once it cannot be asked any more."""
        return self._socket.fileno() < 0

    def close(self, patience_s: float = _END_S) -> None:
        """End it; it undoes everything first, but is killed if that takes longer than `patience_s`, as all the agent
        waits: the kernel removes what was in its own namespace, and in a guest the next helper clears up.
        """
        if self.lost:
            return
        self._socket.close()
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(patience_s * 1000):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # whoever reaps all children may have been first
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
