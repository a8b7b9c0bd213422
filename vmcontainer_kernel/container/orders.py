"""What the agent tells a process of ours that waits: a value and descriptors, over a stream socket.

length in four bytes │ the value, pickled        and beside the first byte, descriptors (unix(7), SCM_RIGHTS)

Both ends are forks of one program, so what is pickled comes from nobody else; and no container's program runs yet in a
process that waits.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Sequence
from typing import Any

__all__ = ["receive", "send"]

_NUMBER_BYTES = 4
_MOST_FDS = 64
# One read for nearly every order; a larger buffer would be mapped and unmapped for each (mallopt(3)).
_READ_BYTES = 32 << 10


def send(gate: socket.socket, order: object, fds: Sequence[int] = ()) -> None:
    """Send an order; `OSError` if nobody is there to take it."""
    message = pickle.dumps(order, pickle.HIGHEST_PROTOCOL)
    # A length ahead: a stream socket may deliver a long message in parts.
    whole = len(message).to_bytes(_NUMBER_BYTES, "big") + message
    sent = socket.send_fds(gate, [whole], fds)
    if sent < len(whole):
        gate.sendall(whole[sent:])


def receive(gate: socket.socket) -> tuple[Any, list[int]]:
    """Wait for an order; end this process quietly if the other side ends."""
    data, fds, _, _ = socket.recv_fds(gate, _READ_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    while len(data) < _NUMBER_BYTES or len(data) < _NUMBER_BYTES + int.from_bytes(data[:_NUMBER_BYTES], "big"):
        part = gate.recv(_READ_BYTES)
        if not part:
            os._exit(0)
        data += part
    return pickle.loads(memoryview(data)[_NUMBER_BYTES:]), list(fds)
