"""The image view as text and tables: its layers, and what is written above them."""

from __future__ import annotations

from ..rows import Document, Words, format_bytes, items, part, visible
from .kernel_parts import Table
from .tables import foreign, indented, table

__all__ = ["image_html", "image_numbers", "image_text"]


def image_text(view: Document, w: Words) -> list[str]:
    """What is the same in every run: the image's name and how many layers it has."""
    containers = ", ".join(visible(one.get("name")) for one in items(view, "containers"))
    return [
        f"{w['image']} {visible(view.get('name'))}",
        f"  {w['layers_count'].format(count=len(items(view, 'layers')))}",
        f"  {w['containers_of']}: {containers or w['none']}",
    ]


def _names(value: object) -> str:
    return ", ".join(visible(one) for one in value) if isinstance(value, list) else ""


def _tables(view: Document, w: Words) -> list[Table]:
    """Caption, columns and rows: layers from the top down, and changes of each container."""
    layers = [
        [
            visible(one.get("diff_id")),
            format_bytes(one.get("size_bytes")),
            visible(one.get("created_by")),
            _names(one.get("images")),
            _names(one.get("containers")),
        ]
        for one in reversed(items(view, "layers"))
    ]
    changes = [
        [
            visible(container.get("name")),
            str(w["kinds"].get(str(row.get("kind")), visible(row.get("kind")))),
            visible(row.get("path")),
            str(w["marks"].get(str(row.get("mark")), visible(row.get("mark")))),
            format_bytes(row.get("size_bytes")),
        ]
        for container in items(view, "containers")
        for row in items(part(container, "changes"), "rows")
    ]
    head = [w["diff_id"], w["size"], w["created_by"], w["other_images"], w["containers_of"]]
    return [
        (w["layers"], head, layers),
        (w["upper"], [w["container"], w["change"], w["path"], w["mark"], w["size"]], changes),
    ]


def image_numbers(view: Document, w: Words) -> list[str]:
    """All figures, a line a row."""
    return indented(row for _, _, rows in _tables(view, w) for row in rows)


def image_html(view: Document, w: Words) -> list[str]:
    """A title and tables."""
    title = f"<p><strong>{foreign(image_text(view, w)[0])}</strong></p>"
    return [title, *(table(*one) for one in _tables(view, w))]
