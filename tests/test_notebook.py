"""Cells in a real kernel: what they show, and that bad input and bad days end in bounded time with a clear message."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.registry import require, running
from tests.notebooks import Notebook, failed, sessions, wait_until_nothing_is_left
from tests.patience import now_s
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox

pytestmark = [pytest.mark.needs("containers-on-host"), pytest.mark.needs("qemu")]

FIRST_LIMIT_S = 240.0  # the guest image and the template may have to be made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def notebook(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"), run)
    notebook.ok("%%vm\ntrue", FIRST_LIMIT_S)
    yield notebook
    ids = sessions(run)
    notebook.close()
    wait_until_nothing_is_left(run, ids, 3.0)


@pytest.fixture(autouse=True)
def usable_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the next cells work, and no container is left."""
    yield
    if "notebook" in request.fixturenames:
        notebook: Notebook = request.getfixturevalue("notebook")
        assert notebook.ok("%%container\necho well").out == "well\n"
        assert notebook.ok("%%vm\necho well").out == "well\n"
        assert notebook.value("%container ls") == "no containers"


# -- what must be shown


def test_a_machine_has_a_kernel_of_its_own(notebook: Notebook) -> None:
    release, comm, boot = notebook.ok("%%vm\nuname -r; cat /proc/1/comm /proc/sys/kernel/random/boot_id").out.split()
    assert release != platform.release()
    assert comm == "vmc-agent"
    assert boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_container_shares_the_kernel_of_the_host(notebook: Notebook) -> None:
    release, pid, hostname = notebook.ok("%%container\nuname -r; echo $$; hostname").out.split()
    assert (release, pid) == (platform.release(), "1")
    assert hostname != socket.gethostname()


def test_a_container_in_a_machine_shares_the_kernel_of_the_machine(notebook: Notebook) -> None:
    script = "uname -r; cat /proc/sys/kernel/random/boot_id"
    inside = notebook.ok(f"%%container --on vm\n{script}; echo $$").out.split()
    assert inside[:2] == notebook.ok(f"%%vm\n{script}").out.split()
    assert inside[2] == "1"


@pytest.mark.parametrize("where", ["%%vm", "%%container", "%%container --on vm"])
def test_output_streams_while_the_command_runs(notebook: Notebook, where: str) -> None:
    cell = notebook.cell(f"{where}\necho first; sleep 1.5; echo second")
    assert cell.out == "first\nsecond\n"
    assert cell.seconds - cell.first_s > 0.5
    assert cell.messages == 2


def test_a_machine_stays_and_a_container_without_a_name_does_not(notebook: Notebook) -> None:
    notebook.ok("%%vm\necho kept >/root/note")
    assert notebook.ok("%%vm\ncat /root/note").out == "kept\n"
    notebook.ok("%%container\necho kept >/root/note")
    assert "No such file" in notebook.cell("%%container\ncat /root/note").err


def test_a_container_with_a_name_stays_until_it_is_removed(notebook: Notebook) -> None:
    notebook.ok("%%container web --memory 64m\necho kept >/tmp/note")
    assert notebook.ok("%%container web\ncat /tmp/note; hostname").out == "kept\nweb\n"
    assert "web" in notebook.value("%container ls")
    assert "other options" in notebook.fails("%%container web --memory 32m\ntrue", "UserError")
    notebook.ok("%container rm web")


@pytest.mark.parametrize("where", ["%%vm", "%%container"])
def test_a_failing_command_fails_the_cell(notebook: Notebook, where: str) -> None:
    shown = notebook.fails(f"{where}\necho before; exit 3", "CommandFailed")
    assert "status 3" in shown
    assert notebook.value("_exit_code") == "3"


def test_the_end_by_a_signal_is_named(notebook: Notebook) -> None:
    assert "SIGSEGV" in notebook.fails("%%vm\nkill -SEGV $$", "CommandFailed")


def test_the_memory_limit_is_told(notebook: Notebook) -> None:
    shown = notebook.fails("%%container --memory 16m\nx=0123456789abcdef; while :; do x=$x$x; done", "CommandFailed")
    assert "memory limit" in shown
    assert "--memory" in shown


# -- options


