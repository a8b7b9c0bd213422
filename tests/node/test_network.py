"""Networks on a real kernel, in a network namespace of the test's own: names, ways out, ports, isolation, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import now_s
from tests.reach import open_to_all
from vmcontainer_kernel.container.network import slirp
from vmcontainer_kernel.errors import HostError, NotFound, UserError, from_json

ROOT = Path(__file__).parents[2]
OUTSIDE, NODE = "198.51.100.2", "198.51.100.1"
NOBODY = 65534
USER = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
PEER = f"{Path(sys.executable).resolve()} -S -I {Path(__file__).with_name('network_peer.py')}"
LEFT = "ip -brief link; ip route; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward"

pytestmark = pytest.mark.needs("containers-on-host", "slirp4netns")


class Lab:
    """The driver process; a method call is a request."""

    def __init__(self, folder: Path, mode: str, *before: str) -> None:
        self.folder, self.mode = folder, mode
        root = ["unshare", *USER] if USER else []
        command = [*(before or root), sys.executable, "-m", "tests.node.network_driver", str(folder), mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self._answer()

    def __call__(self, op: str, **arguments: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        if "failed" in answer:
            raise from_json(answer["failed"])
        return answer["ok"]

    def container(self, name: str, network: str, **options: Any) -> dict[str, Any]:
        self("begin", name=name)
        self("prepare", name=name, hostname=f"{name}-host", network=network)
        return dict(self("attach", name=name, network=network, **options))

    def sh(self, name: str, script: str) -> dict[str, Any]:
        """Run a script in a container, with the container's own /etc/hosts if it was prepared."""
        hosts = self.folder / "run/network" / name / "hosts"
        bind = f"mount --bind {hosts} /etc/hosts; " if hosts.exists() else ""
        return dict(self("run", name=name, script=bind + script))

    def serve(self, name: str, text: str, port: int = 80) -> None:
        """Answer each connection to a container with a text."""
        self("run", name=name, script=f"exec {PEER} serve {port} {text}", background=True)
        until(lambda: self("run", name=name, script=f"{PEER} ask 127.0.0.1 {port}")["output"] == text)

    def reaches(self, name: str, host: str, port: int = 80) -> str:
        """Return what a server answers to a container; empty if it is not reached."""
        return str(self.sh(name, f"{PEER} ask {host} {port}")["output"])

    def local(self, port: int) -> str:
        """Return what a server answers to the node itself, on loopback."""
        return str(self("node", script=f"{PEER} ask 127.0.0.1 {port}")["output"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(20)


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = now_s() + timeout_s
    while not condition():
        assert now_s() < deadline
        time.sleep(0.02)


def state(pid: int) -> str:
    """A process's state letter; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def gone(pid: int) -> bool:
    return state(pid) in ("", "Z")


@pytest.fixture(params=["host", "guest"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, request.param)
    before = lab("node", script=LEFT)["output"]
    yield lab
    if lab.process.poll() is None:
        lab("close")
        assert lab("node", script=LEFT)["output"] == before
        assert not (tmp_path / "run/network").exists()
        lab.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, "host")
    yield lab
    lab.close()


def test_containers_of_a_network_find_each_other_by_name_and_alias(lab: Lab) -> None:
    lab("create", name="web")
    lab.container("app", "web")
    lab.container("db", "web", aliases=["sql"])
    lab.serve("db", "hello")
    assert [lab.reaches("app", name) for name in ("db", "sql")] == ["hello", "hello"]
    assert lab.sh("db", "busybox ping -c 1 -W 2 app")["status"] == 0
    lab("detach", name="db")
    assert "db" not in lab("run", name="app", script=f"cat {lab.folder}/run/network/app/hosts")["output"]


def test_an_answer_arrives_although_another_member_leaves(lab: Lab) -> None:
    """A bridge takes the lowest address of its ports, if it is given none: when that port goes, answers are lost."""
    lab.container("stays", "bridge", publish=["8080:80"])
    lab("run", name="stays", script=f"exec {PEER} serve 80 hello 0.5", background=True)
    until(lambda: lab.local(8080) == "hello")
    for index in range(6):
        name, told = f"c{index}", lab.folder / f"told-{index}"
        lab.container(name, "bridge")
        lab("node", script=f"{PEER} ask 127.0.0.1 8080 60 >{told} 2>&1 &")
        time.sleep(0.2)  # it was asked, and has not answered yet
        lab("end", name=name)
        lab("detach", name=name)
        until(lambda told=told: told.read_text() == "hello", 5)


def test_networks_are_apart_and_the_node_is_between_them(lab: Lab) -> None:
    for name in ("one", "two"):
        lab("create", name=name)
        lab.container(f"in-{name}", name)
    there = lab("inspect", name="two")["containers"][0]["ip"]
    lab.serve("in-two", "secret")
    assert lab.reaches("in-two", there) == "secret"
    assert lab.reaches("in-one", there) == ""
    assert "in-two" not in lab.sh("in-one", "cat /etc/hosts")["output"]


def test_a_network_leads_out_unless_it_is_internal(lab: Lab) -> None:
    lab("create", name="inside", internal=True)
    lab("create", name="open")
    lab.container("a", "open")
    lab.container("b", "inside")
    lab.serve("outside", "world")
    assert lab.reaches("a", OUTSIDE) == "world"
    assert lab.reaches("b", OUTSIDE) == ""
    assert lab("run", name="b", script="ip route show default")["output"] == ""
    # Even for one that sets a route of its own.
    gateway = lab("inspect", name="inside")["gateway"]
    assert lab.sh("b", f"ip route add default via {gateway}")["status"] == 0
    assert lab.reaches("b", OUTSIDE) == ""


def test_nobody_outside_begins_a_conversation_with_a_container(lab: Lab) -> None:
    ip = lab.container("a", "bridge")["ip"]
    lab.serve("a", "secret")
    lab("run", name="outside", script=f"ip route add 172.28.0.0/16 via {NODE}")
    assert lab.reaches("outside", ip) == ""


def test_a_published_port_is_reached_from_where_it_was_published(lab: Lab) -> None:
    made = lab.container("a", "bridge", publish=["8080:80", "0.0.0.0:8081:80", "80", "0.0.0.0:5353:53/udp"])
    lab.serve("a", "hello")
    lab("run", name="a", script=f"exec {PEER} serve_udp 53 datagram", background=True)
    free = made["published"][2]["host_port"]
    assert free > 1023
    for port in (8080, 8081, free):
        assert lab.local(port) == "hello"
    assert lab.reaches("outside", NODE, 8081) == "hello"
    # A guest's ports are QEMU's to deliver, so there they are on every address of the guest.
    guest = made["published"][0]["host_ip"] == "0.0.0.0"
    assert lab.reaches("outside", NODE, 8080) == ("hello" if guest else "")
    ask = f"{PEER} ask_udp {NODE} 5353 0.3"
    until(lambda: lab("run", name="outside", script=ask)["output"] == "datagram")
    lab("detach", name="a")
    assert "refused" in lab("node", script=f"{PEER} ask 127.0.0.1 8080")["errors"]


def test_a_published_port_carries_much_both_ways_and_each_direction_ends_by_itself(lab: Lab) -> None:
    lab.container("a", "bridge", publish=["8080:80"])
    lab("run", name="a", script=f"exec {PEER} echo 80", background=True)
    until(lambda: lab("run", name="a", script=f"echo hi | {PEER} send 127.0.0.1 80")["output"] == "hi\n")
    script = f"head -c 20000000 /dev/urandom > data; sha256sum < data; {PEER} send 127.0.0.1 8080 < data | sha256sum"
    sums = lab("node", script=f"cd {lab.folder}; {script}")["output"].split()
    assert sums[0] == sums[2]


def test_a_taken_port_is_told_and_leaves_nothing_half_made(lab: Lab) -> None:
    lab.container("a", "bridge", publish=["8080:80"])
    lab("begin", name="b")
    # In a guest every address is asked for.
    foreign = [["8081:80", "203.0.113.9:8082:80"]] if lab.mode == "host" else []
    for publish in (["8081:80", "8080:80"], ["8081:80", "8081:81"], *foreign):
        with pytest.raises(UserError, match=r"taken|no address of this node"):
            lab("attach", name="b", network="bridge", publish=publish)
    assert "eth0" not in lab("run", name="b", script="ip link")["output"]
    assert lab("attach", name="b", network="bridge", publish=["8081:80"])["interface"] == "eth0"


def test_a_container_that_ended_joins_again_with_its_files_in_place(lab: Lab) -> None:
    lab("create", name="web")
    lab.container("a", "web")
    files = lab.folder / "run/network/a"
    inode = (files / "hosts").stat().st_ino
    lab("end", name="a")
    lab("detach", name="a")
    assert "172.28" not in (files / "hosts").read_text()
    lab("begin", name="a")
    ip = lab("attach", name="a", network="web")["ip"]
    assert f"{ip} a-host a\n" in (files / "hosts").read_text()
    assert (files / "hosts").stat().st_ino == inode, "a bind is of the file"
    lab("forget", name="a")
    assert not files.exists()
    assert lab("inspect", name="web")["containers"] == []


def test_a_container_in_two_networks_is_seen_in_both(lab: Lab) -> None:
    for name in ("front", "back"):
        lab("create", name=name)
    lab.container("proxy", "front")
    assert lab("attach", name="proxy", network="back")["interface"] == "eth1"
    lab.container("db", "back")
    lab.serve("db", "rows")
    assert lab.reaches("proxy", "db") == "rows"
    with pytest.raises(UserError, match="in network back already"):
        lab("attach", name="proxy", network="back")


def test_what_cannot_be_is_refused_by_name(lab: Lab) -> None:
    lab("create", name="web", subnet="10.77.0.0/24")
    lab("begin", name="a")
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UserError, "there is a network web already", {"op": "create", "name": "web"}),
        (
            UserError,
            "overlaps 10.77.0.0/24, used by network web",
            {"op": "create", "name": "n", "subnet": "10.77.0.0/25"},
        ),
        (UserError, "used by wan", {"op": "create", "name": "n", "subnet": "198.51.100.0/28"}),
        (NotFound, "there is no network nowhere", {"op": "attach", "name": "a", "network": "nowhere"}),
        (
            UserError,
            "no meaning with network none",
            {"op": "attach", "name": "a", "network": "none", "publish": ["80"]},
        ),
        (UserError, "host's name", {"op": "attach", "name": "a", "network": "web", "aliases": ["x\n1.1.1.1 y"]}),
        (NotFound, "there is no network nowhere", {"op": "remove", "name": "nowhere"}),
    ]
    for error, match, request in refused:
        with pytest.raises(error, match=match):
            lab(**request)
    lab("attach", name="a", network="web")
    with pytest.raises(UserError, match="in use by a"):
        lab("remove", name="web")
    lab("detach", name="a")
    lab("remove", name="web")
    assert lab("list") == []
    assert lab("helper") is None


def test_twenty_containers_join_in_bounded_time_and_all_know_each_other(lab: Lab) -> None:
    for index in range(20):
        lab("begin", name=f"c{index}")
        lab("prepare", name=f"c{index}", hostname="h", network="bridge")
    begin = now_s()
    for index in range(20):
        lab("attach", name=f"c{index}", network="bridge")
    assert now_s() - begin < 20  # 0.3 s on a quiet machine
    known = lab.sh("c0", "cat /etc/hosts")["output"]
    assert all(f" c{index}\n" in known for index in range(1, 20))
    for index in range(20):
        lab("end", name=f"c{index}")
        lab("detach", name=f"c{index}")
    assert len(lab("inspect", name="bridge")["containers"]) == 0


def test_the_plan_is_shown_without_doing_anything(lab: Lab) -> None:
    shown = [step["step"] for step in lab("explain", name="a", network="bridge", publish=["80"])]
    assert shown[-4:] == ["bridge", "firewall", "listen", "link"]
    assert lab("list") == []
    assert lab("helper") is None


def test_a_killed_helper_is_told_and_its_rest_is_swept_by_the_next(lab: Lab) -> None:
    lab.container("a", "bridge", publish=["8080:80"])
    os.kill(lab("helper"), signal.SIGKILL)
    lab("begin", name="b")
    with pytest.raises(HostError, match="is lost"):
        lab("attach", name="b", network="bridge")
    assert lab("list") == []
    lab("detach", name="a")
    lab("prepare", name="b", hostname="b", network="bridge")
    assert lab("attach", name="b", network="bridge", publish=["8080:80"])["ip"] == "172.28.0.2"
    lab.serve("b", "again")
    assert lab.local(8080) == "again"


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_killed_agent_takes_its_networks_along(host: Lab) -> None:
    host.container("a", "bridge")
    helper = host("helper")
    family = [helper, *(child for pid in children_of(helper) for child in (pid, *children_of(pid)))]
    assert len(family) > 1, "no slirp4netns"
    host.process.kill()
    host.process.wait()
    until(lambda: all(gone(pid) for pid in family))


def test_the_nodes_own_network_is_not_touched_by_a_host(host: Lab) -> None:
    before = host("node", script=LEFT)["output"]
    host.container("a", "bridge", publish=["8080:80"])
    assert host("node", script=LEFT)["output"] == before


def test_a_service_of_the_nodes_loopback_is_out_of_reach(host: Lab) -> None:
    host.container("a", "bridge")
    host.container("b", "slirp4netns")
    server = int(host("node", script=f"{PEER} serve 7777 secret >/dev/null 2>&1 </dev/null & echo $!")["output"])
    try:
        until(lambda: host.local(7777) == "secret")
        assert [host.reaches(name, "10.0.2.2", 7777) for name in ("a", "b")] == ["", ""]
    finally:
        os.kill(server, signal.SIGKILL)


def test_a_machine_gets_a_card_on_the_same_bridge(lab: Lab) -> None:
    lab.container("a", "bridge")
    card = lab("tap", name="vm", network="bridge")
    assert card["ip"] == "172.28.0.3"
    assert card["fd"] > 2
    assert "172.28.0.3 vm" in lab.sh("a", "cat /etc/hosts")["output"]
    lab("detach", name="vm")
    assert "vm" not in lab.sh("a", "cat /etc/hosts")["output"]


def test_names_of_the_world_are_asked_of_the_nodes_own_name_server(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(f"nameserver {OUTSIDE}\n")
    script = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"'
    lab = Lab(tmp_path, "host", "unshare", *USER, "-m", "--propagation", "slave", "sh", "-c", script, "sh")
    lab("run", name="outside", script=f"exec {PEER} serve_udp 53 answered", background=True)
    for name, network in (("a", "bridge"), ("b", "slirp4netns")):
        lab.container(name, network)
        server = lab("run", name=name, script=f"cat {tmp_path}/run/network/{name}/resolv.conf")["output"].split()[1]
        until(lambda name=name, server=server: lab.sh(name, f"{PEER} ask_udp {server} 53")["output"] == "answered")
    lab.close()


def test_a_container_with_a_user_namespace_of_its_own_is_connected_too(host: Lab) -> None:
    host("create", name="web")
    host("begin", name="a", user=True)
    host("attach", name="a", network="web")
    host.container("b", "web")
    host.serve("b", "hello")
    assert host.reaches("a", host("inspect", name="web")["containers"][1]["ip"]) == "hello"


def test_slirp4netns_that_fails_is_quoted() -> None:
    with pytest.raises(HostError, match="could not connect") as caught:
        slirp.start("/dev/null", "tap0")
    assert "setns" in caught.value.where


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[Lab]:
    """A driver run by an ordinary user, who may open /dev/net/tun as on a distribution's system."""
    if os.geteuid():
        tmp_path.chmod(0o777)
        lab = Lab(tmp_path, "plain", "env")
    else:
        open_to_all(tmp_path)
        tmp_path.chmod(0o777)
        tun = tmp_path / "tun"
        script = f'mknod -m 666 {tun} c 10 200 && mount --bind {tun} /dev/net/tun && exec "$@"'
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        lab = Lab(tmp_path, "plain", "unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh", *user)
    yield lab
    lab.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_an_ordinary_users_container_reaches_out_and_is_reached(ordinary: Lab) -> None:
    with pytest.raises(HostError, match="ordinary user can make no bridge") as caught:
        ordinary("create", name="web")
    assert "slirp4netns" in caught.value.hint
    port = free_port()
    ordinary("begin", name="a", user=True)
    ordinary("prepare", name="a", hostname="a", network="slirp4netns")
    made = ordinary("attach", name="a", network="slirp4netns", publish=[f"{port}:80"])
    assert made["published"][0]["host_port"] == port
    assert "10.0.2.100" in ordinary("run", name="a", script="ip address show dev eth0")["output"]
    ordinary("run", name="a", script=f"exec {PEER} serve 80 hello", background=True)
    until(lambda: ordinary.local(port) == "hello")
    ordinary("begin", name="b", user=True)
    with pytest.raises(UserError, match="taken"):
        ordinary("attach", name="b", network="slirp4netns", publish=[f"{port}:80"])
    ordinary("detach", name="a")
    until(lambda: "eth0" not in ordinary("run", name="a", script="ip link")["output"])
    ordinary("close")
