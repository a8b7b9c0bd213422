"""The machine's devices, seen from QEMU and from the guest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from .asking import Json

__all__ = ["DESCRIPTIONS", "device_list", "pci_list"]

DESCRIPTIONS: Final = {
    "virtio-balloon-pci": "gives guest memory back to the host, and counts it",
    "virtio-blk-pci": "the root disk, read-only",
    "virtio-net-pci": "a network card on QEMU's user-mode network",
    "virtio-rng-pci": "random numbers from the host",
    "virtio-scsi-pci": "a bus for disks that come and go",
    "virtio-serial-pci": "a bus of byte streams",
    "virtserialport": "the stream to the agent in the guest",
    "pcie-root-port": "an empty slot for a second network card",
    "pvpanic-pci": "a bell that the guest's kernel rings when it panics",
}


def device_list(peripheral: Sequence[Json], buses: Sequence[Json]) -> list[Json]:
    """Join QEMU's object tree (names and types) with its PCI buses (addresses)."""
    on_pci = {device["qdev_id"]: device for device in _on_buses(buses) if device.get("qdev_id")}
    found = []
    for entry in peripheral:
        kind = entry["type"].removeprefix("child<").removesuffix(">")
        if kind == "string" or kind == entry["type"]:
            continue
        device = on_pci.get(entry["name"])
        bus = "pci" if device else "virtio-serial" if kind == "virtserialport" else "other"
        description = DESCRIPTIONS.get(kind) or (device or {}).get("class_info", {}).get("desc", "")
        address = _address(device) if device else None
        found.append(
            {"id": entry["name"], "type": kind, "bus": bus, "address": address, "description": description},
        )
    return sorted(found, key=lambda one: (one["address"] is None, one["address"] or "", one["id"]))


def _on_buses(buses: Iterable[Json]) -> Iterator[Json]:
    for bus in buses:
        for device in bus.get("devices", ()):
            yield device
            yield from _on_buses([device.get("pci_bridge", {})])


def _address(device: Json) -> str:
    return f"{device['bus']:02x}:{device['slot']:02x}.{device['function']}"


def pci_list(buses: Sequence[Json], seen: Mapping[str, Json] | None) -> list[Json]:
    """List all functions on the PCI buses as QEMU has them, each with what the guest found at this address.

    `seen` is the guest's own list by address, None where nobody asked it.
    """
    found = [
        {
            "address": _address(device),
            "id": device.get("qdev_id") or None,
            "vendor": f"{device['id']['vendor']:04x}",
            "device": f"{device['id']['device']:04x}",
            "class": device["class_info"].get("desc", f"class {device['class_info']['class']:04x}"),
            "guest": None if seen is None else seen.get(_address(device)),
        }
        for device in _on_buses(buses)
    ]
    return sorted(found, key=lambda one: str(one["address"]))
