"""Who looks at one node shares its looks; and a packet's way goes on through a machine's hypervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from vmcontainer_kernel.live import kernel
from vmcontainer_kernel.live.kernel import Looks
from vmcontainer_kernel.live.network import beyond


class Node:
    """Counts how often it is looked at, and for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    async def view(self, parts: Iterable[str] = (), *, live: bool = False) -> dict[str, Any]:
        self.asked.append((tuple(parts), live))
        number = len(self.asked)
        return {"number": number, "parts": {part: {"number": number} for part in parts}}


def looks(node: Node) -> Looks:
    return Looks(node)  # type: ignore[arg-type]


def test_ten_who_look_at_once_cost_one_look() -> None:
    async def ten() -> list[dict[str, Any]]:
        shared = looks(node)
        return await asyncio.gather(*(shared.view(frozenset()) for _ in range(10)))

    node = Node()
    documents = asyncio.run(ten())
    assert node.asked == [((), False)]
    assert {one["number"] for one in documents} == {1}


def test_a_part_is_asked_for_once_and_shown_to_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def three() -> list[dict[str, Any]]:
        shared = looks(node)
        first = await shared.view(frozenset())
        second = await shared.view(frozenset(["mounts"]))
        monkeypatch.setattr(kernel, "PERIOD_S", 0.0)
        return [first, second, await shared.view(frozenset(["mounts"])), await shared.view(frozenset(["no such"]))]

    node = Node()
    first, second, third, fourth = asyncio.run(three())
    assert node.asked == [((), False), (("mounts",), True), ((), True), ((), True)]
    assert "parts" not in first
    assert second["parts"] == third["parts"] == {"mounts": {"number": 2}}
    assert "parts" not in fourth


def hop(kind: str, where: str) -> dict[str, Any]:
    return {"kind": kind, "name": "x", "where": where, "out": None, "in": None}


def test_a_guests_path_goes_on_through_its_hypervisor() -> None:
    out = {
        "container": "web",
        "hops": [hop("nat", "bridges"), hop("interface", "node")],
        "published": [],
        "missing": {},
    }
    closed = {"container": "db", "hops": [hop("rules", "bridges")], "published": [], "missing": {}}
    document = {"kind": "network", "paths": [out, closed]}
    machine = {"qemu": {"pid": 7}, "networks": [{"device": "net", "mac": "52:54:00:00:00:01"}]}
    through, stays = beyond(document, machine, {"web": [{"host_port": 8080}]})["paths"]
    assert [one["kind"] for one in through["hops"]] == ["nat", "interface", "card", "usernet"]
    assert (through["hops"][2]["name"], through["hops"][3]["name"]) == ("net", "QEMU 7")
    assert set(through["missing"]) == {"hops[2].out", "hops[3].out"}
    assert through["published"] == [{"host_port": 8080}]
    assert stays == closed
    assert beyond(document, None, {})["paths"] == [out, closed]
