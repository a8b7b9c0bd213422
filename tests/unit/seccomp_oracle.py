"""libseccomp as an oracle; run by the system's Python, for which the distribution has the bindings.

One JSON document a line: {"numbers": ARCH} → name → number; else a filter → its program, as hexadecimal text.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import seccomp

ARCHITECTURES = {"X86_64": "X86_64", "X86": "X86", "X32": "X32", "AARCH64": "AARCH64", "ARM": "ARM"}
NAMES = sorted(set(re.findall(r"#define __SNR_(\w+)", Path("/usr/include/seccomp-syscalls.h").read_text())))


def arch(name):
    return seccomp.Arch(getattr(seccomp.Arch, name.removeprefix("SCMP_ARCH_")))


def action(name, errno):
    kind = name.removeprefix("SCMP_ACT_")
    if kind in ("ERRNO", "TRACE"):
        return getattr(seccomp, kind)(1 if errno is None else errno)
    return getattr(seccomp, {"KILL_THREAD": "KILL"}.get(kind, kind))


def numbers(name):
    found = {}
    for call in NAMES:
        try:
            found[call] = seccomp.resolve_syscall(arch(name), call)
        except ValueError:
            continue
    return found


def condition(arg):
    operator = getattr(seccomp, arg["op"].removeprefix("SCMP_CMP_"))
    return seccomp.Arg(arg["index"], operator, arg["value"], arg["valueTwo"])


def compiled(document):
    """Do with the configuration what runc does, for one architecture.

    One, as libseccomp 2.5.4 forgets to load the number in some filters for several whose rules have equal pieces.
    """
    default = action(document["defaultAction"], document.get("defaultErrnoRet"))
    made = seccomp.SyscallFilter(default)
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    made.remove_arch(seccomp.Arch(seccomp.Arch.NATIVE))
    made.add_arch(arch(document["architecture"]))
    for rule in document["syscalls"]:
        verdict, args = action(rule["action"], rule.get("errnoRet")), rule.get("args") or []
        if verdict == default:
            continue
        several = len({arg["index"] for arg in args}) < len(args)
        for name in rule["names"]:
            for group in [[arg] for arg in args] if several else [args]:
                try:
                    made.add_rule(verdict, name, *map(condition, group))
                except RuntimeError as error:
                    # EEXIST: a rule with other words for this very case came first.
                    if name in NAMES and "-17" not in str(error):
                        raise RuntimeError(f"{name} {group}") from error
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read().hex()


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(numbers(request["numbers"]) if "numbers" in request else compiled(request)), flush=True)