def test_output_into_variables(notebook: Notebook) -> None:
    cell = notebook.ok("%%vm --out text --err more\necho out; echo err >&2")
    assert cell.out + cell.err == ""
    assert notebook.value("text, more") == r"('out\n', 'err\n')"


def test_output_into_a_variable_though_the_command_failed(notebook: Notebook) -> None:
    notebook.ok("%%container --out text --no-raise-error\necho out; exit 7")
    assert notebook.value("text, _exit_code") == r"('out\n', 7)"


def test_in_the_background(notebook: Notebook) -> None:
    notebook.ok("%%vm --bg --proc p\necho begun; until [ -e /tmp/go ]; do sleep 0.05; done; echo ended; exit 4")
    assert "running" in notebook.value("p")
    notebook.ok("%%vm\ntouch /tmp/go")
    assert notebook.value("p.wait(), p.status, p.out") == r"(4, 4, 'begun\nended\n')"


def test_the_background_can_be_ended(notebook: Notebook) -> None:
    notebook.ok("%%container --bg --proc p\nsleep 1000")
    notebook.ok("p.kill()")
    assert notebook.value("p.wait(60)") == "137"


def test_the_background_of_a_machine_that_is_removed(notebook: Notebook) -> None:
    notebook.ok("%%vm brief --bg --proc p\necho begun; sleep 1000")
    notebook.ok("while 'begun' not in p.out: pass")
    notebook.ok("%vm rm brief")
    assert "brief" in notebook.fails("p.wait(60)", "NodeLost")
    assert "lost: " in notebook.value("p")
    assert notebook.value("p.out") == r"'begun\n'"


@pytest.mark.parametrize("where", ["%%vm", "%%container"])
def test_a_time_limit(notebook: Notebook, where: str) -> None:
    cell = notebook.cell(f"{where} --timeout 1.5\necho begun; trap '' TERM; while :; do sleep 0.1; done", 10)
    assert "ended after 1.5 s" in failed(cell, "TimeLimit")
    assert cell.out == "begun\n"
    assert cell.seconds > 1.5
    assert cell.patient_s < 5


def test_environment_user_and_folder(notebook: Notebook) -> None:
    for where in ("%%vm", "%%container"):
        cell = notebook.ok(f"{where} -e A='x y' -w /tmp -u 1000:1000\necho $A; pwd; id -u")
        assert cell.out == "x y\n/tmp\n1000\n"


def test_a_wall_left_out(notebook: Notebook) -> None:
    assert notebook.ok("%%container --without uts\nhostname").out.strip() == socket.gethostname()
    assert notebook.ok("%%container --without pid\necho $$").out.strip() != "1"
    assert "color" in notebook.fails("%%container --without color\ntrue", "SpecError")


def test_explaining_does_nothing(notebook: Notebook) -> None:
    shown = notebook.ok("%%container --explain --memory 64m --without net\ntouch /x").text
    assert "pivot_root" in shown
    assert "CLONE_NEWNET" not in shown
    assert "-machine" in notebook.ok("%%vm other --explain\ntrue").text
    assert "other" not in notebook.value("%vm ls")


@pytest.mark.parametrize("name", ["vm", "container"])
def test_help_behind_a_question_mark(notebook: Notebook, name: str) -> None:
    [page] = notebook.ok(f"%%{name}?").payload
    assert "--no-raise-error" in page["data"]["text/plain"]
    assert "Run this cell with /bin/sh" in page["data"]["text/plain"]


@pytest.mark.parametrize(
    ("line", "matches"),
    [
        ("%%container --memory-", ["--memory-reservation", "--memory-swap"]),
        ("%container log", ["logs"]),
        ("%container logs --t", ["--tail"]),
        ("%container volume cr", ["create"]),
        ("%%vm --no", ["--no-raise-error"]),
        ("%%container --on v", ["vm"]),
        ("%vm pa", ["pause"]),
        ("%vm pause v", ["vm"]),
        ("%lab d", ["doctor"]),
    ],
)
def test_completion(notebook: Notebook, line: str, matches: list[str]) -> None:
    reply = notebook.client.complete(line, len(line), reply=True, timeout=60)["content"]
    assert reply["matches"] == matches


