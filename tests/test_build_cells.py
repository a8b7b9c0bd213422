"""Images built in notebook cells: on the host, in a machine, as an ordinary user; a release that is rolled back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.test_rootless import NO_RANGES, RANGES
from tests.notebooks import Notebook, sessions, wait_until_nothing_is_left
from tests.ordinary_user import User
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.paths import cache_dir

pytestmark = pytest.mark.needs("containers-on-host")

APP = """%%container build -t buildtest/app:{version} app
FROM busybox
ARG GREETING=hello
WORKDIR /srv
COPY . .
RUN echo "$GREETING from {version}" > index.html
CMD ["httpd", "-f", "-p", "8080"]
"""
ASK = "%%container web --no-raise-error\nwget -qO - http://127.0.0.1:8080/ || echo down\n"
FIRST_LIMIT_S = 240.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesson")
    (folder / "app").mkdir()
    (folder / "app/test.sh").write_text("grep -q hello index.html\n")
    (folder / "app/.dockerignore").write_text("*.log\n")
    (folder / "app/debug.log").write_text("not for the image\n")
    return folder


@pytest.fixture(scope="module")
def notebook(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    run = tmp_path_factory.mktemp("run")
    notebook = Notebook(folder, run)
    yield notebook
    for name in ("app:1", "app:2", "other", "line"):  # one by one: not every test makes each
        notebook.cell(f"%container rmi buildtest/{name}")
    notebook.ok("%container builder prune")
    ids = sessions(run)
    notebook.close()
    wait_until_nothing_is_left(run, ids, 5.0)


def test_build_test_roll_out_and_roll_back(notebook: Notebook) -> None:
    def roll_out(version: str) -> str:
        notebook.cell("%container rm -f web")
        notebook.ok(f"%container run -d --name web buildtest/app:{version}")
        return notebook.ok("import time; time.sleep(0.3)\n") and notebook.ok(ASK).out

    told = notebook.ok(APP.format(version=1)).out
    assert "[1/6] FROM busybox" in told and "buildtest/app:1 sha256:" in told
    assert notebook.ok("%%container --image buildtest/app:1\nsh test.sh && ls").out == "index.html\ntest.sh\n"
    assert roll_out("1") == "hello from 1\n"
    told = notebook.ok(APP.format(version=2).replace("-t", "--build-arg GREETING=goodbye --progress plain -t")).out
    assert "COPY . . CACHED" in told
    assert roll_out("2") == "goodbye from 2\n"
    notebook.fails("%%container --image buildtest/app:2\nsh test.sh", "CommandFailed")
    assert roll_out("1") == "hello from 1\n"
    assert "COPY . ." in notebook.value("%container history buildtest/app:2")
    notebook.ok("%container rm -f web")


def test_what_is_wrong_is_shown(notebook: Notebook) -> None:
    told = notebook.fails("%%container build -t buildtest/other\nFROM busybox\nCOPPY a b\n", "UserError")
    assert "did you mean COPY" in told and "line 2, column 1" in told
    told = notebook.fails("%%container build -t buildtest/other\nFROM busybox\nRUN echo why; exit 4\n", "CommandFailed")
    assert "ended with status 4" in told and "why" in told and "line 2" in told
    assert "-t NAME" in notebook.fails("%%container build\nFROM busybox\n", "UserError")
    assert "%%container --name build" in notebook.fails("%%container build\nls\n", "UserError")
    assert "no folder" in notebook.fails("%%container build -t x nowhere\nFROM busybox\nCOPY a /\n", "UserError")
    assert "the cell is the Dockerfile" in notebook.fails("%%container build -t x -f y\nFROM a\n", "UserError")
    assert "Dockerfile" in notebook.fails("%container build -t x app", "UserError")
    assert "buildtest/other" not in notebook.value("%container images")
    assert "--build-arg" in notebook.ok("%container build --help").out
    assert notebook.ok("%%container --name build\necho in build").out == "in build\n"
    notebook.ok("%container rm -f build")


def test_a_dockerfile_on_disk(notebook: Notebook, folder: Path) -> None:
    (folder / "app/Dockerfile").write_text("FROM busybox AS one\nFROM one\nCOPY test.sh /\n")
    (folder / "other.dockerfile").write_text("FROM busybox\nENV A=b\n")
    assert "[3/3] COPY test.sh /" in notebook.ok("%container build -t buildtest/line app").out
    digest = notebook.ok("%container build -q -t buildtest/line -f other.dockerfile app").out
    assert Store(cache_dir("images")).resolve("buildtest/line").digest == digest.strip()
    (folder / "app/Dockerfile").unlink()


def test_an_interrupt_ends_a_build(notebook: Notebook) -> None:
    cell = notebook.start("%%container build -t buildtest/other\nFROM busybox\nRUN echo begun; sleep 1000\n")
    cell.until("\nbegun\n")
    notebook.interrupt()
    cell.finish(30)
    assert cell.error["ename"] == "CommandFailed" and "interrupted" in cell.failure
    assert "buildtest/other" not in notebook.value("%container images")
    assert notebook.value("%container ls") == "no containers"


@pytest.mark.needs("qemu")
def test_in_a_machine(notebook: Notebook) -> None:
    notebook.ok("%%vm builder\ntrue", FIRST_LIMIT_S)
    text = APP.replace("build -t", "build --on builder -t").format(version=1)
    assert "[6/6] CMD" in notebook.ok(text).out
    assert "COPY . . CACHED" in notebook.ok(text).out
    shown = notebook.ok("%%container --on builder --image buildtest/app:1\ncat index.html; ls").out
    assert shown == "hello from 1\nindex.html\ntest.sh\n"
    # A whiteout, and a step that has it below: a guest's root is an overlay, which takes none.
    notebook.ok("%%container build --on builder -t buildtest/less\nFROM busybox\nRUN rm /bin/vi\nRUN ! ls /bin/vi\n")
    notebook.ok("%%container --on builder --image buildtest/less\n! ls /bin/vi")
    told = notebook.fails(
        "%%container build --on builder -t buildtest/other\nFROM busybox\nRUN exit 5\n", "CommandFailed"
    )
    assert "status 5" in told
    notebook.ok("%vm rm builder")


@pytest.mark.needs("user-namespaces")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("before", [NO_RANGES, RANGES], ids=["one id", "ranges"])
def test_as_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory, before: str) -> None:
    user = User(tmp_path_factory.mktemp("user"), machines=False)
    (user.folder / "note").write_text("note\n")
    several = before == RANGES
    owner = "--chown=5:6 " if several else ""
    text = f"FROM busybox\nCOPY {owner}note /d/\nRUN rm /etc/group; echo two >> /d/note\nWORKDIR /w/w\nCMD cat /d/note"
    cells = [
        f"%%container build --on host -t mine {user.folder}\n{text}",
        "%%container --on host --image mine\ncat /d/note; stat -c %u:%g /d/note; pwd; test ! -e /etc/group",
        f"%%container build --on host -t mine {user.folder}\n{text}",
        f"%%container build --on host -t other {user.folder}\nFROM busybox\nCOPY --chown=70000:1 note /d/",
    ]
    first, shown, again, refused = user.cells(*cells, before=before, new_privs=several)
    assert (first["error"], again["error"]) == ("", ""), (first, again)
    assert shown["out"] == f"note\ntwo\n{'5:6' if several else '0:0'}\n/w/w\n"
    assert again["out"].count("CACHED") == 3
    assert refused["error"] == "HostError" and "--chown" in refused["text"]
    assert not [*(user.run).glob("*/builds/*")]
