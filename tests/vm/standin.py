"""A PID 1 that answers on the agent's port: for each line it evaluates a Python expression and sends its value."""

import os
import sys
import time
from pathlib import Path


def find_port():
    while True:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == "org.vmcontainer.agent":
                return Path("/dev", name.parent.name)
        time.sleep(0.01)


def main():
    os.environ.setdefault("TZ", "UTC")
    port = find_port().open("r+b", buffering=0)
    port.write(b"hello from %s\n" % os.uname().release.encode())
    while True:
        line = b""
        while not line.endswith(b"\n"):
            got = port.read(4096)
            line += got
            if not got:
                time.sleep(0.05)
        try:
            value = eval(line, {"os": os, "sys": sys, "time": time})
        except Exception as error:
            value = error
        port.write(repr(value).encode() + b"\n")
