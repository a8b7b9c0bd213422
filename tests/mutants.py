"""What `tests.mutations` breaks: for a claim, one replacement in one file, and the lesson that has to notice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One thing broken: `old` stands exactly once in `file`."""

    claim: str
    broken: str
    lesson: str
    file: str
    old: str
    new: str


CONFIG = "vmcontainer_kernel/container/config.py"
DOCUMENT = "vmcontainer_kernel/vm/observe/document.py"
NODES = "vmcontainer_kernel/verbs/nodes.py"
LEFT_OUT = "    return {*options.without, *(short"
HOLD = '            await give_image(node, options.get("image"), report)'
GIVE = "        await give_image(node, options.image, report)"
BOOT = "        return await session.machines.boot(config)"
STOP = "        [await one.machine.pause() for one in session.machines.guests.values() if one.machine.config.screen]"
TRAP = "trap 'exit 0' TERM INT; while"
SET_NAME = "lambda _: linux.sethostname(spec.hostname),"
EVENT = "        self.events.append((seconds, name, event_detail(data)))"
ASK = "            return await (await current().node(self.name)).view(parts)"
ASK_OR_REMEMBER = """\
            last = globals().setdefault("_last", {})
            try:
                last[self.name] = await (await current().node(self.name)).view(parts)
            except Exception:
                pass
            return last[self.name]"""

