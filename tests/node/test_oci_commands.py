"""The commands of the runtime beside the lifecycle, with runc's options."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmcontainer_kernel.container import jsontext
from vmcontainer_kernel.container.oci.arguments import read
from vmcontainer_kernel.container.oci.command import COMMANDS
from vmcontainer_kernel.container.oci.features import features
from vmcontainer_kernel.container.oci.looking import parse_interval
from vmcontainer_kernel.container.oci.template import template
from vmcontainer_kernel.errors import UserError

from .oci_runtime import LIMIT_S, Runtime, our_runtime, wait_until

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("cgroups")]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with our_runtime(tmp_path_factory.mktemp("commands")) as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def no_rest(runtime: Runtime) -> Iterator[None]:
    """A test that fails must not make the next one fail, too."""
    yield
    runtime.ok("delete", "--force", "c")


@pytest.fixture(scope="module")
def running(runtime: Runtime) -> str:
    """A container that waits; the commands below leave it as it is."""
    runtime.ok("run", "--detach", "--bundle", runtime.bundle(name="running"), "running")
    return "running"


def test_run_in_the_foreground(runtime: Runtime) -> None:
    done = runtime("run", "--bundle", runtime.bundle("sh", "-c", "echo out; echo err >&2; exit 5"), "c")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    assert "does not exist" in runtime.fails("state", "c")


def test_run_and_keep(runtime: Runtime) -> None:
    runtime.ok("run", "--keep", "--bundle", runtime.bundle("true"), "c")
    assert runtime.status("c") == "stopped"
    runtime.ok("delete", "c")


def test_signals_in_the_foreground_are_passed_on(runtime: Runtime) -> None:
    bundle = runtime.bundle("sh", "-c", "trap 'exit 9' TERM; echo ready > /ready; while true; do sleep 0.05; done")
    process = subprocess.Popen(runtime.command("run", "--bundle", bundle, "c"), stdin=subprocess.DEVNULL)
    wait_until((bundle / "rootfs/ready").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 9


def test_preserved_descriptors(runtime: Runtime) -> None:
    bundle, told = runtime.bundle("sh", "-c", "echo through >&3"), runtime.base / "told"
    words = runtime.command("run", "--preserve-fds", "1", "--bundle", bundle, "c")
    subprocess.run(["sh", "-c", f'exec "$@" 3>{told}', "sh", *words], check=True, timeout=LIMIT_S)
    assert told.read_text() == "through\n"
    assert "is not open" in runtime.fails("run", "--preserve-fds", "200", "--bundle", bundle, "c")


def receive(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    data, ancillary, _, _ = connection.recvmsg(100, 64)
    assert data
    return array.array("i", ancillary[0][2])[0]


def shown(master: int) -> str:
    out = b""
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:  # EIO: the last one has closed it
            break
        if not data:
            break
        out += data
    os.close(master)
    return out.decode()


def test_a_terminal_for_create_and_for_exec(runtime: Runtime) -> None:
    place = Path("/tmp") / f"vmcontainer-console-{os.getpid()}"  # short: a socket's path has 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        listener.settimeout(LIMIT_S)
        try:
            size = {"height": 33, "width": 77}
            process = {"terminal": True, "consoleSize": size, "args": ["sh", "-c", "tty; stty size; sleep 0.5"]}
            bundle = runtime.bundle(process=process)
            assert "--console-socket" in runtime.fails("create", "--bundle", bundle, "c")
            runtime.ok("create", "--bundle", bundle, "--console-socket", place, "c")
            master = receive(listener)
            runtime.ok("start", "c")
            runtime.ok("exec", "--tty", "--detach", "--console-socket", place, "c", "sh", "-c", "tty")
            assert "/dev/pts/1" in shown(receive(listener))
            text = shown(master)
            assert "/dev/" in text
            assert "33 77" in text
            runtime.ok("delete", "--force", "c")
        finally:
            place.unlink()


def test_a_console_on_a_root_that_is_read_only(runtime: Runtime) -> None:
    """Without a /dev of its own, the console's file has to be made while the root can be written."""
    mounts = [one for one in template()["mounts"] if one["destination"] in ("/proc", "/dev/pts")]
    script = "tty; ls -l /dev/console; touch /file || echo refused"
    process = {"terminal": True, "args": ["sh", "-c", script]}
    bundle = runtime.bundle(name="console", process=process, root={"readonly": True}, mounts=mounts)
    text = runtime.ok("run", "--bundle", bundle, "c")
    assert "/dev/pts/0" in text or "/dev/console" in text
    assert "crw" in text
    assert "refused" in text


def test_exec(runtime: Runtime, running: str) -> None:
    script = "echo $KEY; pwd; id -u; id -G"
    out = runtime.ok("exec", "-e", "KEY=v", "--cwd", "/bin", "-u", "5:6", "-g", "7", running, "sh", "-c", script)
    assert out == "v\n/bin\n5\n6 7\n"
    assert runtime("exec", running, "sh", "-c", "exit 3").returncode == 3
    assert runtime("exec", running, "sh", "-c", "kill -KILL $$").returncode == 128 + 9


