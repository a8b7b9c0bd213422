"""Images built from Dockerfiles on the host: what each instruction does, what the cache knows, what failures leave."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.registry import require
from tests.node.test_agent import Bench
from tests.patience import now_s
from vmcontainer_kernel.agent.protocol import Kind
from vmcontainer_kernel.container.build.cache import Cache
from vmcontainer_kernel.container.images import Image, Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import CommandFailed, ImageError, LabError, NotFound, UserError

pytestmark = pytest.mark.needs("containers-on-host")

BIG_BYTES = 48 << 20
ROOT = Path(__file__).parents[2]


class Yard:
    """A supervisor, its store, and folders to build from."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "images")
        build_busybox(self.store)
        self.folder = folder
        self.run = folder / "run" / f"builds{os.getpid()}"
        self.bench = Bench(self.run, folder / "images")

    def build(self, dockerfile: str, context: Path | None = None, name: str = "test", **arguments: Any) -> str:
        """Build an image; return what was told, without times."""
        arguments = {"dockerfile": dockerfile, "name": name, "context": str(context or ""), **arguments}
        result = self.bench.wait(self.bench.collect("image.build", arguments.pop("archive", None), **arguments))
        assert result.status == 0 and not result.err
        return re.sub(r"\n    [0-9.]+ s\n", "\n", result.out.decode())

    def refuse(self, kind: type[LabError], dockerfile: str, context: Path | None = None, **arguments: Any) -> str:
        """Build what must fail; nothing is left of it. Return the error as a user reads it."""
        before = self.store.names(), len(self.store.index())
        with pytest.raises(kind) as caught:
            self.build(dockerfile, context, **arguments)
        assert type(caught.value) is kind, caught.value
        assert (self.store.names(), len(self.store.index())) == before
        self.nothing_is_left()
        return str(caught.value)

    def image(self, name: str = "test") -> Image:
        return Store(self.store.path).resolve(name)

    def out(self, script: str, name: str = "test", **options: Any) -> str:
        """Run a shell in a container of a built image."""
        result = self.bench.container(script, image=name, **options)
        assert result.status == 0, result
        return result.out.decode()

    def nothing_is_left(self) -> None:
        assert not [*(self.run / "builds").iterdir()]
        assert not [*(self.store.path / "blobs").glob(".*")]
        assert self.bench.call("container.list")["containers"] == []
        session = self.run.name
        assert not [*Path("/sys/fs/cgroup").glob(f"*/**/vmcontainer/{session}/build*")]
        assert str(self.run) not in Path("/proc/mounts").read_text()


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    yard = Yard(tmp_path_factory.mktemp("yard"))
    yield yard
    yard.nothing_is_left()
    yard.bench.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A folder with a few files."""
    folder = tmp_path / "context"
    (folder / "app/inner").mkdir(parents=True)
    (folder / "app/main.sh").write_text("echo main\n")
    (folder / "app/main.sh").chmod(0o750)
    (folder / "app/inner/data").write_text("inner\n")
    (folder / "app/link").symlink_to("inner/data")
    (folder / "note.txt").write_text("note\n")
    (folder / "list.txt").write_text("list\n")
    return folder


# -- what instructions do


def test_the_example_of_the_manual(yard: Yard, context: Path) -> None:
    told = yard.build(
        'FROM busybox\nCOPY app/ /app/\nRUN echo hello > /hello; echo done\nCMD ["cat", "/hello"]\n', context, "first:1"
    )
    *steps, last = told.splitlines()
    assert steps == [
        "[1/4] FROM busybox",
        "[2/4] COPY app/ /app/",
        "[3/4] RUN /bin/sh -c echo hello > /hello; echo done",
        "done",
        '[4/4] CMD ["cat", "/hello"]',
    ]
    image = yard.image("first:1")
    assert last.startswith(f"first:1 {image.digest}, ")
    result = yard.bench.wait(yard.bench.collect("container.run", name="", options={"image": "first:1", "argv": []}))
    assert result.out == b"hello\n"
    assert yard.out("cd /app; sh main.sh; cat link; stat -c %a:%u:%g main.sh inner", "first:1") == (
        "main\ninner\n750:0:0\n755:0:0\n"
    )
    history = image.config["history"]
    assert [one["created_by"] for one in history[-3:]] == [
        "COPY app/ /app/",
        "RUN /bin/sh -c echo hello > /hello; echo done",
        'CMD ["cat", "/hello"]',
    ]
    assert [one.get("empty_layer", False) for one in history[-3:]] == [False, False, True]
    assert len(image.layers) == sum(not one.get("empty_layer") for one in history)
    yard.nothing_is_left()


def test_settings_reach_later_steps_and_containers(yard: Yard) -> None:
    yard.build(
        """
