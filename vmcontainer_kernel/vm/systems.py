"""The systems that can be booted, as a table: guests with our agent, and programs that need no Linux.

A guest of another release or processor is made of packages as the default one is (`guest`); a payload is one file
out of one package. Nothing of it is fetched before it is first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import NotFound, UserError
from .config import PLATFORMS
from .guest import find_guest
from .packages import OS_RELEASE, Origin, os_release

__all__ = ["GUESTS", "System", "guest_state", "origin_of", "own_system"]


@dataclass(frozen=True)
class System:
    """A Linux guest with our agent: a release of a distribution, by its code name."""

    name: str
    title: str
    distribution: str
    release: str


GUESTS: Final = (
    System("debian12", "Debian 12, Linux 6.1", "debian", "bookworm"),
    System("debian13", "Debian 13, Linux 6.12", "debian", "trixie"),
    System("ubuntu24.04", "Ubuntu 24.04, Linux 6.8", "ubuntu", "noble"),
    System("ubuntu26.04", "Ubuntu 26.04, Linux 7.0", "ubuntu", "resolute"),
)


def own_system(text: str = "") -> tuple[str, str]:
    """Return this computer's distribution and release's code name, from os-release(5)."""
    fields = os_release(text or OS_RELEASE.read_text())
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def origin_of(system: str, arch: str, own: tuple[str, str] | None = None) -> Origin:
    """Return where the packages of a guest come from; `system` and `arch` may be empty: as this computer.

    Raises NotFound for a name that is not in the table, UserError for what this computer's mirrors do not have.
    """
    if arch and arch not in PLATFORMS:
        hint = f"there are: {', '.join(PLATFORMS)}"
        raise UserError(f"--arch {arch}: there is no machine with such a processor", hint=hint, where="--arch")
    arch = arch or "x86_64"
    if not system:
        return Origin(arch)
    own = own or own_system()
    found = next((one for one in GUESTS if one.name == system), None)
    ours = [one.name for one in GUESTS if one.distribution == own[0]]
    if found is None:
        raise NotFound(f"there is no system {system} with our agent", hint=f"there are: {', '.join(ours) or 'none'}")
    if found.distribution != own[0]:
        hint = f"packages of this computer's own distribution can be fetched: {', '.join(ours) or 'none is known'}"
        raise UserError(f"{found.title} cannot be fetched here", hint=hint, where="--system")
    return Origin(arch, "" if found.release == own[1] else found.release)


def guest_state(origin: Origin) -> tuple[str, int]:
    """Tell of a guest image whether it is ``ready`` or ``to be fetched``, and its size in bytes if it is there."""
    image = find_guest(origin)
    if image is None:
        return "to be fetched", 0
    return "ready", sum(path.stat().st_size for path in (image.kernel, image.initrd, image.root))