def test_exec_from_a_file(runtime: Runtime, running: str) -> None:
    file, pid_file = runtime.base / "process.json", runtime.base / "pid"
    file.write_text(json.dumps({"args": ["sh", "-c", "echo $A > /from-file"], "cwd": "/", "env": ["PATH=/bin", "A=b"]}))
    runtime.ok("exec", "--detach", "--process", file, "--pid-file", pid_file, running)
    wait_until((runtime.base / "running/rootfs/from-file").exists)
    assert int(pid_file.read_text()) > 1


def test_exec_in_a_paused_container(runtime: Runtime, running: str) -> None:
    runtime.ok("pause", running)
    try:
        assert runtime.status(running) == "paused"
        assert "--ignore-paused" in runtime.fails("exec", running, "true")
    finally:
        runtime.ok("resume", running)
    assert runtime.status(running) == "running"


def test_ps_list_and_events(runtime: Runtime, running: str) -> None:
    pid = json.loads(runtime.ok("state", running))["pid"]
    assert json.loads(runtime.ok("ps", "--format", "json", running)) == [pid]
    table = runtime.ok("ps", running).splitlines()
    assert "PID" in table[0]
    assert str(pid) in table[1].split()
    assert running in runtime.ok("list", "--quiet").split()
    assert [one["pid"] for one in json.loads(runtime.ok("list", "--format", "json")) if one["id"] == running] == [pid]
    assert runtime.ok("list").split()[:3] == ["ID", "PID", "STATUS"]
    event = json.loads(runtime.ok("events", "--stats", running))
    assert (event["type"], event["id"]) == ("stats", running)
    assert event["data"]["pids"]["current"] >= 1
    assert event["data"]["cpu"]["usage"]["total"] > 0


def test_update(runtime: Runtime, running: str) -> None:
    runtime.ok("update", "--pids-limit", "77", running)
    resources = runtime.base / "resources.json"
    resources.write_text(json.dumps({"memory": {"limit": 64 << 20}}))
    runtime.ok("update", "--resources", resources, running)
    group = Path(f"/sys/fs/cgroup/%s{runtime.cgroup}/running")
    assert Path(str(group) % "pids", "pids.max").read_text().strip() == "77"
    assert Path(str(group) % "memory", "memory.limit_in_bytes").read_text().strip() == str(64 << 20)


def test_the_log_as_engines_read_it(runtime: Runtime) -> None:
    log = runtime.base / "log"
    runtime.fails("--log", log, "--log-format", "json", "start", "nobody")
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "does not exist" in line["msg"]
    assert line["time"].endswith("Z")


def test_spec_makes_a_bundle_that_runs(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    (bundle / "config.json").unlink()
    runtime.ok("spec", "--bundle", bundle)
    assert "already" in runtime.fails("spec", "--bundle", bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["echo", "works"]}
    config["linux"]["cgroupsPath"] = f"{runtime.cgroup}/spec"
    (bundle / "config.json").write_text(json.dumps(config))
    assert runtime.ok("run", "--bundle", bundle, "c") == "works\n"


def test_features_name_what_the_parser_takes() -> None:
    found = features()
    assert found["ociVersionMin"] <= found["ociVersionMax"]
    assert {"pid", "mount", "user", "time"} <= set(found["linux"]["namespaces"])
    assert {"bind", "rro", "rslave", "nosymfollow", "idmap", "atime"} <= set(found["mountOptions"])
    assert len(found["hooks"]) == 6
    assert "SCMP_CMP_MASKED_EQ" in found["linux"]["seccomp"]["operators"]


@pytest.mark.parametrize(
    "words",
    [["--systemd-cgroup", "list"], ["--log-format", "xml", "list"], ["nothing"], ["-x"], ["create", "--no-pivot", "c"],
     ["list", "--format", "xml"], ["kill", "c", "SIGNOTHING"], ["exec", "c"], ["create"], ["run", "a", "b"]],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_honoured_is_an_error(runtime: Runtime, words: list[str]) -> None:
    assert runtime.fails(*words).startswith("vmcontainer runtime: ")


def test_options_are_read_as_go_reads_them() -> None:
    got = read(COMMANDS["exec"], ["-t=false", "--env=A=b", "-e", "C=d", "--cwd", "/", "id", "ls", "-l"], program="")
    assert (got.flag("tty"), got.items("env"), got.text("cwd")) == (False, ["A=b", "C=d"], "/")
    assert got.rest == ["id", "ls", "-l"]
    with pytest.raises(UserError):
        read(COMMANDS["create"], ["--bundle"], program="")
    with pytest.raises(UserError):
        read(COMMANDS["create"], ["--preserve-fds", "x"], program="")


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("500ms", 0.5), ("1m", 60)])
def test_intervals(text: str, seconds: float) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["{}", ' [1, 2.5, "\\u00e9\\n", null, true, {"a": []}] ', '"\\ud83d\\ude00"'])
def test_json_is_what_json_says(text: str) -> None:
    assert jsontext.loads(text) == json.loads(text)
    assert jsontext.dumps(json.loads(text)) == json.dumps(json.loads(text))


@pytest.mark.parametrize("text", ["", "{", "{} {}", "nul", "[1,]", '{"a" 1}', '"\n"'])
def test_what_is_no_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1 column|line 2 column"):
        jsontext.loads(text)
