"""One nftables table for each network, so that all of it vanishes with one message.

    table ip vmc1234-web {
        chain forward     { type filter hook forward priority filter;
                            iifname B oifname B accept                  neighbours (where bridges pass through nft)
                            oifname B ct state established,related accept
                            oifname B drop }                            nobody else begins a conversation
        chain postrouting { type nat hook postrouting priority srcnat;
                            ip saddr SUBNET oifname != B masquerade }   unless internal
    }

An internal network has ``iifname B drop`` besides. Each rule counts what it takes (``counter``), which ``network view``
shows. Expressions are those of nft(8) as the kernel has them
(linux/netfilter/nf_tables.h): load a register, compare it, do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from vmcontainer_kernel.container.network.links import netlink_errors

__all__ = ["counts", "firewall", "sweep_tables"]

_IPV4 = 2  # NFPROTO_IPV4
_META_IIFNAME, _META_OIFNAME = 6, 7  # enum nft_meta_keys
_EQUAL, _NOT_EQUAL = 0, 1  # enum nft_cmp_ops
_DROP, _ACCEPT = 0, 1
_VERDICT_REGISTER, _REGISTER = 0, 1
_CT_STATE = 0  # enum nft_ct_keys
_ESTABLISHED_RELATED = (2 | 4).to_bytes(4, "little")  # NF_CT_STATE_BIT of enum ip_conntrack_info
_NETWORK_HEADER, _SOURCE_OFFSET = 1, 12  # NFT_PAYLOAD_NETWORK_HEADER; saddr in struct iphdr
_PRIORITY_SRCNAT = 100

Expressions = list[Any]


def firewall(interface: str, subnet: str, *, masquerade: bool) -> Callable[[], None]:
    """Make a network's table, named as its bridge; return what removes it."""
    net = ipaddress.IPv4Network(subnet)
    tables = NFTables(nfgen_family=_IPV4)
    incoming, outgoing = _name(_META_IIFNAME, interface), _name(_META_OIFNAME, interface)
    count = [genex("counter", {"attrs": [("NFTA_COUNTER_BYTES", 0), ("NFTA_COUNTER_PACKETS", 0)]})]
    rules: list[tuple[str, tuple[Expressions, ...]]] = [
        ("forward", (incoming, outgoing, count, _verdict(_ACCEPT))),
        ("forward", (outgoing, _answers(), count, _verdict(_ACCEPT))),
        ("forward", (outgoing, count, _verdict(_DROP))),
    ]
    if masquerade:
        outside = _name(_META_OIFNAME, interface, _NOT_EQUAL)
        rules += [("postrouting", (_source(net), outside, count, [genex("masq", {})]))]
    else:
        rules += [("forward", (incoming, count, _verdict(_DROP)))]
    with netlink_errors(f"firewall of {interface}"):
        tables.table("add", name=interface)
        try:
            tables.chain("add", table=interface, name="forward", hook="forward", type="filter", policy=_ACCEPT)
            if masquerade:
                nat = {"hook": "postrouting", "type": "nat", "priority": _PRIORITY_SRCNAT}
                tables.chain("add", table=interface, name="postrouting", policy=_ACCEPT, **nat)
            for chain, expressions in rules:
                tables.rule("add", table=interface, chain=chain, expressions=expressions)
        except BaseException:
            tables.table("del", name=interface)
            tables.close()
            raise
    return lambda: _remove(tables, interface)


def counts() -> dict[str, list[tuple[str, int, int]]]:
    """Return of each table in this network namespace what its rules took, in their order: chain, packets, bytes."""
    found: dict[str, list[tuple[str, int, int]]] = {}
    with netlink_errors("counters"), NFTables(nfgen_family=_IPV4) as tables:
        for rule in tables.get_rules():
            for one in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
                if one.get_attr("NFTA_EXPR_NAME") == "counter":
                    data = one.get_attr("NFTA_EXPR_DATA")
                    packets, size_bytes = (int(data.get_attr(f"NFTA_COUNTER_{what}")) for what in ("PACKETS", "BYTES"))
                    row = (str(rule.get_attr("NFTA_RULE_CHAIN")), packets, size_bytes)
                    found.setdefault(str(rule.get_attr("NFTA_RULE_TABLE")), []).append(row)
    return found


def _remove(tables: Any, name: str) -> None:
    with netlink_errors(f"firewall of {name}"):
        tables.table("del", name=name)
    tables.close()


def sweep_tables(prefix: str) -> None:
    """Remove the tables of a helper that was killed."""
    with netlink_errors("old firewalls"), NFTables(nfgen_family=_IPV4) as tables:
        for table in tables.get_tables():
            name = str(table.get_attr("NFTA_TABLE_NAME"))
            if name.startswith(prefix):
                tables.table("del", name=name)


def _data(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _compare(operator: int, value: bytes) -> Any:
    return genex("cmp", {"sreg": _REGISTER, "op": operator, "data": _data(value)})


def _mask(mask: bytes) -> Any:
    arguments = {"sreg": _REGISTER, "dreg": _REGISTER, "len": 4, "mask": _data(mask), "xor": _data(bytes(4))}
    return genex("bitwise", arguments)


def _name(key: int, interface: str, operator: int = _EQUAL) -> Expressions:
    """``iifname``, ``oifname``: 16 bytes, filled up with zeros (IFNAMSIZ)."""
    load = genex("meta", {"key": key, "dreg": _REGISTER})
    return [load, _compare(operator, interface.encode().ljust(16, b"\0"))]


def _answers() -> Expressions:
    """``ct state established,related``."""
    load = genex("ct", {"dreg": _REGISTER, "key": _CT_STATE})
    return [load, _mask(_ESTABLISHED_RELATED), _compare(_NOT_EQUAL, bytes(4))]


def _source(net: ipaddress.IPv4Network) -> Expressions:
    """``ip saddr NET``."""
    arguments = {"dreg": _REGISTER, "base": _NETWORK_HEADER, "offset": _SOURCE_OFFSET, "len": 4}
    load = genex("payload", arguments)
    return [load, _mask(net.netmask.packed), _compare(_EQUAL, net.network_address.packed)]


def _verdict(code: int) -> Expressions:
    data = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", code)]})]}
    return [genex("immediate", {"dreg": _VERDICT_REGISTER, "data": data})]