FROM busybox
ARG VERSION=1
ARG UNSET
ENV NAME="a b" PLACE=/srv/$VERSION
WORKDIR $PLACE
WORKDIR sub
RUN pwd > where; echo "$NAME $VERSION" > args; chown 1000:1000 .
USER 1000:1000
RUN id -u > who; echo "${PLACE}" >> who
RUN ["sh", "-c", "echo exec >> who"]
LABEL a=$NAME "b c"=d
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-e", "-c"]
ENTRYPOINT echo entry
""",
        arguments={"VERSION": "7", "FORGOTTEN": "1"},
        name="settings",
    )
    config = yard.image("settings").config["config"]
    assert config["User"] == "1000:1000" and config["WorkingDir"] == "/srv/7/sub"
    assert config["Labels"] == {"a": "a b", "b c": "d"} and config["Volumes"] == {"/data": {}}
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}} and config["StopSignal"] == "SIGINT"
    assert config["Entrypoint"] == ["/bin/sh", "-e", "-c", "echo entry"] and not config.get("Cmd")
    assert yard.out("pwd; id -u; cat where args who; echo $NAME; echo $VERSION", "settings") == (
        "/srv/7/sub\n1000\n/srv/7/sub\na b 7\n1000\n/srv/7\nexec\na b\n\n"
    )


def test_arguments_that_nobody_asks_for_are_told(yard: Yard) -> None:
    assert "--build-arg FORGOTTEN is not used" in yard.build("FROM busybox\n", arguments={"FORGOTTEN": "1"})


def test_stages(yard: Yard, context: Path) -> None:
    dockerfile = """
ARG BASE=busybox
FROM $BASE AS make
COPY app/main.sh /src/
RUN sed s/main/made/ /src/main.sh > /made.sh
FROM busybox AS never
RUN exit 9
FROM make AS more
RUN echo more >> /made.sh
FROM busybox
COPY --from=make --chmod=711 --chown=3:4 /made.sh /bin/made
COPY --from=busybox /etc/passwd /etc/passwd.old
COPY --from=1 /etc/group /unneeded
"""
    told = yard.refuse(CommandFailed, dockerfile, context)
    assert "RUN ended with status 9" in told and "line 7" in told
    dockerfile = dockerfile.replace("COPY --from=1 /etc/group /unneeded\n", "")
    told = yard.build(dockerfile, context)
    assert "never" not in told and "more" not in told
    assert yard.out("cat /bin/made; stat -c %a:%u:%g /bin/made; ls /etc/passwd.old /src 2>&1; true") == (
        "echo made\n711:3:4\nls: /src: No such file or directory\n/etc/passwd.old\n"
    )
    assert "[more 5/5] RUN" in yard.build(dockerfile, context, "second", target="more")
    assert yard.out("cat /made.sh", "second").endswith("made\nmore\n")
    assert "there are: make never more" in yard.refuse(NotFound, dockerfile, context, target="nobody")


def test_what_run_removes_is_gone(yard: Yard) -> None:
    removes = "rm -r /d && mkdir /d && touch /d/c && rm /etc/group"
    yard.build(f"FROM busybox\nRUN mkdir /d && touch /d/a /d/b /kept\nRUN {removes}")
    assert yard.out("ls /d; ls /kept; ls /etc/group 2>/dev/null; true") == "c\n/kept\n"
    with yard.store.open_blob(yard.image().layers[-1]) as layer, tarfile.open(fileobj=layer) as archive:
        assert {"etc/.wh.group", "d/c"} <= set(archive.getnames())


def test_documents(yard: Yard) -> None:
    yard.build(
        """FROM busybox
