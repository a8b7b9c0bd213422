"""Options of docker-run(1) as a container finds them from inside: devices, limits, settings, shared namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.engine import Engine, start_engine

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]

# A file of the kernel's log, made inside: opening it to write needs no capability, and writes nothing.
OPEN_MADE_DEVICE = "cd /made; mknod log c 1 11 && (: >log) 2>&1 && echo opened; true"
DEVICES_WORK = ["/made:dev"]  # else nothing but /dev's own opens, of any mount that we make


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = start_engine(tmp_path_factory.mktemp("inside"), 0)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    yield
    for name in engine("list"):
        engine("remove", name=name, force=True)
    assert engine.groups() == []


# -- devices


def test_a_device_that_was_made_inside_does_not_open(engine: Engine) -> None:
    assert "Operation not permitted" in engine.out(OPEN_MADE_DEVICE, tmpfs=DEVICES_WORK)


@pytest.mark.parametrize("options", [{"without": ["devices"]}, {"privileged": True}, {"devices": ["/dev/kmsg:w"]}])
def test_it_does_where_the_list_of_devices_is_left_out_or_has_it(engine: Engine, options: dict[str, Any]) -> None:
    assert engine.out(OPEN_MADE_DEVICE, tmpfs=DEVICES_WORK, **options) == "opened"


def test_the_devices_of_every_container_work(engine: Engine) -> None:
    script = (
        "head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; head -c 1 /dev/random | wc -c; echo x >/dev/full"
    )
    assert engine.out(f"({script}) 2>&1; true").split()[:3] == ["3", "2", "1"]
    assert "No space left" in engine.out("(echo x >/dev/full) 2>&1; true")
    assert engine("terminal", name="c", options={"tty": True, "argv": ["sh", "-c", "echo on >/dev/tty"]}) == "on\n"


def test_a_device_of_the_node_with_less_access(engine: Engine) -> None:
    script = "ls -l /dev/log1 | cut -c1; (: </dev/log1) && echo read; (: >/dev/log1) 2>&1; true"
    kind, read, refusal = engine.out(script, devices=["/dev/kmsg:/dev/log1:r"], cap_add=["SYSLOG"]).splitlines()
    assert (kind, read) == ("c", "read")
    assert "Operation not permitted" in refusal


def test_a_privileged_one_has_the_nodes_devices_and_all_its_capabilities(engine: Engine) -> None:
    script = "ls /dev; grep CapEff /proc/self/status; mount | grep -c 'proc.*ro,'; mount -t tmpfs none /tmp && echo can"
    *devices, _, capabilities, masked, can = engine.out(f"{script}; true", privileged=True).split()
    node = {path.name for path in Path("/dev").iterdir() if path.is_char_device() or path.is_block_device()}
    assert node - {"console"} <= set(devices)
    mine = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapPrm"))
    assert int(capabilities, 16) == int(mine.split()[1], 16)
    assert (masked, can) == ("0", "can")
