"""What tests of filters share: words for configurations, and an agent that decides calls (SCMP_ACT_NOTIFY)."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("=QIIIIQ6Q")  # struct seccomp_notif: id pid flags, then struct seccomp_data


def rule(
    names: str, action: str, *args: tuple[int, str, int] | tuple[int, str, int, int], **more: Any
) -> dict[str, Any]:
    conditions = [
        {"index": one[0], "op": f"SCMP_CMP_{one[1]}", "value": one[2], "valueTwo": one[3] if len(one) > 3 else 0}
        for one in args
    ]
    return {"names": names.split(), "action": f"SCMP_ACT_{action}", "args": conditions, **more}


def filter(*rules: dict[str, Any], default: str = "ALLOW", **more: Any) -> dict[str, Any]:
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}


class Agent:
    """Listens at a path; takes one container process state, then answers each call with errno 60 + argument 0 % 8."""

    def __init__(self, path: Path, calls: int) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(20)
        self.state: dict[str, Any] = {}
        self.seen: list[tuple[int, int]] = []
        self.calls = calls
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
        while part := connection.recv(1 << 16):
            data += part
        self.state = json.loads(data)
        fds = array.array("i", ancillary[0][2])
        for _ in range(self.calls):
            buffer = bytearray(NOTIFICATION.size)
            fcntl.ioctl(fds[0], SECCOMP_IOCTL_NOTIF_RECV, buffer)
            identity, pid, _, number, _, _, first, *_ = NOTIFICATION.unpack(buffer)
            self.seen.append((pid, number))
            fcntl.ioctl(fds[0], SECCOMP_IOCTL_NOTIF_SEND, struct.pack("=QqiI", identity, 0, -(60 + first % 8), 0))
        os.close(fds[0])

    def close(self) -> None:
        self.thread.join(20)
        self.listener.close()
