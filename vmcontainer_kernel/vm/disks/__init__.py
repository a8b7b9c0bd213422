"""Disks: kept by name, laid over each other, given to machines, taken from and written for other hypervisors.

    file of anybody ──headers──▶ Header ──convert (qemu-img, confined)──▶ store: disks/NAME/disk.qcow2
    store ──▶ Disk (a chain of layers) ──nodes──▶ blockdev-add … ──live──▶ a SCSI disk in a running guest

No name of a file that stands inside an image is ever followed: each layer is opened here, and the chain is told to
QEMU node by node.
"""