ENV WHO=world
COPY <<EOF <<'RAW' /texts/
hello $WHO \\$WHO
EOF
hello $WHO
RAW
RUN <<END
set -e
echo one > /out
echo two >> /out
END
RUN cat <<END >> /out && echo four >> /out
three $WHO
END
"""
    )
    assert yard.out("cat /texts/EOF /texts/RAW /out") == "hello world $WHO\nhello $WHO\none\ntwo\nthree world\nfour\n"


def test_copy_goes_where_cp_would(yard: Yard, context: Path) -> None:
    yard.build(
        """FROM busybox
RUN mkdir -p /real /there && ln -s /real /alias && ln -s ../../../../etc /out && touch /there/note.txt
COPY note.txt /new/name
COPY note.txt list.txt /both/
COPY *.txt app /all/
COPY note.txt /alias/
COPY note.txt /there
COPY note.txt /out/copied
WORKDIR /work
COPY list.txt .
COPY list.txt deep/er/
""",
        context,
    )
    script = "cd /; cat new/name both/note.txt all/list.txt all/inner/data real/note.txt there/note.txt"
    script += " etc/copied work/list.txt work/deep/er/list.txt"
    assert yard.out(script) == "note\nnote\nlist\ninner\nnote\nnote\nnote\nlist\nlist\n"
    assert yard.out("readlink /alias; ls /all") == "/real\ninner\nlink\nlist.txt\nmain.sh\nnote.txt\n"
    assert not Path("/etc/copied").exists()


def test_add_unpacks_archives(yard: Yard, context: Path) -> None:
    for name, mode in (("files.tar", "w"), ("files.tgz", "w:gz")):
        with tarfile.open(context / name, mode) as archive:  # type: ignore[call-overload]
            entry = tarfile.TarInfo(f"top/{name}.inner")
            entry.size, entry.uid, entry.mode = 5, 0, 0o600
            archive.addfile(entry, io.BytesIO(b"inner"))
    yard.build("FROM busybox\nADD files.tar files.tgz note.txt /added/\nCOPY files.tgz /copied/", context)
    assert yard.out("cd /added; cat top/files.tar.inner top/files.tgz.inner note.txt; ls /copied") == (
        "innerinnernote\nfiles.tgz\n"
    )
    with tarfile.open(context / "hostile.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    assert "climbs out" in yard.refuse(ImageError, "FROM busybox\nADD hostile.tar /x/", context)
    assert "fetches nothing" in yard.refuse(UserError, "FROM busybox\nADD https://host/x /x", context)


def test_from_scratch(yard: Yard, context: Path) -> None:
    yard.build("FROM scratch\nCOPY note.txt /a/\nLABEL x=y\n", context, "bare")
    image = yard.image("bare")
    assert len(image.layers) == 1 and image.config["os"] == "linux" and image.config["architecture"]
    assert "nothing to run" in yard.refuse(UserError, "FROM scratch\nRUN true", context)


def test_a_big_file(yard: Yard, context: Path) -> None:
    data = os.urandom(1 << 20) * (BIG_BYTES >> 20)
    (context / "big").write_bytes(data)
    yard.build("FROM busybox\nCOPY big /\n", context)
    import hashlib

    assert yard.out("sha256sum /big").split()[0] == hashlib.sha256(data).hexdigest()


# -- the context


def test_links_do_not_lead_out_of_the_context(yard: Yard, context: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (context / "absolute").symlink_to(tmp_path / "secret")
    (context / "above").symlink_to("../secret")
    (context / "folder").symlink_to("..")
    (context / "proc").symlink_to("/proc/self/root")
    (context / "within").symlink_to("app/main.sh")
    for source in ("absolute", "above", "folder/secret", "folder", "proc/etc/passwd", "abs*"):
        told = yard.refuse(UserError, f"FROM busybox\nCOPY {source} /x", context)
        assert "leads out of" in told and "line 2" in told
    assert "leads out of" in yard.refuse(UserError, "FROM busybox\nCOPY ../secret /x", context)
    yard.build("FROM busybox\nCOPY within /x\nCOPY . /all/\n", context)
    assert yard.out("cat /x; readlink /all/above; ls /all/proc/ | grep -c etc") == "echo main\n../secret\n1\n"


def test_links_of_an_image_begin_at_its_own_top(yard: Yard) -> None:
    """A stage's root is as foreign as a container: its links name its own files, never the node's."""
    links = (
        "ln -s /etc/passwd /leak; ln -s ../../../../../../etc /up; ln -s /proc/self/root /magic; echo in > /etc/mark"
    )
    stages = f"FROM busybox AS make\nRUN {links}\nFROM busybox\n"
    yard.build(f"{stages}COPY --from=make /leak /leaked\nCOPY --from=make /up/mark /mark\n")
    assert yard.out("cat /leaked /mark") == yard.out("cat /etc/passwd; echo in")
    told = yard.refuse(NotFound, f"{stages}COPY --from=make /magic/etc/hostname /x\n")
    assert "line 4" in told


def test_a_context_that_changes_never_leads_out(yard: Yard, context: Path, tmp_path: Path) -> None:
    """Someone exchanges a folder for a link that leads out, again and again while it is copied."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/data").write_text("secret\n")
    (context / "swap").symlink_to(tmp_path / "outside")
    stop = threading.Event()

    def exchange() -> None:
        inner, link, spare = context / "app/inner", context / "swap", context / "spare"
        while not stop.is_set():
            inner.rename(spare)
            link.rename(inner)
            inner.rename(link)
            spare.rename(inner)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(25):
            with contextlib.suppress(UserError):
                yard.build("FROM busybox\nCOPY app/inner /got\n", context, no_cache=True)
                assert yard.out("cat /got/data 2>/dev/null || true") in ("inner\n", "")
    finally:
        stop.set()
        thread.join()
    assert (tmp_path / "outside/data").read_text() == "secret\n"
    yard.build("FROM busybox\nCOPY app/inner /got\n", context, no_cache=True)


