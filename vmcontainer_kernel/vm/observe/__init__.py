"""The hypervisor view: what QEMU and the host's kernel can tell of a machine without asking its guest.

    QMP answers ─asking──▶┐
    QEMU's text ─texts──▶ ├─ document, parts ─▶ {"kind": "hypervisor", …} ─delta─▶ what changed
    /proc text ──proc───▶ │                       docs/architecture.md, "Views", names the fields
    our facts ──────────▶ ┘

`observer` asks and `poller` repeats; all between is pure. A virtual CPU is a thread of the host and guest memory is a
mapping of a host process: both are read from proc(5), so the numbers are there under every accelerator.
"""
