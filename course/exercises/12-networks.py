"""What lesson 12 asks: docs/teaching-form.md says how this file is used."""

from typing import Any

from vmcontainer_kernel import lab
from vmcontainer_kernel.teaching import Exercise, Fact, Question


def network(name: str) -> dict[str, Any]:
    """Return a network as the node's kernel and engine tell of it; empty if there is none."""
    bridges = lab.node(lab.default_node).view("network")["parts"]["network"]["bridges"]
    return next((one for one in bridges if one["name"] == name), {})


def member(name: str, container: str) -> dict[str, Any]:
    """Return a container's place in a network; empty if it has none there."""
    members = network(name).get("containers", [])
    return next((one for one in members if one["container"] == container), {})


def runs(container: str) -> bool:
    """Tell whether a process of a container runs."""
    processes = lab.node(lab.default_node).view()["processes"]
    return any(one["container"] == container for one in processes)


PREDICTIONS = (
    Question(
        id="loopback",
        asks="Ada's server has port 8000 already. What does Bob get?",
        choices=("an error: the port is taken", "Ada's page", "Bob's page"),
        right=3,
    ),
    Question(
        id="cut",
        asks="What becomes of `left`, the end of the cable on this side?",
        choices=("it stays as it is", "it stays, but without a connection", "it is gone"),
        right=3,
    ),
    Question(
        id="hops",
        asks="Five pings from `shop` to `db`, in the same network. Who counts them?",
        choices=("the cables only", "the cables and the firewall's rules", "the cables, the rules and NAT"),
        right=1,
    ),
    Question(
        id="island",
        asks="`shop` pings `far` by its address, which is in another network. Does it get an answer?",
        choices=(
            "yes: the node is in both networks and forwards",
            "no: the node does not know the way",
            "no: a rule refuses the packets at the other network's door",
        ),
        right=3,
    ),
    Question(
        id="nat",
        asks="Five pings to `10.0.2.2`, and five answers. How many packets will the rule for NAT count?",
        choices=("10", "5", "1"),
        right=3,
    ),
    Question(
        id="client",
        asks="Whom will the two services take for their client?",
        choices=(
            "both 127.0.0.1",
            "each another address: that of the one who carried the request the last bit of the way",
            "the container 127.0.0.1, as it shares the kernel; the machine an address of its own network",
        ),
        right=2,
    ),
)

EXERCISES = (
    Exercise(
        id="yard",
        asks=(
            "Make a network `yard` without a way out, and in it a container `gnome` that keeps running. "
            "Who is in it can reach its neighbours and nobody else."
        ),
        facts=(
            Fact("there is no network `yard`", lambda: network("yard") != {}),
            Fact("`yard` has a way out", lambda: network("yard")["internal"] is True),
            Fact("no container `gnome` is in `yard`", lambda: member("yard", "gnome") != {}),
            Fact("`gnome` does not run", lambda: runs("gnome")),
        ),
        hints=(
            "A network is made by `%container network create NAME`; `%container network --help` lists its options.",
            "A network without a way out is called *internal*.",
            "`%container network create yard --internal`, then a container with a name and `--network yard`.",
        ),
        solution=(
            "%container network create yard --internal\n"
            "%container run -d --name gnome --network yard busybox sleep 1000"
        ),
    ),
    Exercise(
        id="depot",
        asks=(
            "Make a container `depot` in `lan` which its neighbours find under the name `stock` too, "
            "and let a port of this computer lead to its port 9000."
        ),
        facts=(
            Fact("no container `depot` is in `lan`", lambda: member("lan", "depot") != {}),
            Fact("`depot` has no second name `stock`", lambda: "stock" in member("lan", "depot")["aliases"]),
            Fact(
                "no port of this computer leads to port 9000 of `depot`",
                lambda: 9000 in [one["port"] for one in member("lan", "depot")["published"]],
            ),
        ),
        hints=(
            "All of it is said when the container is made: `%%container depot` and options.",
            "A further name in a network is an alias. `%%container?` lists the options.",
            "`--network lan --network-alias stock --publish 9000`",
        ),
        solution="%%container depot --network lan --network-alias stock --publish 9000\ntrue",
    ),
)

QUIZ = (
    Question(
        id="ports",
        asks="Ten containers on one node, each with a web server on port 80, none published. How many conflicts?",
        choices=("none", "nine", "none, if they are in different networks"),
        right=1,
        why="Each network namespace has its own table of ports. A conflict is possible only at the ports of the node.",
    ),
    Question(
        id="bridge",
        asks="What does a bridge look at to pass a packet on?",
        choices=("the IP address", "the hardware address", "the name of the container"),
        right=2,
        why="A bridge is a switch: it learns which hardware address is at which port. IP is the node's own affair.",
    ),
    Question(
        id="memory",
        asks="How does the firewall know that a packet from outside is an answer?",
        choices=(
            "by its port number",
            "by a mark that the container puts on it",
            "the kernel remembers the conversations that began inside",
        ),
        right=3,
        why="Connection tracking keeps a table of conversations. NAT depends on it too.",
    ),
    Question(
        id="usernet",
        asks="QEMU runs without any rights. How can its guest have a network all the same?",
        choices=(
            "QEMU contains a TCP/IP stack, and does with sockets what the guest's packets ask for",
            "the kernel gives every process a card",
            "it cannot: root has to make a bridge first",
        ),
        right=1,
        why="That is QEMU's user network (libslirp). It is slower than a bridge, and it needs nobody's permission.",
    ),
)

NOTES = (
    "About 25 minutes with the exercises. The first network in a guest takes some seconds: a helper is started there.",
    "Students ask: why is the bridge not visible on the host? The bridges are in a network namespace of the engine's "
    "own, so that the host's interfaces, routes and rules stay as they are. `%container network view` shows them.",
    "Students ask: why two pings and not one hundred? Because the counters are exact, and two are easy to check.",
    "Students ask: does Docker do it in the same way? Yes: veth, a bridge, nftables or iptables, masquerading. It adds "
    "a rule that translates published ports in the kernel; for 127.0.0.1 it has a program as we do, docker-proxy.",
)
