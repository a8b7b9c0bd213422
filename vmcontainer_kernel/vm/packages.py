"""The distribution's own packages, fetched and unpacked by an ordinary user.

    /etc/os-release ──names_for──▶ Wanted ──resolve──▶ [Package] ──fetch──▶ cache/guests/packages/*.deb ──unpack──▶ tree
       + Origin

apt gets a private state folder (apt.conf(5), ``Dir::State``), an empty status file and the system's own sources and
keyrings, so signatures and digests are checked as ever while nothing is installed and no maintainer script runs. So it
also gives packages for another processor, and those of another release from the mirrors this computer uses.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import HostError, MachineError

__all__ = [
    "ARCHITECTURES",
    "Apt",
    "Origin",
    "Package",
    "Wanted",
    "dependencies",
    "fetch",
    "file_of",
    "follow",
    "names_for",
    "os_release",
    "other_sources",
    "own_release",
    "parse_record",
    "resolve",
    "unpack",
    "update",
]

OS_RELEASE: Final = Path("/etc/os-release")


# Processors under the distributions' names.
ARCHITECTURES: Final = {"x86_64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True)
class Origin:
    """Which packages: for which processor; of which release (its code name), if not this computer's own.

    `hypervisor`: the guest is one itself, ``xen``, whose packages are among them.
    """

    arch: str = "x86_64"
    release: str = ""
    hypervisor: str = ""

    @property
    def label(self) -> str:
        """A name for files; empty for what this computer itself could run."""
        arch = "" if self.arch == "x86_64" else self.arch
        return "-".join(part for part in (self.release, arch, self.hypervisor) if part)


@dataclass(frozen=True)
class Wanted:
    """What a guest is made of, in one distribution's names: packages that lead to others, and packages as they are.

    `more` are (package, pattern): the packages like the pattern that it leads to, through others like it.
    """

    distribution: str
    kernel_meta: str
    python_meta: str
    plain: tuple[str, ...]
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Package:
    """One binary package: exact version and the digest apt verified against the signed index."""

    name: str
    version: str
    sha256: str
    architecture: str = "amd64"

    @property
    def file_name(self) -> str:
        """The name apt gives the file: an epoch's colon is written ``%3a``."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


# Python's threads end through pthread_exit, for which glibc opens libgcc_s at run time.
_LIBRARIES = ("libc6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8")
_KERNELS = {"debian": "linux-image-cloud-{arch}", "ubuntu": "linux-image-virtual"}
_KEYRINGS = Path("/usr/share/keyrings")