def test_verbs(notebook: Notebook) -> None:
    assert "running" in notebook.value("%vm ls")
    notebook.ok("%vm pause vm")
    assert "paused" in notebook.value("%vm ls")
    assert "%vm resume vm" in notebook.fails("%%vm\ntrue", "UserError")
    notebook.ok("%vm resume vm")
    assert "busybox" in notebook.value("%container images")
    assert "containers-on-host" in notebook.ok("%lab doctor").text


def test_a_container_that_runs_on(notebook: Notebook, tmp_path: Path) -> None:
    script = "echo begun; trap 'echo told; exit 3' TERM; while :; do sleep 0.05; done"
    made = notebook.ok(f"%%container -d --name web --restart on-failure:3 --label a=b\n{script}")
    assert "container web runs" in made.out
    deadline_s = now_s() + 10
    while notebook.ok("%container logs web").out != "begun\n":
        assert now_s() < deadline_s
    assert notebook.ok("%%container web\necho inside").out == "inside\n"
    assert notebook.ok("%container exec -w /tmp web pwd").out == "/tmp\n"
    assert "sleep" in notebook.value("%container top web")
    assert "web" in notebook.value("%container stats --no-stream")
    assert "pivot_root" in notebook.value("%container steps web")
    notebook.ok("%container pause web")
    assert "paused" in notebook.value("%container ps -a")
    notebook.ok("%container unpause web")
    (tmp_path / "note").write_text("hello")
    notebook.ok(f"%container cp {tmp_path}/note web:/tmp/copy")
    notebook.ok(f"%container cp web:/tmp/copy {tmp_path}/back")
    assert (tmp_path / "back").read_text() == "hello"
    notebook.ok("%container update web --memory 32m")
    notebook.ok("%container stop web")
    assert "stopped (3)" in notebook.value("%container ls")
    assert notebook.ok("%container logs --tail 1 web").out == "told\n"
    assert "%container start web" in notebook.fails("%%container web\ntrue", "UserError")
    notebook.ok("%container start web")
    assert "web" in notebook.ok("%container ls -q").out
    assert notebook.value("%container wait web") == "3" if notebook.ok("%container kill -s TERM web") else False
    assert "removed: web" in notebook.ok("%container prune").out


def test_letting_go_of_a_container_leaves_it_alone(notebook: Notebook) -> None:
    notebook.ok("%%container -d -i --name web\necho ready; while read x; do echo got $x; done")
    for line, word in (("%container logs -f web", "ready"), ("%container attach --logs --stdin word web", "got word")):
        cell = notebook.start(line).until(word)
        notebook.interrupt()
        assert not cell.finish(5).error, cell.failure
    assert "running" in notebook.value("%container ls")
    notebook.ok("%container rm -f web")


def test_docker_words_run(notebook: Notebook) -> None:
    assert notebook.ok("%container run --rm -e A=1 busybox sh -c 'echo $A; exit 0'").out == "1\n"
    assert "status 4" in notebook.fails("%container run busybox sh -c 'exit 4'", "CommandFailed")
    notebook.ok("%container volume create kept")
    notebook.ok("%%container -v kept:/data\necho x >/data/note")
    assert notebook.ok("%container run -v kept:/data:ro busybox cat /data/note").out == "x\n"
    assert "kept" in notebook.value("%container volume ls")
    notebook.ok("%container volume rm kept")
    assert "overlay" in notebook.ok("%%container --timings\ntrue").text
    assert "--tail" in notebook.ok("%container logs --help").out


def test_a_machine_is_given_the_image_it_lacks(notebook: Notebook) -> None:
    notebook.ok("%container run --name web busybox sh -c 'echo mine >/note'")
    assert notebook.ok("%container diff web").out == "A /note\n"
    notebook.ok("%container commit web mine -m note")
    notebook.ok("%container rm web")
    assert "mine" in notebook.value("%container images")
    assert "note" in notebook.value("%container history mine")
    assert notebook.ok("%%container --on vm --image mine\ncat /note").out == "mine\n"
    assert "mine" in notebook.value("%container images --on vm")
    notebook.ok("%container tag mine other:1")
    notebook.ok("%container rmi mine other:1")
    assert notebook.ok("%container rmi --ignore mine").out == ""
    assert "mine" in notebook.fails("%container rmi mine", "NotFound")
    assert "mine" in notebook.fails("%%container --image mine\ntrue", "NotFound")


