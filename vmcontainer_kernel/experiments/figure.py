"""A comparison as a plotly figure, finished and for the record: latency, memory, processor time, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import say

__all__ = ["figure"]

_MIB = 1 << 20


def figure(document: Mapping[str, Any]) -> Any:
    """Return a ``go.Figure`` of a comparison's document: three small bar charts, each bar with its number."""
    # 0.3 s and 30 MB, which only who wants the figure should pay for.
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    places = [one for one in document["places"] if not one["missing"]]
    names = [one["name"] for one in places]
    titles = [say("first byte, ms (median)"), say("memory, MiB"), say("processor time, s")]
    drawn = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.08)
    first = [_number(one["first_byte_ms"], "median", 1) for one in places]
    drawn.add_trace(_bars(go, names, first, "first byte"), row=1, col=1)
    for kind, pattern in (("private", ""), ("shared", "/")):
        sizes = [_number(one["memory"], f"{kind}_bytes", _MIB) for one in places]
        drawn.add_trace(_bars(go, names, sizes, kind, pattern), row=1, col=2)
    drawn.add_trace(_bars(go, names, [one["cpu_s"] for one in places], "processor"), row=1, col=3)
    drawn.update_yaxes(type="log", row=1, col=1)
    drawn.update_layout(barmode="stack", showlegend=False, height=340, margin={"l": 40, "r": 10, "t": 40, "b": 40})
    return drawn


def _number(numbers: Mapping[str, Any] | None, name: str, unit: int) -> float | None:
    return None if not numbers or numbers.get(name) is None else numbers[name] / unit


def _bars(go: Any, names: list[str], values: list[float | None], title: str, pattern: str = "") -> Any:
    texts = ["" if value is None else f"{value:.3g}" for value in values]
    return go.Bar(
        x=names, y=values, name=title, text=texts, textposition="auto", marker={"pattern": {"shape": pattern}}
    )
