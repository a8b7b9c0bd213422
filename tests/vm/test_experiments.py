"""compare and peel with real machines: what they tell is what the kernel has, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vm.sessions import Lab
from vmcontainer_kernel.errors import NotFound, UserError
from vmcontainer_kernel.experiments import compare, peel

pytestmark = pytest.mark.needs("qemu")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    yield
    assert lab.session.machines.guests == {}
    assert lab.session.containers == {}


def changed(document: dict[str, Any], part: str) -> list[tuple[str | None, str | None]]:
    return [(row["with"], row["without"]) for row in document[part] if row["mark"] != "same"]


@pytest.fixture(scope="module")
def comparison(lab: Lab) -> dict[str, dict[str, Any]]:
    document = lab.wait(compare.compare(lab.session, compare.Wish("echo out; echo err >&2; exit 3", rounds=1)))
    assert document["kind"] == "compare"
    return {one["name"]: one for one in document["places"] if not one["missing"]}


@pytest.mark.needs("containers-on-host")
def test_four_places_run_the_same_text(comparison: dict[str, dict[str, Any]]) -> None:
    assert [*comparison] == ["process", "container", "machine", "machine-container"]
    for place in comparison.values():
        assert place["output"] == {"status": 3, "out": "out\n", "err": "err\n", "cut_bytes": 0}
        for one in place["rounds"]:
            assert 0 < one["started_ms"] <= one["end_ms"]
            assert 0 < one["first_byte_ms"] <= one["end_ms"]
            assert one["start"] == ("clone" if "machine" in place["name"] else "")
        assert place["memory"]["private_bytes"] > 0
        assert place["cpu_s"] >= 0
    # A machine has a whole kernel's memory for itself, a process a shell's.
    assert comparison["machine"]["memory"]["private_bytes"] > 5 * comparison["process"]["memory"]["private_bytes"]
    assert comparison["machine-container"]["group"]["usage_bytes"] > 0


@pytest.mark.needs("containers-on-host")
def test_they_see_as_many_kernels_as_there_are(comparison: dict[str, dict[str, Any]]) -> None:
    own = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    seen = {name: place["sees"] for name, place in comparison.items()}
    assert seen["process"]["boot_id"] == seen["container"]["boot_id"] == own
    assert own != seen["machine"]["boot_id"] != seen["machine-container"]["boot_id"] != own
    assert seen["process"]["kernel"] == seen["container"]["kernel"] == os.uname().release
    assert seen["process"]["pid_namespace"] == str(Path("/proc/self/ns/pid").readlink())
    assert seen["container"]["pid"] == seen["machine-container"]["pid"] == 1
    assert seen["container"]["processes"] < seen["process"]["processes"]


@pytest.mark.needs("containers-on-host")
def test_they_reach_what_their_walls_let_them(comparison: dict[str, dict[str, Any]]) -> None:
    can = {name: {row["name"] for row in place["reaches"] if row["can"]} for name, place in comparison.items()}
    of_this_computer = {"file", "signal", "memory", "server"}
    assert of_this_computer - {"memory"} <= can["process"]
    for walled in ("container", "machine", "machine-container"):
        assert not can[walled] & of_this_computer
    # Root of a machine rules its kernel; root of a container rules none.
    rights = {"clock", "host_name", "mount", "module", "reboot"}
    assert rights <= can["machine"]
    assert not can["container"] & rights
    assert not can["machine-container"] & rights


def test_a_comparison_that_is_given_up_leaves_nothing(lab: Lab) -> None:
    async def give_up() -> None:
        wish = compare.Wish("sleep 1000", rounds=1, only=("machine",))
        task = asyncio.ensure_future(compare.compare(lab.session, wish))
        while not lab.session.machines.guests:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    lab.wait(give_up())


def test_left_out_walls_show_in_output_configuration_and_steps(lab: Lab) -> None:
    text = "echo $$; hostname; for kind in pid uts net; do readlink /proc/self/ns/$kind; done"
    document = lab.wait(peel.peel(lab.session, peel.Wish(text, turned=("pid", "uts"))))
    assert document["with"]["status"] == document["without"]["status"] == 0
    kept, bare = document["with"]["out"].split(), document["without"]["out"].split()
    assert kept[:2] == ["1", "peel"]
    assert int(bare[0]) > 1
    assert bare[1].startswith("peel-")  # the machine's name
    # The numbers of a kernel's first namespaces (include/linux/proc_ns.h): those of the machine itself.
    assert bare[2:4] == ["pid:[4026531836]", "uts:[4026531838]"]
    assert not {*bare[2:4]} & {*kept}
    assert "net:[4026531840]" not in bare
    assert {row["path"] for row in document["configuration"] if row["mark"] != "same"} == {
        *("hostname", "linux.namespaces[pid]", "linux.namespaces[uts]")
    }
    steps = changed(document, "steps")
    assert any("CLONE_NEWPID" in str(left) and "CLONE_NEWPID" not in str(right) for left, right in steps)
    assert ('hostname: sethostname("peel")', None) in steps


def test_without_any_wall_a_cell_that_destroys_all_destroys_a_machine(lab: Lab, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("here")
    text = f"grep ^ID= /etc/os-release; rm -rf {tmp_path} /usr /home 2>/dev/null; ls -d /usr; kill -9 -1"
    walls = ("pid", "uts", "ipc", "net", "cgroup", "caps", "seccomp", "no-new-privs", "masked-paths")
    turned = (*walls, "readonly-paths", "devices", "limits", "root")
    document = lab.wait(peel.peel(lab.session, peel.Wish(text, turned=turned, limit_s=20.0)))
    # It may have taken the machine's agent along: that is a result, too.
    assert document["without"]["failure"] or "debian" in document["without"]["out"].splitlines()[0]
    assert kept.read_text() == "here"


def test_a_cell_that_ends_its_machine_has_that_as_its_result(lab: Lab) -> None:
    turned = ("caps", "readonly-paths", "seccomp")
    wish = peel.Wish("echo b > /proc/sysrq-trigger && sleep 60", turned=turned, limit_s=30.0)
    document = lab.wait(peel.peel(lab.session, wish))
    assert "Read-only file system" in document["with"]["err"]
    assert document["without"]["failure"]


@pytest.mark.needs("containers-on-host")
def test_beside_this_computers_kernel_only_what_is_harmless_is_left_out(lab: Lab) -> None:
    with pytest.raises(UserError, match="could change this computer"):
        lab.wait(peel.peel(lab.session, peel.Wish("true", turned=("pid",), on="host")))
    document = lab.wait(peel.peel(lab.session, peel.Wish("hostname", turned=("uts",), on="host")))
    assert changed(document, "output") == [("peel", os.uname().nodename)]
    with pytest.raises(NotFound):
        lab.wait(peel.peel(lab.session, peel.Wish("true", on="nowhere")))
