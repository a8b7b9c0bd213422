"""Programs that run a command apart from the rest: bwrap with as much as it does by itself; the OCI runtimes, ours too,
with the same bundle, which asks for what our containers have by default: namespaces, seccomp filter, limits.

    python -m tests.benchmarks.peers crun BUNDLE     a line in ─▶ one run ─▶ its milliseconds out

crun runs behind such a helper in a mount namespace of its own, where a hybrid host's control groups of version 2 are
hidden: crun 1.8 refuses them beside version 1.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import program_ms
from vmcontainer_kernel.container.limits import resources
from vmcontainer_kernel.container.oci.install import script
from vmcontainer_kernel.container.oci.template import template
from vmcontainer_kernel.container.options import Options
from vmcontainer_kernel.container.seccomp.profile import default_profile

COMMAND = ("/bin/sh", "-c", "echo hi")
OURS = "vmcontainer-runtime"
LIMITS: dict[str, Any] = {"memory_bytes": 256 << 20, "cpus": 1.0, "pids_limit": 200}
HYBRID = Path("/sys/fs/cgroup/unified")
Measure = Callable[[], float]


def write_bundle(folder: Path) -> None:
    """Write an OCI bundle with a busybox root, our default filter and the benchmark's limits."""
    programs = folder / "rootfs/bin"
    programs.mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", programs / "busybox")
    (programs / "sh").symlink_to("busybox")
    config = template() | {"ociVersion": "1.0.2"}  # crun 1.8 knows no later one
    config["process"] |= {"terminal": False, "args": list(COMMAND)}
    seccomp = default_profile(config["process"]["capabilities"]["bounding"])
    config["linux"] |= {"seccomp": seccomp, "resources": resources(Options(argv=COMMAND, **LIMITS), {})}
    (folder / "config.json").write_text(json.dumps(config))


def write_runtime(folder: Path) -> Path:
    """Write our runtime as the program that `install` writes."""
    program = folder / OURS
    program.write_text(script(str(Path(sys.executable).resolve()), str(Path(__file__).parents[2])))
    program.chmod(0o755)
    return program


def run_command(runtime: str, bundle: Path, number: int) -> list[str]:
    return [runtime, "--root", f"{bundle}/state", "run", "--bundle", str(bundle), f"bench-{os.getpid()}-{number}"]


def serve(runtime: str, bundle: Path) -> None:
    """Run once for each line of standard input."""
    for number, _ in enumerate(sys.stdin):
        print(program_ms(run_command(runtime, bundle, number)), flush=True)


@contextlib.contextmanager
def oci_runtime(runtime: str, folder: Path) -> Iterator[Measure]:
    """Give what measures `runtime` once."""
    write_bundle(folder)
    program = str(write_runtime(folder)) if runtime == OURS else runtime
    helper = [sys.executable, "-m", "tests.benchmarks.peers", program, str(folder)]
    if runtime == "crun" and HYBRID.is_mount():
        script = 'umount "$0" && exec "$@"'
        helper = ["unshare", "-m", "--propagation", "slave", "sh", "-c", script, str(HYBRID), *helper]
    with subprocess.Popen(helper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        streams = process.stdin, process.stdout

        def measure() -> float:
            assert streams[0] and streams[1]
            print(file=streams[0], flush=True)
            answer = streams[1].readline()
            if not answer:
                raise OSError(f"{runtime} does not run here")
            return float(answer)

        yield measure


@contextlib.contextmanager
def every(folder: Path) -> Iterator[dict[str, Measure]]:
    """Give the peers that are installed and run here, as root or not."""
    candidates: dict[str, Measure] = {"fork+exec": lambda: program_ms(COMMAND)}
    if shutil.which("bwrap"):
        candidates["bwrap"] = lambda: program_ms(["bwrap", "--unshare-all", "--ro-bind", "/", "/", *COMMAND])
    with contextlib.ExitStack() as stack:
        for runtime in ("crun", "runc", OURS):
            if (runtime == OURS or shutil.which(runtime)) and os.geteuid() == 0:
                candidates[runtime] = stack.enter_context(oci_runtime(runtime, folder / runtime))
        peers = {}
        for name, measure in candidates.items():
            try:
                measure()
                peers[name] = measure
            except OSError as error:
                print(f"left out: {error}", file=sys.stderr)
        yield peers


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
