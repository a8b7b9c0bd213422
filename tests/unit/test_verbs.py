"""Where containers run by default, and what the words behind a verb mean."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vmcontainer_kernel import magics, probe, verbs
from vmcontainer_kernel.container.ladder import BOUND, GUEST, ROOT, Footing
from vmcontainer_kernel.errors import UserError
from vmcontainer_kernel.verbs import booting, nodes, words


class Session:
    """Stands in for a session: tells what it was asked for."""

    class machines:
        @staticmethod
        async def ensure(name: str, *_: Any, **__: Any) -> Any:
            class Guest:
                node = f"made {name}"

            return Guest

    async def node(self, name: str) -> str:
        return f"found {name}"


@pytest.fixture
def allowed(request: pytest.FixtureRequest, private_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_default_node", "")
    monkeypatch.setattr(probe, "find_footing", lambda: Footing(request.param.name))


def found(name: str) -> Any:
    session: Any = Session()
    return asyncio.run(verbs.node_finder(session, name, lambda phase, fraction: None)())


@pytest.mark.parametrize(
    ("allowed", "default", "node"),
    [(ROOT, "host", "found host"), (BOUND, "host", "found host"), (GUEST, "vm", "made vm")],
    indirect=["allowed"],
)
def test_where_the_host_allows_no_containers_they_run_in_a_machine(allowed: None, default: str, node: str) -> None:
    assert verbs.default_node_name() == default
    assert found("") == node


@pytest.mark.parametrize("allowed", [ROOT, GUEST], indirect=True)
def test_a_node_that_is_named_is_never_made(allowed: None) -> None:
    assert found("host") == "found host"
    assert found("vm") == "found vm"


def test_the_answer_is_asked_for_once(private_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(nodes, "_default_node", "")
    monkeypatch.setattr(probe, "find_footing", lambda: asked.append(1) or Footing(GUEST.name))
    assert [verbs.default_node_name() for _ in range(3)] == ["vm"] * 3
    monkeypatch.setattr(nodes, "_default_node", "")  # as in the next notebook: the answer is on the disk
    assert verbs.default_node_name() == "vm"
    assert len(asked) == 1


def parsed(line: str, magic: str = "container") -> Any:
    chosen = words.choose(verbs.VERBS[magic], f"%{magic}", line, "ls")
    return chosen if isinstance(chosen, str) else chosen[1]


def test_words_behind_a_verb() -> None:
    assert (parsed("").on, parsed("ls --on vm").on) == ("", "vm")
    assert (parsed("rm a b --on vm").names, parsed("rm a b --on vm").on) == (["a", "b"], "vm")
    assert (parsed("logs -f --tail 5 web").tail, parsed("logs -f web").follow) == ("5", True)
    found = parsed("exec -w /tmp web ls -l --on")
    assert (found.workdir, found.name, found.command) == ("/tmp", "web", ["ls", "-l", "--on"])
    found = parsed("run -d --name web -p 8080:80 busybox httpd -f -p 80")
    assert (found.detach, found.name_option, found.publish) == (True, "web", ["8080:80"])
    assert (found.reference, found.command) == ("busybox", ["httpd", "-f", "-p", "80"])


@pytest.mark.parametrize(
    "line", ["rm", "rm --no a", "logs a b", "inspect", "ls --on", "rm 'x", "stop -t", "lsx", "update --memory"]
)
def test_words_that_are_wrong(line: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(line)
    assert caught.value.hint


def test_the_nearest_verb_is_told() -> None:
    with pytest.raises(UserError, match="no verb 'puase'") as caught:
        parsed("puase web")
    assert caught.value.hint == "did you mean %container pause?"


def test_each_verb_explains_itself() -> None:
    for magic, table in verbs.VERBS.items():
        for name in table:
            assert f"%{magic} {name}" in parsed(f"{name} --help", magic)
        assert all(name in parsed("help", magic) for name in table)


def test_help_names_every_verb() -> None:
    for magic, table in verbs.VERBS.items():
        missing = [name for name in table if name not in (magics._LINES[magic].__doc__ or "")]
        assert missing == []


def test_the_last_words_of_a_machine_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """They may come while somebody looks whether it has ended."""

    class Said:
        ended = False
        told = b""

        def since(self, position: int) -> tuple[bytes, int]:
            return self.told[position:], len(self.told)

    class Here:
        wait = staticmethod(asyncio.run)

    def ends(seen: str) -> bool:
        console.told, console.ended = b"CBA\n", True
        return True

    console, session = Said(), Here()
    seen = booting._follow(session, console, 5.0, ends)  # type: ignore[arg-type]
    assert seen == capsys.readouterr().out == "CBA\n"
