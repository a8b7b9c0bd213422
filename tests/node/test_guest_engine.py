"""The engine inside a guest: the same requests, another kernel, version 2 control groups."""

from __future__ import annotations

import platform

import pytest

from tests.guest_engine import GuestEngine
from vmcontainer_kernel.errors import NotFound

pytestmark = pytest.mark.needs("qemu")


def test_a_container_of_the_guest_has_its_kernel_and_version_2_groups(guest_engine: GuestEngine) -> None:
    result = guest_engine.sh(
        "uname -r; cd /sys/fs/cgroup; cat cgroup.controllers memory.max pids.max cpu.max",
        memory_bytes=64 << 20,
        pids_limit=9,
        cpus=0.5,
    )
    release, controllers, *limits = result["out"].splitlines()
    assert release != platform.release()
    assert {"memory", "pids", "cpu"} <= set(controllers.split())
    assert limits == [str(64 << 20), "9", "50000 100000"]


def test_python_runs_in_the_guest_as_root_or_as_another(guest_engine: GuestEngine) -> None:
    source = "import os, vmcontainer_kernel; print(os.getuid(), vmcontainer_kernel.__file__)"
    assert guest_engine.run_python(source).out.split() == ["0", "/usr/lib/vmcontainer/vmcontainer_kernel/__init__.py"]
    assert guest_engine.run_python(source, user="1000:1000").out.startswith("1000 ")
    failed = guest_engine.run_python("raise SystemExit('told')")
    assert (failed.status, failed.err) == (1, "told\n")


def test_errors_of_the_guest_are_the_engines_own(guest_engine: GuestEngine) -> None:
    with pytest.raises(NotFound, match="no container nobody"):
        guest_engine("remove", name="nobody")


def test_a_driver_that_died_is_begun_anew(guest_engine: GuestEngine) -> None:
    guest_engine.exec(["/bin/sh", "-c", f"kill -9 {guest_engine('pid')}"])
    with pytest.raises(AssertionError, match="the driver has ended"):
        guest_engine("list")
    guest_engine.restore()
    assert guest_engine.out("echo again") == "again"