MUTANTS = (
    # Virtual machines
    Mutant(
        "V1",
        "a machine is said to have a thousand times the memory that it has",
        "04-host-hypervisor-guest",
        DOCUMENT,
        '    return {"given_bytes": facts.given_bytes, **found}',
        '    return {"given_bytes": facts.given_bytes << 10, **found}',
    ),
    Mutant(
        "V2",
        "no virtual processor is plugged in",
        "06-resources",
        "vmcontainer_kernel/vm/growing.py",
        "    for _ in range(growth.cpus):",
        "    for _ in range(0):",
    ),
    Mutant(
        "V3",
        "the guest's processor does not say that it is a virtual one",
        "04-host-hypervisor-guest",
        "vmcontainer_kernel/vm/config.py",
        'cpu="qemu64,+rdrand"',
        'cpu="qemu64,+rdrand,-hypervisor"',
    ),
    Mutant(
        "V4",
        "a pause does not stop the virtual processors",
        "02-first-vm",
        "vmcontainer_kernel/vm/machine.py",
        'Stop the virtual CPUs (QMP ``stop``)."""\n        await self.execute("stop")',
        'Stop the virtual CPUs (QMP ``stop``)."""\n        await self.execute("query-status")',
    ),
    Mutant(
        "V5",
        "a machine's memory is the usual one, whatever is asked for",
        "02-first-vm",
        "vmcontainer_kernel/machines.py",
        "memory_bytes=wish.memory_bytes or image.recipe.memory_bytes",
        "memory_bytes=image.recipe.memory_bytes",
    ),
    Mutant(
        "V6",
        "the hypervisor's list of devices lacks one that the guest has",
        "04-host-hypervisor-guest",
        "vmcontainer_kernel/vm/observe/devices.py",
        '    return sorted(found, key=lambda one: str(one["address"]))',
        '    return sorted(found, key=lambda one: str(one["address"]))[:-1]',
    ),
    Mutant(
        "V7",
        "the count of translated blocks stands still",
        "05-hypervisor-in-a-page",
        DOCUMENT,
        'answers.read_once(texts.jit, "x-query-jit")',
        'answers.read_once(lambda text: {**texts.jit(text), "blocks": 7}, "x-query-jit")',
    ),
    Mutant(
        "V8",
        "a machine that boots a system of its own stops the one that did before",
        "07-many-systems",
        "vmcontainer_kernel/verbs/booting.py",
        BOOT,
        f"{STOP}\n{BOOT}",
    ),
    Mutant(
        "V9",
        "weights of machines are not given to the host's scheduler",
        "06-resources",
        "vmcontainer_kernel/vm/resources.py",
        "        if self.cpu_shares is not None:",
        "        if False:",
    ),
    Mutant(
        "V9",
        "the balloon is never asked to grow",
        "06-resources",
        "vmcontainer_kernel/vm/growing.py",
        "    if growth.balloon_bytes is not None:",
        "    if False:",
    ),
    Mutant(
        "V10",
        "the event of a guest's panic is swallowed",
        "16-one-fault",
        "vmcontainer_kernel/vm/machine.py",
        EVENT,
        f'        if name != "GUEST_PANICKED":\n    {EVENT}',
    ),
    Mutant(
        "V11",
        "one machine answers for all",
        "07-many-systems",
        "vmcontainer_kernel/lab.py",
        "(await session.machines.ensure(on)).node",
        '(await session.machines.ensure("vm")).node',
    ),
    Mutant(
        "V11",
        "for every machine the same process is named",
        "07-many-systems",
        DOCUMENT,
        '"pid": facts.pid',
        '"pid": __import__("os").getpid()',
    ),
    Mutant(
        "V12",
        "a disk is exported in this lab's own format, whatever is asked for",
        "07-many-systems",
        "vmcontainer_kernel/vm/disks/making.py",
        "else FORMATS.get(wanted)",
        'else "qcow2"',
    ),
    Mutant(
        "V13",
        "a clone takes all of its memory at once",
        "14-difference",
        "vmcontainer_kernel/vm/qemu.py",
        "share={'on' if wiring.save else 'off'}",
        "share={'on' if wiring.save else 'off,prealloc=on'}",
    ),
    Mutant(
        "V14",
        "a machine that shall boot is a clone",
        "14-difference",
        "vmcontainer_kernel/verbs/resources.py",
        "    if not given.cold:",
        "    if True:",
    ),
    Mutant(
        "V15",
        "the command line that is shown names a device otherwise",
        "04-host-hypervisor-guest",
        DOCUMENT,
        '"command": list(facts.command)',
        '"command": [word.replace("id=rng", "id=random") for word in facts.command]',
    ),
    # Containers
    Mutant(
        "C1",
        "no container has a pid namespace",
        "03-first-container",
        CONFIG,
        LEFT_OUT,
        LEFT_OUT.replace("{", '{"pid", ', 1),
    ),
    Mutant(
        "C2",
        "a container for another kernel runs where all others do",
        "11-images",
        "vmcontainer_kernel/magics.py",
        "verbs.node_finder(session, options.on, progress.report)",
        'verbs.node_finder(session, "", progress.report)',
    ),
    Mutant(
        "C2",
        "an image keeps the time of day at which it was built",
        "11-images",
        "vmcontainer_kernel/container/images/pack.py",
        "int(status.st_mtime) if time_s is None else min(int(status.st_mtime), time_s)",
        "int(status.st_mtime)",
    ),
    Mutant(
        "C3",
        "containers run in a guest, not on the node that is named",
        "01-welcome",
        NODES,
        "    wanted = name or default_node_name()",
        '    wanted = name or "vm"',
    ),
    Mutant(
        "C4",
        "the step that names a container does nothing",
        "13-engines",
        "vmcontainer_kernel/container/namespaces.py",
        SET_NAME,
        "lambda _: None,",
    ),
    Mutant(
        "C5",
        "what a layer unpacks to is not compared with the image's settings",
        "11-images",
        "vmcontainer_kernel/container/images/store.py",
        '            self._match(layer, diff_id, f"sha256:{path.name}")',
        "            pass",
    ),
    Mutant(
        "C6",
        "all containers are in the host's network",
        "11-images",
        CONFIG,
        LEFT_OUT,
        LEFT_OUT.replace("{", '{"net", ', 1),
    ),
    Mutant(
        "C7",
        "containers are told that their kernel is another one (personality(2), UNAME26)",
        "03-first-container",
        "vmcontainer_kernel/container/namespaces.py",
        SET_NAME,
        f"lambda _: ({SET_NAME[10:-1]}, __import__('ctypes').CDLL(None).personality(0x20000)),",
    ),
    Mutant(
        "C7",
        "each container has clocks of its own",
        "03-first-container",
        "vmcontainer_kernel/container/options.py",
        "    time_offsets: tuple[tuple[str, int], ...] = ()",
        '    time_offsets: tuple[tuple[str, int], ...] = (("boottime", 9000),)',
    ),
    Mutant(
        "C8",
        "--without leaves nothing out",
        "03-first-container",
        CONFIG,
        LEFT_OUT,
        LEFT_OUT.replace("*options.without, ", "", 1),
    ),
    Mutant(
        "C9",
        "no container gets its memory limit",
        "10-cgroups",
        "vmcontainer_kernel/container/limits.py",
        "    return _said(limit=options.memory_bytes, swap=swap,",
        "    return _said(limit=None, swap=None,",
    ),
    Mutant(
        "C9",
        "a container may have four times as many processes as were asked for",
        "10-cgroups",
        "vmcontainer_kernel/container/limits.py",
        '{"limit": options.pids_limit},',
        '{"limit": 4 * options.pids_limit},',
    ),
    Mutant(
        "C10",
        "a container waits for four seconds before it starts",
        "03-first-container",
        "vmcontainer_kernel/cells.py",
        GIVE,
        f'        await __import__("asyncio").sleep(4)\n{GIVE}',
    ),
    Mutant(
        "C11",
        "every container that waits keeps 24 MiB of memory",
        "14-difference",
        "vmcontainer_kernel/session.py",
        TRAP,
        f"head -c 24m /dev/zero > /dev/shm/kept; {TRAP}",
    ),
    Mutant(
        "C11",
        "every container that waits is never at rest",
        "14-difference",
        "vmcontainer_kernel/session.py",
        "sleep 86400 &",
        "sleep 0.02 &",
    ),
    Mutant(
        "C12",
        "an export packs the layers anew",
        "11-images",
        "vmcontainer_kernel/container/images/archives.py",
        'as_it_is = ["--preserve-digests"]',
        'as_it_is = ["--dest-compress"]',
    ),
    Mutant(
        "C13",
        "each container waits three times as long as the one before it",
        "17-pipeline",
        "vmcontainer_kernel/session.py",
        HOLD,
        f"            await asyncio.sleep(min(20, 0.1 * 3 ** len(self.containers)))\n{HOLD}",
    ),
    Mutant(
        "C14",
        "a stop ends a container's programs at once",
        "17-pipeline",
        "vmcontainer_kernel/agent/lives.py",
        'str(image.get("StopSignal") or "SIGTERM")',
        '"SIGKILL"',
    ),
    Mutant(
        "C15",
        "of a node that is gone the last view is shown",
        "16-one-fault",
        "vmcontainer_kernel/lab.py",
        ASK,
        ASK_OR_REMEMBER,
    ),
    Mutant(
        "C16",
        "what the kernel refuses to run is given to a shell, as shells do",
        "07-many-systems",
        "vmcontainer_kernel/container/process.py",
        "            raise _cannot_run(path, error) from None",
        '            os.execve("/bin/sh", ["sh", *process.args], environment)',
    ),
    Mutant(
        "C17",
        "a container may write the kernel's settings",
        "15-hardening",
        CONFIG,
        '"readonlyPaths": [] if "readonly-paths" in left_open else',
        '"readonlyPaths": [] if True else',
    ),
    # The difference
    Mutant(
        "D1",
        "no container has a network namespace",
        "14-difference",
        CONFIG,
        LEFT_OUT,
        LEFT_OUT.replace("{", '{"net", ', 1),
    ),
    Mutant(
        "D2",
        "every container that waits keeps 5.4 MiB: each less than a machine, ten of them more",
        "14-difference",
        "vmcontainer_kernel/session.py",
        TRAP,
        f"head -c 5500k /dev/zero > /dev/shm/kept; {TRAP}",
    ),
    Mutant(
        "D3",
        "a container waits for three seconds before it starts",
        "14-difference",
        "vmcontainer_kernel/cells.py",
        GIVE,
        f'        await __import__("asyncio").sleep(3)\n{GIVE}',
    ),
    Mutant(
        "D4",
        "every container that waits keeps 24 MiB of memory",
        "18-choosing",
        "vmcontainer_kernel/session.py",
        TRAP,
        f"head -c 24m /dev/zero > /dev/shm/kept; {TRAP}",
    ),
)
