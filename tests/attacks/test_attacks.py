"""Attacks from inside a container, in a guest: each is stopped, and gets through when the one protection it is aimed at
is left out, so that each test is known to be able to fail.

Those of the first table are left out by an option that every user has; what the attack does is told by its docstring
in `programs.py`. Those of the second are part of the set-up itself: `attack_driver.py` leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.guest_engine import GuestEngine
from tests.patience import now_s

pytestmark = pytest.mark.needs("qemu")

HERE = Path(__file__).parent
VOLUMES = ["/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro", "/attacks:/attacks", "/run/handles:/handles"]
PYTHON = "/usr/bin/python3"
PROGRAM = [PYTHON, "-S", "-B", "-c", "import sys; sys.path[:0] = ['/attacks']; import programs; programs.main()"]
PREPARE = f"""
set -e
mkdir -p /attacks /run/handles
cp -L {PYTHON} /attacks/suid-python
chmod 4755 /attacks/suid-python
cp -L {PYTHON} /attacks/inheriting-python
"""
PREPARE_FILES = """
import os, struct
mask = 1 << 10  # CAP_NET_BIND_SERVICE, inheritable (capabilities(7), VFS_CAP_REVISION_2)
data = struct.pack("<IIIII", 0x02000000, 0, mask, 0, 0)
os.setxattr("/attacks/inheriting-python", "security.capability", data)

import py_compile
py_compile.compile("/attacks/programs.py")
"""


@dataclass(frozen=True)
class Wall:
    """What stops some attacks: `stops`, how it is left out (`off`, options of a container), and what both runs need
    besides (`given`).
    """

    stops: str
    attacks: tuple[str, ...]
    off: dict[str, Any]
    given: dict[str, Any] = field(default_factory=dict)


WALLS = (
    Wall("file systems without device files", ("disk",), {"without": ["devices"]}),
    Wall("the bounding set: what root may not", ("mount", "clock"), {"without": ["caps"]}),
    Wall("the bounding set: DAC_READ_SEARCH", ("open_by_handle",), {"cap_add": ["DAC_READ_SEARCH"]}),
    Wall("no_new_privs", ("set_user_id",), {"without": ["no-new-privs"]}, {"user": "1000:1000"}),
    Wall(
        "masked and read-only paths",
        ("kernel_settings", "sysrq", "node_state"),
        {"security": ["systempaths=unconfined"]},
    ),
    Wall("the pid namespace", ("kill_outside", "trace_outside"), {"without": ["pid"]}, {"cap_add": ["SYS_PTRACE"]}),
    Wall("the network namespace", ("abstract_socket",), {"network": "host"}),
    Wall("the IPC namespace", ("shared_memory",), {"without": ["ipc"]}),
    Wall(
        "the filter of system calls",
        ("user_namespace", "clone3", "key_call", "user_fault"),
        {"security": ["seccomp=unconfined"]},
    ),
)
SET_UP = (
    *("runtime_program", "left_open", "working_folder", "node_key", "control_group", "file_capabilities"),
    *("link_in_the_image", "false_null", "false_procfs", "drop_a_group", "terminal_input"),
)


class Field:
    """The guest where the attacks are made, with what they need: programs, and a victim on its node."""

    def __init__(self, engine: GuestEngine) -> None:
        self.engine = engine
        assert engine.exec(["/bin/sh", "-c", PREPARE]).status == 0
        for name in ("programs.py", "victim.py", "attack_driver.py"):
            engine.put((HERE / name).read_bytes(), f"/attacks/{name}", 0o755)
        assert engine.run_python(PREPARE_FILES).status == 0
        script = f"{PYTHON} -S -B /attacks/victim.py > /attacks/victim 2>&1 < /dev/null & echo $!"
        self.victim = engine.exec(["/bin/sh", "-c", script]).out.strip()
        deadline = now_s() + 20
        while not (told := engine.exec(["/bin/cat", "/attacks/victim"]).out.split()):
            assert now_s() < deadline
        self.env = {"VICTIM": told[0], "HANDLE": told[1]}

    def attack(self, names: tuple[str, ...], **options: Any) -> dict[str, tuple[bool, str]]:
        """Try some of `programs.py` in one container."""
        given = {"argv": [*PROGRAM, *names], "volumes": VOLUMES, "env": self.env}
        result = self.engine("run", name="a", options={**given, **options})
        assert result["error"] is None, result["error"]
        assert result["out"], result
        return {name: tuple(answer) for name, answer in json.loads(result["out"]).items()}

    def close(self) -> None:
        self.engine.exec(["/bin/kill", "-9", self.victim])


@pytest.fixture(scope="module")
def battle(_guest_engine: GuestEngine) -> Iterator[Field]:
    field = Field(_guest_engine)
    yield field
    field.close()


@pytest.fixture(scope="module")
def ordinary(battle: Field) -> dict[str, tuple[bool, str]]:
    """What becomes of the attacks in an ordinary container, as everybody gets one."""
    names = tuple(name for wall in WALLS if not wall.given for name in wall.attacks)
    return battle.attack(names)


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.attacks[0])
def test_a_wall_holds_and_it_is_that_wall(
    battle: Field, ordinary: dict[str, tuple[bool, str]], wall: Wall, guest_engine: GuestEngine
) -> None:
    stopped = battle.attack(wall.attacks, **wall.given) if wall.given else ordinary
    for name in wall.attacks:
        through, told = stopped[name]
        assert not through, f"{name}: {told}"
        assert told.startswith(
            ("Stopped", "OSError", "PermissionError", "ProcessLookupError", "ConnectionRefused", "FileNotFoundError")
        ), told
    for name, (through, told) in battle.attack(wall.attacks, **{**wall.given, **wall.off}).items():
        assert through, f"{name} without {wall.stops}: {told}"


def test_clone3_is_not_there(ordinary: dict[str, tuple[bool, str]]) -> None:
    """Not forbidden: then the C library would not try clone(2), and no thread could be made."""
    assert "Function not implemented" in ordinary["clone3"][1]


def test_a_name_is_ones_own(battle: Field, guest_engine: GuestEngine) -> None:
    """The UTS namespace: who may change the host's name (CAP_SYS_ADMIN) changes only the container's."""

    def name() -> str:
        return guest_engine.exec(["/bin/cat", "/proc/sys/kernel/hostname"]).out.strip()

    before, given = name(), {"cap_add": ["SYS_ADMIN"]}
    assert battle.attack(("host_name",), **given)["host_name"][0]
    assert name() == before
    assert battle.attack(("host_name",), **given, without=["uts"])["host_name"][0]
    assert name() == "attacked"
    guest_engine.exec(["/bin/hostname", before])


@pytest.fixture(scope="module")
def set_up(battle: Field) -> dict[str, list[str]]:
    """The answers of `attack_driver.py`: of one process, as a start of Python takes long in a guest."""
    env = {"PYTHONPATH": "/usr/lib/vmcontainer:/run/engine"}
    command = [PYTHON, "-S", "-B", "/attacks/attack_driver.py", "/run/engine", *SET_UP]
    result = battle.engine.exec(command, env=env)
    assert result.status == 0, result.err
    return dict(json.loads(result.out))


@pytest.mark.parametrize("name", SET_UP)
def test_the_set_up_holds_and_it_is_that_step(set_up: dict[str, list[str]], name: str) -> None:
    stopped, through = set_up[name]
    assert "THROUGH" not in stopped
    assert "THROUGH" in through
