"""What a start consisted of, as a JSON document: of a container, of a command, of a machine. Pure functions.

    notebook ── request ──▶                                                          ──▶ output (first byte)
    agent                 created ─ grouped ─ cloned ─ connected ─ launched … executed
    process                                   private ─ overlay ─ pivot_root ─ … ─ exec

Three tell of a container's start, each by its own clock: the notebook, the agent that is the parent, and the process
that becomes the program. On a host all three read one clock (CLOCK_MONOTONIC). A guest's is another: its times are laid
so that its last mark is where the notebook heard of it, so what the answer's way took is counted as the request's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["UNITS", "calls_of", "document", "explained", "read_steps", "rows", "start_of"]

Json = dict[str, Any]
Mark = tuple[str, float]

UNITS: Final = {
    "starts[].time_s": ["s", "level"],
    "starts[].total_ms": ["ms", "level"],
    "starts[].phases[].begin_ms": ["ms", "level"],
    "starts[].phases[].ms": ["ms", "level"],
}
_MOST, _NAME, _TEXT = 200, 300, 20_000
_FOREVER_NS: Final = 1e19  # three centuries
_REQUEST, _EXEC, _OUTPUT = "request", "exec", "output"
_CLOCKS: Final = {"notebook": "notebook's clock", "agent": "agent's clock", "process": "the new process's clock"}
PARENT: Final[Mapping[str, tuple[str, str]]] = {
    _REQUEST: ("the request is written, and read by the agent", "node.py:Node.start"),
    "created": ("options checked; specification and folder written", "container/runtime.py:Runtime.create"),
    "grouped": ("control group made, with its limits", "container/starting.py:Starter._make_group"),
    "cloned": ("the process and its namespaces made", "container/launch.py:_clone"),
    "adopted": ("let into its control group", "container/birth.py:adopt"),
    "connected": ("network namespace connected", "container/starting.py:Starter._set_up"),
    "launched": ("the agent's part done", "agent/jobs.py:Job.__init__"),
    "executed": ("waits until the process is the program", "agent/jobs.py:Job.read_report"),
    _OUTPUT: ("the program's first byte arrives", "run.py:Run.on_data"),
}
"""Name of the mark that ends a phase of the notebook or the agent → what the phase is, and the code that does it."""


def document(starts: Sequence[Json], time_s: float) -> Json:
    """Return the timeline view of several starts, oldest first (docs/architecture.md, "Views")."""
    return {"kind": "timeline", "version": 1, "time_s": time_s, "starts": list(starts), "units": UNITS}


def start_of(
    what: str, name: str, node: str, asked_s: float, event: Mapping[str, Any], heard_s: float, output_s: float | None
) -> Json:
    """Return a start as the event ``started`` tells it (`agent.jobs`), in milliseconds since it was asked for.

    `asked_s`, `heard_s`, `output_s`: when the notebook asked, heard that the program runs, and got its first byte, by
    its monotonic clock. What had been done before anybody asked is in ``earlier``.
    """
    marks = [(str(mark)[:_NAME], ns / 1e9) for mark, ns in _pairs(event.get("marks"))]
    lines = _process_phases(event, marks)
    if node != "host" and marks:
        ahead_s = heard_s - max(at_s for _, at_s in marks)
        marks = [(mark, at_s + ahead_s) for mark, at_s in marks]
        lines = [(step, begin_s + ahead_s, ms) for step, begin_s, ms in lines]
    received_s = next((at_s for mark, at_s in marks if mark == "received"), asked_s)
    head = {"what": what, "name": name, "node": node, "way": str(event.get("way") or "forked")[:_NAME]}
    end_s = output_s if output_s is not None else max([at_s for _, at_s in marks], default=heard_s)
    now = [(mark, at_s) for mark, at_s in marks if at_s >= received_s and mark != "received"]
    parent = [(_REQUEST, received_s), *sorted(now, key=_at)]
    if output_s is not None:
        parent.append((_OUTPUT, output_s))
    executed = next((at_s for mark, at_s in marks if mark == "executed"), None)
    if lines and executed is not None:  # the last step ends in another program: its end is seen by the agent
        begin_s = lines[-1][1] + lines[-1][2] / 1e3
        lines.append((_EXEC, begin_s, max(0.0, executed - begin_s) * 1e3))
    own = [one for one in lines if one[1] >= received_s]
    before = _earlier(head, [one for one in marks if one[1] < received_s], [one for one in lines if one not in own])
    phases = _relative([*_chain(parent, asked_s), *(("process", *one) for one in own)], asked_s)
    return {**head, "total_ms": _ms(end_s - asked_s), "phases": phases, "earlier": before}


def _at(mark: Mark) -> float:
    return mark[1]


Line = tuple[str, float, float]
"""A step of the process: its name, when it began (seconds), how long it took (milliseconds)."""


def _process_phases(event: Mapping[str, Any], marks: Sequence[Mark]) -> list[Line]:
    """Return the steps with their times. In a time namespace of its own a process's clock is another
    (time_namespaces(7)): what cannot have been then is laid so that it ends with the agent's last mark.
    """
    steps = [(str(step)[:_NAME], max(0.0, ms)) for step, ms in _pairs(event.get("steps"))]
    told = [(first, ns / 1e9) for first, ns in _pairs(event.get("begins")) if isinstance(first, int) and first >= 0]
    begins = sorted(told, key=lambda one: one[0])
    found: list[Line] = []
    for (first, begin_s), (last, _) in zip(begins, [*begins[1:], (len(steps), 0.0)], strict=False):
        row = steps[first:last]
        took_s = sum(ms for _, ms in row) / 1e3
        times = [at_s for _, at_s in marks]
        if times and not min(times) <= begin_s <= max(times):
            begin_s = max(times) - took_s  # noqa: PLW2901 - by the node's clock from here on
        for step, ms in row:
            found.append((step, begin_s, ms))
            begin_s += ms / 1e3  # noqa: PLW2901 - one step begins where the last one ended
    return found


def _pairs(value: object) -> list[tuple[object, float]]:
    """Return pairs of something and a number: a guest's agent may be anything, and say anything."""
    rows = value[:_MOST] if isinstance(value, list) else []
    pairs = [tuple(one) for one in rows if isinstance(one, list) and len(one) == 2]
    return [(what, count) for what, count in pairs if isinstance(count, int | float) and abs(count) < _FOREVER_NS]


