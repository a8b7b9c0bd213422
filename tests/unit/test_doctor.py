"""The doctor: what each check answers in this and other worlds, and that it stays quick and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.patience import now_s
from vmcontainer_kernel import cli, doctor, probe
from vmcontainer_kernel.container.ids import own_ids
from vmcontainer_kernel.container.ladder import BOUND, GUEST, ID_RANGES, ONE_ID, RUNGS, Footing
from vmcontainer_kernel.doctor import Check
from vmcontainer_kernel.errors import HostError, NotFound
from vmcontainer_kernel.memory import available_memory
from vmcontainer_kernel.vm import accelerator, template
from vmcontainer_kernel.vm.config import Multiboot
from vmcontainer_kernel.vm.xen import XEN

GIB = 1 << 30


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that forbids all, as Docker's default profile does."""
    forbidden = dict.fromkeys(probe.PROBES, "new user namespace: Operation not permitted (EPERM)")
    why = tuple((one.name, "new namespaces: Operation not permitted (EPERM)") for one in RUNGS[:-1])
    monkeypatch.setattr(probe, "explore", lambda: forbidden)
    monkeypatch.setattr(probe, "find_footing", lambda: Footing(GUEST.name, why=why))


def test_every_check_says_what_it_saw_and_what_its_lack_costs() -> None:
    checks = doctor.examine()
    assert [check.name for check in checks] == list(doctor.NAMES)
    for check in checks:
        assert check.verdict in ("ok", "degraded", "no")
        assert check.reason and check.cost
        assert not check.reason.startswith("the check itself failed")
        assert check.hint or check.verdict == "ok", check


@pytest.mark.alone
def test_all_checks_together_take_less_than_a_second() -> None:
    # Their verdicts are kept for this boot; the first one may take as long as all others.
    doctor.examine(["kvm", "kvm-real-mode"])
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        doctor.examine()
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 1.0


def test_a_check_by_its_name() -> None:
    assert "volumes there take" in doctor.check("disk").reason
    with pytest.raises(NotFound, match="no check floppy") as caught:
        doctor.check("floppy")
    assert "qemu" in caught.value.hint


def test_what_kvm_can_do_for_lessons_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"16-bit real mode": "", "single steps": "", "floating point": "ended with KVM_EXIT_INTERNAL_ERROR"}
    monkeypatch.setattr(accelerator, "abilities", lambda: found)
    check = doctor.check("kvm-real-mode")
    assert check.verdict == "degraded"
    assert check.reason.startswith("it runs 16-bit real mode, single steps; it does not run floating point: ended with")
    monkeypatch.setattr(accelerator, "abilities", lambda: dict.fromkeys(found, ""))
    assert doctor.check("kvm-real-mode").verdict == "ok"
    monkeypatch.setattr(accelerator, "abilities", lambda: found | {"single steps": "ended with KVM_EXIT_HLT"})
    assert doctor.check("kvm-real-mode").verdict == "no"


def test_the_rungs_of_kvm_are_shown_with_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = (accelerator.Rung("open", True, 0.00002, "it opens"), accelerator.Rung("loop", False, None, "not <tried>"))
    monkeypatch.setattr(accelerator, "choose", lambda: accelerator.Accelerator("tcg", "why", 0.1, rungs))
    check = doctor.check("kvm")
    assert check.details == ("yes  open        0.02 ms  it opens", "no   loop              -  not <tried>")
    assert check.details[0] in doctor.to_text([check])
    assert "not &lt;tried&gt;" in doctor.to_html([check])


def test_kvm_is_what_the_accelerator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "choose", lambda: accelerator.Accelerator("tcg", "it emulates"))
    assert (doctor.check("kvm").verdict, doctor.check("kvm").reason) == ("no", "it emulates")
    monkeypatch.setattr(accelerator, "choose", lambda: accelerator.Accelerator("kvm", "fast"))
    assert doctor.check("kvm").verdict == "ok"


