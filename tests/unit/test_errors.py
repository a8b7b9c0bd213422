"""Every error crosses the wire as itself, and shows as a message with a hint, never as a traceback of ours."""

from __future__ import annotations

import json

import pytest
from IPython.core.interactiveshell import InteractiveShell

from vmcontainer_kernel import errors
from vmcontainer_kernel.errors import LabError, NodeError, from_json, to_json

CLASSES = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


def test_the_registry_holds_every_public_error() -> None:
    assert {cls for cls in CLASSES if cls is not LabError} <= set(LabError.registry.values())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_the_wire(cls: type[LabError]) -> None:
    error = cls("it failed\nbadly", hint="do this", where="step mount: mount(…)")
    came = from_json(json.loads(json.dumps(to_json(error))))
    assert type(came) is (cls if cls is not LabError else NodeError)
    assert (came.message, came.hint, came.where) == (error.message, error.hint, error.where)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_renders_without_a_traceback(cls: type[LabError], capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    try:
        raise cls("it failed", hint="do this\nor that", where="here")
    except LabError:
        shell.showtraceback()
    shown = capsys.readouterr().out.strip()
    assert shown.splitlines()[0] == f"{cls.__name__}: it failed"
    assert "where: here" in shown
    assert "try:   do this" in shown
    assert "Traceback" not in shown
    assert ".py" not in shown


def test_lines_without_where_and_hint_are_left_out() -> None:
    assert str(NodeError("alone")) == "alone"


@pytest.mark.parametrize("document", [{}, {"error": "Exception"}, {"error": 7, "message": None, "hint": ["x"]}])
def test_a_strange_document_is_a_node_error(document: dict[str, object]) -> None:
    assert type(from_json(document)) is NodeError


def test_a_foreign_exception_is_named() -> None:
    assert from_json(to_json(ZeroDivisionError("by zero"))).message == "ZeroDivisionError: by zero"


def test_what_nobody_would_read_to_its_end_is_cut() -> None:
    shown = "\n".join(LabError(f"{'9' * 4000} is no size of {'/a' * 100}")._render_traceback_())
    assert len(shown) < 500
    assert "…" in shown
    assert shown.endswith(f"is no size of {'/a' * 100}")  # a path may be long
