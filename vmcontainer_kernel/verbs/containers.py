"""``%container``: containers, looked at and changed, in the words of ``docker container``."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..arguments import LIMITS, parse_duration, parse_number
from ..display import Table, size_text, times_table
from ..errors import UserError
from ..messages import say
from ..options import limit_options
from ..session import Session
from . import build, images, networks, running, volumes
from .nodes import ask, default_node_name, finder
from .starting import container_timeline
from .words import NAME, ON, READER, Argument, Verb, Words, flag, option, rest, word, words

__all__ = ["VERBS"]

_STATS_S = 1.0


def _ls(session: Session, given: Words, language: str) -> Table | None:
    found = ask(session, given, "container.list")["containers"]
    if given.quiet:
        print("".join(f"{one['name']}\n" for one in found), end="")
        return None
    rows = [
        (
            one["name"],
            _state_text(one),
            one["image"],
            one["pid"],
            one["pids"]["current"],
            size_text(one["memory"]["usage_bytes"]),
        )
        for one in found
    ]
    return Table(("container", "state", "image", "pid on the node", "processes", "memory"), rows, "no containers")


def _state_text(one: dict[str, Any]) -> str:
    text = say(str(one["status"]))
    if one["status"] == "stopped" and one.get("exit_status") is not None:
        text += f" ({one['exit_status']})"
    return f"{text} ({say(str(one['health']))})" if one.get("health") and one["status"] == "running" else text


def _each(verb: str, **fixed: Any) -> Any:
    """Return the action that asks the same of several containers, one after the other."""

    def do(session: Session, given: Words, language: str) -> None:
        for name in given.names:
            ask(session, given, verb, name=name, **fixed)

    return do


def _timed(verb: str) -> Any:
    def do(session: Session, given: Words, language: str) -> None:
        timeout_s = parse_number(given.time, "--time", low=0)
        more = {} if timeout_s is None else {"timeout_s": timeout_s}
        for name in given.names:
            ask(session, given, verb, name=name, **more)

    return do


def _rm(session: Session, given: Words, language: str) -> None:
    find = finder(session, given)

    async def remove(name: str) -> None:
        await session.remove_container(await find(), name)

    for name in given.names:
        session.wait(remove(name))


def _kill(session: Session, given: Words, language: str) -> None:
    from ..container.signals import number_of

    number = number_of(given.signal or "KILL")
    for name in given.names:
        ask(session, given, "container.kill", name=name, signal=number)


def _wait(session: Session, given: Words, language: str) -> int:
    return int(ask(session, given, "container.wait", name=given.name)["status"])


def _inspect(session: Session, given: Words, language: str) -> dict[str, Any]:
    return ask(session, given, "container.inspect", name=given.name)


def _steps(session: Session, given: Words, language: str) -> Table:
    steps = ask(session, given, "container.inspect", name=given.name)["steps"]
    return times_table([(one["step"], one["ms"]) for one in steps])


def _port(session: Session, given: Words, language: str) -> Table:
    endpoint = ask(session, given, "container.inspect", name=given.name)["network"] or {}
    rows = [
        (f"{one['port']}/{one['protocol']}", f"{one['host_ip']}:{one['host_port']}")
        for one in session.ports.shown(given.on or default_node_name(), given.name, endpoint.get("published", ()))
    ]
    return Table(("port inside", "port of this computer"), rows, "no ports are published")


def _top(session: Session, given: Words, language: str) -> Table:
    found = ask(session, given, "container.top", name=given.name)["processes"]
    rows = [
        (one["pids"][-1], one["pid"], one["uid"], one["state"], f"{one['cpu_s']:.2f}", one["command"] or one["comm"])
        for one in found
    ]
    return Table(("pid inside", "pid on the node", "uid", "state", "CPU s", "command"), rows)


# -- stats


def _stats(session: Session, given: Words, language: str) -> Table | None:
    before = ask(session, given, "container.stats", names=given.names)
    time.sleep(_STATS_S / 2)
    now = ask(session, given, "container.stats", names=given.names)
    table = _stats_table(before, now)
    if given.no_stream:
        return table
    from IPython.display import display

    shown: Any = display(table, display_id=True)
    try:
        while True:
            time.sleep(_STATS_S)
            before, now = now, ask(session, given, "container.stats", names=given.names)
            shown.update(_stats_table(before, now))
    except KeyboardInterrupt:
        return None


def _stats_table(before: dict[str, Any], now: dict[str, Any]) -> Table:
    earlier = {one["name"]: one for one in before["containers"]}
    seconds = now["time_s"] - before["time_s"] or 1.0
    rows = [_stats_row(one, earlier.get(one["name"], one), seconds) for one in now["containers"]]
    head = ("container", "CPU", "memory", "limit", "received", "sent", "processes")
    return Table(head, rows, "no container runs")


def _stats_row(one: dict[str, Any], before: dict[str, Any], seconds: float) -> tuple[Any, ...]:
    used_s, then_s = one["cpu"]["usage_s"], before["cpu"]["usage_s"]
    share = None if used_s is None or then_s is None else f"{max(0.0, used_s - then_s) / seconds:.1%}"
    network = one["network"] or {"received_bytes": None, "sent_bytes": None}
    return (
        one["name"],
        share,
        size_text(one["memory"]["usage_bytes"]),
        size_text(one["memory"]["limit_bytes"]),
        size_text(network["received_bytes"]),
        size_text(network["sent_bytes"]),
        one["pids"]["current"],
    )


# -- streams


def _logs(session: Session, given: Words, language: str) -> None:
    arguments: dict[str, Any] = {"name": given.name, "follow": given.follow}
    if given.tail not in (None, "all"):
        arguments["tail"] = int(parse_number(given.tail, "--tail", whole=True, low=0) or 0)
    if given.since is not None:
        arguments["since_s"] = time.time() - parse_duration(given.since, "--since")
    answer = running.follow(session, finder(session, given), "container.logs", arguments)
    if answer.get("dropped_bytes") and "tail" not in arguments:
        print(say(f"[{answer['dropped_bytes']} earlier bytes are not kept]"))


def _attach(session: Session, given: Words, language: str) -> None:
    text = given.stdin
    if text is not None and not text.endswith("\n"):
        text += "\n"
    arguments = {"name": given.name, "replay": given.logs, "stdin": text is not None}
    running.follow(session, finder(session, given), "container.attach", arguments, stdin=text)


def _exec(session: Session, given: Words, language: str) -> None:
    running.execute(session, finder(session, given), given)


# -- changes


def _update(session: Session, given: Words, language: str) -> None:
    options = limit_options(given) | ({"restart": given.restart} if given.restart else {})
    if not options:
        raise UserError("%container update: what is to be changed?", hint="as in: %container update web --memory 64m")
    for name in given.names:
        ask(session, given, "container.update", name=name, options=options)


def _prune(session: Session, given: Words, language: str) -> None:
    ended = [one["name"] for one in ask(session, given, "container.list")["containers"] if one["status"] == "stopped"]
    _rm(session, argparse.Namespace(names=ended, on=given.on), language)
    print(f"{say('removed')}: {' '.join(ended) or say('nothing had ended')}")


def _view(session: Session, given: Words, language: str) -> Any:
    from ..live import kernel_view

    if given.name:
        ask(session, given, "container.inspect", name=given.name)
    return kernel_view(session, given.on or default_node_name(), language)


def _terminal(session: Session, given: Words, language: str) -> Any:
    from ..live import container_terminal

    status = ask(session, given, "container.inspect", name=given.name)["state"]["status"]
    if status != "running":
        raise UserError(f"container {given.name} is {status}", hint=f"%container start {given.name}")
    find = finder(session, given)
    return container_terminal(session, find, given.name, language, given.command, reader=given.screen_reader)


NAMES = words("names", "their names")
_TIME = option("-t", "--time", metavar="SECONDS", help="how long to wait before it is killed (default: 10)")
_LIMIT_OPTIONS: tuple[Argument, ...] = tuple((one.args, one.kwds) for one in LIMITS)

VERBS: dict[str, Verb] = {
    "ls": Verb(
        _ls,
        "the containers of a node",
        ON,
        flag("-a", "--all", help="stopped ones too, which is always so"),
        flag("-q", "--quiet", help="names only"),
    ),
    "ps": Verb(
        _ls,
        "the same as ls",
        ON,
        flag("-a", "--all", help="stopped ones too, which is always so"),
        flag("-q", "--quiet", help="names only"),
    ),
    "run": Verb(
        running.run, "make a container from an image and run it: run [OPTIONS] IMAGE [COMMAND…]", *running.RUN_OPTIONS
    ),
    "create": Verb(
        running.create, "make it, and start it later: create [OPTIONS] IMAGE [COMMAND…]", *running.RUN_OPTIONS
    ),
    "start": Verb(_each("container.start"), "start what is created or stopped", NAMES, ON),
    "stop": Verb(_timed("container.stop"), "ask it to end (SIGTERM), kill it if it does not", NAMES, ON, _TIME),
    "restart": Verb(_timed("container.restart"), "stop and start", NAMES, ON, _TIME),
    "kill": Verb(
        _kill, "send a signal (default: KILL)", NAMES, ON, option("-s", "--signal", metavar="SIGNAL", help="which one")
    ),
    "rm": Verb(_rm, "end and remove", NAMES, ON, flag("-f", "--force", help="a running one too, which is always so")),
    "pause": Verb(_each("container.pause"), "freeze every process of it", NAMES, ON),
    "unpause": Verb(_each("container.resume"), "let it go on", NAMES, ON),
    "wait": Verb(_wait, "wait for its end; gives the status", NAME, ON),
    "exec": Verb(
        _exec,
        "run one more command in it: exec [OPTIONS] NAME COMMAND…",
        ON,
        *running.EXEC_OPTIONS,
        NAME,
        rest("command", "the command"),
    ),
    "attach": Verb(
        _attach,
        "show what its first process writes from now on; an interrupt lets go of it",
        NAME,
        ON,
        option("--stdin", help="type this first (made with -i)"),
        flag("--logs", help="begin with what it has written so far"),
    ),
    "logs": Verb(
        _logs,
        "what it has written",
        NAME,
        ON,
        flag("-f", "--follow", help="go on until it ends"),
        option("-n", "--tail", metavar="N", help="the last lines only"),
        option("--since", metavar="TIME", help="what came within this time, as 10m"),
    ),
    "cp": Verb(
        running.copy,
        "copy files: cp NAME:/PATH HERE, or cp HERE NAME:/PATH",
        word("source", "NAME:/PATH or a path here"),
        word("target", "the other one"),
        ON,
    ),
    "inspect": Verb(_inspect, "configuration, state, groups, health: a JSON document", NAME, ON),
    "steps": Verb(_steps, "how long each step of its start took", NAME, ON),
    "timeline": Verb(
        container_timeline,
        "what its last start, or that of a command in it, consisted of",
        word("name", "its name; else the last of any", needed=False),
    ),
    "stats": Verb(
        _stats,
        "what containers use, until interrupted",
        words("names", "which", needed=False),
        ON,
        flag("--no-stream", help="once"),
    ),
    "top": Verb(_top, "its processes", NAME, ON),
    "port": Verb(_port, "its published ports", NAME, ON),
    "update": Verb(
        _update,
        "change limits and restart policy",
        NAMES,
        ON,
        *_LIMIT_OPTIONS,
        option("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped"),
    ),
    "prune": Verb(_prune, "remove all that have ended", ON),
    "view": Verb(_view, "a live picture of the node's kernel", word("name", "a container", needed=False), ON),
    "terminal": Verb(
        _terminal,
        "a terminal in it: terminal NAME [COMMAND…] (default: its shell)",
        ON,
        READER,
        NAME,
        rest("command", "the command"),
    ),
    **images.VERBS,
    **build.VERBS,
    "network": Verb(
        networks.run, "networks: network ls|create|inspect|view|rm|connect [NAME] [MACHINE]", *networks.ARGUMENTS
    ),
    "volume": Verb(volumes.run, "named volumes: volume ls|create|inspect|rm|prune [NAME]", *volumes.ARGUMENTS),
}
