"""``%container network``: networks of containers on a node; they end with the notebook."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from ..display import Table
from ..errors import UserError
from ..messages import language
from ..session import Session
from .nodes import ask, default_node_name
from .words import ON, Argument, Words, flag, nearest, option, word

__all__ = ["ACTIONS", "ARGUMENTS", "run"]


def _ls(session: Session, given: Words) -> Table:
    found = ask(session, given, "network.list")["networks"]
    rows = [(one["name"], one["driver"], one["subnet"], one["gateway"], one["interface"]) for one in found]
    head = ("network", "kind", "addresses", "way out", "interface")
    return Table(head, rows, "no networks: a container has none, host, or one made by %container network create")


def _create(session: Session, given: Words) -> None:
    ask(session, given, "network.create", name=_name(given), subnet=given.subnet or "", internal=given.internal)


def _inspect(session: Session, given: Words) -> dict[str, Any]:
    return ask(session, given, "network.inspect", name=_name(given))


def _view(session: Session, given: Words) -> Any:
    from ..live import network_view

    return network_view(session, given.on or default_node_name(), language())


def _rm(session: Session, given: Words) -> None:
    ask(session, given, "network.remove", name=_name(given))


def _connect(session: Session, given: Words) -> Table:
    if not given.machine:
        raise UserError(
            "%container network connect puts a machine into a network of the host's containers: which one?",
            hint="as in: %container network connect lan vm; a container is made in its network: --network lan",
        )
    card = session.wait(_plug(session, _name(given), given.machine))
    row = (given.machine, _name(given), f"{card['ip']}/{card['prefix_length']}", card["interface"])
    return Table(("machine", "network", "address", "interface"), [row])


async def _plug(session: Session, network: str, name: str) -> dict[str, Any]:
    """Have the host make a card, plug it into the machine, and let the guest use it."""
    guest, host = session.machines.guest(name), await session.host()
    if any(one["name"] == name for one in (await host.call("container.list"))["containers"]):
        raise UserError(f"there is a container {name} too, and in a network a name means one", hint="remove it first")
    session.lans.check_slot(guest)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = host.start("network.connect", {"network": network, "machine": name}, fds=[theirs.fileno()])
        card = await made.done
        _, [cable], _, _ = socket.recv_fds(ours, 1, 1)
    guest.cabled = True
    try:
        await guest.machine.plug_card(cable, card["mac"])
        joined = await guest.node.call("join", mac=card["mac"], address=f"{card['ip']}/{card['prefix_length']}")
        await guest.node.put(card["hosts"].encode(), "/etc/hosts")
    except BaseException:
        host.start("network.disconnect", {"machine": name})
        raise
    finally:
        os.close(cable)
    return {**card, **joined}


def _name(given: Words) -> str:
    if not given.name:
        raise UserError(f"%container network {given.action} needs a name", hint="%container network ls shows them")
    return str(given.name)


ACTIONS: dict[str, Callable[[Session, Words], Any]] = {
    "ls": _ls,
    "create": _create,
    "inspect": _inspect,
    "view": _view,
    "rm": _rm,
    "connect": _connect,
}
ARGUMENTS: tuple[Argument, ...] = (
    word("action", " ".join(ACTIONS), needed=False),
    word("name", "the network", needed=False),
    word("machine", "with connect: the machine that gets a card in it", needed=False),
    ON,
    option("--subnet", metavar="ADDRESS/BITS", help="with create: its addresses, as 10.9.0.0/24"),
    flag("--internal", help="with create: no way out"),
)


def run(session: Session, given: Words, _language: str) -> Any:
    """Carry out ``%container network ACTION [NAME]``."""
    return nearest(ACTIONS, given.action or "ls", "%container network")(session, given)
