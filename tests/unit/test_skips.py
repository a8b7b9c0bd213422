"""The rules for skipping, in a test run of their own: what is skipped, and when that makes a run in CI fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ALLOWED_SKIPS, allowed_skips
from vmcontainer_kernel import doctor

ROOT = Path(__file__).parents[2]
STAND_IN = """
import pytest
from vmcontainer_kernel import doctor

doctor.check = lambda name: doctor.Check(name, "no" if name in ("kvm", "qemu") else "degraded", "seen")
"""


def pytest_run(folder: Path, test: str, *options: str, ci: str) -> tuple[int, str]:
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "test_it.py").write_text("import pytest\n\n" + test)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = needs\n")
    command = [sys.executable, "-m", "pytest", "-p", "stand_in", "-p", "tests.conftest", "-ra", str(folder), *options]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": f"{ROOT}:{folder}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


NEEDS_KVM = "@pytest.mark.needs('kvm')\ndef test_it(): assert 0\n"
NEEDS_QEMU = "@pytest.mark.needs('disk', 'qemu')\ndef test_it(): assert 0\n"
NEEDS_DISK = "@pytest.mark.needs('disk')\ndef test_it(): print(1)\n"
OWN_SKIP = "def test_it(): pytest.skip('no idea')\n"
MODULE_SKIP = "pytest.importorskip('no_such_module')\ndef test_it(): pass\n"
EXPECTED_FAILURE = "@pytest.mark.xfail\ndef test_it(): assert 0\n"


@pytest.mark.parametrize(
    ("test", "ci", "status", "told"),
    [
        (NEEDS_KVM, "true", 0, "kvm: seen"),
        (NEEDS_KVM, "", 0, "kvm: seen"),
        (NEEDS_QEMU, "true", 1, "qemu: seen"),
        (NEEDS_QEMU, "", 0, "qemu: seen"),
        (NEEDS_DISK, "true", 0, "1 passed"),
        (OWN_SKIP, "true", 1, "no idea"),
        (OWN_SKIP, "", 0, "no idea"),
        (MODULE_SKIP, "true", 1, "no_such_module"),
        (EXPECTED_FAILURE, "true", 0, "1 xfailed"),
        ("@pytest.mark.needs('floppy')\ndef test_it(): pass\n", "", 4, "there is no such check"),
    ],
)
def test_a_skip_needs_a_check_that_says_no(tmp_path: Path, test: str, ci: str, status: int, told: str) -> None:
    found, text = pytest_run(tmp_path, test, ci=ci)
    assert told in text
    # 5: nothing was run, as pytest says when a whole module is skipped
    assert found == status or (test == MODULE_SKIP and found == 5), text


@pytest.mark.parametrize("test", [NEEDS_QEMU, MODULE_SKIP])
def test_a_skip_in_another_process_is_told(tmp_path: Path, test: str) -> None:
    found, text = pytest_run(tmp_path, test, "-p", "xdist", "-n", "1", ci="true")
    assert found == (1 if test == NEEDS_QEMU else 5), text
    assert "\ntest_it.py" in text.partition("skips that tests/allowed_skips.txt does not allow")[2]


def test_the_list_names_checks() -> None:
    names = allowed_skips(ALLOWED_SKIPS.read_text())
    assert names
    assert names <= set(doctor.NAMES)