def os_release(text: str) -> dict[str, str]:
    """Parse os-release(5): ``KEY=value`` lines, values perhaps quoted."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def names_for(os_release_text: str, origin: Origin = Origin()) -> Wanted:
    """Tell which packages make a guest on the distribution that `os_release_text` describes.

    Raises HostError on a distribution that descends from neither Debian nor Ubuntu.
    """
    fields = os_release(os_release_text)
    family = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    distribution = next((name for name in family if name in _KERNELS), "")
    if not distribution:
        raise HostError(
            f"no guest can be built on {fields.get('PRETTY_NAME') or 'this system'}: its packages are unknown",
            hint="use Debian 12 or 13, Ubuntu 24.04, or a container of one of them",
            where="/etc/os-release",
        )
    kernel = _KERNELS[distribution].format(arch=ARCHITECTURES[origin.arch])
    # This computer's own os-release is known; that of another release is in a package.
    plain = (*_LIBRARIES, "busybox-static", *(("base-files",) if origin.release else ()))
    return Wanted(distribution, kernel, "python3-minimal", plain)


def dependencies(record: str) -> list[str]:
    """List the names in ``Depends`` and ``Pre-Depends`` of one record of ``apt-cache show``; alternatives too."""
    fields = re.findall(r"^(?:Pre-)?Depends: (.*)$", record, re.MULTILINE)
    return re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", ",".join(fields))


def parse_record(record: str) -> Package:
    """Read one record of ``apt-cache show``."""
    fields = dict(re.findall(r"^(Package|Version|SHA256|Architecture): (\S+)$", record, re.MULTILINE))
    return Package(fields["Package"], fields["Version"], fields["SHA256"], fields.get("Architecture", "amd64"))


def resolve(wanted: Wanted, show: Callable[[str], str]) -> list[Package]:
    """Turn names into exact packages; `show` answers with a package's record of ``apt-cache show``.

    The kernel meta-package leads to ``linux-image-RELEASE`` (Debian), which on Ubuntu leads on to
    ``linux-modules-RELEASE``; ``python3-minimal`` leads to ``python3.N-minimal`` and its library.
    """
    names = list(wanted.plain)
    names += follow(wanted.kernel_meta, r"linux-(image|modules|binary|base)-\d.*", show)
    python = follow(wanted.python_meta, r"(lib)?python3\.\d+-minimal", show)
    names += python
    names += [name.replace("-minimal", "-stdlib") for name in python if name.startswith("lib")]
    for meta, pattern in wanted.more:
        names += follow(meta, pattern, show)
    return sorted((parse_record(show(name)) for name in dict.fromkeys(names)), key=lambda package: package.name)


def follow(name: str, pattern: str, show: Callable[[str], str]) -> list[str]:
    """Return the names like `pattern` that dependencies lead to from `name`, through others like it."""
    found: list[str] = []
    todo = [name]
    while todo:
        for dependency in dependencies(show(todo.pop())):
            if re.fullmatch(pattern, dependency) and dependency not in found:
                found.append(dependency)
                todo.append(dependency)
    if not found:
        raise MachineError(f"package {name} leads to no package like {pattern}", hint="run apt-get update, then again")
    return found


class Apt:
    """apt with a private state folder `state`, for the packages of one origin; everything it writes is below it."""

    def __init__(self, state: Path, origin: Origin = Origin()) -> None:
        self.state, self.origin = state, origin
        self._environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C"}

    def prepare(self) -> None:
        """Write the private configuration: the system's ``Acquire`` options (proxies), our folders, no hooks."""
        for folder in ("lists/partial", "archives/partial"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        (self.state / "status").touch()
        plain = {**os.environ, "LC_ALL": "C"}
        dump = _run(["apt-config", "dump", "Acquire"], env=plain)
        (self.state / "apt.conf").write_text(apt_conf(self.state, dump, self.origin))
        if self.origin.release:
            targets = _run(["apt-get", "indextargets", "--format", _TARGET, "Identifier: Packages"], env=plain)
            sources = other_sources(targets, os_release(OS_RELEASE.read_text()), self.origin.release)
            (self.state / "sources.list").write_text(sources)

    def run(self, *argv: str, cwd: Path | None = None) -> str:
        """Run one of apt's programs and return its output; raises MachineError with the last lines of its errors."""
        return _run(argv, env=self._environment, cwd=cwd)

    def show(self, name: str) -> str:
        """Return the record of the version apt would install."""
        return self.run("apt-cache", "show", "--no-all-versions", name)

    def forget(self) -> None:
        """Remove the indexes that apt makes for itself from its lists: 70 MB, made again in two seconds."""
        for path in self.state.glob("*pkgcache.bin"):
            path.unlink()


# Fields of apt-get(8), indextargets: however this computer's sources are written, each is one such line.
_TARGET: Final = "$(REPO_URI) $(RELEASE) $(COMPONENT)"


def other_sources(targets: str, own: Mapping[str, str], release: str) -> str:
    """Write sources.list(5) for another release of this distribution, from the places this computer's come from.

    `targets` are lines of address, suite and component; `own` is this computer's os-release(5). Raises HostError when
    none of them is of this computer's release.
    """
    ours = own.get("VERSION_CODENAME") or "?"
    keyring = _KEYRINGS / f"{own.get('ID', '')}-archive-keyring.gpg"
    signed = f"[signed-by={keyring}] " if keyring.exists() else ""
    lines = set()
    for address, suite, component in (line.split() for line in targets.splitlines() if line.count(" ") == 2):
        if re.fullmatch(re.escape(ours) + r"(-updates|-security)?", suite):
            lines.add(f"deb {signed}{address} {suite.replace(ours, release, 1)} {component}\n")
    if not lines:
        hint = "only another release of this computer's own distribution can be fetched, from a full mirror"
        raise HostError(f"no package source here is of {ours}, so none of {release} is known", hint=hint, where="apt")
    return "".join(sorted(lines))


def apt_conf(state: Path, acquire: str, origin: Origin = Origin()) -> str:
    """Make the configuration that replaces /etc/apt/apt.conf and apt.conf.d, whose hooks are for the real system."""
    ours = {
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::State": f"{state}",
        "Dir::State::status": f"{state}/status",
        "Dir::Cache": f"{state}",
        "Acquire::Languages": "none",
        "APT::Architecture": ARCHITECTURES[origin.arch],
        # As root apt downloads as user _apt, who cannot enter a private folder.
        "APT::Sandbox::User": "root",
    }
    if origin.release:
        ours |= {"Dir::Etc::SourceList": f"{state}/sources.list", "Dir::Etc::SourceParts": "/dev/null"}
    kept = [line for line in acquire.splitlines() if line.startswith("Acquire::") and "Languages" not in line]
    return "\n".join([*kept, *(f'{key} "{value}";' for key, value in ours.items()), ""])


def update(apt: Apt) -> None:
    """Fetch the package lists; one unreachable third-party source is no failure, a missing package will tell."""
    try:
        apt.run("apt-get", "update")
    except MachineError as error:
        if not any((apt.state / "lists").glob("*Packages*")):
            raise HostError(
                "no package lists could be fetched", where=error.where, hint="check the network and /etc/apt/sources"
            ) from error


def fetch(apt: Apt, packages: Sequence[Package], archive: Path, report: Callable[[float], None]) -> list[Path]:
    """Return the packages' files in `archive`, downloading those that are not there; digests are checked."""
    archive.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, package in enumerate(packages):
        report(index / len(packages))
        path = archive / f"{package.sha256[:16]}-{package.file_name}"
        if not path.exists():
            _download(apt, package, path)
        paths.append(path)
    return paths


def _download(apt: Apt, package: Package, path: Path) -> None:
    folder = path.with_suffix(".part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        apt.run("apt-get", "download", f"{package.name}={package.version}", cwd=folder)
        (file,) = folder.glob("*.deb")
        if hashlib.sha256(file.read_bytes()).hexdigest() != package.sha256:
            raise MachineError(f"{package.name} {package.version}: the file's digest is wrong", hint="try again")
        file.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def own_release(paths: Sequence[Path]) -> str:
    """Return the os-release(5) of the release that packages belong to: base-files is among them if it is not ours."""
    (found,) = (path for path in paths if "-base-files_" in path.name)
    return file_of(found, "./usr/lib/os-release").decode()


def file_of(package: Path, name: str) -> bytes:
    """Return one file out of a package; empty if there is none of that name."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as source:
        done = subprocess.run(["tar", "-x", "-O", name], check=False, stdin=source.stdout, capture_output=True)
    return done.stdout


def unpack(paths: Sequence[Path], tree: Path) -> None:
    """Unpack packages over each other into `tree`, as on a system with merged /usr; not base-files: folders of its own
    stand in the way of a guest's.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    for path in paths:
        if "-base-files_" not in path.name:
            _extract(path, tree)


def _extract(path: Path, tree: Path) -> None:
    """Unpack one package; dpkg-deb's own --extract would replace the merged folders' links by folders."""
    try:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as source:
            unpacked = subprocess.run(
                ["tar", "-x", "--no-same-owner", "--keep-directory-symlink", "-C", tree],
                check=False,
                stdin=source.stdout,
                capture_output=True,
                text=True,
            )
    except FileNotFoundError as error:
        raise HostError(f"{error.filename} is not installed", hint="guests are built on Debian and Ubuntu") from error
    if source.returncode or unpacked.returncode:
        raise MachineError(f"{path.name} cannot be unpacked", where=unpacked.stderr, hint="is the disk full?")


def _run(argv: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, check=False, env=env, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise HostError(f"{argv[0]} is not installed", hint="guests are built on Debian and Ubuntu only") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
        raise MachineError(f"{argv[0]} failed with status {done.returncode}", where=tail, hint="see the lines above")
    return done.stdout
