"""What divides a process, from a folder that looks like its part of /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmcontainer_kernel.agent.isolation import isolation, isolations

FILES = {
    "status": "Name:\tsh\nCapEff:\t0000000000000001\nCapBnd:\t0000000080000401\nSeccomp:\t2\nNoNewPrivs:\t1\n",
    "uid_map": "         0       1000          1\n         1     100000      65536\n",
    "gid_map": "         0       1000          1\n",
    "setgroups": "deny\n",
    "mountinfo": (
        "22 21 0:20 / /proc rw,nosuid - proc proc rw\n"
        "23 21 0:21 /part /my\\040data ro,relatime shared:4 master:1 - ext4 /dev/vda rw\nbroken\n"
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
    "net/fib_trie": (
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.88.0.7\n        /32 host LOCAL\n"
        "     |-- 10.88.255.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "     |-- 10.88.0.7\n        /32 host LOCAL\n"
    ),
    "net/if_inet6": "fe80000000000000000000fffe000001 02 40 20 80 eth0\n",
    "net/tcp": (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000:0050 00000000:0000 0A 00000000:00000000\n"
        "   1: 0700580A:0050 0800580A:9C40 01 00000000:00000000\n"
    ),
    "net/tcp6": "  sl  local\n   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0\n",
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
    row = isolation(7, proc)
    assert row is not None
    assert row["uid_map"][1] == {"inside": 1, "outside": 100000, "count": 65536}
    assert row["groups_denied"] is True
    assert row["capabilities"] == {"effective": ["CHOWN"], "bounding": ["CHOWN", "NET_BIND_SERVICE", "SETFCAP"]}
    assert (row["seccomp"], row["no_new_privs"]) == ("filter", True)
    assert row["time_offsets"] == {"monotonic": 3600.5, "boottime": -10}


def test_mounts(proc: Path) -> None:
    row = isolation(7, proc)
    assert row is not None
    assert row["mounts"][1] == {"point": "/my data", "type": "ext4", "options": "ro,relatime", "root": "/part"}
    assert row["mounts_total"] == 2


def test_links_with_their_addresses(proc: Path) -> None:
    row = isolation(7, proc)
    assert row is not None
    assert [(link["name"], link["addresses"]) for link in row["links"]] == [
        ("lo", ["127.0.0.1"]),
        ("eth0", ["10.88.0.7", "fe80::ff:fe00:1"]),
    ]
    assert row["links"][1]["received_bytes"] == 5000
    assert row["links"][1]["sent_packets"] == 30


def test_sockets(proc: Path) -> None:
    row = isolation(7, proc)
    assert row is not None
    assert row["sockets"] == [
        {"protocol": "tcp", "local": "0.0.0.0:80", "remote": "0.0.0.0:0", "state": "listening"},
        {"protocol": "tcp", "local": "10.88.0.7:80", "remote": "10.88.0.8:40000", "state": "established"},
        {"protocol": "tcp6", "local": "[::1]:8080", "remote": "[::]:0", "state": "listening"},
        {"protocol": "unix", "local": "/run/a socket", "remote": "", "state": "listening"},
    ]


def test_a_host_keeps_its_sockets_to_itself(proc: Path) -> None:
    containers = [{"name": "web", "pid": 7}, {"name": "gone", "pid": 8}, {"name": "old", "pid": None}]
    rows = isolations("host", 7, containers, shared=True, proc=proc)
    assert [(row["name"], row["container"], row["sockets_total"]) for row in rows] == [
        ("host", None, None),
        ("web", "web", 4),
    ]
    assert rows[0]["sockets"] == []


def test_this_process_is_described_by_the_live_kernel() -> None:
    row = isolation(os.getpid())
    assert row is not None
    assert any(mount["point"] == "/" for mount in row["mounts"])
    assert "127.0.0.1" in next(link["addresses"] for link in row["links"] if link["name"] == "lo")
    assert isolation(2**22 + 1) is None
