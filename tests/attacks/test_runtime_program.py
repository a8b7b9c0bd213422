"""CVE-2019-5736 through the runtime's commands: a container whose program leads to the runtime's own is not run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.oci_runtime import Runtime, our_runtime
from vmcontainer_kernel.container.oci import guard

pytestmark = [
    pytest.mark.needs("containers-on-host"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root: who may not write Python's file is not watched"),
]
SCRIPT = "#!/proc/self/exe\nopen('/told', 'w').write('through')\n"


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with our_runtime(tmp_path) as runtime:
        yield runtime


def hostile(runtime: Runtime, kind: str, *args: str) -> Path:
    """Write a bundle with a program that is no program of its own; return the bundle."""
    library = {"type": "bind", "options": ["rbind", "ro"]}
    folders = [path for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir()]
    mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    mounts += [{"destination": path, "source": path, **library} for path in folders]
    bundle = runtime.bundle(*(args or ("/attack",)), mounts=mounts)
    program = bundle / "rootfs/attack"
    if kind == "script":
        program.write_text(SCRIPT)
        program.chmod(0o755)
    else:
        program.symlink_to("/proc/self/exe")
    return bundle


@pytest.mark.parametrize("kind", ["script", "link"])
@pytest.mark.parametrize("verb", ["run", "start", "exec"])
def test_the_runtimes_program_is_not_run(runtime: Runtime, verb: str, kind: str) -> None:
    bundle = hostile(runtime, kind, *(["sleep", "60"] if verb == "exec" else []))
    if verb == "run":
        told = runtime.fails("run", "--bundle", bundle, "c")
    else:
        runtime.ok("create", "--bundle", bundle, "c")
        if verb == "exec":
            runtime.ok("start", "c")
        told = runtime.fails(verb, "c", *(["/attack"] if verb == "exec" else []))
    assert "leads to the runtime's own" in told
    assert not (bundle / "rootfs/told").exists()


def test_without_a_look_it_is_run(runtime: Runtime) -> None:
    """The same script, by a runtime that is told that nobody can write its program."""
    text = Path(runtime.program).read_text()
    blind = f"import {guard.__name__} as guard\nguard.watch = lambda pid: None\n"
    Path(runtime.program).write_text(text.replace("\nleave(", f"\n{blind}leave("))
    bundle = hostile(runtime, "script")
    runtime.ok("run", "--bundle", bundle, "c")
    assert (bundle / "rootfs/told").read_text() == "through"


def test_signals_arrive_while_a_process_is_watched(runtime: Runtime) -> None:
    """A hook's end is a signal to the process that waits for it; tracing holds it up, and passes it on."""
    hooks = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.1; true"]}] * 2}
    bundle = runtime.bundle("sh", "-c", "echo up", hooks=hooks)
    assert runtime.ok("run", "--bundle", bundle, "c") == "up\n"
