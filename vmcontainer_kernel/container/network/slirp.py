"""slirp4netns(1): a program that speaks TCP/IP in place of the kernel, so that nobody needs rights on the node.

    network namespace ── tap ── slirp4netns ── ordinary sockets of the node
      10.0.2.100/24              gateway 10.0.2.2, names 10.0.2.3

It ends when the pipe we keep ends (``--exit-fd``): with us, however we end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from vmcontainer_kernel.errors import HostError

if TYPE_CHECKING:
    import subprocess

__all__ = ["ADDRESS", "GATEWAY", "NAME_SERVER", "SUBNET", "start", "start_published"]

ADDRESS: Final = "10.0.2.100"
GATEWAY: Final = "10.0.2.2"
NAME_SERVER: Final = "10.0.2.3"
SUBNET: Final = "10.0.2.0/24"
_READY_S = 10.0
# The node's own loopback services are none of a container's business; and what serves hostile packets is confined.
_OPTIONS = ("--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp")


def start(netns: str | int, interface: str, *, api_socket: str = "") -> Callable[[], None]:
    """Connect the network namespace at a path or of a process and wait until it is; return what ends it.

    Of a process it joins the user namespace too, which for paths does not work with its sandbox (issue 317 of its).
    """
    # Late, here and below: every agent imports this module for its addresses, few start the program.
    import shutil
    import subprocess
    import tempfile

    program = shutil.which("slirp4netns", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise HostError(
            "slirp4netns is not installed, which is this node's way out of a network",
            hint="apt-get install slirp4netns; or make an internal network, or run it in a guest: --on vm",
        )
    ready_r, ready_w = os.pipe2(os.O_CLOEXEC)
    exit_r, exit_w = os.pipe2(os.O_CLOEXEC)
    extra = [f"--ready-fd={ready_w}", f"--exit-fd={exit_r}"]
    extra += [f"--api-socket={api_socket}"] if api_socket else []
    extra += ["--netns-type=path"] if isinstance(netns, str) else []
    command = [program, *_OPTIONS, *extra, str(netns), interface]
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command, pass_fds=[ready_w, exit_r], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        finally:
            os.close(ready_w)
            os.close(exit_r)
        try:
            if select.select([ready_r], [], [], _READY_S)[0] and os.read(ready_r, 1) == b"1":
                return lambda: _end(process, exit_w)
        finally:
            os.close(ready_r)
        _end(process, exit_w)
        log.seek(0)
        where = log.read().decode(errors="replace")[-1000:].strip()
    raise HostError(
        "slirp4netns could not connect the network",
        hint="it needs /dev/net/tun, readable for this user; or run it in a guest: --on vm",
        where=where,
    )


def _end(process: subprocess.Popen[bytes], exit_fd: int) -> None:
    import subprocess

    os.close(exit_fd)
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_published(pid: int, interface: str, published: Sequence[dict[str, Any]]) -> Callable[[], None]:
    """Connect a process's network namespace and publish its ports (slirp4netns(1), "API SOCKET")."""
    import tempfile

    if not published:
        return start(pid, interface)
    # A folder with a short name: a socket's path has at most 107 bytes (unix(7)).
    with tempfile.TemporaryDirectory(prefix="vmc-") as folder:
        api_socket = f"{folder}/api"
        stop = start(pid, interface, api_socket=api_socket)
        try:
            for one in published:
                _add_forward(api_socket, one)
        except BaseException:
            stop()
            raise
    return stop


def _add_forward(api_socket: str, one: dict[str, Any]) -> None:
    answer = _ask(api_socket, {"execute": "add_hostfwd", "arguments": one}, time.monotonic() + _READY_S)
    if "error" in answer:
        raise HostError(
            f"port {one['host_port']}/{one['proto']} cannot be published",
            hint="slirp4netns takes IPv4 addresses of this node, and ports from 1024 up",
            where=f"slirp4netns: {answer['error'].get('desc')}",
        )


def _ask(api_socket: str, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5.0)
            try:
                sock.connect(api_socket)  # it appears a moment after slirp4netns is ready
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise HostError("slirp4netns does not answer", where=f"{api_socket}: {error.strerror}") from error
                time.sleep(0.005)
                continue
            sock.sendall(json.dumps(request).encode())
            sock.shutdown(socket.SHUT_WR)
            return dict(json.loads(b"".join(iter(lambda: sock.recv(4096), b""))))