def test_images_come_and_go_by_registry_and_file(notebook: Notebook, tmp_path: Path) -> None:
    require("docker-registry")
    (tmp_path / "registry").mkdir()
    with running(tmp_path / "registry") as registry:
        layout = tmp_path / "layout"
        build_busybox(Store(layout))
        registry.push(layout, "busybox:latest", "lab/tool:1")
        name = f"{registry.place}/lab/tool:1"
        pulled = notebook.ok(f"%container pull --insecure {name}")
        assert name in pulled.out
        assert "sha256:" in pulled.out
        notebook.fails(f"%container pull --insecure {registry.place}/lab/none", "ImageError")
    assert notebook.ok(f"%%container --image {name}\necho pulled").out == "pulled\n"
    notebook.ok(f"%container save {name} {tmp_path}/tool.tar")
    notebook.ok(f"%container rmi {name}")
    assert name not in notebook.value("%container images")
    assert "again:1" in notebook.ok(f"%container load {tmp_path}/tool.tar again:1").out
    assert notebook.ok("%container run --rm again:1 echo loaded").out == "loaded\n"
    notebook.ok("%container rmi again:1")
    assert "no file" in notebook.fails("%container load no-such.tar", "UserError")


def test_a_container_and_a_machine_in_one_network(notebook: Notebook) -> None:
    notebook.ok("%container network create lan --internal", FIRST_LIMIT_S)
    script = "echo 'from the container' >/index.html; exec httpd -f -h / -p 80"
    notebook.ok(f"%%container -d --name web --network lan\n{script}")
    notebook.ok("%%vm beside\nhostname", FIRST_LIMIT_S)
    assert "eth1" in notebook.value("%container network connect lan beside")
    asked = "for i in 1 2 3 4 5 6 7 8 9; do busybox wget -qO- http://web/ && break; sleep 0.5; done"
    assert notebook.ok(f"%%vm beside\n{asked}").out == "from the container\n"
    assert notebook.ok("%%container --network lan\nping -c 1 -W 5 beside >/dev/null && echo found").out == "found\n"
    assert "already" in notebook.fails("%container network connect lan beside", "UserError")
    notebook.ok("%vm rm beside")
    notebook.ok("%container rm -f web")
    notebook.ok("%container network rm lan")


def test_a_port_of_a_container_in_a_machine(notebook: Notebook) -> None:
    script = "echo hello >/index.html; exec httpd -f -h / -p 80"
    notebook.ok(f"%%container -d --name web --on vm -p 0:80\n{script}", FIRST_LIMIT_S)
    shown = notebook.value("%container port --on vm web")
    found = re.search(r"80/tcp +127.0.0.1:(\d+)", shown)
    assert found, shown

    def said() -> bytes:
        content: bytes = urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=20).read()
        return content

    deadline_s = now_s() + 20
    while True:
        try:
            assert said() == b"hello\n"
            break
        except OSError:
            assert now_s() < deadline_s
            time.sleep(0.2)
    assert "taken" in notebook.fails(f"%%container --on vm -p {found[1]}:80\ntrue", "UserError")
    notebook.ok("%container rm -f --on vm web")
    with pytest.raises(urllib.error.URLError):
        said()


def test_the_reset_button(notebook: Notebook) -> None:
    notebook.ok("%%vm again\ntouch /tmp/x")
    notebook.ok("%vm reset again")
    assert notebook.ok("%%vm again\nls /tmp; hostname").out == "again\n"
    notebook.ok("%vm rm again")
    assert "again" not in notebook.value("%vm ls")


