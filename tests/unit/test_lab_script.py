"""The script ``./lab`` in a folder of its own, with stand-ins for apt, dpkg, sudo and Python."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = """
awk cat cksum date dirname df env find flock grep head ls mkdir readlink rm rmdir sed sh sleep tail touch tr wc
"""


@dataclass
class World:
    """A checkout and a computer on which the script finds only what the test put there."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def checkout(self) -> Path:
        return self.folder / "check out"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def program(self, name: str, script: str = "", *, place: Path | None = None) -> None:
        """Put a program there that writes down how it was called, then does `script`."""
        path = (place or self.folder / "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.folder}/calls"\n{script}\n')
        path.chmod(0o755)

    def lab(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [self.checkout / "lab", *arguments],
            env={"PATH": str(self.folder / "bin"), "VMCONTAINER_CACHE": str(self.cache), **self.environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def write(self, name: str, text: str = "") -> Path:
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


INSTALLED = 'for name; do case $name in -* | *Status*) ;; *) echo "installed $name" ;; esac; done'
NONE_INSTALLED = "exit 1"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A computer on which all is set up but the images."""
    made = World(tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS.split():
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "/missing")
    made.program("dpkg-query", INSTALLED)
    made.program("apt-get")
    made.program("apt-cache", 'echo "  Candidate: 1.0"')
    made.program("id", "echo 0")
    made.checkout.mkdir()
    shutil.copy2(ROOT / "lab", made.checkout / "lab")
    made.write("apt.txt", "# first\nqemu-system-x86\n\nskopeo # second\n")
    made.write("tests/apt.txt", "chromium\n")
    made.write("pyproject.toml", "[project]\n")
    made.write("vmcontainer_kernel/kernel.py")
    made.write("course/en/01-welcome.ipynb")
    made.write("course/ko/01-welcome.ipynb")
    made.write("widgets/x")
    venv = made.checkout / ".venv"
    made.program(
        "python",
        f'case "$*" in *setup) mkdir -p "{made.cache}/guests" "{made.cache}/templates" ;; esac',
        place=venv / "bin",
    )
    made.program("pip", place=venv / "bin")
    made.write(".venv/pyvenv.cfg", f"command = /usr/bin/python3 -m venv {venv}\n")
    stamp = subprocess.run(["cksum"], input=b"[project]\n", capture_output=True, check=True).stdout.decode()
    made.write(".venv/.lab-lab,test", stamp)
    time.sleep(0.02)
    made.write(".venv/share/jupyter/kernels/vmcontainer/kernel.json")
    return made


def test_help_names_the_commands(world: World) -> None:
    text = world.lab("help")
    assert world.lab("--help") == text
    for command in ("./lab ", "test", "setup", "bench", "clean"):
        assert command in text
    assert world.calls == []


def test_an_unknown_command_does_nothing(world: World) -> None:
    assert "no such command: instal" in world.lab("instal", expect=1)
    assert world.calls == []


def test_the_second_start_asks_for_nothing(world: World) -> None:
    assert "[4/4]" in world.lab("setup")
    text = world.lab("setup")
    assert text == "ready: ./lab opens the course\n"
    assert not [call for call in world.calls if call.startswith(("apt-get", "sudo", "pip"))]
    assert sum("setup" in call for call in world.calls) == 1


def test_images_are_built_again_when_the_code_changed(world: World) -> None:
    world.lab("setup")
    time.sleep(0.02)
    world.write("vmcontainer_kernel/vm/guest.py", "changed = True\n")
    assert "[4/4]" in world.lab("setup")
    world.environment["VMCONTAINER_CACHE"] = str(world.folder / "elsewhere")
    assert "[4/4]" in world.lab("setup")


def test_a_failed_build_of_images_is_a_failure(world: World) -> None:
    world.program("python", 'case "$*" in *setup) exit 1 ;; esac', place=world.checkout / ".venv/bin")
    world.lab("setup", expect=1)
    assert not (world.checkout / ".venv/.lab-images").exists()


def test_missing_packages_are_installed_without_recommends(world: World) -> None:
    world.program("dpkg-query", 'echo "installed skopeo"; exit 1')
    text = world.lab("setup")
    assert "[1/4] System packages: qemu-system-x86" in text
    (install,) = [call for call in world.calls if " install " in call]
    assert install.startswith("apt-get -y ")
    assert install.endswith("install --no-install-recommends qemu-system-x86")


def test_packages_of_the_tests_are_installed_for_the_tests_only(world: World) -> None:
    world.program("dpkg-query", 'echo "installed skopeo"; echo "installed qemu-system-x86"; exit 1')
    world.lab("setup")
    assert not [call for call in world.calls if call.startswith("apt-get")]
    world.lab("test")
    assert [call for call in world.calls if "install --no-install-recommends chromium" in call]


def test_a_package_the_distribution_lacks_is_left_out_once(world: World) -> None:
    world.program("dpkg-query", 'echo "installed skopeo"; echo "installed qemu-system-x86"; exit 1')
    world.program("apt-cache", 'echo "  Candidate: (none)"')
    assert "chromium: this distribution has no such package" in world.lab("test")
    assert "chromium" not in world.lab("test")
    assert not [call for call in world.calls if " install " in call]


def test_an_ordinary_user_goes_through_sudo(world: World) -> None:
    world.program("id", "echo 1000")
    world.program("sudo", '"$@"')
    world.program("dpkg-query", NONE_INSTALLED)
    world.lab("setup")
    assert [call for call in world.calls if call.startswith("sudo env DEBIAN_FRONTEND=noninteractive")]


def test_without_sudo_the_command_to_run_is_told(world: World) -> None:
    world.program("id", "echo 1000")
    world.program("dpkg-query", NONE_INSTALLED)
    text = world.lab("setup", expect=1)
    assert "there is no sudo" in text
    assert "apt-get install --no-install-recommends qemu-system-x86 skopeo" in text


FAILURES = {
    "E: You don't have enough free space in /var/cache/apt/archives/.": "the disk is full",
    "dpkg: error: cannot copy: No space left on device": "the disk is full",
    "E: Could not get lock /var/lib/dpkg/lock-frontend.": "another program is installing packages",
    "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'": "dpkg --configure -a",
    "Err: Temporary failure resolving 'mirror'": "look at the network",
    "ssl.SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED": "PIP_CERT",
    "E: Unable to locate package qemu-system-x86": "main and universe",
    "something never seen before": "setup.log",
}


def test_a_full_disk_is_seen_though_the_log_has_no_room_to_say_so(world: World) -> None:
    world.program("dpkg-query", NONE_INSTALLED)
    world.program("apt-get", "case $* in *install*) exit 100 ;; esac")
    world.program("df", "echo Filesystem blocks Used Available Capacity Mounted; echo /dev/x 9 9 7 99% /place")
    text = world.lab("setup", expect=1)
    assert "the disk is full (7 free on /place)" in text


@pytest.mark.parametrize(("said", "told"), FAILURES.items())
def test_a_failing_apt_is_explained(world: World, said: str, told: str) -> None:
    world.program("dpkg-query", NONE_INSTALLED)
    world.program("apt-get", f'case $* in *install*) echo "{said}" >&2; exit 100 ;; esac')
    text = world.lab("setup", expect=1)
    assert said in text
    assert told in text
    assert "try: " in text
    assert said in (world.checkout / ".lab/setup.log").read_text()


def test_a_failure_of_earlier_runs_does_not_explain_this_one(world: World) -> None:
    world.program("dpkg-query", NONE_INSTALLED)
    world.program("apt-get", "case $* in *install*) echo No space left on device; exit 100 ;; esac")
    world.lab("setup", expect=1)
    world.program("apt-get", "case $* in *install*) echo Unable to locate package x; exit 100 ;; esac")
    assert "disk is full" not in world.lab("setup", expect=1)


def test_a_changed_list_of_python_packages_is_installed(world: World) -> None:
    world.write("pyproject.toml", "[project]\nname = 'x'\n")
    assert "[2/4] Python packages" in world.lab("setup")
    assert [call for call in world.calls if call.endswith("--no-input -e .[lab]")]
    assert world.lab("setup") == "ready: ./lab opens the course\n"
    world.lab("test")
    assert [call for call in world.calls if call.endswith("--no-input -e .[lab,test]")]


def test_a_failing_pip_leaves_no_stamp(world: World) -> None:
    world.write("pyproject.toml", "[project]\nname = 'x'\n")
    script = 'case "$*" in *pip*) echo "Failed to establish a new connection"; exit 1 ;; esac'
    world.program("python", script, place=world.checkout / ".venv/bin")
    assert "look at the network" in world.lab("setup", expect=1)
    assert "[2/4]" in world.lab("setup", expect=1)


@pytest.mark.parametrize("harm", ["moved", "no interpreter"])
def test_an_environment_that_cannot_work_is_made_anew(world: World, harm: str) -> None:
    world.environment["PIP_NO_INDEX"] = "1"  # the new one is real: it shall fetch nothing
    if harm == "moved":
        world.write(".venv/pyvenv.cfg", "command = /usr/bin/python3 -m venv /else/where/.venv\n")
    else:
        (world.checkout / ".venv/bin/python").unlink()
    kept = world.write(".venv/old")
    assert "[2/4] Python packages" in world.lab("setup", expect=1)
    assert not kept.exists()
    assert (world.checkout / ".venv/bin/python").resolve() == Path("/usr/bin/python3").resolve()


def test_arguments_reach_pytest(world: World) -> None:
    world.lab("test", "-k", "two words")
    assert world.calls[-1] == "python -m pytest -k two words"


def test_the_bench_command(world: World) -> None:
    world.lab("bench", "clone")
    assert world.calls[-1] == "python -m tests.benchmarks clone"


@pytest.mark.parametrize(("language", "lesson"), [("ko_KR.UTF-8", "ko"), ("C.UTF-8", "en"), ("", "en")])
def test_jupyterlab_opens_the_course(world: World, language: str, lesson: str) -> None:
    world.environment["LANG"] = language
    world.lab("--no-browser", "--port", "9000")
    call = world.calls[-1]
    assert call.startswith(f"python -m jupyterlab --ServerApp.root_dir={world.checkout}/course ")
    assert f"/lab/tree/{lesson}/01-welcome.ipynb" in call
    assert call.endswith("--allow-root --no-browser --port 9000")


def test_an_ordinary_user_needs_no_allow_root(world: World) -> None:
    world.program("id", "echo 1000")
    world.lab()
    assert "--allow-root" not in world.calls[-1]


def test_two_at_once_take_turns(world: World) -> None:
    begun, go = world.folder / "begun", world.folder / "go"
    wait = f"touch '{begun}'; until [ -e '{go}' ]; do sleep 0.02; done"
    world.program("python", f'case "$*" in *setup) {wait}; exit 1 ;; esac', place=world.checkout / ".venv/bin")
    environment = {"PATH": str(world.folder / "bin"), "VMCONTAINER_CACHE": str(world.cache)}
    both = []
    try:
        for _ in range(2):
            told = world.folder / f"told-{len(both)}"
            with told.open("wb") as file:
                both.append(subprocess.Popen([world.checkout / "lab", "setup"], env=environment, stderr=file))
            while not (begun.exists() if len(both) == 1 else "another ./lab is setting up" in told.read_text()):
                assert both[-1].poll() is None
                time.sleep(0.02)
    finally:
        go.touch()
        assert [process.wait(60) for process in both] == [1] * len(both)


def test_clean_removes_what_is_ours_and_nothing_else(world: World) -> None:
    world.lab("setup")
    ours = [world.write(".mypy_cache/x"), world.write("tests/__pycache__/x.pyc"), world.cache / "guests"]
    kept = [
        world.write("notes.txt"),
        world.write("other/__pycache__/x.pyc"),
        world.cache / "mine",
        world.folder / "bin",
    ]
    (world.cache / "mine").write_text("")
    text = world.lab("clean")
    assert not any(path.exists() for path in ours)
    assert not (world.checkout / ".venv").exists()
    assert all(path.exists() for path in kept)
    assert str(world.cache / "mine") in text
    (world.cache / "mine").unlink()
    world.lab("clean")
    assert not world.cache.exists()


def test_it_works_through_a_link_and_from_anywhere(world: World) -> None:
    link = world.folder / "link"
    link.symlink_to(world.checkout / "lab")
    environment = {"PATH": str(world.folder / "bin"), "VMCONTAINER_CACHE": str(world.cache)}
    subprocess.run([link, "setup"], env=environment, cwd="/", check=True, capture_output=True)
    assert (world.checkout / ".lab").is_dir()
