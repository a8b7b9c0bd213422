"""The smallest program that can be PID 1 of a guest and answer on its port: each line in, one Python expression's value out."""

import glob
import os
import sys
import time


def mount(kind, place):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", place.encode(), kind.encode(), 0, None) and not os.path.ismount(place):
        raise OSError(ctypes.get_errno(), place)


def find_port():
    while True:
        for name in glob.glob("/sys/class/virtio-ports/*/name"):
            if open(name).read().strip() == "org.vmcontainer.agent":
                return "/dev/" + name.split("/")[-2]
        time.sleep(0.01)


def main():
    os.environ.setdefault("TZ", "UTC")
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
        mount(kind, place)
    port = open(find_port(), "r+b", buffering=0)
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


main()