def test_what_is_no_file_is_refused(yard: Yard, context: Path) -> None:
    os.mkfifo(context / "app/pipe")
    assert "app/pipe is no file" in yard.refuse(UserError, "FROM busybox\nCOPY app /x/", context)
    assert "there is no nothing" in yard.refuse(NotFound, "FROM busybox\nCOPY nothing /x/", context)


def test_ignore_file(yard: Yard, context: Path) -> None:
    ignore = "# comment\n*.txt\n!note.txt\n**/data\napp/l*"
    yard.build("FROM busybox\nCOPY . /all/\n", context, ignore=ignore)
    assert yard.out("cd /all; find . | sort") == ".\n./app\n./app/inner\n./app/main.sh\n./note.txt\n"
    assert ".dockerignore" in yard.refuse(NotFound, "FROM busybox\nCOPY list.txt /x", context, ignore=ignore)


def test_the_context_as_an_archive(yard: Yard, context: Path) -> None:
    from vmcontainer_kernel.container.build.context import Place, pack
    from vmcontainer_kernel.container.build.ignore import read_ignore

    stream = io.BytesIO()
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY)
    pack(Place(fd, read_ignore("list.txt")), stream, lambda done_bytes: None)
    os.close(fd)
    dockerfile = "FROM busybox\nCOPY . /all/\n"
    yard.build(dockerfile, name="sent", archive=stream.getvalue())
    assert "CACHED" in yard.build(dockerfile, context, name="read", ignore="list.txt")
    assert yard.image("sent").digest == yard.image("read").digest


# -- the cache


def test_what_makes_a_step_new(yard: Yard, context: Path) -> None:
    dockerfile = """FROM busybox
ARG A=1
ENV B=2
COPY note.txt /n
RUN date +%s%N > /time
LABEL c=3
"""

    def cached(text: str, **arguments: Any) -> list[str]:
        told = yard.build(text, context, "cache", **arguments)
        return [line.split()[1] for line in told.splitlines() if line.endswith("CACHED")]

    assert cached(dockerfile) == []
    first = yard.image("cache").digest
    both = ["COPY", "RUN"]
    assert cached(dockerfile) == both and yard.image("cache").digest == first
    os.utime(context / "note.txt", (1, 1))
    assert cached(dockerfile) == both
    assert cached(dockerfile.replace("c=3", "c=4")) == both
    assert cached(dockerfile.replace("ENV", "LABEL before=1\nENV")) == both
    assert cached(dockerfile.replace("B=2", "B=3")) == ["COPY"]
    assert cached(dockerfile, arguments={"A": "2"}) == ["COPY"]
    assert cached(dockerfile.replace("RUN date", "RUN  date  ")) == ["COPY"]
    assert cached(dockerfile, no_cache=True) == []
    (context / "note.txt").chmod(0o600)
    assert cached(dockerfile) == []
    (context / "note.txt").write_text("other\n")
    assert cached(dockerfile) == []
    assert cached(dockerfile) == both
    assert cached(dockerfile, arguments={"SOURCE_DATE_EPOCH": "1000"}) == []
    assert yard.image("cache").config["created"] == "1970-01-01T00:16:40Z"


