"""What is installed, by whom: one list of Python packages, two of system packages, and Binder reads the same ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import vmcontainer_kernel
from vmcontainer_kernel import kernel

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE_IMAGE = "FROM docker.io/library/buildpack-deps:24.04"


def names_in(path: Path) -> list[str]:
    """The names in a list of packages, as repo2docker reads it."""
    return [name for line in path.read_text().splitlines() if (name := line.partition("#")[0].strip())]


def test_the_python_packages_are_listed_in_one_place() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert pip == "pip"
    assert by_pip == {"pip": ["-e .[lab]"]}
    assert not list(ROOT.glob("requirements*.txt"))
    asked = tuple(map(int, re.findall(r"\d+", python)))
    least = tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
    assert asked >= least


def test_the_lists_of_system_packages_have_names_only_and_each_once() -> None:
    product, tests = names_in(ROOT / "apt.txt"), names_in(ROOT / "tests" / "apt.txt")
    # deb-control(5), "Package": a name has lower-case letters, digits, plus, minus and periods.
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in product + tests)
    assert len(set(product + tests)) == len(product + tests)
    # Ubuntu 24.04, which Binder has, knows Chromium as a snap only.
    assert not [name for name in product if "chromium" in name]


def test_every_system_package_of_the_product_is_installed() -> None:
    command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names_in(ROOT / "apt.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    assert set(names_in(ROOT / "apt.txt")) - installed == set()


def test_the_commands_and_the_version() -> None:
    assert PROJECT["scripts"] == {"vmcontainer": "vmcontainer_kernel.cli:main"}
    assert metadata.version("vmcontainer") == vmcontainer_kernel.__version__
    assert f"## {vmcontainer_kernel.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_kernel_loads_the_extension() -> None:
    spec = kernel.specification("/python")
    assert spec["display_name"] == "VM & Container Lab"
    assert spec["argv"][0] == "/python"
    assert "load_ipython_extension" in spec["argv"][-1]
    assert "{connection_file}" in spec["argv"]


def test_the_kernel_is_installed_below_a_prefix(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vmcontainer_kernel.cli", "kernel", "install", "--prefix", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    place = tmp_path / "share" / "jupyter" / "kernels" / "vmcontainer"
    assert sorted(file.name for file in place.iterdir()) == ["kernel.json", "logo-svg.svg"]
    assert place.stat().st_mode & 0o055 == 0o055


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they are now, without what was made here: what Binder would be given."""
    copy = tmp_path_factory.mktemp("tree") / "vmcontainer"
    made = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", *made))
    return copy


def test_the_wheel_has_both_packages_and_all_their_files(tree: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    sources = {file.relative_to(tree) for file in (tree / "vmcontainer_kernel").rglob("*") if file.is_file()}
    widgets = tree / "widgets"
    sources |= {file.relative_to(widgets) for file in (widgets / "vmcontainer_widgets").rglob("*") if file.is_file()}
    assert {file.as_posix() for file in sources} <= packed
    assert not [name for name in packed if name.startswith(("tests", "course"))]


@pytest.fixture(scope="module")
def dockerfile(tree: Path) -> list[str]:
    """The lines of the Dockerfile that repo2docker makes of the tree."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(tree)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.strip() for line in (done.stdout + done.stderr).splitlines()]


def test_binder_takes_ubuntu_and_our_python(dockerfile: list[str]) -> None:
    assert BASE_IMAGE in dockerfile
    assert any("env update" in line and '--file "environment.yml"' in line for line in dockerfile)


def test_binder_installs_the_system_packages_of_the_product_alone(dockerfile: list[str]) -> None:
    (line,) = [line for line in dockerfile if "qemu-system-x86" in line]
    names = line.removeprefix("apt-get install --yes --no-install-recommends ").removesuffix(" && \\").split()
    assert names == sorted(names_in(ROOT / "apt.txt"))


def test_binder_builds_the_images_as_an_ordinary_user(dockerfile: list[str]) -> None:
    built = dockerfile.index("RUN ./postBuild")
    users = [line for line in dockerfile[:built] if line.startswith("USER ")]
    assert users[-1] == "USER ${NB_USER}"
    # The package lists are gone by then: the guest's builder must fetch its own.
    assert "rm -rf /var/lib/apt/lists/*" in dockerfile[:built]


def test_binder_starts_through_start(dockerfile: list[str]) -> None:
    assert 'ENV R2D_ENTRYPOINT="${REPO_DIR}/start"' in dockerfile


@pytest.mark.parametrize("name", ["postBuild", "start", "lab", ".ci/run"])
def test_scripts_can_be_run_and_are_sound(name: str) -> None:
    script = ROOT / name
    shell = script.read_text().splitlines()[0].removeprefix("#!")
    assert os.access(script, os.X_OK)
    subprocess.run([shell, "-n", str(script)], check=True)


def test_start_becomes_what_it_is_given() -> None:
    done = subprocess.run([ROOT / "start", "sh", "-c", "echo $0 here"], capture_output=True, text=True, check=True)
    assert done.stdout == "sh here\n"


@pytest.mark.parametrize("failing", ["kernel install --sys-prefix", "setup --course"])
def test_post_build_stops_at_the_first_failure(failing: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = tmp_path / "vmcontainer"
    program.write_text(f'#!/bin/sh\necho "$*" >>{log}\n[ "$*" != "{failing}" ]\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / "postBuild"], env=environment, check=False)
    assert done.returncode != 0
    assert log.read_text().splitlines()[-1] == failing


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^\./lab.*$", readme, re.MULTILINE))
    assert commands == {"./lab", "./lab test"}
    for name in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / name).exists(), name


def test_contributing_is_four_commands() -> None:
    _, block, _ = (ROOT / "CONTRIBUTING.md").read_text().split("```")
    assert len(block.strip().splitlines()) == 4
