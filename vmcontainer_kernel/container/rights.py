"""What the process may do: limits of resources, capability sets, no_new_privs.

All of root's power is divided into capabilities(7); a container's root keeps the few that it needs and that stay within
its own namespaces.
"""

from __future__ import annotations

from vmcontainer_kernel.container import linux
from vmcontainer_kernel.container.light import partial
from vmcontainer_kernel.container.spec import Capabilities, Rlimit
from vmcontainer_kernel.container.step import Scene, Step
from vmcontainer_kernel.errors import ContainerError

__all__ = [
    "bounding_step",
    "capability_names",
    "capability_step",
    "granted",
    "lacking_step",
    "no_new_privs_step",
    "rlimit_step",
]


_RLIMITS = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE"),
    *("MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
"""Names without ``RLIMIT_``; the index is the number (asm-generic/resource.h). Not from Python's resource module: in a
child nothing may be imported, as its root may be the container's.
"""


def rlimit_step(rlimits: tuple[Rlimit, ...]) -> Step:
    """Return the step that sets resource limits."""
    text = "; ".join(f"prlimit({one.type}, {one.soft}, {one.hard})" for one in rlimits)
    return Step("rlimits", text, "limits of this process, asked for", "prlimit(2)", partial(_limit, rlimits))


def _limit(rlimits: tuple[Rlimit, ...], _: Scene) -> None:
    for one in rlimits:
        try:
            linux.prlimit(_RLIMITS.index(one.type.removeprefix("RLIMIT_")), one.soft, one.hard)
        except PermissionError as error:
            raise ContainerError(
                f"process.rlimits: {one.type} {one.hard} is above this node's hard limit,"
                " and raising that needs CAP_SYS_RESOURCE",
                hint="ask for less, or run it in a guest: --on vm",
                where="process.rlimits",
            ) from error


def capability_names(mask: int) -> str:
    """Return a bit mask as names."""
    return " ".join(name for number, name in enumerate(linux.CAPABILITIES) if mask >> number & 1)


def bounding_step(capabilities: Capabilities) -> Step:
    """Return the step that drops capabilities for this process and all that descend from it."""
    return Step(
        "bounding set",
        f"prctl(PR_CAPBSET_DROP, …) for all but {capability_names(capabilities.bounding) or 'none'}",
        "root in the container is not root of the node: what is dropped here no program can get back",
        "capabilities(7)",
        partial(_bound, capabilities.bounding, linux.last_capability()),
    )


def _bound(mask: int, last: int, _: Scene) -> None:
    for number in range(last + 1):
        if not mask >> number & 1:
            linux.prctl(linux.PR_CAPBSET_DROP, number)


def granted(asked: Capabilities, held: int) -> Capabilities:
    """Return what can be given of capability sets by a process that holds `held` itself."""
    bounding = asked.bounding & held
    permitted, inheritable = asked.permitted & held, asked.inheritable & held
    # capabilities(7): ambient ones must be permitted and inheritable, effective ones permitted.
    return Capabilities(
        bounding, asked.effective & permitted, permitted, inheritable, asked.ambient & permitted & inheritable
    )


def lacking_step(asked: Capabilities, given: Capabilities) -> Step:
    """Return the step that tells which capabilities are asked for and cannot be given."""
    sets = [name for name in asked._fields if getattr(asked, name) != getattr(given, name)]
    lacking = "; ".join(f"{name}: {capability_names(getattr(asked, name) & ~getattr(given, name))}" for name in sets)
    return Step(
        "capabilities lacking",
        f"none for {lacking}",
        "not this process's to give, or not held where the set needs it; told, and no reason to stop",
        "config.md, Linux Process: capabilities",
        lambda scene: scene.warn(f"process.capabilities: not given, {lacking}"),
    )


def capability_step(capabilities: Capabilities) -> Step:
    """Return the step that sets the capabilities the program starts with."""
    held, passed_on = (capability_names(mask) or "none" for mask in (capabilities.permitted, capabilities.inheritable))
    return Step(
        "capabilities",
        f"capset({held}; inheritable {passed_on})",
        "the part of root's power the program starts with; nothing inheritable (CVE-2022-29162)",
        "capabilities(7)",
        partial(_set_capabilities, capabilities),
    )


def _set_capabilities(capabilities: Capabilities, _: Scene) -> None:
    linux.capset(capabilities.effective, capabilities.permitted, capabilities.inheritable)
    linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(len(linux.CAPABILITIES)):
        if capabilities.ambient >> number & 1:
            linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_RAISE, number)


def no_new_privs_step() -> Step:
    """Return the step after which no program gives more rights."""
    return Step(
        "no_new_privs",
        "prctl(PR_SET_NO_NEW_PRIVS, 1)",
        "set-user-ID programs give no rights, now and in every descendant",
        "prctl(2)",
        lambda _: linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1),
    )
