"""What divides a process, from a folder that looks like its part of /proc: ids, rights, mounts, network, sockets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel.agent.isolation import Isolation, isolation
from vmcontainer_kernel.agent.links import network_space
from vmcontainer_kernel.agent.mounts import mount_rows, mount_spaces, overlay_of
from vmcontainer_kernel.agent.sockets import holders_of, socket_rows, socket_spaces

FILES = {
    "status": (
        "Name:\tsh\nCapEff:\t0000000000000001\nCapBnd:\t0000000080000401\n"
        "Seccomp:\t2\nSeccomp_filters:\t3\nNoNewPrivs:\t1\n"
    ),
    "uid_map": "         0       1000          1\n         1     100000      65536\n",
    "gid_map": "         0       1000          1\n",
    "setgroups": "deny\n",
    "mountinfo": (
        "22 21 0:20 / /proc rw,nosuid - proc proc rw\n"
        "23 21 0:21 /part /my\\040data ro,relatime shared:4 master:1 - ext4 /dev/vda rw\nbroken\n"
        f"24 21 0:22 / / rw - overlay overlay rw,lowerdir=/l/{'b' * 64}:/l/{'a' * 64},"
        "upperdir=/c/upper,workdir=/c/work\n"
    ),
    "timens_offsets": "monotonic           3600  500000000\nboottime             -10          0\n",
    "net/dev": (
        "Inter-|   Receive\n face |bytes\n"
        "    lo:  100  2 0 0 0 0 0 0  100  2 0 0 0 0 0 0\n"
        "  eth0: 5000 40 0 0 0 0 0 0  600 30 0 0 0 0 0 0\n"
    ),
    "net/route": (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "eth0\t00000000\t0100580A\t0003\t0\t0\t0\t00000000\n"
        "eth0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\n"
    ),
    "net/arp": (
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "10.88.0.1        0x1         0x2         02:76:0a:58:00:01     *        eth0\n"
    ),
    "net/fib_trie": (
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.88.0.7\n        /32 host LOCAL\n"
        "     |-- 10.88.255.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "     |-- 10.88.0.7\n        /32 host LOCAL\n"
    ),
    "net/if_inet6": "fe80000000000000000000fffe000001 02 40 20 80 eth0\n",
    "net/tcp": (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 700 1\n"
        "   1: 0700580A:0050 0800580A:9C40 01 00000010:00000002 00:00000000 00000000  0 0 701 1\n"
    ),
    "net/tcp6": "  sl  local\n   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A "
    "00000000:00000000 00:00000000 00000000  0 0 702 1\n",
    "net/unix": (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "00000000: 00000002 00000000 00010000 0001 01 12345 /run/a socket\n"
        "00000000: 00000003 00000000 00000000 0001 03 12346\n"
    ),
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_ids_capabilities_and_filter(proc: Path) -> None:
    row = isolation(7, str(proc))
    assert row is not None
    assert row["uid_map"][1] == {"inside": 1, "outside": 100000, "count": 65536}
    assert row["groups_denied"] is True
    assert row["capabilities"] == {
        "effective": ["CHOWN"],
        "permitted": [],
        "inheritable": [],
        "bounding": ["CHOWN", "NET_BIND_SERVICE", "SETFCAP"],
        "ambient": [],
    }
    assert (row["seccomp"], row["seccomp_filters"], row["no_new_privs"]) == ("filter", 3, True)
    assert row["time_offsets"] == {"monotonic": 3600.5, "boottime": -10}


def test_rows_are_the_nodes_own_and_one_for_each_container(proc: Path) -> None:
    containers = [{"name": "web", "pid": 7}, {"name": "gone", "pid": 8}, {"name": "old", "pid": None}]
    filters = {"web": {"open": 300}}
    rows = Isolation(str(proc)).rows("host", 7, containers[1:], {}, {})
    assert [(row["name"], row["container"], row["filter"]) for row in rows] == [("host", None, None)]
    rows = Isolation(str(proc)).rows("host", 9, containers, filters, {})
    assert [(row["name"], row["container"], row["filter"]) for row in rows] == [("web", "web", {"open": 300})]


def test_a_row_is_read_again_when_another_program_runs(proc: Path) -> None:
    rows, status = Isolation(str(proc)), proc / "7/status"
    seen: list[bool] = []
    for command in ("agent", "agent", "sh", "sh", "sh", "sh", "sh", "sh", "sh"):
        seen.append(rows.rows("host", 7, [], {}, {7: command})[0]["no_new_privs"])
        status.write_text("Name:\tsh\nNoNewPrivs:\t0\n")
    assert seen == [True, True, False, False, False, False, False, False, False]


def test_mounts(proc: Path) -> None:
    rows = mount_rows((proc / "7/mountinfo").read_text())
    assert rows[1] == {
        "id": "23",
        "parent": "21",
        "point": "/my data",
        "type": "ext4",
        "source": "/dev/vda",
        "options": "ro,relatime",
        "root": "/part",
        "propagation": "shared:4 master:1",
    }
    assert len(rows) == 3


def test_layers_and_who_shares_them(proc: Path) -> None:
    other = proc / "8/mountinfo"
    other.parent.mkdir()
    other.write_text(f"9 1 0:22 / / rw - overlay overlay rw,lowerdir=/l/{'a' * 64},upperdir=/d/upper,workdir=/d/work\n")
    spaces = mount_spaces([("host", None, 6), ("web", "web", 7), ("db", "db", 8)], str(proc))["spaces"]
    assert [(space["name"], space["total"]) for space in spaces] == [("host", 0), ("web", 3), ("db", 1)]
    overlay = spaces[1]["mounts"][2]["overlay"]
    assert (overlay["upper"], overlay["work"], overlay["volatile"]) == ("/c/upper", "/c/work", False)
    assert overlay["lower"] == [
        {"path": f"/l/{'b' * 64}", "digest": f"sha256:{'b' * 64}", "shared_with": []},
        {"path": f"/l/{'a' * 64}", "digest": f"sha256:{'a' * 64}", "shared_with": ["db"]},
    ]


@pytest.mark.parametrize(
    ("options", "lower", "upper"),
    [
        (r"rw,lowerdir=/a\:b:/c\,d,upperdir=/u,workdir=/w,volatile", ["/a:b", "/c,d"], "/u"),
        ("ro,lowerdir+=/a,lowerdir+=/b", ["/a", "/b"], None),
        ("rw,lowerdir=/a,upperdir=/u,workdir=/w,uuid=on,fsync=volatile", ["/a"], "/u"),
        (r"rw,lowerdir=/a\134:b\054c,upperdir=/u\040v", ["/a:b,c"], "/u v"),
        ("rw", [], None),
    ],
)
def test_overlay_options(options: str, lower: list[str], upper: str | None) -> None:
    found = overlay_of(options)
    assert ([one["path"] for one in found["lower"]], found["upper"]) == (lower, upper)
    assert found["volatile"] == options.endswith("volatile")


def test_links_with_their_addresses(proc: Path) -> None:
    space = network_space(7, str(proc))
    links = space["links"]
    assert [(link["name"], link["addresses"]) for link in links] == [
        ("lo", ["127.0.0.1"]),
        ("eth0", ["10.88.0.7", "fe80::ff:fe00:1"]),
    ]
    assert (links[1]["received_bytes"], links[1]["sent_packets"]) == (5000, 30)
    assert space["routes"] == [
        {"to": "default", "gateway": "10.88.0.1", "interface": "eth0", "metric": 0},
        {"to": "10.88.0.0/16", "gateway": None, "interface": "eth0", "metric": 0},
    ]
    assert space["neighbours"] == [{"address": "10.88.0.1", "mac": "02:76:0a:58:00:01", "interface": "eth0"}]


def test_sockets(proc: Path) -> None:
    rows = socket_rows(str(proc / "7/net"))
    assert [(row["protocol"], row["local"], row["remote"], row["state"], row["inode"]) for row in rows] == [
        ("tcp", "0.0.0.0:80", "0.0.0.0:0", "listening", 700),
        ("tcp", "10.88.0.7:80", "10.88.0.8:40000", "established", 701),
        ("tcp6", "[::1]:8080", "[::]:0", "listening", 702),
        ("unix", "/run/a socket", "", "listening", 12345),
    ]
    assert [(row["unsent_bytes"], row["unread_bytes"]) for row in rows[1:]] == [(16, 2), (0, 0), (None, None)]


def test_who_holds_a_socket(proc: Path) -> None:
    folder = proc / "7/fd"
    folder.mkdir()
    (folder / "3").symlink_to("socket:[701]")
    (folder / "4").symlink_to("pipe:[702]")
    (folder / "5").symlink_to("/dev/null")
    assert holders_of([7, 8], str(proc)) == {701: [7]}
    space = socket_spaces([("web", "web", 7, [7])], str(proc))["spaces"][0]
    assert ([row["pids"] for row in space["sockets"]], space["total"]) == ([[], [7], [], []], 4)
    assert "inode" not in space["sockets"][0]


def test_this_process_is_described_by_the_live_kernel() -> None:
    row: Any = isolation(os.getpid())
    assert len(row["capabilities"]["bounding"]) >= len(row["capabilities"]["effective"]) - 1
    assert any(mount["point"] == "/" for mount in mount_rows(Path("/proc/self/mountinfo").read_text()))
    links = network_space(os.getpid())["links"]
    assert "127.0.0.1" in next(link["addresses"] for link in links if link["name"] == "lo")
    assert isolation(2**22 + 1) is None