# -- bad input


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("%%vm --no-such\ntrue", "UserError", "--no-such"),
        ("%%vm 'unclosed\ntrue", "UserError", "quotation"),
        ("%%vm a/b\ntrue", "UserError", "cannot be a name"),
        ("%%vm --memory 12Q\ntrue", "UserError", "'12Q' is no size"),
        ("%%vm host\ntrue", "UserError", "host is the name of this computer's own kernel"),
        ("%%vm huge --memory 900t\ntrue", "UserError", "memory"),
        ("%%vm tiny --memory 1k\ntrue", "UserError", "memory"),
        ("%%vm many --cpus 4000\ntrue", "UserError", "CPU"),
        ("%%vm --memory 512m\ntrue", "UserError", "runs already"),
        ("%%vm\n  \n", "UserError", "empty"),
        ("%%vm -w /no/such\ntrue", "NodeError", "/no/such"),
        ("%%vm -u no-such-user\ntrue", "NodeError", "no-such-user"),
        ("%%vm\nno-such-binary", "CommandFailed", "127"),
        ("%%container\nno-such-binary", "CommandFailed", "127"),
        ("%%container --image no-such\ntrue", "NotFound", "no-such"),
        ("%%container --on no-such\ntrue", "NotFound", "no-such"),
        ("%%container --memory 12Q\ntrue", "UserError", "'12Q' is no size"),
        ("%%container --memory 1k\ntrue", "SpecError", "memory"),
        ("%%container --cpus 0\ntrue", "UserError", "--cpus"),
        ("%%container --network nowhere\ntrue", "NotFound", "nowhere"),
        ("%%container -v nowhere\ntrue", "SpecError", "volumes"),
        ("%%container --restart often\ntrue", "SpecError", "restart"),
        ("%container puase x", "UserError", "did you mean %container pause"),
        ("%container volume lss", "UserError", "did you mean %container volume ls"),
        ("%container logs --tail x no-such", "UserError", "--tail"),
        ("%container cp a b", "UserError", "between"),
        ("%%container --cap-add FLY\ntrue", "SpecError", "FLY"),
        ("%%container -u no-such-user\ntrue", "NotFound", "no-such-user"),
        ("%%container -w relative\ntrue", "SpecError", "relative"),
        ("%%container name\n \n", "UserError", "empty"),
        ("%vm explode", "UserError", "explode"),
        ("%vm puase vm", "UserError", "did you mean %vm pause"),
        ("%vm pause no-such", "NotFound", "no-such"),
        ("%vm rm", "UserError", "it needs name"),
        ("%vm ls a b", "UserError", "what is"),
        ("%vm rm 'x", "UserError", "quot"),
        ("%container rm no-such", "NotFound", "no-such"),
        ("%container inspect no-such", "NotFound", "no-such"),
        ("%container ls --on no-such", "NotFound", "no-such"),
        ("%lab fly", "UserError", "fly"),
        ("%lab doctor no-such", "NotFound", "no-such"),
    ],
)
def test_bad_input_is_told_at_once(notebook: Notebook, code: str, name: str, words: str) -> None:
    cell = notebook.cell(code)
    assert words in failed(cell, name)
    assert cell.patient_s < 1


@pytest.mark.parametrize("where", ["%%vm", "%%container", "%%container name"])
def test_a_cell_without_a_second_line(notebook: Notebook, where: str) -> None:
    """IPython itself refuses it."""
    assert "empty" in notebook.cell(f"{where}\n").err


@pytest.mark.parametrize("where", ["%%vm", "%%container"])
def test_bytes_that_are_no_utf8(notebook: Notebook, where: str) -> None:
    cell = notebook.ok(f"{where}\nprintf 'a\\377b\\303'; printf '\\251\\342\\202' >&2")
    assert (cell.out, cell.err) == ("a\ufffdb\ufffd", "\ufffd\ufffd")


def test_characters_cut_by_a_chunk_are_whole(notebook: Notebook) -> None:
    assert notebook.ok("%%vm\nprintf '\\355'; sleep 0.2; printf '\\225\\234'").out == "한"


def test_loading_the_extension_again_changes_nothing(notebook: Notebook) -> None:
    before = notebook.value("%vm ls")
    notebook.ok("%load_ext vmcontainer_kernel")
    assert notebook.value("%vm ls") == before


# -- bad days


@pytest.mark.parametrize(("where", "size"), [("%%container", 1 << 30), ("%%vm", 1 << 26)])
def test_a_flood_is_cut_with_a_marker(notebook: Notebook, where: str, size: int) -> None:
    before_kib = int(notebook.value("__import__('resource').getrusage(0).ru_maxrss"))
    cell = notebook.ok(f"{where}\nhead -c {size} /dev/zero", 120)
    assert f"{size - (1 << 20)} more bytes" in cell.out
    assert len(cell.out) < 1.1 * (1 << 20)
    after_kib = int(notebook.value("__import__('resource').getrusage(0).ru_maxrss"))
    assert after_kib - before_kib < 64 << 10