def read_steps(answer: Mapping[str, Any]) -> list[Json]:
    """Return the steps that an agent tells (``container.steps``), those of them that are well-formed."""
    steps = answer.get("steps")
    found = []
    for one in steps[:_MOST] if isinstance(steps, list) else ():
        if isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("step", "call", "why", "source")):
            line = one.get("line")
            place = {key: str(one.get(key, ""))[:_NAME] for key in ("file", "function") if key in one}
            told = {key: one[key][:_TEXT] for key in ("step", "call", "why", "source")}
            found.append({**told, **place, "line": line if isinstance(line, int) and 0 <= line < 1 << 20 else 0})
    return found


def _chain(marks: Sequence[Mark], begin_s: float) -> list[tuple[str, str, float, float]]:
    """Return marks as phases that follow each other: who, what, begin, milliseconds."""
    found = []
    for mark, at_s in marks:
        who = "notebook" if mark in (_REQUEST, _OUTPUT) else "agent"
        found.append((who, mark, begin_s, (at_s - begin_s) * 1e3))
        begin_s = at_s
    return found


def _relative(phases: Sequence[tuple[str, str, float, float]], asked_s: float) -> list[Json]:
    return [
        {
            "name": name,
            "text": PARENT[name][0] if who != "process" and name in PARENT else "",
            "by": who,
            "source": _CLOCKS["agent" if name == _EXEC else who],
            "begin_ms": _ms(begin_s - asked_s),
            "ms": _ms(ms / 1e3),
        }
        for who, name, begin_s, ms in phases
    ]


