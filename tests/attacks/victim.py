"""A process of the node that a container must not reach: by its number, its abstract socket, its shared memory.

Writes one line when all is there: its pid and the file handle of a file of its own (name_to_handle_at(2)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path

SECRET = Path("/run/attacks-secret")
NR_NAME_TO_HANDLE_AT = 264 if os.uname().machine == "aarch64" else 303

libc = ctypes.CDLL(None, use_errno=True)


def handle(path: Path) -> str:
    found, mount_id = ctypes.create_string_buffer(136), ctypes.c_int()
    ctypes.c_uint.from_buffer(found).value = 128
    number = ctypes.c_long(NR_NAME_TO_HANDLE_AT)
    if libc.syscall(number, -100, os.fsencode(path), found, ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found.raw.hex()


def main() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    SECRET.write_text("secret")
    memory = libc.shmget(0x5EED, 4096, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    ctypes.memmove(libc.shmat(memory, None, 0), b"secret", 6)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0vmcontainer-victim")
        listener.listen()
        print(os.getpid(), handle(SECRET), flush=True)
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"secret")
            connection.close()


if __name__ == "__main__":
    main()
