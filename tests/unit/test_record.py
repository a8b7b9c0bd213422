"""Frozen values declared by annotations."""

import subprocess
import sys
from pathlib import Path

import pytest

from vmcontainer_kernel.container.record import Record

ROOT = Path(__file__).parents[2]


class Place(Record):
    root: str
    version: int = 2


class Named(Place):
    name: str = ""


def test_fields_are_given_in_order_or_by_name():
    assert Place("/a") == Place(root="/a", version=2)
    assert Place("/a", 1) != Place("/a")
    assert repr(Place("/a", 1)) == "Place(root='/a', version=1)"
    assert hash(Place("/a")) == hash(Place("/a", 2))
    assert Named("/a", name="x") == Named("/a", 2, "x")
    assert Named("/a") != Place("/a")


@pytest.mark.parametrize(
    ("values", "named", "told"),
    [
        ((), {}, "needs root"),
        (("/a", 1, 2), {}, "takes 2 values, not 3"),
        (("/a",), {"root": "/b"}, "root given twice"),
        (("/a",), {"color": 1}, "has no color"),
    ],
)
def test_wrong_fields_are_told(values, named, told):
    with pytest.raises(TypeError, match=told):
        Place(*values, **named)


def test_it_is_frozen_and_can_be_copied_with_changes():
    place = Place("/a")
    with pytest.raises(AttributeError, match="frozen"):
        place.root = "/b"
    with pytest.raises(AttributeError, match="frozen"):
        del place.root
    assert (place.replace(version=1), place) == (Place("/a", 1), Place("/a", 2))
    with pytest.raises(TypeError, match="Place has no color"):
        place.replace(color=1)


def test_importing_it_brings_nothing_else():
    script = (
        "import sys; old = set(sys.modules); import vmcontainer_kernel.container.record; print(set(sys.modules) - old)"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "'dataclasses'" not in out
    assert "'typing'" not in out