@pytest.mark.parametrize("where", ["%%container", "%%vm"])
def test_a_flood_can_be_interrupted(notebook: Notebook, where: str) -> None:
    """A flood without end: it waits in the node, not in the notebook's memory, and hears the button."""
    before_kib = int(notebook.value("__import__('resource').getrusage(0).ru_maxrss"))
    cell = notebook.start(f"{where}\necho begins; dd if=/dev/zero bs=100000")
    cell.until("begins")
    time.sleep(2)
    notebook.interrupt()
    pressed_s = now_s()
    assert "interrupted" in failed(cell.finish(10), "CommandFailed")
    assert now_s() - pressed_s < 2
    assert "more bytes of output are not shown" in cell.out
    assert len(cell.out) < 1.1 * (1 << 20)
    after_kib = int(notebook.value("__import__('resource').getrusage(0).ru_maxrss"))
    assert after_kib - before_kib < 64 << 10


@pytest.mark.parametrize("where", ["%%vm", "%%container", "%%container --on vm", "%%container kept"])
def test_an_interrupt_ends_the_command_only(notebook: Notebook, where: str) -> None:
    boot = notebook.ok("%%vm\ncat /proc/sys/kernel/random/boot_id").out
    cell = notebook.start(f"{where}\ntrap 'echo told; exit 5' INT; echo ready; while :; do sleep 0.05; done").until(
        "ready"
    )
    notebook.interrupt()
    assert "interrupted" in failed(cell.finish(5), "CommandFailed")
    assert "told" in cell.out
    assert "press again" in cell.err
    assert notebook.ok("%%vm\ncat /proc/sys/kernel/random/boot_id").out == boot
    if "kept" in where:
        assert notebook.ok("%%container kept\necho alive").out == "alive\n"
        notebook.ok("%container rm kept")


@pytest.mark.parametrize("where", ["%%container --on host", "%%container --on vm"])
def test_limits_strike_in_either_version_of_control_groups(notebook: Notebook, where: str) -> None:
    """The host's groups are whatever it has (version 1 where this was written), a guest's are version 2."""
    eater = "x=$(head -c 99999999 /dev/zero | tr '\\0' a)"
    assert "(OOM)" in failed(notebook.cell(f"{where} --memory 20m\n{eater}"), "CommandFailed")
    forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
    assert "--pids-limit" in failed(notebook.cell(f"{where} --pids-limit 4\n{forks}"), "CommandFailed")
    assert notebook.ok(f"{where} --memory 20m --pids-limit 4 --cpus 0.5\necho well").out == "well\n"


@pytest.mark.parametrize("where", ["%%vm", "%%container"])
def test_a_second_press_kills_what_ignores_the_first(notebook: Notebook, where: str) -> None:
    cell = notebook.start(f"{where}\ntrap '' INT TERM; echo ready; while :; do sleep 0.05; done").until("ready")
    notebook.interrupt()
    cell.until("press again")
    time.sleep(0.3)
    notebook.interrupt()
    assert "interrupted" in failed(cell.finish(5), "CommandFailed")
    assert "SIGKILL" in cell.err


@pytest.mark.alone
def test_impatient_presses_leave_nothing_running(notebook: Notebook) -> None:
    cell = notebook.start("%%container\ntrap '' INT TERM; echo ready; while :; do sleep 0.05; done").until("ready")
    # All within milliseconds: a press after the cell's end meets ipykernel, which then may never reply.
    for pause_s in (0.0, 0.001, 0.002, 0.0):
        notebook.interrupt()
        time.sleep(pause_s)
    cell.finish(5)
    deadline_s = now_s() + 3
    while notebook.value("%container ls") != "no containers":
        assert now_s() < deadline_s


@pytest.mark.alone
def test_an_interrupt_while_a_machine_is_made(notebook: Notebook) -> None:
    for pause_s in (0.02, 0.1, 0.2):
        cell = notebook.start("%%vm unborn\nsleep 1000").begun()
        time.sleep(pause_s)
        notebook.interrupt()
        cell.finish(10)
        assert cell.error
        notebook.cell("%vm rm unborn")
    machines = "[row for row in lab.host.view()['processes'] if row['role'] == 'machine']"
    notebook.ok("from vmcontainer_kernel import lab")
    deadline_s = now_s() + 5
    while (count := int(notebook.value(f"len({machines})"))) > 1:
        assert now_s() < deadline_s, count
    assert notebook.value("%vm ls").count("running") == 1


