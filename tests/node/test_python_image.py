"""The image ``python``: made of the distribution's packages, the same each time, and it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.node.engine import NOBODY, Engine, start_engine
from vmcontainer_kernel.container.images import Store
from vmcontainer_kernel.paths import cache_dir
from vmcontainer_kernel.python_image import build_python

LIMIT_BYTES = 60 << 20
PROGRAM = "import ssl, sqlite3, threading; threading.Thread(target=print, args=(1,)).start()"


@pytest.mark.needs("containers-on-host")
def test_python_runs_in_a_container(tmp_path: Path) -> None:
    first = build_python(Store(cache_dir("images")), lambda phase, fraction: None)
    again = build_python(Store(tmp_path / "store"), lambda phase, fraction: None)
    assert again.digest == first.digest
    assert again.size_bytes < LIMIT_BYTES
    engine: Engine = start_engine(tmp_path, NOBODY if os.geteuid() == 0 else os.geteuid())
    try:
        for argv, wanted in ((["python3", "-c", PROGRAM], "1"), (["sh", "-c", "echo $((1 + 1))"], "2")):
            result = engine("run", name="c", options={"argv": argv, "image": "python"})
            assert (result["status"], result["out"].strip()) == (0, wanted), result
        assert engine("run", name="c", options={"argv": ["id", "-un"], "image": "python"})["out"].strip() == "root"
    finally:
        engine.close()