def _earlier(head: Json, marks: Sequence[Mark], lines: Sequence[Line]) -> list[Json]:
    """Return, as a start of its own, what was made ahead."""
    if not marks:
        return []
    ordered = sorted(marks, key=_at)
    begin_s = ordered[0][1]
    end_s = max([ordered[-1][1], *(at_s + ms / 1e3 for _, at_s, ms in lines)])
    phases = [*_chain(ordered[1:], begin_s), *(("process", *one) for one in lines)]
    made = {"way": "made ahead", "total_ms": _ms(end_s - begin_s), "phases": _relative(phases, begin_s), "earlier": []}
    return [{**head, **made}]


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


# -- what was called


def explained(start: Json, steps: Sequence[Mapping[str, Any]]) -> Json:
    """Return a start with what its phases called, why, and where our code does it.

    `steps`: as ``container.steps`` tells them, in order. A phase of the process is the next step of its name; the
    agent's ``cloned`` and ``grouped`` are those steps that the parent does.
    """
    left = list(steps)

    def explain(one: Json) -> Json:
        own = [_explain(phase, left) for phase in one["phases"] if phase["by"] == "process"]
        rest = [_explain_parent(phase, steps) for phase in one["phases"] if phase["by"] != "process"]
        return {**one, "phases": [*rest, *own]}

    earlier = [explain(one) for one in start["earlier"]]
    return explain(start) | {"earlier": earlier}


def _explain(phase: Json, left: list[Mapping[str, Any]]) -> Json:
    at = next((number for number, step in enumerate(left) if step["step"] == phase["name"]), None)
    if at is None:
        return phase
    step = left[at]
    del left[: at + 1]
    return {**phase, **_told([step])}


def _explain_parent(phase: Json, steps: Sequence[Mapping[str, Any]]) -> Json:
    file, _, function = PARENT.get(phase["name"], ("", ""))[1].partition(":")
    place = {"code": {"file": file and f"vmcontainer_kernel/{file}", "line": 0, "function": function}}
    names = [step["step"] for step in steps]
    found: list[Mapping[str, Any]] = []
    if phase["name"] == "cloned" and "clone" in names:
        found = [steps[names.index("clone")]]
    if phase["name"] == "grouped" and "group" in names:
        found = [one for one in steps[names.index("group") :] if one["source"] == "cgroups(7)" and not one.get("file")]
    return {**phase, **(_told(found) if found else {}), **place}


def _told(steps: Sequence[Mapping[str, Any]]) -> Json:
    first = steps[0]
    place = {"file": first.get("file", ""), "line": first.get("line", 0), "function": first.get("function", "")}
    calls = [call for step in steps for call in calls_of(step["call"])]
    return {"calls": calls, "why": first["why"], "manual": first["source"], "code": place}


def calls_of(text: str) -> list[Json]:
    """Read calls as steps tell them, ``setsid(); keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)``, into names and
    arguments; what does not look like a call is kept as a name.
    """
    found = []
    for one in _split(text, ";"):
        name, bracket, rest = one.partition("(")
        inner = rest[: rest.rfind(")")] if bracket and ")" in rest else None
        if inner is None or not name.replace("_", "").isalnum():
            found.append({"call": one, "arguments": []})
        else:
            found.append({"call": name, "arguments": _split(inner, ",")})
    return found


def _split(text: str, separator: str) -> list[str]:
    """Split outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def rows(start: Mapping[str, Any], width: int = 24) -> list[tuple[str, str, str, str, str]]:
    """Return a start for people: phase, begin and length in milliseconds, who measured it, and last a bar."""
    total_ms = start["total_ms"] or 1.0
    return [
        (
            one["text"] or one["name"],
            f"{one['begin_ms']:.2f}",
            f"{one['ms']:.2f}",
            one["source"],
            _bar(one, total_ms, width),
        )
        for one in sorted(start["phases"], key=lambda one: one["begin_ms"])
    ]


def _bar(phase: Mapping[str, Any], total_ms: float, width: int) -> str:
    length = round(width * phase["ms"] / total_ms)
    return " " * round(width * phase["begin_ms"] / total_ms) + "█" * length if length else ""