def test_a_guest_that_panics(notebook: Notebook) -> None:
    cell = notebook.cell("%%vm crash\necho c >/proc/sysrq-trigger; sleep 10", 20)
    shown = failed(cell, "MachineError")
    assert "panic" in shown.lower()
    assert "sysrq" in shown  # the console's last lines
    assert cell.patient_s < 8
    assert "%vm rm crash" in notebook.fails("%%vm crash\ntrue", "MachineError")
    assert "gone" in notebook.value("%vm ls")
    notebook.ok("%vm rm crash")


def test_a_guest_that_ends_itself(notebook: Notebook) -> None:
    cell = notebook.cell("%%vm gone\necho o >/proc/sysrq-trigger; sleep 10", 20)
    assert "ended" in failed(cell, "MachineError")
    notebook.ok("%vm rm gone")
    assert notebook.ok("%%vm gone\necho back").out == "back\n"
    notebook.ok("%vm rm gone")


def qemu_pid(notebook: Notebook, name: str) -> int:
    notebook.ok("from vmcontainer_kernel import lab")
    return int(notebook.value(f"lab.machine('{name}').view()['qemu']['pid']"))


def test_a_guest_that_never_answers(notebook: Notebook) -> None:
    notebook.ok("%%vm stuck\ntrue")
    pid = qemu_pid(notebook, "stuck")
    os.kill(pid, signal.SIGSTOP)
    cell = notebook.start("%%vm stuck\necho never")
    time.sleep(0.5)
    notebook.interrupt()
    cell.until("press again", 5)
    notebook.interrupt()
    pressed_s = now_s()
    assert "does not answer" in failed(cell.finish(10), "NodeLost")
    assert now_s() - pressed_s < 5
    listed = notebook.cell("%vm ls", 15)
    assert "does not answer" in listed.text, listed.describe()
    assert listed.patient_s < 3
    removed = notebook.cell("%vm rm stuck", 15)
    assert not removed.error, removed.failure
    assert removed.patient_s < 8
    assert not Path(f"/proc/{pid}").exists()


def test_a_machine_whose_qemu_is_killed(notebook: Notebook) -> None:
    notebook.ok("%%vm shot\ntrue")
    pid = qemu_pid(notebook, "shot")
    cell = notebook.start("%%vm shot\necho ready; sleep 1000").until("ready")
    os.kill(pid, signal.SIGKILL)
    assert "signal 9" in failed(cell.finish(5), "MachineError")
    notebook.ok("%vm rm shot")


def test_a_supervisor_that_is_killed(notebook: Notebook) -> None:
    pid = int(notebook.value("__import__('vmcontainer_kernel.session').session.current()._host.process.pid"))
    cell = notebook.start("%%container\necho ready; sleep 1000").until("ready")
    os.kill(pid, signal.SIGKILL)
    assert "ended" in failed(cell.finish(5), "NodeLost")
    assert notebook.ok("%%container\necho again").out == "again\n"


def test_everything_is_removed_by_one_word(notebook: Notebook, run: Path) -> None:
    notebook.ok("%%container web\ntrue")
    ids = sessions(run)
    notebook.ok("%lab reset")
    wait_until_nothing_is_left(run, ids, 2.0, but=notebook.pid)


def test_two_notebooks_do_not_disturb_each_other(notebook: Notebook, run: Path, tmp_path: Path) -> None:
    other = Notebook(tmp_path, run)
    try:
        for one, word in ((notebook, "one"), (other, "two")):
            one.ok(f"%%vm\necho {word} >/root/note")
            one.ok(f"%%container same\necho {word} >/tmp/note")
        for one, word in ((notebook, "one"), (other, "two")):
            assert one.ok("%%vm\ncat /root/note").out == f"{word}\n"
            assert one.ok("%%container same\ncat /tmp/note").out == f"{word}\n"
        assert len(sessions(run)) == 2
    finally:
        mine = [name for name in sessions(run) if name.startswith(f"s{other.pid}-")]
        other.close()
    wait_until_nothing_is_left(run / mine[0], mine, 3.0)
    assert notebook.ok("%%container same\ncat /tmp/note").out == "one\n"
    notebook.ok("%container rm same")


