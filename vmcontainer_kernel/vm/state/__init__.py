"""Machines as values: saved, woken again, and moved from one QEMU to another.

shelf      which saved machines there are: names, parents, sizes, the room for them
freezing   a machine ─▶ a folder;  a folder ─▶ a machine
migration  a machine ─▶ the same machine in another QEMU, while it runs
transfer   the one step they share: a QEMU sends memory and state, another receives them
manifest   what a saved machine's folder holds, and whether it still does
document   a machine's description as JSON
"""
