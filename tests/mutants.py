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
MACHINE = "vmcontainer_kernel/vm/machine.py"
MACHINES = "vmcontainer_kernel/machines.py"
NODES = "vmcontainer_kernel/verbs/nodes.py"
LEFT_OUT = "    return {*options.without, *(short"

MUTANTS = (
    Mutant(
        "C1",
        "no container has a pid namespace",
        "03-first-container",
        CONFIG,
        LEFT_OUT,
        LEFT_OUT.replace("{", '{"pid", ', 1),
    ),
    Mutant(
        "C3",
        "containers run in a guest, not on the node that is named",
        "03-first-container",
        NODES,
        "    wanted = name or default_node_name()",
        '    wanted = name or "vm"',
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
        "V4",
        "a pause does not stop the virtual processors",
        "02-first-vm",
        MACHINE,
        'Stop the virtual CPUs (QMP ``stop``)."""\n        await self.execute("stop")',
        'Stop the virtual CPUs (QMP ``stop``)."""\n        await self.execute("query-status")',
    ),
    Mutant(
        "V5",
        "a machine's memory is the usual one, whatever is asked for",
        "02-first-vm",
        MACHINES,
        "memory_bytes=wish.memory_bytes or image.recipe.memory_bytes",
        "memory_bytes=image.recipe.memory_bytes",
    ),
)