def test_a_restarted_kernel_leaves_nothing(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    notebook = Notebook(tmp_path, own)
    try:
        notebook.ok("%%vm\ntrue", FIRST_LIMIT_S)
        notebook.ok("%%container web\ntrue")
        notebook.ok("%%vm --bg\nsleep 1000")
        ids = sessions(own)
        assert len(ids) == 1
        notebook.manager.restart_kernel(now=False)
        wait_until_nothing_is_left(own, ids, 3.0, but=notebook.pid)
        notebook.client.wait_for_ready(timeout=60)
        notebook.ok("%load_ext vmcontainer_kernel")
        assert notebook.ok("%%container\necho again").out == "again\n"
    finally:
        ids = sessions(own)
        notebook.close()
    wait_until_nothing_is_left(own, ids, 3.0)


def test_an_extension_that_is_unloaded_leaves_nothing(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, tmp_path / "run")
    try:
        notebook.ok("%%container web\ntrue")
        ids = sessions(tmp_path / "run")
        notebook.ok("%unload_ext vmcontainer_kernel")
        wait_until_nothing_is_left(tmp_path / "run", ids, 2.0, but=notebook.pid)
        assert "not found" in notebook.cell("%%container\ntrue").err
        notebook.ok("%load_ext vmcontainer_kernel")
        assert notebook.ok("%%container\necho again").out == "again\n"
    finally:
        notebook.close()


def test_a_forked_child_does_not_hold_the_session(tmp_path: Path) -> None:
    """A child that copied the supervisor's socket must not keep all of it alive."""
    run = tmp_path / "run"
    notebook = Notebook(tmp_path, run)
    notebook.ok("%%container web\ntrue")
    ids = sessions(run)
    child = int(
        notebook.value("import os, time\npid = os.fork()\nif not pid:\n    time.sleep(30)\n    os._exit(0)\npid")
    )
    notebook.kill()
    try:
        deadline_s = now_s() + 3
        while sessions(run):
            assert now_s() < deadline_s, ids
            time.sleep(0.02)
    finally:
        os.kill(child, signal.SIGKILL)
        notebook.close()


# -- another language


@pytest.fixture
def korean(notebook: Notebook) -> Iterator[Notebook]:
    notebook.ok("LAB_LANGUAGE = 'ko'")
    yield notebook
    notebook.ok("del LAB_LANGUAGE")


@pytest.mark.parametrize(
    ("code", "first", "hint"),
    [
        ("%container logs nobody --on vm", "NotFound: 이 노드에는 nobody 컨테이너가 없습니다", "있는 것: "),
        ("%%container --on vm\nexit 3", "CommandFailed: 컨테이너의 명령: 상태 3(으)로 끝남", ""),
        ("%%container --image nobody\ntrue", "NotFound: nobody 이미지가 없습니다", "있는 것: "),
        ("%vm stop nobody", "NotFound: nobody 가상 머신이 없습니다", "%%vm nobody"),
        ("%%vm --memory much\ntrue", "UserError: 'much'은(는) 크기가 아닙니다", "숫자와 단위를 쓰세요"),
        ("%vm stpo", "UserError: %vm에는 'stpo' 동사가 없습니다", "%vm stop을(를) 뜻했나요?"),
    ],
)
def test_an_error_of_an_agent_or_of_ours_in_korean(korean: Notebook, code: str, first: str, hint: str) -> None:
    told = korean.fails(code, first.partition(":")[0])
    assert first in told
    assert hint in told
    assert " try: " not in told


def test_doctor_tables_and_helps_in_korean(korean: Notebook) -> None:
    assert "%%container가 실행되는 곳" in korean.value("%lab doctor")
    assert korean.value("%vm ls").split()[:2] == ["가상", "머신"]
    assert "%vm stop       전원을 끄고 지움" in korean.ok("%vm help").out
    assert "가상 머신의 이름" in korean.ok("%container run --help").out
    for magic in ("vm", "container", "asm"):
        (page,) = korean.ok(f"%%{magic}?").payload
        assert "이 셀을" in page["data"]["text/plain"]
        assert "위치 인자" in page["data"]["text/plain"]
    (page,) = korean.ok("%container?").payload
    assert "컨테이너를 보고 바꿉니다" in page["data"]["text/plain"]
    assert "노드의 컨테이너들" in page["data"]["text/plain"]