def test_the_same_twice_is_the_same(yard: Yard, context: Path) -> None:
    dockerfile = "FROM busybox\nCOPY app /app/\nRUN mkdir -p /x/y && echo 1 > /x/y/z && ln /x/y/z /x/w\nCMD sh\n"
    yard.build(dockerfile, context, "one", no_cache=True)
    for path in context.rglob("*"):
        os.utime(path, follow_symlinks=False)
    yard.build(dockerfile, context, "two", no_cache=True)
    assert yard.image("one").digest == yard.image("two").digest


def test_forgetting(yard: Yard) -> None:
    yard.build("FROM busybox\nRUN echo kept > /kept\n", name="kept")
    yard.build("FROM busybox\nRUN head -c 100000 /dev/zero > /zeros\n", name="kept")
    shelf = Store(yard.store.path)
    before = {path.name for path in (shelf.path / "blobs/sha256").iterdir()}
    yard.refuse(CommandFailed, "FROM busybox\nRUN head -c 200000 /dev/zero > /zeros\nRUN false\n")
    assert len({path.name for path in (shelf.path / "blobs/sha256").iterdir()} - before) == 1
    assert yard.bench.call("image.forget")["freed_bytes"] > 200000
    assert {path.name for path in (shelf.path / "blobs/sha256").iterdir()} <= before
    assert not [*(shelf.path / "build").iterdir()]
    assert yard.out("wc -c < /zeros", "kept") == "100000\n"
    assert Cache(shelf).find("0" * 64) is None


# -- failures


def test_a_failing_run_tells_all_and_leaves_nothing(yard: Yard, context: Path) -> None:
    told = yard.refuse(CommandFailed, "FROM busybox\n# a comment\nRUN echo before; \\\n  echo why >&2; exit 3", context)
    assert "RUN ended with status 3" in told and "line 3" in told and "RUN echo before" in told
    assert "before\n" in told and "why\n" in told
    assert "is it in the image?" in yard.refuse(CommandFailed, "FROM busybox\nRUN nosuch")
    assert "line 2" in yard.refuse(NotFound, "FROM busybox\nCOPY --chown=nosuch:x <<E /x\nE\n")
    assert "%container pull" in yard.refuse(UserError, "FROM nosuchimage\n")
    assert "no folder" in yard.refuse(UserError, "FROM busybox\nCOPY note.txt /etc/passwd/x", context)
    assert "is a folder" in yard.refuse(UserError, "FROM busybox\nRUN mkdir /d/note.txt -p\nCOPY note.txt /d", context)


def test_a_run_has_no_network_and_the_usual_protections(yard: Yard) -> None:
    look = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status > /walls; id -u > /uid"
    yard.build(f"FROM busybox\nRUN ls /sys/class/net > /links; {look}")
    assert yard.out("cat /links /walls /uid").split() == ["lo", "NoNewPrivs:", "1", "Seccomp:", "2", "0"]
    yard.build("FROM busybox\nRUN --network=host ls /sys/class/net > /links", name="net")
    links = set(yard.out("cat /links", "net").split())
    assert links <= {path.name for path in Path("/sys/class/net").iterdir()} and "lo" in links


def begin(yard: Yard, script: str) -> Any:
    """Start a build and wait until its RUN has written."""
    said, told = asyncio.Event(), bytearray()

    async def start() -> Any:
        def take(stream: int, data: bytes) -> None:
            request.consumed(stream, len(data))
            told.extend(data)
            if stream == Kind.STDOUT and b"\nbegun" in told:
                said.set()

        dockerfile = f"FROM busybox\nRUN {script}\n"
        request = yard.bench.node.start("image.build", {"dockerfile": dockerfile, "name": "never"}, on_data=take)
        await said.wait()
        return request

    return yard.bench.wait(start())


