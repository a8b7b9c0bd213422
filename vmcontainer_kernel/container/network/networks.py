"""The networks of a node: what the runtime calls. Plans here, effects in the helper.

    Networks.create("web")                          Networks.attach("app", pid, "web", publish=[…])
        plan ─▶ operations ─▶ Client ──socket──▶ Helper (process): bridge, firewall │ cable, ports
        names ─▶ /etc/hosts of every member

Three places: on a host as root the bridges live in a network namespace of the helper's own, whose way out is
slirp4netns, so the host itself is never changed; in a guest they live in the guest's own; an ordinary user has no
bridges, only ``slirp4netns`` for each container.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmcontainer_kernel.container.files import remove_tree
from vmcontainer_kernel.container.network import names, plan, slirp
from vmcontainer_kernel.container.network.client import Client
from vmcontainer_kernel.container.network.plan import Endpoint, Network, Operation
from vmcontainer_kernel.container.publish import Publish
from vmcontainer_kernel.container.record import Record
from vmcontainer_kernel.errors import ContainerError, HostError, NotFound, UserError

__all__ = ["DEFAULT", "SLIRP", "Networks"]

DEFAULT = "bridge"
"""The network that is made when a container first asks for it."""

SLIRP = "slirp4netns"
_UPLINK = "uplink0"


class _Member(Record):
    """A container as its networks know it."""

    hostname: str
    endpoints: tuple[Endpoint, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()


class Networks:
    """The networks of one session on one node.

    `run_dir`: holds ``network/`` with each container's files. `guest`: the node's own network namespace is used.
    """

    def __init__(self, run_dir: Path, *, session: str, guest: bool = False) -> None:
        self._folder = Path(run_dir) / "network"
        self._session, self.guest = session, guest
        self._rootless = os.geteuid() != 0
        self._client: Client | None = None
        self._networks: dict[str, Network] = {}
        self._members: dict[str, _Member] = {}
        self._made: set[str] = set()  # of what all networks share
        self._forwarding = ""  # the guest's own setting, before there was a network
        self._count = 0

    # -- networks

    def create(self, name: str, *, subnet: str = "", internal: bool = False) -> dict[str, Any]:
        """Make a network; raises `UserError` for its name or subnet, `HostError` where this node can have none."""
        network = self._new(name, subnet, internal=internal)
        self._make(network)
        return self.inspect(name)

    def remove(self, name: str) -> None:
        """Remove a network that no container is in."""
        network = self._get(name)
        members = [one.container for one in self._endpoints(name)]
        if members:
            hint = f"remove them first: %container rm {' '.join(members)}"
            raise UserError(f"network {name} is in use by {', '.join(members)}", hint=hint)
        self._undo([network.owner])
        self._networks.pop(name, None)
        if not self._networks and not any(member.endpoints for member in self._members.values()):
            self._stop()

    def list(self) -> Sequence[dict[str, Any]]:
        """Return all networks, oldest first: name, driver, subnet, gateway, interface, internal."""
        return [network.describe() for network in self._networks.values()]

    def inspect(self, name: str) -> dict[str, Any]:
        """Return one network and the containers in it; raises `NotFound`."""
        return self._get(name).describe() | {"containers": [one.describe() for one in self._endpoints(name)]}

    @property
    def helper_pid(self) -> int | None:
        """The process that makes networks; None while there are none."""
        return None if self._client is None or self._client.lost else self._client.pid

    @property
    def place_pid(self) -> int | None:
        """The process in whose network namespace the bridges are; None while there are none, or in the node's own."""
        return None if self.guest or self._rootless else self.helper_pid

    def endpoints(self) -> Sequence[dict[str, Any]]:
        """Return everybody's place in every network, as `attach` did."""
        return [one.describe() for member in self._members.values() for one in member.endpoints]

    def counts(self) -> dict[str, Any]:
        """Return what the rules took (`firewall.counts`, by a network's interface) and what went through published
        ports (`proxy.Proxy.counts`).
        """
        if self._client is None:
            return {"rules": {}, "ports": {}}
        try:
            return self._client.counts()
        finally:
            self._notice_loss()

    # -- containers

    def check(self, network: str, *, aliases: Sequence[str] = (), publish: Sequence[Publish] = ()) -> None:
        """Refuse, before anything is done, what `attach` would refuse; `network` may be none and host as well."""
        for alias in aliases:
            plan.check_host_name(alias, "network-alias")
        if network in ("none", "host"):
            if publish or aliases:
                word = "publish" if publish else "network-alias"
                hint = "a container on host has the node's own ports" if network == "host" else "give it a network"
                raise UserError(f"{word} has no meaning with network {network}", hint=hint, where=word)
            return
        if network != SLIRP:
            self._refuse_rootless()
            if network != DEFAULT:
                self._get(network)

    def explain(
        self, container: str, network: str, *, aliases: Sequence[str] = (), publish: Sequence[Publish] = ()
    ) -> Sequence[dict[str, str]]:
        """Return what `attach` would do, in order: step, call, why, source."""
        self.check(network, aliases=aliases, publish=publish)
        if network == SLIRP:
            operations = plan.slirp_operations(self._slirp_endpoint(container, publish), 0)
        else:
            known = self._networks.get(network) or self._new(network, "")
            makes = [] if network in self._networks else self._create_operations(known)
            endpoint = self._new_endpoint(container, known, aliases, publish)
            operations = [*makes, *self._attach_operations(known, endpoint)]
        return [one.describe() for one in operations]

    def prepare(
        self, container: str, hostname: str, network: str, *, extra_hosts: Sequence[tuple[str, str]] = ()
    ) -> Sequence[dict[str, Any]]:
        """Write a container's /etc/hosts, resolv.conf and hostname; return the OCI mounts that bind them into it.

        `extra_hosts`: (address, name) pairs of ``--add-host``.
        """
        if hostname != "localhost":
            plan.check_host_name(hostname, "hostname")
        for _, name in extra_hosts:
            plan.check_host_name(name, "add-host")
        self._members[container] = _Member(hostname, extra_hosts=tuple(extra_hosts))
        internal = network in self._networks and self._networks[network].internal
        servers = [] if internal or network in ("none", "host") else [slirp.NAME_SERVER]
        folder = self._folder / container
        texts = {"resolv_conf": names.resolv_text(servers), "hostname": hostname + "\n"}
        if network == "host":
            with contextlib.suppress(OSError):
                texts["resolv_conf"] = Path("/etc/resolv.conf").read_text()
        names.write(folder, hosts=self.hosts_text(container), **texts)
        return names.mounts(folder)

    def attach(
        self, container: str, pid: int, network: str, *, aliases: Sequence[str] = (), publish: Sequence[Publish] = ()
    ) -> dict[str, Any]:
        """Connect the network namespace of process `pid` to a network; return the endpoint.

        Returns when the interface is configured: container, network, ip, mac, gateway, interface, aliases, published
        (host_ip, host_port, port, protocol). Raises before or without any effect: `UserError` for a taken port or a
        bad name, `NotFound`, `HostError`.
        """
        self.check(network, aliases=aliases, publish=publish)
        if network == SLIRP:
            endpoint = self._attach_slirp(container, pid, publish)
        else:
            endpoint = self._attach_bridge(container, pid, network, aliases, publish)
        self._add(endpoint)
        return endpoint.describe()

    def _attach_bridge(
        self, container: str, pid: int, name: str, aliases: Sequence[str], publish: Sequence[Publish]
    ) -> Endpoint:
        if name == DEFAULT and name not in self._networks:
            self._make(self._new(name, ""))
        network = self._get(name)
        endpoint = self._new_endpoint(container, network, aliases, publish)
        try:
            netns_fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ContainerError(f"container {container} ended before it was connected", where="attach") from error
        try:
            results, _ = self._do(self._attach_operations(network, endpoint), [netns_fd])
        finally:
            os.close(netns_fd)
        self._count += 1
        ports = [result["host_port"] for result in results if "host_port" in result]
        return _with_ports(endpoint, ports)

    def _attach_slirp(self, container: str, pid: int, publish: Sequence[Publish]) -> Endpoint:
        endpoint = self._slirp_endpoint(container, publish)
        results, _ = self._do(plan.slirp_operations(endpoint, pid))
        return _with_ports(endpoint, results[0]["host_ports"])

    def tap(self, machine: str, network: str) -> dict[str, Any]:
        """Give a virtual machine a card in a network; return fd (the caller closes it), ip, mac, gateway,
        prefix_length. The card vanishes when the last copy of the descriptor is closed; `detach` forgets its address.
        """
        self.check(network)
        if network == DEFAULT and network not in self._networks:
            self._make(self._new(network, ""))
        known = self._get(network)
        endpoint = self._new_endpoint(machine, known, (), ())
        _, fds = self._do(plan.tap_operations(known, endpoint))
        self._count += 1
        self._members.setdefault(machine, _Member(machine))
        self._add(endpoint)
        return endpoint.describe() | {"fd": fds[0], "prefix_length": known.subnet.prefixlen}

    def detach(self, container: str) -> None:
        """Take a container, which has ended, out of all its networks; nothing happens if it is in none."""
        member = self._members.get(container)
        if member is None or not member.endpoints:
            return
        self._members[container] = member.replace(endpoints=())
        try:
            self._undo([one.owner for one in member.endpoints])
        finally:
            self._tell_names()

    def forget(self, container: str) -> None:
        """Remove a container's files, after all its networks."""
        try:
            self.detach(container)
        finally:
            self._members.pop(container, None)
            remove_tree(self._folder / container)

    def hosts_text(self, container: str) -> str:
        """Return a container's /etc/hosts."""
        member = self._members[container]
        mine = {one.network for one in member.endpoints if one.network != SLIRP}
        others = [one for name in mine for one in self._endpoints(name) if one.container != container]
        return names.hosts_text(member.hostname, member.endpoints, others, member.extra_hosts)

    def close(self) -> None:
        """Remove everything."""
        self._stop()
        remove_tree(self._folder)

    # -- planning

    def _get(self, name: str) -> Network:
        if name not in self._networks:
            known = ", ".join(["none", "host", DEFAULT, *(one for one in self._networks if one != DEFAULT)])
            hint = f"there are: {known}; make it: %container network create {name}"
            raise NotFound(f"there is no network {name} on this node", hint=hint, where="network")
        return self._networks[name]

    def _endpoints(self, network: str) -> Sequence[Endpoint]:
        return [one for member in self._members.values() for one in member.endpoints if one.network == network]

    def _refuse_rootless(self) -> None:
        if self._rootless:
            raise HostError(
                "an ordinary user can make no bridge on this node",
                hint=f"choose --network {SLIRP}, or run it in a guest, where you are root: --on vm",
                where="network",
            )

    def _new(self, name: str, subnet: str, *, internal: bool = False) -> Network:
        self._refuse_rootless()
        if name in self._networks:
            raise UserError(f"there is a network {name} already", hint=f"remove it: %container network rm {name}")
        ours = plan.interface_prefix(self._session)
        taken = [*plan.routes_of(Path("/proc/net/route").read_text(), ours)]
        taken += [(plan.Subnet(slirp.SUBNET), "the way out")]
        taken += [(one.subnet, f"network {one.name}") for one in self._networks.values()]
        return plan.make_network(self._session, name, subnet, taken, internal=internal)

    def _create_operations(self, network: Network) -> Sequence[Operation]:
        if self.guest and not self._forwarding:
            self._forwarding = Path(plan.FORWARDING).read_text().strip()
        uplink = "" if network.internal else _UPLINK
        shared = plan.place_operations(self._session, guest=self.guest, uplink=uplink, forwarding=self._forwarding)
        made = [one for one in shared if one.name not in self._made]
        return [*made, *plan.create_operations(self._session, network)]

    def _new_endpoint(
        self, container: str, network: Network, aliases: Sequence[str], publish: Sequence[Publish]
    ) -> Endpoint:
        member = self._members.get(container, _Member(container))
        if any(one.network == network.name for one in member.endpoints):
            raise UserError(f"{container} is in network {network.name} already", where="network")
        ip, mac = plan.choose_address(network, (one.ip for one in self._endpoints(network.name)))
        return Endpoint(
            container=container,
            network=network.name,
            ip=ip,
            mac=mac,
            gateway=network.gateway,
            interface=f"eth{len(member.endpoints)}",
            peer=f"{plan.interface_prefix(self._session)}v{self._count:x}",
            aliases=tuple(aliases),
            # What a guest publishes is reached from outside it: QEMU delivers to the guest's own address.
            published=tuple(one.replace(host_ip="0.0.0.0") if self.guest else one for one in publish),
        )

    def _slirp_endpoint(self, container: str, publish: Sequence[Publish]) -> Endpoint:
        return Endpoint(container, SLIRP, slirp.ADDRESS, "", slirp.GATEWAY, "eth0", "", (), tuple(publish))

    def _attach_operations(self, network: Network, endpoint: Endpoint) -> Sequence[Operation]:
        return plan.attach_operations(network, endpoint, first=endpoint.interface == "eth0")

    # -- effects

    def _make(self, network: Network) -> None:
        operations = self._create_operations(network)
        self._do(operations)
        self._made |= {one.name for one in operations}
        self._networks[network.name] = network

    def _do(
        self, operations: Sequence[Operation], fds: Sequence[int] = ()
    ) -> tuple[Sequence[dict[str, Any]], Sequence[int]]:
        if self._client is None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._client = Client(self._folder / ".log")
        try:
            return self._client.do(operations, fds)
        finally:
            self._notice_loss()

    def _undo(self, owners: Sequence[str]) -> None:
        if self._client is None or not owners:
            return
        try:
            self._client.undo(owners)
        finally:
            self._notice_loss()

    def _notice_loss(self) -> None:
        if self._client is None or self._client.lost:
            self._stop()

    def _stop(self) -> None:
        if self._client:
            self._client.close()
        self._client = None
        self._networks.clear()
        self._made.clear()
        self._members = {name: member.replace(endpoints=()) for name, member in self._members.items()}

    def _add(self, endpoint: Endpoint) -> None:
        member = self._members.get(endpoint.container, _Member(endpoint.container))
        self._members[endpoint.container] = member.replace(endpoints=(*member.endpoints, endpoint))
        self._tell_names()

    def _tell_names(self) -> None:
        for container in self._members:
            folder = self._folder / container
            if folder.exists():
                names.write(folder, hosts=self.hosts_text(container))


def _with_ports(endpoint: Endpoint, ports: Sequence[int]) -> Endpoint:
    """Fill in the ports that the node chose where any was asked for."""
    published = [one.replace(host_port=port) for one, port in zip(endpoint.published, ports, strict=True)]
    return endpoint.replace(published=tuple(published))
