"""``features``: what this runtime understands, whatever this computer's kernel can do (features.md)."""

from __future__ import annotations

from typing import Any

from vmcontainer_kernel.container import linux, mounts, parsing
from vmcontainer_kernel.container import parsing_linux as words

__all__ = ["features"]


def features() -> dict[str, Any]:
    """Return the features document; each list is the one the code that reads a configuration goes by."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(parsing.HOOKS),
        "mountOptions": mounts.option_names(),
        "linux": {
            "namespaces": sorted(linux.NAMESPACE_FLAGS),
            "capabilities": [f"CAP_{name}" for name in linux.CAPABILITIES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(words.SECCOMP_ACTIONS),
                "operators": sorted(words.SECCOMP_OPERATORS),
                "archs": sorted(words.SECCOMP_ARCHITECTURES),
                "knownFlags": sorted(words.SECCOMP_FLAGS),
                "supportedFlags": sorted(words.SECCOMP_FLAGS),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }
