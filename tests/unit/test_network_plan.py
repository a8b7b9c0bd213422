"""Networks as values: ports, names, subnets, addresses and operations; nothing here touches a kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcontainer_kernel.container.network import names, plan, proxy, slirp
from vmcontainer_kernel.container.network.holders import holder_of
from vmcontainer_kernel.container.network.plan import Endpoint, Subnet
from vmcontainer_kernel.container.publish import Publish, read_publish
from vmcontainer_kernel.errors import HostError, SpecError, UserError

ROUTES = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	0002A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", Publish(80)),
        ("8080:80", Publish(80, 8080)),
        ("8080:80/udp", Publish(80, 8080, protocol="udp")),
        ("0.0.0.0:8080:80", Publish(80, 8080, "0.0.0.0")),
        ("127.0.0.1::80/tcp", Publish(80)),
        ("[::1]:8080:80", Publish(80, 8080, "::1")),
        ("0:80", Publish(80)),
    ],
)
def test_ports_are_read_as_docker_reads_them(text: str, expected: Publish) -> None:
    assert read_publish(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no port"),
        ("0", "no port from 1"),
        ("70000", "no port"),
        ("8080:", "no port"),
        (":80", "the host's port is missing"),
        ("8080:80/sctp", "neither tcp nor udp"),
        ("80/", "neither tcp nor udp"),
        ("localhost:8080:80", "no IP address"),
        ("1.2.3:8080:80", "no IP address"),
        (":8080:80", "the host's address is missing"),
        ("8080-8090:80", "no port"),
        ("-1:80", "no port"),
        ("٣:80", "no port"),
        ("80 ", "no port"),
    ],
)
def test_a_wrong_port_is_an_error_that_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        read_publish(text)
    assert caught.value.where == "publish"


@given(st.text(alphabet="0123456789:/.[]tcpud \n") | st.text())
def test_any_text_is_a_port_or_an_error(text: str) -> None:
    try:
        port = read_publish(text)
    except SpecError:
        return
    assert 1 <= port.container_port <= 65535
    assert 0 <= port.host_port <= 65535


def test_routes_are_read_and_the_default_route_reserves_nothing() -> None:
    assert plan.routes_of(ROUTES) == [(Subnet("192.168.2.0/24"), "eth0")]


def test_a_network_without_a_subnet_gets_the_first_free_one() -> None:
    taken = [(Subnet("172.28.0.0/23"), "eth0")]
    assert plan.make_network("s", "web", "", taken).subnet == Subnet("172.28.2.0/24")
    with pytest.raises(UserError, match="in use"):
        plan.make_network("s", "web", "", [(Subnet("172.16.0.0/12"), "eth0")])


@pytest.mark.parametrize(
    ("subnet", "problem"),
    [
        ("10.0.0.0/33", "subnet"),
        ("10.0.0.1/24", "host bits"),
        ("fd00::/64", "subnet"),
        ("127.0.0.0/24", "cannot have these"),
        ("224.0.0.0/24", "cannot have these"),
        ("169.254.1.0/24", "cannot have these"),
        ("10.0.0.0/30", "cannot have these"),
        ("0.0.0.0/0", "cannot have these"),
        ("192.168.2.128/25", "overlaps 192.168.2.0/24, used by eth0"),
        ("x", "subnet"),
    ],
)
def test_a_subnet_that_cannot_be_is_refused(subnet: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        plan.make_network("s", "web", subnet, plan.routes_of(ROUTES))
    assert caught.value.where == "subnet"


@pytest.mark.parametrize("name", ["", "host", "none", "slirp4netns", "-x", "a b", "a/b", "..", "é", "a\n", "x" * 64])
def test_a_network_cannot_have_every_name(name: str) -> None:
    with pytest.raises(UserError, match="network's name"):
        plan.make_network("s", name, "", [])


@given(st.text(alphabet="abcABC019_.-", min_size=1, max_size=63), st.text(min_size=1))
def test_interfaces_have_names_that_the_kernel_takes_and_a_sweep_knows(name: str, session: str) -> None:
    try:
        network = plan.make_network(session, name, "", [])
    except UserError:
        return
    assert len(network.interface) <= 15
    assert network.interface.startswith(plan.interface_prefix(session))
    assert not set(network.interface) & set(" /:")


def test_networks_of_different_names_and_sessions_have_different_interfaces() -> None:
    listed = ["web", "Web", "WEB", "w.eb", "averylongname1", "averylongname2"]
    made = {plan.make_network(session, name, "", []).interface for name in listed for session in ("s", "t")}
    assert len(made) == 12


def test_addresses_are_given_in_order_and_run_out() -> None:
    network = plan.make_network("s", "web", "10.1.2.0/29", [])
    taken: list[str] = []
    for last in range(2, 7):
        ip, mac = plan.choose_address(network, taken)
        assert (ip, mac) == (f"10.1.2.{last}", f"02:76:0a:01:02:0{last}")
        taken.append(ip)
    with pytest.raises(HostError, match="no address left"):
        plan.choose_address(network, taken)


@pytest.mark.parametrize(
    "alias", ["", "a b", "a\n6.6.6.6 b", "-a", "a-", "a..b", "localhost", "LocalHost", "x" * 64, "#"]
)
def test_an_alias_is_a_host_name(alias: str) -> None:
    with pytest.raises(UserError, match="host's name"):
        plan.check_host_name(alias, "network-alias")


def endpoint(name: str, last: int, *, aliases: tuple[str, ...] = (), published: tuple[Publish, ...] = ()) -> Endpoint:
    ip = f"10.1.2.{last}"
    return Endpoint(name, "web", ip, "02:76:0a:01:02:02", "10.1.2.1", "eth0", "vmcv0", aliases, published)


def test_each_operation_says_what_it_does_and_can_be_sent() -> None:
    network = plan.make_network("s", "web", "10.1.2.0/24", [])
    operations = [
        *plan.place_operations("s", guest=False, uplink="up"),
        *plan.place_operations("s", guest=True, uplink="up"),
        *plan.create_operations("s", network),
        *plan.attach_operations(network, endpoint("app", 2, published=(Publish(80, 8080),)), first=True),
        *plan.slirp_operations(endpoint("app", 2, published=(Publish(80, 8080),)), 7),
        *plan.tap_operations(network, endpoint("vm", 3)),
    ]
    found = [one.name for one in operations]
    assert found == ["switch", "uplink", "forwarding", "bridge", "firewall", "listen", "link", "slirp", "tap"]
    for one in operations:
        assert all(one.describe().values()), one
        assert json.loads(json.dumps(one.request())) == one.request()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_has_a_port_is_told(protocol: str) -> None:
    with proxy.bind(protocol, "127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        own = Path("/proc/self/comm").read_text().strip()
        with pytest.raises(UserError, match=rf"taken on this node: {own} \(process {os.getpid()}\)") as told:
            proxy.bind(protocol, "127.0.0.1", port)
    assert "0 takes any free one" in told.value.hint
    assert holder_of(protocol, port) == ""


def test_another_users_program_is_told_by_its_user(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    lines = [
        "0: 0100007F:1F90 00000000:0000 06 0:0 00:0 0 1000 0 55 1",
        "1: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 56 1",
    ]
    (tmp_path / "net/tcp").write_text(head + "\n".join(lines) + "\n")
    assert holder_of("tcp", 8080, tmp_path) == "a program of user root"
    assert holder_of("tcp", 8081, tmp_path) == holder_of("udp", 8080, tmp_path) == ""


def test_a_port_is_taken_before_anything_is_made_that_would_have_to_be_undone() -> None:
    network = plan.make_network("s", "web", "", [])
    made = plan.attach_operations(network, endpoint("app", 2, published=(Publish(80), Publish(81))), first=True)
    assert [one.name for one in made] == ["listen", "listen", "link"]


def test_only_the_first_network_that_leads_out_is_the_default_route() -> None:
    outer, inner = plan.make_network("s", "web", "", []), plan.make_network("s", "db", "", [], internal=True)
    gateways = [
        plan.attach_operations(network, endpoint("app", 2), first=first)[-1].arguments["gateway"]
        for network, first in ((outer, True), (outer, False), (inner, True))
    ]
    assert gateways == ["10.1.2.1", "", ""]


def test_hosts_names_oneself_and_neighbours() -> None:
    text = names.hosts_text("app-host", [endpoint("app", 2)], [endpoint("db", 3, aliases=("sql", "db"))])
    assert text.splitlines()[2:] == ["10.1.2.2 app-host app", "10.1.2.3 db sql"]
    assert names.hosts_text("a", [], [], [("1.2.3.4", "other")]).splitlines()[-1] == "1.2.3.4 other"
    assert names.hosts_text("alone", [], []).splitlines()[-1] == "127.0.1.1 alone"


def test_a_container_with_a_name_that_is_no_hosts_takes_nobodys_traffic() -> None:
    others = [endpoint("localhost", 3), endpoint("web-", 4, aliases=("web",)), endpoint("LOCALHOST", 5)]
    assert names.hosts_text("app", [], others).splitlines()[3:] == ["10.1.2.4 web"]


def test_a_missing_slirp4netns_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(HostError, match="not installed") as caught:
        slirp.start("/proc/self/ns/net", "tap0")
    assert "apt-get install slirp4netns" in caught.value.hint
