"""A ``config.json`` that says all the specification lets one say and this engine can honour."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["FULL"]

_MAPPINGS = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
_DISK = {"major": 8, "minor": 0}
_HOOK = {"path": "/bin/hook", "args": ["hook", "-v"], "env": ["A=1"], "timeout": 5}

_DOCUMENT = {
    "ociVersion": "1.2.0",
    "hostname": "web",
    "domainname": "example.test",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 7, "gid": 8, "umask": 0o27, "additionalGids": [5, 6]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "EMPTY="],
        "cwd": "/srv",
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
        ],
        "noNewPrivileges": True,
        "apparmorProfile": "",
        "selinuxLabel": "",
        "oomScoreAdj": -5,
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": 1,
            "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 1_000_000,
            "deadline": 2_000_000,
            "period": 3_000_000,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "0-1,3"},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "data", "type": "none", "source": "volume", "options": ["rbind", "rro"]},
        {
            "destination": "/home//user/",
            "source": "/home/me",
            "options": ["bind", "idmap"],
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        },
    ],
    "hooks": {
        kind: [_HOOK]
        for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    },
    "annotations": {"com.example.key": ""},
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/blue"},
            {"type": "mount"},
            {"type": "ipc", "path": ""},
            {"type": "uts"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "time"},
        ],
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": {"monotonic": {"secs": -60, "nanosecs": 7}, "boottime": {"secs": 10}},
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o20666, "uid": 1, "gid": 2},
            {"path": "/run/pipe", "type": "p"},
        ],
        "cgroupsPath": "/vmcontainer/web",
        "resources": {
            "memory": {
                "limit": 1 << 26,
                "reservation": 1 << 25,
                "swap": -1,
                "kernel": -1,
                "kernelTCP": 1 << 20,
                "swappiness": 0,
                "disableOOMKiller": False,
                "useHierarchy": True,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 512,
                "quota": 50_000,
                "burst": 10_000,
                "period": 100_000,
                "realtimeRuntime": 950_000,
                "realtimePeriod": 1_000_000,
                "cpus": "0-1,3",
                "mems": "0",
                "idle": 0,
            },
            "pids": {"limit": 100},
            "blockIO": {
                "weight": 500,
                "leafWeight": 300,
                "weightDevice": [{**_DISK, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [{**_DISK, "rate": 600}],
                "throttleWriteBpsDevice": [{**_DISK, "rate": 0}],
                "throttleReadIOPSDevice": [{**_DISK, "rate": 1}],
                "throttleWriteIOPSDevice": [{**_DISK, "rate": 2}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 22}],
            "network": {"classID": 0x100001, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}, "rxe3": {"hcaObjects": 1}},
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rw"},
            ],
            "unified": {"memory.high": "1000000", "io.max": "8:0 rbps=1\n8:16 wbps=2"},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "web",
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": None},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_TRACE",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["mount"], "action": "SCMP_ACT_NOTIFY"},
            ],
        },
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536", "fs.mqueue.msg_max": "10"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "",
        "rootfsPropagation": "rslave",
        "personality": {"domain": "LINUX32", "flags": []},
        "intelRdt": None,
        "netDevices": {},
        "memoryPolicy": None,
    },
    "solaris": None,
    "windows": None,
    "vm": None,
    "zos": None,
}

FULL: dict[str, Any] = json.loads(json.dumps(_DOCUMENT))  # no object stands in two places of it
