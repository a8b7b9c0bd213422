"""The third-party code that is kept in the project is what its authors published, with their licence beside it."""

from __future__ import annotations

import hashlib
import re

import pytest
from vmcontainer_widgets.third_party import FILES, FOLDER, ThirdParty, scripts, styles


@pytest.mark.parametrize("one", FILES, ids=lambda one: one.file)
def test_a_file_is_what_was_published(one: ThirdParty) -> None:
    assert hashlib.sha256((FOLDER / one.file).read_bytes()).hexdigest() == one.sha256
    assert "Permission is hereby granted, free of charge" in (FOLDER / one.licence).read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", one.version)


def test_there_is_no_file_that_nobody_vouches_for() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for one in FILES for name in (one.file, one.licence)}


def test_nothing_is_fetched() -> None:
    fetching = r"\bimport\s*[({\"']|\bexport\s*\{|sourceMappingURL|\bfetch\(|XMLHttpRequest|WebSocket"
    assert not re.search(fetching, scripts())
    assert not re.search(r"@import|url\(", styles())
