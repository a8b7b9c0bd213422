"""The kernel view of a node and its dear parts, told by a real agent of a real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_agent import Bench
from tests.node.test_lives import eventually, run
from vmcontainer_kernel.agent.processes import MAX_PROCESSES
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.container.images.busybox import build_busybox
from vmcontainer_kernel.errors import UserError

pytestmark = pytest.mark.needs("containers-on-host")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("views")
    build_busybox(Store(folder / "images"))
    bench = Bench(folder / "run" / f"views{os.getpid()}", folder / "images")
    yield bench
    bench.close()


@pytest.fixture
def web(bench: Bench) -> Iterator[dict[str, Any]]:
    yield run(bench, "sleep 100 & sleep 200", memory_bytes=64 << 20, cpus=0.5, pids_limit=200)
    bench.call("container.remove", name="web", force=True)


def view(bench: Bench, *parts: str, live: bool = False) -> Any:
    return bench.wait(bench.node.view(parts, live=live))


def test_a_containers_processes_have_their_numbers_inside(bench: Bench, web: dict[str, Any]) -> None:
    def members() -> Any:
        rows = [row for row in view(bench)["processes"] if row["container"] == "web"]
        return rows if {row["comm"] for row in rows} == {"sleep"} and len(rows) == 2 else None

    rows = eventually(members, bench)
    own = Path(f"/proc/{rows[0]['pid']}/ns/net").readlink()
    assert f"net:[{rows[0]['namespaces']['net']}]" == str(own)
    assert sorted(row["pids"][1] for row in rows) == [1, 2]


def test_the_filter_is_told_in_numbers(bench: Bench, web: dict[str, Any]) -> None:
    row = next(one for one in view(bench)["isolation"] if one["name"] == "web")
    found = row["filter"]
    assert found["known"] == found["open"] + found["conditional"] + found["closed"]
    assert ("mount" in found["closed_names"], "read" in found["closed_names"]) == (True, False)
    assert {"clone", "socket", "personality"} == set(found["conditional_names"])
    assert (row["seccomp"], row["no_new_privs"], row["seccomp_filters"] >= 1) == ("filter", True, True)


def test_a_live_look_renews_the_meters(bench: Bench, web: dict[str, Any]) -> None:
    first = view(bench, live=True)["containers"][0]
    assert (first["memory"]["limit_bytes"], first["cpu"]["limit_cpus"], first["pids"]["limit"]) == (64 << 20, 0.5, 200)
    busy = {"argv": ["sh", "-c", "while :; do :; done"]}
    bench.wait(bench.collect("container.exec", name="web", options=busy, detach=True))
    eventually(
        lambda: view(bench, live=True)["containers"][0]["cpu"]["throttled_periods"] > first["cpu"]["throttled_periods"],
        bench,
    )
    last = view(bench, live=True)["containers"][0]
    assert last["cpu"]["usage_s"] > first["cpu"]["usage_s"]
    assert last["memory"]["limit_bytes"] == 64 << 20


def test_a_crowd_is_counted_and_told_in_part(bench: Bench) -> None:
    run(bench, "for i in $(seq 150); do sleep 500 & done; wait", pids_limit=400)
    try:
        eventually(lambda: view(bench, live=True)["containers"][0]["pids"]["current"] >= 151, bench)
        last = [view(bench, live=True) for _ in range(4)][-1]
        rows = [row for row in last["processes"] if row["container"] == "web"]
        assert 100 <= len(rows) < MAX_PROCESSES
        assert last["processes_total"] >= 151
        assert min(row["pids"][-1] for row in rows) == 1
    finally:
        bench.call("container.remove", name="web", force=True)


def test_mounts_and_layers(bench: Bench, web: dict[str, Any]) -> None:
    spaces = view(bench, "mounts")["parts"]["mounts"]["spaces"]
    root = next(row for row in spaces[1]["mounts"] if row["point"] == "/")
    assert root["overlay"]["lower"][0]["digest"].startswith("sha256:")
    Path(root["overlay"]["upper"], "written-outside").touch()
    shown = bench.wait(bench.collect("container.exec", name="web", options={"argv": ["ls", "/"]}))
    assert b"written-outside" in shown.out


def test_sockets_and_who_holds_them(bench: Bench) -> None:
    run(bench, "exec nc -l -p 4567")
    try:

        def listening() -> Any:
            part = view(bench, "sockets")["parts"]["sockets"]
            assert [space["name"] for space in part["spaces"]] == ["web"]
            return [row for row in part["spaces"][0]["sockets"] if row["local"].endswith(":4567")]

        row = eventually(listening, bench)[0]
        first = next(one for one in view(bench)["containers"] if one["name"] == "web")["pid"]
        assert (row["protocol"][:3], row["state"], row["pids"]) == ("tcp", "listening", [first])
    finally:
        bench.call("container.remove", name="web", force=True)


def test_an_unknown_part_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="no part registers"):
        view(bench, "registers")


@pytest.mark.needs("slirp4netns")
def test_packets_are_counted_on_each_hop(bench: Bench) -> None:
    """Two containers of one network, and one asks the other through a published port of the node."""
    run(bench, "while :; do echo hello | nc -l -p 80; done", network="bridge", publish=["127.0.0.1:0:80"])
    try:
        path = bench.call("network.view", node="host")["paths"][0]
        kinds = [hop["kind"] for hop in path["hops"]]
        assert kinds == ["interface", "veth", "bridge", "rules", "nat", "tap", "program", "sockets"]
        port = path["published"][0]["host_port"]

        def asked() -> Any:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
                return sock.recv(100)
            return b""

        assert eventually(asked, bench) == b"hello\n"
        after = bench.call("network.view", node="host")["paths"][0]
        published = after["published"][0]
        assert published["conversations"] >= 1
        assert published["out_bytes"] >= 6
        for old, new in zip(path["hops"][:3], after["hops"][:3], strict=True):
            assert new["in"]["packets"] > old["in"]["packets"]
            assert new["out"]["packets"] > old["out"]["packets"]
        # The kernel's own counter of the container's end of the cable.
        first = next(one for one in view(bench)["containers"] if one["name"] == "web")["pid"]
        line = next(line for line in Path(f"/proc/{first}/net/dev").read_text().splitlines() if "eth0:" in line)
        assert int(line.split()[2]) >= after["hops"][0]["in"]["packets"] > 0
    finally:
        bench.call("container.remove", name="web", force=True)


def test_a_container_without_a_network_has_no_hops(bench: Bench, web: dict[str, Any]) -> None:
    path = bench.call("network.view", node="host")["paths"][0]
    assert (path["container"], path["hops"]) == ("web", [])
    assert path["missing"]["hops"]


def test_an_image_its_layers_and_what_is_written_above_them(bench: Bench, web: dict[str, Any]) -> None:
    def changes() -> dict[str, dict[str, Any]]:
        told = json.loads(bench.wait(bench.collect("container.changes", name="web")).out)
        assert told["cut"] is False
        return {row["path"]: row for row in told["rows"]}

    image = bench.call("image.view", node="host", name="busybox")
    layer = image["layers"][-1]
    assert (layer["containers"], image["containers"][0]["name"]) == (["web"], "web")
    assert image["digest"].startswith("sha256:")
    assert "/new" not in changes()
    script = "echo 12345 > /new; rm /bin/vi; rm -r /etc; mkdir /etc; echo x > /etc/only"
    bench.wait(bench.collect("container.exec", name="web", options={"argv": ["sh", "-c", script]}))
    rows = changes()
    assert (rows["/new"]["kind"], rows["/new"]["type"], rows["/new"]["size_bytes"]) == ("A", "file", 6)
    assert (rows["/bin/vi"]["kind"], rows["/bin/vi"]["mark"]) == ("D", "whiteout")
    assert (rows["/etc"]["mark"], rows["/etc"]["type"]) == ("opaque", "folder")
    hidden = Path(image["containers"][0]["upper"], "bin/vi").lstat()
    assert (hidden.st_rdev, hidden.st_mode >> 12) == (0, 2)
    cut = json.loads(bench.wait(bench.collect("container.changes", name="web", most=1)).out)
    assert (len(cut["rows"]), cut["cut"]) == (1, True)
