"""The way of a packet, hop by hop, from what the kernel would say."""

from __future__ import annotations

from typing import Any

from vmcontainer_kernel.agent.paths import Surroundings, closed_path, path_of


def link(out: int, back: int) -> dict[str, Any]:
    return {"sent_packets": out, "sent_bytes": 100 * out, "received_packets": back, "received_bytes": 100 * back}


def packets(hop: dict[str, Any]) -> tuple[Any, Any]:
    ways: Any = [hop[way] and hop[way]["packets"] for way in ("out", "in")]
    return ways[0], ways[1]


RULES = [("forward", 0, 0), ("forward", 6, 600), ("forward", 2, 80), ("postrouting", 1, 60)]
ENDPOINT = {
    "container": "web",
    "network": "bridge",
    "ip": "172.28.0.2",
    "mac": "02:76:ac:1c:00:02",
    "gateway": "172.28.0.1",
    "interface": "eth0",
    "peer": "vmc1v0",
    "published": [{"host_ip": "127.0.0.1", "host_port": 8080, "port": 80, "protocol": "tcp"}],
}
NETWORK = {"interface": "vmc1-bridge", "subnet": "172.28.0.0/24", "gateway": "172.28.0.1", "internal": False}
PLACE = {"vmc1v0": link(5, 7), "vmc1-bridge": link(5, 7), "uplink0": link(7, 5)}
COUNTS = {
    "rules": {"vmc1-bridge": RULES},
    "ports": {"tcp 127.0.0.1:8080": {"conversations": 3, "in_bytes": 30, "out_bytes": 300}},
}


def about(*, guest: bool = False) -> Surroundings:
    place = {"vmc1v0": link(5, 7), "vmc1-bridge": link(5, 7), **({} if guest else {"uplink0": link(7, 5)})}
    return Surroundings(guest=guest, place=place, node={"enp0s2": link(9, 8)}, way_out="enp0s2", counts=COUNTS)


def test_from_a_container_of_a_host_to_the_world() -> None:
    path = path_of(ENDPOINT, NETWORK, {"eth0": link(7, 5)}, about())
    assert [(hop["kind"], hop["name"], *packets(hop)) for hop in path["hops"]] == [
        ("interface", "eth0", 7, 5),
        ("veth", "vmc1v0", 7, 5),
        ("bridge", "vmc1-bridge", 7, 5),
        ("rules", "vmc1-bridge", None, 6),
        ("nat", "172.28.0.0/24", 1, None),
        ("tap", "uplink0", 7, 5),
        ("program", "slirp4netns", None, None),
        ("sockets", "", None, None),
    ]
    assert path["hops"][3]["refused"]["packets"] == 2
    assert path["published"] == [{**ENDPOINT["published"][0], "conversations": 3, "in_bytes": 30, "out_bytes": 300}]  # type: ignore[dict-item,index]


def test_in_a_guest_the_way_out_is_its_own_card() -> None:
    path = path_of(ENDPOINT, NETWORK, {"eth0": link(7, 5)}, about(guest=True))
    assert [hop["kind"] for hop in path["hops"]][-2:] == ["nat", "interface"]
    assert (path["hops"][-1]["name"], *packets(path["hops"][-1])) == ("enp0s2", 9, 8)


def test_an_internal_network_has_no_way_out() -> None:
    rules = [*RULES[:3], ("forward", 4, 240)]
    surroundings = about()
    surroundings.counts = {"rules": {"vmc1-bridge": rules}}
    path = path_of(ENDPOINT, {**NETWORK, "internal": True}, {"eth0": link(7, 5)}, surroundings)
    assert [hop["kind"] for hop in path["hops"]] == ["interface", "veth", "bridge", "rules"]
    assert path["hops"][-1]["refused"]["packets"] == 4
    assert path["published"][0]["conversations"] is None


def test_a_machine_is_plugged_in_by_a_tap() -> None:
    path = path_of(ENDPOINT, NETWORK, {}, about())
    assert [hop["kind"] for hop in path["hops"]][:3] == ["interface", "tap", "bridge"]
    assert packets(path["hops"][0]) == (None, None)
    assert "hypervisor" in path["missing"]["hops[0].out"]


def test_an_ordinary_users_container() -> None:
    path = path_of({**ENDPOINT, "network": "slirp4netns", "peer": ""}, None, {"eth0": link(7, 5)}, about())
    assert [hop["kind"] for hop in path["hops"]] == ["interface", "program", "sockets"]
    assert "counts nothing" in path["missing"]["hops[].out"]


def test_a_container_without_a_network_says_why() -> None:
    assert "only lo" in closed_path("web", "none")["missing"]["hops"]
    assert "nothing in between" in closed_path("web", "host")["missing"]["hops"]
    assert "container:db" in closed_path("web", "container:db")["missing"]["hops"]
