"""OVF, the XML that describes what an OVA holds: read as a stranger's, written as other hypervisors expect it.

    <References> <File id= href= size= [compression= chunkSize=]/>
    <DiskSection> <Disk diskId= fileRef= [parentRef=] capacity= format=/>
    <VirtualSystem> … <VirtualHardwareSection> <Item> …

DMTF DSP0243, "Open Virtualization Format Specification" 1.1; hardware is told in the words of CIM (DSP1043).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

__all__ = ["DiskFile", "read_disks", "write_ovf"]

MOST_ELEMENTS: Final = 10_000
DEEPEST: Final = 64
_STREAM_OPTIMIZED: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_OVF: Final = "http://schemas.dmtf.org/ovf/envelope/1"
_CIM: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"


@dataclass(frozen=True)
class DiskFile:
    """A disk of a package: its id there, and the file that holds it."""

    disk: str
    href: str


def read_disks(data: bytes) -> list[DiskFile]:
    """Return the disks of an OVF in its order; those without a file are empty and left out.

    Raises ValueError for what is no XML, declares a document type (entities), or refers to what is not there.
    """
    files: dict[str, dict[str, str]] = {}
    disks: list[dict[str, str]] = []

    def element(name: str, attributes: dict[str, str]) -> None:
        if name == "File":
            files[attributes.get("id", "")] = attributes
        elif name == "Disk":
            disks.append(attributes)

    _walk(data, element)
    return [_disk_file(one, files) for one in disks if one.get("fileRef")]


def _disk_file(disk: dict[str, str], files: dict[str, dict[str, str]]) -> DiskFile:
    file = files.get(disk["fileRef"])
    if file is None:
        raise ValueError(f"a disk is in the file {disk['fileRef']!r}, which is not listed")
    if disk.get("parentRef"):
        raise ValueError(f"a disk lies on another one ({disk['parentRef']!r})")
    if file.get("compression", "identity") != "identity" or file.get("chunkSize"):
        raise ValueError(f"the file {file.get('href')!r} is compressed or cut into pieces")
    return DiskFile(disk.get("diskId", ""), file.get("href", ""))


def _walk(data: bytes, element: Callable[[str, dict[str, str]], None]) -> None:
    """Call `element` with each element's name and attributes, without their name spaces."""
    parser = expat.ParserCreate(namespace_separator=" ")
    counts = {"depth": 0, "elements": 0}

    def start(name: str, attributes: dict[str, str]) -> None:
        counts["depth"] += 1
        counts["elements"] += 1
        if counts["depth"] > DEEPEST or counts["elements"] > MOST_ELEMENTS:
            raise ValueError("it has too many elements")
        element(_local(name), {_local(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        counts["depth"] -= 1

    def doctype(*_: Any) -> None:
        # Entities are declared there, which expand to anything and read any file. OVF has no use for them.
        raise ValueError("it declares a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML: {error}") from error


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def write_ovf(name: str, file: str, file_bytes: int, size_bytes: int, *, memory_mib: int, cpus: int) -> bytes:
    """Describe a machine with one disk, as DSP0243 has it and with the system type that VMware's machines name."""
    label, href = quoteattr(name), quoteattr(file)
    items = "".join(
        _item(**one)
        for one in (
            {"InstanceID": 1, "ResourceType": 3, "ElementName": f"{cpus} virtual CPU", "VirtualQuantity": cpus},
            {
                "AllocationUnits": "byte * 2^20",
                "InstanceID": 2,
                "ResourceType": 4,
                "ElementName": f"{memory_mib} MB of memory",
                "VirtualQuantity": memory_mib,
            },
            {
                "Address": 0,
                "InstanceID": 3,
                "ResourceType": 20,
                "ResourceSubType": "AHCI",
                "ElementName": "SATA controller",
            },
            {
                "AddressOnParent": 0,
                "ElementName": "disk",
                "HostResource": "ovf:/disk/disk1",
                "InstanceID": 4,
                "Parent": 3,
                "ResourceType": 17,
            },
        )
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="{_OVF}" xmlns:ovf="{_OVF}"
  xmlns:rasd="{_CIM}/CIM_ResourceAllocationSettingData" xmlns:vssd="{_CIM}/CIM_VirtualSystemSettingData">
 <References><File ovf:id="file1" ovf:href={href} ovf:size="{file_bytes}"/></References>
 <DiskSection><Info>Disks</Info>
  <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{size_bytes}" ovf:format="{_STREAM_OPTIMIZED}"/>
 </DiskSection>
 <VirtualSystem ovf:id={label}><Info>A virtual machine</Info>
  <OperatingSystemSection ovf:id="101"><Info>The guest</Info><Description>Linux</Description></OperatingSystemSection>
  <VirtualHardwareSection><Info>Hardware</Info>
   <System><vssd:ElementName>Hardware</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
    <vssd:VirtualSystemIdentifier>{label[1:-1]}</vssd:VirtualSystemIdentifier>
    <vssd:VirtualSystemType>vmx-07</vssd:VirtualSystemType></System>
{items}  </VirtualHardwareSection>
 </VirtualSystem>
</Envelope>
""".encode()


def _item(**fields: object) -> str:
    inner = "".join(f"<rasd:{name}>{fields[name]}</rasd:{name}>" for name in sorted(fields))
    return f"   <Item>{inner}</Item>\n"
