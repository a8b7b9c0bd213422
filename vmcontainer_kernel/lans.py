"""Private networks of this session's machines: a switch, addresses, names. Nothing of it needs root.

    join("web", "lab") ─▶ a switch for `lab`, if there is none (vm/switch.py, a child of the supervisor)
                       ─▶ a cable: QEMU plugs in a card at one end, the switch has the other
                       ─▶ the guest gives the card its address, and every member's /etc/hosts names them all

They reach each other and nothing else; a frame leaves the switch only for a card on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .errors import LabError, UserError
from .guests import Guest
from .machines import Machines
from .node import Node, Spawned

__all__ = ["MODES", "Lan", "Lans", "Member"]

MODES: Final = ("none", "user")
"""Words of ``--network`` that are no network's name."""
_POOL: Final = ipaddress.IPv4Network("172.29.0.0/16")  # beside the one that networks of containers have
_PREFIX: Final = 24
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass
class Member:
    """A machine's card in a network."""

    guest: Guest
    address: str
    mac: str
    interface: str = ""

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.guest.machine.config.name

    @property
    def there(self) -> bool:
        """Whether the machine still runs."""
        return not (self.guest.machine.gone.is_set() or self.guest.lost)


@dataclass
class Lan:
    """One network: its addresses, its switch, and who is in it."""

    name: str
    subnet: ipaddress.IPv4Network
    control: socket.socket
    process: Spawned
    members: list[Member] = field(default_factory=list)
    given: int = 0

    def next_address(self) -> str:
        """Return an address that nobody had before; raises UserError when there is none left."""
        self.given += 1
        if self.given >= self.subnet.num_addresses - 1:
            raise UserError(f"network {self.name} has no address left", hint="use another network's name")
        return str(self.subnet[self.given])

    def hosts(self) -> str:
        """Return the members' /etc/hosts."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        return "\n".join([*lines, *(f"{one.address} {one.name}" for one in self.members if one.there)]) + "\n"


class Lans:
    """The private networks of a session, on its event loop."""

    def __init__(self, machines: Machines, host: Callable[[], Awaitable[Node]], folder: Path) -> None:
        """`host` gives the host's node, which starts the switches; `folder` takes their logs."""
        self._machines, self._host, self._folder = machines, host, folder
        self._lans: dict[str, Lan] = {}
        self._changing = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()

    def all(self) -> list[Lan]:
        """Return the networks, with the members that are there."""
        for lan in self._lans.values():
            lan.members = [one for one in lan.members if one.there]
        return list(self._lans.values())

    async def join(self, name: str, network: str) -> Member:
        """Give a machine a card in a network, which is made if there is none; nothing happens if it has it already.

        Raises UserError for a machine that cannot take one more card.
        """
        async with self._changing:
            guest = self._machines.guest(name)
            if member := self._member(guest, network):
                return member
            self.check_slot(guest)
            if not guest.machine.config.network:
                raise UserError(f"machine {name} was made with --network none", hint="use another machine")
            if guest.paused:
                raise UserError(f"machine {name} is paused: its guest cannot take part", hint=f"%vm resume {name}")
            lan = await self._lan(network)
            member = await self._plug(guest, lan)
            guest.again.append(lambda: self._tell(member, lan))
            return member

    def _member(self, guest: Guest, network: str) -> Member | None:
        found = (one for lan in self.all() if lan.name == network for one in lan.members)
        return next((one for one in found if one.guest is guest), None)

    def check_slot(self, guest: Guest) -> None:
        """Raise UserError if a machine has a second card already."""
        there = [lan.name for lan in self.all() if self._member(guest, lan.name)]
        if there or guest.cabled:
            raise UserError(
                f"machine {guest.machine.config.name} is in a network already, and has one slot for a card",
                where=there[0] if there else "a network of containers",
                hint="put the others into that network, or use another machine",
            )

    async def _lan(self, name: str) -> Lan:
        found = self._lans.get(name)
        if found and found.process.alive:
            return found
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} cannot be a network's name", hint="use letters, digits, '-', '_' and '.'")
        subnet = next(one for one in _POOL.subnets(new_prefix=_PREFIX) if all(one != lan.subnet for lan in self.all()))
        ours, theirs = socket.socketpair()
        with theirs:
            from .vm.qemu import FIRST_FD

            program = Path(__file__).parent / "vm" / "switch.py"
            argv = [sys.executable, "-S", "-I", str(program), str(FIRST_FD)]
            log = self._folder / f"switch-{name}.log"
            process = await (await self._host()).spawn(argv, fds=[theirs.fileno()], log=log)
        self._lans[name] = Lan(name, subnet, ours, process)
        return self._lans[name]

    async def _plug(self, guest: Guest, lan: Lan) -> Member:
        from .vm.template import fresh_mac

        member = Member(guest, lan.next_address(), fresh_mac())
        switch, card = socket.socketpair()
        with switch, card:
            socket.send_fds(lan.control, [b"c"], [switch.fileno()])
            await guest.machine.plug_card(card.fileno(), member.mac, kind="socket")
        lan.members.append(member)
        try:
            await self._tell(member, lan)
        except BaseException:
            lan.members.remove(member)
            raise
        return member

    async def _tell(self, member: Member, lan: Lan) -> None:
        """Have a guest use its card, and all of the network know its name."""
        address = f"{member.address}/{_PREFIX}"
        joined = await member.guest.node.call("join", mac=member.mac, address=address)
        member.interface = str(joined["interface"])
        hosts = lan.hosts().encode()
        await member.guest.node.put(hosts, "/etc/hosts")
        for other in lan.members:
            if other is not member and other.there:
                # Not waited for: one that is paused hears of it when it goes on.
                task = asyncio.create_task(_put(other.guest.node, hosts))
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)

    def close(self) -> None:
        """End the switches."""
        for lan in self._lans.values():
            lan.control.close()
        self._lans.clear()


async def _put(node: Node, hosts: bytes) -> None:
    with contextlib.suppress(LabError):  # it has ended meanwhile
        await node.put(hosts, "/etc/hosts")