@pytest.mark.parametrize("number", [2, 15])
def test_an_interrupt_ends_a_build_in_order(yard: Yard, number: int) -> None:
    request = begin(yard, "trap '' INT TERM; echo begun; sleep 1000")
    yard.bench.call("signal", request=request.number, signal=number)
    with pytest.raises(CommandFailed, match="interrupted"):
        yard.bench.wait(_answer(request))
    assert "never:latest" not in Store(yard.store.path).names()
    yard.nothing_is_left()


def test_a_killed_build_leaves_nothing(yard: Yard) -> None:
    request = begin(yard, "echo begun; sleep 1000 & wait")
    yard.bench.call("signal", request=request.number, signal=9)
    assert yard.bench.wait(_answer(request))["signal"] == 9
    deadline_s = now_s() + 10
    while [*(yard.run / "builds").iterdir()] and now_s() < deadline_s:
        time.sleep(0.05)
    yard.nothing_is_left()


async def _answer(request: Any) -> Any:
    return await request.done


def test_a_build_ends_with_its_notebook(yard: Yard, tmp_path: Path) -> None:
    bench, run = yard.bench, yard.run
    yard.run = tmp_path / "run" / f"ending{os.getpid()}"
    yard.bench = Bench(yard.run, yard.store.path)
    try:
        begin(yard, "trap '' TERM; echo begun; sleep 1000")
    finally:
        yard.bench.close()
        ended, yard.bench, yard.run = yard.run, bench, run
    assert not ended.exists()
    assert not [*Path("/sys/fs/cgroup").glob(f"*/**/vmcontainer/{ended.name}")]
    assert "never:latest" not in Store(yard.store.path).names()


# -- what others read


@pytest.mark.needs("skopeo")
def test_skopeo_and_umoci_read_it(yard: Yard, context: Path, tmp_path: Path) -> None:
    yard.build('FROM busybox\nCOPY app /app/\nRUN rm /etc/group\nENV A=1\nEXPOSE 80\nCMD ["sh"]\n', context, "others")
    command = ["skopeo", "inspect", "--config", f"oci:{yard.store.path}:others:latest"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["config"]["Env"][-1] == "A=1" and found["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert len(found["rootfs"]["diff_ids"]) == len(yard.image("others").layers)
    require("umoci")
    command = ["umoci", "unpack", "--image", f"{yard.store.path}:others:latest", str(tmp_path / "b")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "b/rootfs/app/main.sh").read_text() == "echo main\n"
    assert not (tmp_path / "b/rootfs/etc/group").exists() and (tmp_path / "b/rootfs/etc/passwd").exists()


# -- places

ON_AN_OVERLAY = """
import sys
from pathlib import Path
from vmcontainer_kernel.container.build.builder import Builder, StagedStore
from vmcontainer_kernel.container.build.dockerfile import parse
from vmcontainer_kernel.container.build.plan import Given, Order
from vmcontainer_kernel.container.runtime import Runtime
from vmcontainer_kernel.errors import HostError

store, folder = StagedStore(sys.argv[1]), Path(sys.argv[2]) / "run"
folder.mkdir()
runtime = Runtime(folder, store, session="overlay")
for text in ("RUN true", "WORKDIR /new"):
    order = Order(parse(f"FROM busybox\\n{text}"), Given({}), "test:1")
    try:
        Builder(runtime, store, folder, order, None).build(1, "quiet")
    except HostError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount an overlay here")
def test_where_layers_would_be_lost_nothing_is_built(yard: Yard, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "top"):
        (tmp_path / name).mkdir()
    options = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
    script = f'mount -t overlay overlay -o {options} {tmp_path}/top && exec "$@"'
    command = ["unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh"]
    command += [sys.executable, "-c", ON_AN_OVERLAY, str(yard.store.path), str(tmp_path / "top")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.count("is on an overlay itself") == 2, done.stdout + done.stderr
    assert done.stdout.count("line 2") == 2 and "test:1" not in Store(yard.store.path).names()
