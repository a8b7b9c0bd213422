"""Where containers run by default, and what the words behind a verb mean."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel import doctor, verbs
from vmcontainer_kernel.completion import VERBS
from vmcontainer_kernel.errors import UserError


class Session:
    """Stands in for a session: tells what it was asked for."""

    async def ensure_guest(self, name: str, **_: Any) -> Any:
        class Guest:
            node = f"made {name}"

        return Guest

    async def node(self, name: str) -> str:
        return f"found {name}"


@pytest.fixture
def allowed(request: pytest.FixtureRequest, private_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = request.param
    monkeypatch.setattr(verbs, "_default_node", "")
    monkeypatch.setattr(doctor, "check", lambda name: doctor.Check(name, verdict, "a reason"))


def found(name: str) -> Any:
    session: Any = Session()
    return asyncio.run(verbs.node_finder(session, name, lambda phase, fraction: None)())


@pytest.mark.parametrize(
    ("allowed", "default", "node"),
    [("ok", "host", "found host"), ("no", "vm", "made vm"), ("degraded", "vm", "made vm")],
    indirect=["allowed"],
)
def test_where_the_host_allows_no_containers_they_run_in_a_machine(allowed: None, default: str, node: str) -> None:
    assert verbs.default_node_name() == default
    assert found("") == node


@pytest.mark.parametrize("allowed", ["ok", "no"], indirect=True)
def test_a_node_that_is_named_is_never_made(allowed: None) -> None:
    assert found("host") == "found host"
    assert found("vm") == "found vm"


def test_the_answer_is_asked_for_once(private_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(verbs, "_default_node", "")
    monkeypatch.setattr(doctor, "check", lambda name: asked.append(name) or doctor.Check(name, "no", ""))
    assert [verbs.default_node_name() for _ in range(3)] == ["vm"] * 3
    assert asked == ["containers-on-host"]


def test_completion_knows_the_verbs_there_are() -> None:
    assert {magic: set(names) for magic, names in VERBS.items()} == {
        magic: set(table) for magic, table in verbs.VERBS.items()
    }


@pytest.mark.parametrize(
    ("words", "name", "on"),
    [([], "", ""), (["web"], "web", ""), (["--on", "vm"], "", "vm"), (["web", "--on", "vm"], "web", "vm")],
)
def test_words_behind_a_verb(words: list[str], name: str, on: str) -> None:
    parsed = verbs._Words("container", "rm", words)
    assert (parsed.name, parsed.on) == (name, on)


@pytest.mark.parametrize("words", [["a", "b"], ["--no"], ["a", "-x"], ["--on"]])
def test_words_that_are_too_many(words: list[str]) -> None:
    with pytest.raises(UserError):
        verbs._Words("container", "rm", words)
