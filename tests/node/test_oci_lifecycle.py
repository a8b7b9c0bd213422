"""The lifecycle of a container through the command line: every status, every illegal transition, every way to die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .oci_runtime import KILLED, LIMIT_S, ROOT, Runtime, our_runtime, wait_until

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with our_runtime(tmp_path) as runtime:
        yield runtime


def bring(runtime: Runtime, status: str) -> None:
    """Bring container c to a status."""
    bundle = runtime.bundle()
    if status == "none":
        return
    runtime.ok("create", "--bundle", bundle, "c")
    if status in ("running", "paused", "stopped"):
        runtime.ok("start", "c")
    if status == "paused":
        runtime.ok("pause", "c")
    if status == "stopped":
        runtime.ok("kill", "c", "KILL")
        wait_until(lambda: runtime.status("c") == "stopped")


def test_from_created_to_gone(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "echo it runs > /told; exec sleep 60", annotations={"org.example.key": "value"})
    runtime.ok("create", "--bundle", bundle, "--pid-file", bundle / "pid", "c")
    told = bundle / "rootfs/told"
    state = json.loads(runtime.ok("state", "c"))
    assert state["status"] == "created"
    assert not told.exists()
    assert state["pid"] == int((bundle / "pid").read_text())
    assert state["bundle"] == str(bundle)
    assert state["annotations"] == {"org.example.key": "value"}
    assert state["ociVersion"].startswith("1.")
    runtime.ok("start", "c")
    assert runtime.status("c") == "running"
    wait_until(lambda: told.exists() and told.read_text() == "it runs\n")
    runtime.ok("kill", "c", "9")
    wait_until(lambda: runtime.status("c") == "stopped")
    assert json.loads(runtime.ok("state", "c"))["pid"] == 0
    runtime.ok("delete", "c")
    assert "does not exist" in runtime.fails("state", "c")


def test_a_later_change_of_the_configuration_changes_nothing(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "echo first > /told")
    runtime.ok("create", "--bundle", bundle, "c")
    runtime.bundle("sh", "-c", "echo second > /told")
    runtime.ok("start", "c")
    wait_until(lambda: runtime.status("c") == "stopped")
    assert (bundle / "rootfs/told").read_text() == "first\n"


ILLEGAL = [
    *((status, "start", "cannot be started") for status in ("running", "paused", "stopped")),
    *((status, "delete", "not stopped") for status in ("created", "running", "paused")),
    ("stopped", "kill", "container not running"),
    ("stopped", "pause", "cannot pause"),
    ("paused", "pause", "cannot pause"),
    *((status, "resume", "cannot resume") for status in ("created", "running", "stopped")),
    *(
        ("none", verb, "does not exist")
        for verb in ("start", "state", "kill", "delete", "pause", "resume", "ps", "events")
    ),
]


@pytest.mark.parametrize(("status", "verb", "told"), ILLEGAL, ids=lambda value: value.replace(" ", "-"))
def test_an_illegal_transition_is_an_error_and_changes_nothing(
    runtime: Runtime, status: str, verb: str, told: str
) -> None:
    bring(runtime, status)
    assert told in runtime.fails(verb, "c")
    if status != "none":
        assert runtime.status("c") == status


@pytest.mark.parametrize("status", ["stopped", "none"])
def test_exec_needs_a_container_that_is_there(runtime: Runtime, status: str) -> None:
    bring(runtime, status)
    runtime.fails("exec", "c", "true")


@pytest.mark.parametrize("status", ["none", "created", "running", "paused", "stopped"])
def test_delete_with_force_always_works(runtime: Runtime, status: str) -> None:
    bring(runtime, status)
    runtime.ok("delete", "--force", "c")
    assert "does not exist" in runtime.fails("state", "c")
    assert runtime.groups() == []


def test_an_id_is_used_once(runtime: Runtime) -> None:
    bring(runtime, "running")
    assert "exists" in runtime.fails("create", "--bundle", runtime.base / "bundle", "c")
    assert runtime.status("c") == "running"


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a b", "x" * 256])
def test_an_id_names_a_folder(runtime: Runtime, name: str) -> None:
    assert "id is" in runtime.fails("create", "--bundle", runtime.bundle(), name)


def test_a_bundle_that_has_vanished(runtime: Runtime) -> None:
    bring(runtime, "running")
    (runtime.base / "bundle").rename(runtime.base / "elsewhere")
    assert runtime.status("c") == "running"
    runtime.ok("exec", "c", "true")
    runtime.ok("delete", "--force", "c")


def test_a_pid_that_is_another_process_now(runtime: Runtime) -> None:
    """The pid of a container long gone may be anybody's: it is known by when it began, too."""
    bring(runtime, "stopped")
    other = subprocess.Popen(["sleep", "60"])
    try:
        file = runtime.root / "c/state.json"
        saved = json.loads(file.read_text())
        saved["init"][0] = other.pid
        file.write_text(json.dumps(saved))
        assert runtime.status("c") == "stopped"
        runtime.ok("delete", "--force", "c")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_process_outlives_its_maker(runtime: Runtime) -> None:
    bring(runtime, "running")
    pid = json.loads(runtime.ok("state", "c"))["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"\nPPid:\t{os.getpid()}\n" not in status


def test_a_program_that_is_missing_is_an_error_of_create(runtime: Runtime) -> None:
    told = runtime.fails("create", "--bundle", runtime.bundle("no-such-program"), "c")
    assert "no-such-program" in told
    assert "executable file not found in $PATH" in told
    assert "does not exist" in runtime.fails("state", "c")
    assert runtime.groups() == []


def test_a_program_that_cannot_be_executed_is_an_error_of_start(runtime: Runtime) -> None:
    bundle = runtime.bundle("/broken")
    (bundle / "rootfs/broken").write_text("no program at all")
    (bundle / "rootfs/broken").chmod(0o755)
    runtime.ok("create", "--bundle", bundle, "c")
    assert "cannot be run" in runtime.fails("start", "c")
    wait_until(lambda: runtime.status("c") == "stopped")


def hook(command: str) -> dict[str, object]:
    return {"path": "/bin/sh", "args": ["sh", "-c", command]}


def test_hooks_run_in_their_order_and_know_the_state(runtime: Runtime) -> None:
    log = runtime.base / "hooks"
    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hooks = {name: [hook(f"(echo {name}; cat; echo) >> {log}")] for name in names if name != "startContainer"}
    hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /told"]}]
    bundle = runtime.bundle(hooks=hooks)
    runtime.ok("create", "--bundle", bundle, "c")
    runtime.ok("start", "c")
    runtime.ok("delete", "--force", "c")
    lines = log.read_text().split("\n")[:-1]
    assert lines[::2] == [name for name in names if name != "startContainer"]
    states = [json.loads(line) for line in lines[1::2]]
    assert [one["status"] for one in states] == ["creating", "creating", "creating", "running", "stopped"]
    assert len({one["pid"] for one in states[:-1]}) == 1
    assert json.loads((bundle / "rootfs/told").read_text())["status"] == "created"


def test_a_hook_that_fails_before_the_program_ends_the_container(runtime: Runtime) -> None:
    stopped = runtime.base / "stopped"
    hooks = {"createRuntime": [hook("echo I object >&2; exit 3")], "poststop": [hook(f"touch {stopped}")]}
    told = runtime.fails("create", "--bundle", runtime.bundle(hooks=hooks), "c")
    assert "hooks.createRuntime[0]" in told
    assert "I object" in told
    assert stopped.exists()
    assert not (runtime.root / "c").exists()


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_a_hook_of_start_that_fails_stops_the_container(runtime: Runtime, kind: str) -> None:
    runtime.ok("create", "--bundle", runtime.bundle(hooks={kind: [hook("echo I object >&2; exit 3")]}), "c")
    told = runtime.fails("start", "c")
    assert f"hooks.{kind}[0]" in told
    assert "I object" in told
    assert runtime.status("c") == "stopped"
    runtime.ok("delete", "c")


def test_a_hook_that_fails_during_run_leaves_nothing(runtime: Runtime) -> None:
    stopped = runtime.base / "stopped"
    hooks = {"poststart": [hook("exit 3")], "poststop": [hook(f"touch {stopped}")]}
    assert "hooks.poststart[0]" in runtime.fails("run", "--bundle", runtime.bundle(hooks=hooks), "c")
    assert stopped.exists()
    assert not (runtime.root / "c").exists()


def test_a_hook_that_fails_after_the_end_is_a_warning(runtime: Runtime) -> None:
    hooks = {"poststop": [hook("exit 3"), hook(f"touch {runtime.base}/next")]}
    runtime.ok("create", "--bundle", runtime.bundle(hooks=hooks), "c")
    gone = runtime("delete", "--force", "c")
    assert gone.returncode == 0
    assert "hooks.poststop[0]" in gone.stderr
    assert (runtime.base / "next").exists()


@pytest.mark.parametrize("verb", ["create", "run"])
def test_delete_with_force_after_the_runtime_was_killed_anywhere(runtime: Runtime, verb: str) -> None:
    """The runtime ends itself before its Nth system call, for N all over its work; nothing of it may be left."""
    bundle = runtime.bundle()
    words = [verb, "--bundle", str(bundle), *(["--detach"] if verb == "run" else []), "c"]
    mark = str(runtime.root).encode()
    count, ended = 1, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        command = [sys.executable, "-S", "-I", "-c", KILLED, str(ROOT), str(count), *runtime.command(*words)[1:]]
        null = subprocess.DEVNULL
        ended = subprocess.run(command, check=False, stdin=null, stdout=null, stderr=null, timeout=LIMIT_S).returncode
        runtime.ok("delete", "--force", "c")
        assert not (runtime.root / "c").exists()
        assert runtime.groups() == []
        wait_until(lambda: not processes_with(mark))
        count += 9
    assert ended == 0
    assert count > 50


def processes_with(mark: bytes) -> list[Path]:
    """Processes whose command line has a text in it: children of a killed runtime, before they are the program."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "cmdline").read_bytes():
                found.append(path)
        except OSError:
            continue
    return found


def test_commands_at_the_same_time(runtime: Runtime) -> None:
    """Of many who start, one does; of many who delete, all find it gone or delete it."""
    bring(runtime, "created")
    null = subprocess.DEVNULL
    starts = [subprocess.Popen(runtime.command("start", "c"), stdin=null, stderr=null) for _ in range(4)]
    assert sorted(one.wait(LIMIT_S) for one in starts) == [0, 1, 1, 1]
    ends = [subprocess.Popen(runtime.command("delete", "--force", "c"), stdin=null, stderr=null) for _ in range(4)]
    assert [one.wait(LIMIT_S) for one in ends] == [0, 0, 0, 0]
