"""docs/oci.md's tables name every field of a configuration that the code reads, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.oci_documents import FULL
from vmcontainer_kernel.container.fields import Fields
from vmcontainer_kernel.container.parsing import parse

PAGE = Path(__file__).parent.parent.parent / "docs" / "oci.md"
# Where the document chooses the name, or several fields have the same parts.
GENERAL = (
    (r"\[\d+\]", "[]"),
    (r"^hooks\.\w+\[\]\.", "hooks.*[]."),
    (r"\.throttle\w+\[\]\.", ".throttle*[]."),
    (r"^linux\.timeOffsets\.\w+\.", "linux.timeOffsets.CLOCK."),
    (r"^linux\.resources\.rdma\.\w+\.", "linux.resources.rdma.DEVICE."),
)


def general(name: str) -> str:
    for pattern, replacement in GENERAL:
        name = re.sub(pattern, replacement, name)
    return name


def test_every_field_is_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    take = Fields.take

    def record(fields: Fields, key: str) -> Any:
        read.add(general(fields.name(key)))
        return take(fields, key)

    monkeypatch.setattr(Fields, "take", record)
    parse(FULL)
    documented = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text().partition("\n## Beside ")[0], re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == read
