"""Docker and Podman with this runtime in place of runc: what their users do first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engine import ENGINES, Engine, rootless_podman
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.archives import import_images
from vmcontainer_kernel.container.images.busybox import build_busybox

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]


@pytest.fixture(scope="module", params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    # Not pytest's folder: podman takes no runroot of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="vmc-") as folder, ENGINES[request.param](Path(folder)) as engine:
        yield engine


@pytest.fixture
def web(engine: Engine) -> Iterator[str]:
    """A container that waits."""
    done = engine.run("--detach", "--name", "web", "busybox", "sleep", "600")
    assert done.returncode == 0, done.stderr
    yield "web"
    engine.remove("web")


def test_run(engine: Engine) -> None:
    done = engine.run("--rm", "busybox", "echo", "hi")
    assert (done.stdout, done.returncode) == ("hi\n", 0), done.stderr


def test_run_gives_the_status(engine: Engine) -> None:
    assert engine.run("--rm", "busybox", "sh", "-c", "exit 42").returncode == 42


def test_a_program_that_is_missing_is_known_to_be(engine: Engine) -> None:
    done = engine.run("--rm", "busybox", "no-such-program")
    assert done.returncode == 127
    assert "no-such-program" in done.stderr


def test_a_folder_is_no_program(engine: Engine) -> None:
    done = engine.run("--rm", "busybox", "/etc")
    assert done.returncode == 126
    assert "permission denied" in done.stderr.lower()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--volume", "/etc/passwd:/bin"), "/etc/passwd is not a directory"),
        (("--volume", "/tmp:/proc/self/none"), "/proc/self/none"),
        (("--cpu-rt-runtime", "1000"), "linux.resources.cpu.realtimeRuntime"),
    ],
)
def test_what_cannot_be_had_is_named(engine: Engine, words: tuple[str, ...], told: str) -> None:
    done = engine.run("--rm", *words, "busybox", "true")
    # Podman takes what a runtime says for its program's failure, and every "no such file" for a missing one.
    assert done.returncode in ((126, 127) if "podman" in engine.command else (125,))
    assert told in done.stderr
    assert "--on vm" not in done.stderr


def test_limits_are_kept(engine: Engine) -> None:
    script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
    done = engine.run("--rm", "--pids-limit", "77", "busybox", "sh", "-c", script)
    assert done.stdout == "77\n", done.stderr


def test_exec(engine: Engine, web: str) -> None:
    assert engine.ok("exec", "--env", "KEY=value", "--user", "5:6", web, "sh", "-c", "echo $KEY; id -u; id -g") == (
        "value\n5\n6"
    )
    assert engine("exec", web, "sh", "-c", "exit 3").returncode == 3


def test_exec_on_a_terminal(engine: Engine, web: str) -> None:
    shown, status = engine.on_a_terminal(
        "exec", "--interactive", "--tty", web, "sh", typed=b"tty; echo $((20 + 22)); exit 7\n"
    )
    assert status == 7, shown
    assert "/dev/pts/0" in shown
    assert "\n42" in shown


def test_run_on_a_terminal(engine: Engine) -> None:
    words = ["run", *engine.run_options, "--rm", "--interactive", "--tty", "busybox", "sh"]
    shown, status = engine.on_a_terminal(*words, typed=b"tty; echo $((20 + 22)); exit 8\n")
    assert status == 8, shown
    assert "/dev/console" in shown or "/dev/pts/0" in shown
    assert "\n42" in shown


def test_pause(engine: Engine, web: str) -> None:
    engine.ok("pause", web)
    assert engine.ok("inspect", "--format", "{{.State.Status}}", web) == "paused"
    engine.ok("unpause", web)
    assert engine.ok("inspect", "--format", "{{.State.Status}}", web) == "running"


def test_stats_and_top(engine: Engine, web: str) -> None:
    stats = engine.ok("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", web)
    assert stats.split()[-2:] == ["web", "1"]
    assert "sleep 600" in engine.ok("top", web)


def test_update(engine: Engine, web: str) -> None:
    if "podman" in engine.command[0]:
        engine.ok("update", "--cpus", "0.5", web)
        name, value = "cpu.cfs_quota_us", "50000"
    else:
        engine.ok("update", "--pids-limit", "55", web)
        name, value = "pids.max", "55"
    files = [*Path("/sys/fs/cgroup").glob(f"*{engine.cgroup}/**/{name}")]
    assert value in {file.read_text().strip() for file in files}, files


def test_stop_and_start_again(engine: Engine, web: str) -> None:
    engine.ok("stop", "--time", "1", web)
    assert engine.ok("inspect", "--format", "{{.State.ExitCode}}", web) == "137"
    engine.ok("start", web)
    assert engine.ok("exec", web, "echo", "again") == "again"


def test_logs(engine: Engine) -> None:
    try:
        engine.run("--name", "told", "busybox", "sh", "-c", "echo out; echo err >&2")
        done = engine("logs", "told")
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
    finally:
        engine.remove("told")


def test_what_the_engine_saves_is_imported(engine: Engine, tmp_path: Path) -> None:
    """The engine loaded our archive before the first test; what it saves of that comes back, and is the same files."""
    engine.ok("tag", "busybox", "saved:1")
    engine.ok("save", "--output", str(tmp_path / "saved.tar"), "saved:1")
    source, store = Store(tmp_path / "source"), Store(tmp_path / "store")
    (image,) = import_images(store, tmp_path / "saved.tar")
    assert image.name.removeprefix("localhost/") == "saved:1"
    assert image.diff_ids == build_busybox(source).diff_ids
    assert image.config["config"]["Cmd"] == source.resolve("busybox").config["config"]["Cmd"]


@pytest.mark.needs("user-namespaces")
def test_podman_of_an_ordinary_user(tmp_path: Path) -> None:
    with rootless_podman(tmp_path) as engine:
        script = "cat /proc/self/uid_map; touch /file && chown 7 /file && ls -n /file"
        done = engine.run("--rm", "busybox", "sh", "-c", script)
        words = done.stdout.split()
        assert words[:6] == ["0", "65534", "1", "1", "200000", "65536"], done.stderr
        assert words[8] == "7"
        engine.ok("run", *engine.run_options, "--detach", "--name", "web", "busybox", "sleep", "600")
        assert engine.ok("exec", "web", "id", "-u") == "0"
        engine.remove("web")