def test_whether_a_machine_with_xen_will_wake_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = SimpleNamespace(boot=Multiboot(Path("/xen")), recipe=XEN)
    monkeypatch.setattr(template, "find_guest", lambda origin: None)
    assert (doctor.check("xen").verdict, doctor.check("template").verdict) == ("degraded", "degraded")
    monkeypatch.setattr(template, "find_guest", lambda origin: image if origin.hypervisor == "xen" else None)
    monkeypatch.setattr(template, "find_template", lambda config: None)
    assert (doctor.check("xen").verdict, doctor.check("xen").hint[-3:]) == ("degraded", "xen")
    monkeypatch.setattr(template, "find_template", lambda config: SimpleNamespace(key="k", config=config))
    assert (doctor.check("xen").verdict, doctor.check("xen").reason) == ("ok", "k, 448 MiB of memory")


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("qemu", "skopeo", "chromium"):
        assert doctor.check(name).verdict == "no"


@pytest.mark.parametrize(("version", "verdict"), [("5.2.0", "no"), ("6.2.0", "degraded"), ("11.1.2", "ok")])
def test_a_qemu_of_long_ago(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, verdict: str) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = doctor.check("qemu")
    assert found.verdict == verdict
    assert version in found.reason


def test_a_snap_is_no_chromium(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "chromium-browser"
    program.write_text("#!/bin/sh\nexec /snap/bin/chromium\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check("chromium").verdict == "no"


@pytest.mark.usefixtures("refused")
def test_where_the_kernel_forbids_containers_they_run_in_a_guest() -> None:
    checks = doctor.examine()
    by_name = {check.name: check for check in checks}
    for name in probe.PROBES:
        assert by_name[name].verdict == "no"
        assert "EPERM" in by_name[name].reason
    assert doctor.default_node([*checks[1:], Check("qemu", "ok", "")]) == (
        "guest",
        "not on this kernel: new namespaces: Operation not permitted (EPERM)",
    )


def test_a_lower_rung_is_told_with_why_no_higher_one_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    why = (("root", "uid 5 is not root"), (ID_RANGES.name, "/etc/subuid gives ann no range"))
    found = Footing(ONE_ID.name, own_ids(5, 5), (), why)
    monkeypatch.setattr(probe, "find_footing", lambda: found)
    check = doctor.check("containers-on-host")
    assert check.verdict == "degraded" and "rung 3 of 5: one id" in check.reason
    assert "not id ranges: /etc/subuid gives ann no range" in check.reason and "add-subuids" in check.hint
    assert "one id" in doctor.to_text([check])
    monkeypatch.setattr(probe, "find_footing", lambda: found.replace(rung=BOUND.name, bound=("/proc",)))
    assert doctor.check("containers-on-host").verdict == "degraded"
    assert (doctor.default_node([doctor.check("containers-on-host"), Check("qemu", "ok", "")]) or "")[0] == "host"


def test_the_default_node() -> None:
    good, bad = Check("containers-on-host", "ok", ""), Check("containers-on-host", "no", "forbidden")
    assert (doctor.default_node([good, Check("qemu", "no", "")]) or "")[0] == "host"
    assert (doctor.default_node([bad, Check("qemu", "ok", "")]) or "")[0] == "guest"
    node, reason = doctor.default_node([bad, Check("qemu", "no", "")]) or ("", "")
    assert node == "host" and "fail" in reason
    assert doctor.default_node([good]) is None


def test_a_probe_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> dict[str, str]:
        raise HostError("the kernel could not be probed", hint="look")

    def broken() -> doctor.Finding:
        raise ValueError("surprise")

    monkeypatch.setattr(probe, "explore", lost)
    monkeypatch.setitem(doctor.PROBES, "disk", doctor.Probe(broken, "much"))
    mount, disk = doctor.examine(["mount", "disk"])
    assert (mount.verdict, mount.hint) == ("no", "look")
    assert disk.reason == "the check itself failed: ValueError: surprise"


def cgroup_tree(tmp_path: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    (proc / "self" / "cgroup").write_text(line)
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(text)
    return proc, cgroup


V2 = {"memory.max": str(2 * GIB), "memory.current": str(GIB), "memory.stat": f"anon 1\ninactive_file {GIB // 2}\n"}
V1 = {
    "memory.limit_in_bytes": str(3 * GIB),
    "memory.usage_in_bytes": str(GIB),
    "memory.stat": "inactive_file 7\ntotal_inactive_file 0\n",
}


@pytest.mark.parametrize(
    ("line", "files", "expected_bytes"),
    [
        ("0::/\n", {}, 8 * GIB),
        ("0::/a/b\n", {f"a/b/{k}": v for k, v in V2.items()}, 3 * GIB // 2),
        ("0::/a/b\n", {**{f"a/{k}": v for k, v in V2.items()}, "a/b/memory.max": "max\n"}, 3 * GIB // 2),
        ("0::/../../host/path\n", V2, 3 * GIB // 2),
        ("0::/x\n", {f"unified/x/{k}": v for k, v in V2.items()}, 3 * GIB // 2),
        ("4:memory:/a\n0::/\n", {f"memory/a/{k}": v for k, v in V1.items()}, 2 * GIB),
        ("4:memory:/docker/1\n", {f"memory/{k}": v for k, v in V1.items()}, 2 * GIB),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, 8 * GIB),
        ("3:cpu,cpuacct:/a\n", {f"memory/a/{k}": v for k, v in V1.items()}, 8 * GIB),
    ],
)
def test_memory_counts_the_limit_of_our_control_group(
    tmp_path: Path, line: str, files: dict[str, str], expected_bytes: int
) -> None:
    assert available_memory(*cgroup_tree(tmp_path, line, files))[0] == expected_bytes


def test_the_probes_leave_nothing() -> None:
    def mounts() -> list[str]:
        return [line.partition(" - ")[0].split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]

    def groups() -> list[Path]:
        root = Path("/sys/fs/cgroup")
        return [*root.glob("vmcontainer/probe*"), *root.glob("*/vmcontainer/probe*")]

    before = mounts()
    assert set(probe.explore()) == set(probe.PROBES)
    assert mounts() == before
    # Another program's doctor may be at work just now: what stays is what counts.
    deadline_s = now_s() + 5
    while groups() and now_s() < deadline_s:
        time.sleep(0.05)
    assert groups() == []


def test_a_probe_tells_the_step_that_failed(capfd: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        probe._do("bind nothing", os.rmdir, "/nothing/at/all")

    assert probe._run("failing", failing) == "bind nothing: No such file or directory (ENOENT)"
    assert probe._run("dying", lambda: os.kill(os.getpid(), 9)) == "the probe ended with wait status 9"
    assert probe._run("well", lambda: None) == ""


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_S", 0.001)
    with pytest.raises(HostError, match="could not be probed"):
        probe.explore()


def test_text_and_html_say_the_same() -> None:
    checks = [
        Check("qemu", "ok", "7.2"),
        Check("containers-on-host", "no", "<EPERM> & more", hint="in a guest", cost="much"),
    ]
    text, html = doctor.to_text(checks), doctor.to_html(checks)
    for word in ("qemu", "7.2", "costs: much", "try:   in a guest", "%%container runs on: guest"):
        assert word in text
        assert word.replace("   ", " ") in html
    assert "&lt;EPERM&gt; &amp; more" in html
    assert "<EPERM>" not in html


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json", "disk", "sys-resource"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in document["checks"]] == ["sys-resource", "disk"]
    assert document["default_node"] is None
    assert cli.main(["doctor", "floppy"]) == 1
    assert "no such check: floppy" in capsys.readouterr().err


def test_the_command_starts_without_the_heavy_libraries() -> None:
    program = "import sys; from vmcontainer_kernel import cli; cli.main(['doctor', 'disk']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {
        "IPython",
        "ipykernel",
        "qemu",
        "pyroute2",
        "ipywidgets",
        "anywidget",
        "plotly",
        "jupyter_client",
    }
