"""Live views of a machine and three containers: what an update costs to make, to send and to draw; a whole
``%lab view``; and whether anything grows.

python -m tests.benchmarks.views

The views are real and live. Their page is a plain one in Chromium (`tests/browser/stage.py`): what JupyterLab itself
does with a message is not in these numbers.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from tests.benchmarks.measure import Notebook, Row, Series
from tests.browser.stage import Stage, Wire, staged, wired
from vmcontainer_kernel.live import kernel_view, lab_view, machine_view
from vmcontainer_kernel.session import Session, current

CONTAINERS = ("seen0", "seen1", "seen2")
MACHINE = "seen"
LOOK_S = 20.0
REST_S = 3.0
CYCLES, UPDATES = 50, 1200  # 1200 updates are ten minutes at 2 Hz
UPDATE_BYTES, OPEN_BYTES = 2048, 150_000
SCRIPT_MS, OPEN_MS = 4, 1000


def rows(notebook: Notebook, session: Session) -> Iterator[Row]:
    """Measure everything of views; needs Chromium."""
    notebook.cell_ms("vm", MACHINE)
    for name in CONTAINERS:
        notebook.cell_ms("container", f"--on host {name}")
    views = {
        "machine": machine_view(session, MACHINE, "en"),
        "kernel": kernel_view(session, "host", "en"),
    }
    documents = {}
    for what, view in views.items():
        documents[what] = yield from update_rows(f"view of a {what}", view)
    with staged() as page:
        for what, view in views.items():
            yield script_row(page, f"view of a {what}", type(view), documents[what])
        yield from open_rows(page, session)
        yield from growth_rows(page, type(views["kernel"]), documents["kernel"])
    for view in views.values():
        view.close()
    session.wait(session.machines.remove(MACHINE))


class Page(Wire):
    """A page that draws in no time: it answers each change at once."""

    def send(self, data: dict[str, Any], metadata: object = None, buffers: Any = None) -> None:
        """Keep a message, and say that it is seen."""
        super().send(data, metadata, buffers)
        if "number" in data.get("content", {}):
            self.hear({"method": "custom", "content": {"seen": data["content"]["number"], "page": "bench"}})

    def look(self, *, watched: bool) -> None:
        """Say whether the view can be seen."""
        self.hear({"method": "update", "state": {"watched": watched}})

    def changes(self) -> list[int]:
        """The sizes of the changes that were sent."""
        return [one.size_bytes for one in self.sent if "change" in one.message.get("content", {})]


def update_rows(what: str, view: Any) -> Iterator[Row]:
    """What is sent and used while somebody looks, and while nobody does; returns the documents that were shown."""
    page, documents = wired(view, Page), list[dict[str, Any]]()
    assert isinstance(page, Page)
    view.observe(lambda change: documents.append(change["new"]), "document")
    time.sleep(REST_S)
    unseen_s = spent_s(LOOK_S)
    hidden = len(page.sent)
    page.look(watched=True)
    time.sleep(REST_S)
    page.sent.clear()
    seen_s = spent_s(LOOK_S)
    sizes = page.changes()
    page.look(watched=False)
    time.sleep(1)
    yield Row(f"{what}: an update (bytes)", Series([float(size) for size in sizes]), goal=UPDATE_BYTES)
    yield Row("  updates a second", Series([len(sizes) / LOOK_S]))
    yield Row("  messages while nobody looks", Series([float(hidden)]), goal=0.1)
    yield Row("  looked at, more of a core by (%)", Series([100 * (seen_s - unseen_s)]), goal=1)
    return documents


def spent_s(seconds: float) -> float:
    """How many seconds of CPU this process and all below it use in a second, over so many seconds."""
    before, begin_s = cpu_s(), time.perf_counter()
    time.sleep(seconds)
    return (cpu_s() - before) / (time.perf_counter() - begin_s)


def cpu_s() -> float:
    """CPU time of this process, the supervisor, and every QEMU and helper."""
    total = 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def script_s(session: Any) -> float:
    """How long scripts of the page have run (CDP, Performance.getMetrics)."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "ScriptDuration"))


def moments(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The documents again and again, half a second after one another."""
    for step, document in enumerate(itertools.cycle(documents)):
        yield {**document, "time_s": 1e6 + step / 2}


def script_row(page: Stage, what: str, view_class: Any, documents: list[dict[str, Any]]) -> Row:
    """What an update costs the page, above what the page does for a message that says nothing."""
    later = moments(documents)
    view = view_class(document=next(later))
    page.show(view)
    for document in itertools.islice(later, 10):
        view.document = document
        page.pump()
    session, count = page.page.context.new_cdp_session(page.page), 40
    session.send("Performance.enable")
    begin_s = script_s(session)
    for document in itertools.islice(later, count):
        view.document = document
        page.pump()
    between_s = script_s(session)
    for _ in range(count):
        view.send({"nothing": 0})
        page.pump()
    each_ms = 1e3 * ((between_s - begin_s) - (script_s(session) - between_s)) / count
    session.detach()
    page.close(view)
    view.close()
    return Row(f"{what}: script an update (ms)", Series([each_ms]), goal=SCRIPT_MS)


def open_rows(page: Stage, session: Session) -> list[Row]:
    """A whole ``%lab view``, from the call until its first tab is drawn, and what is sent for it."""
    times, sizes = Series(), Series()
    for _ in range(5):
        begin_s = time.perf_counter()
        view = lab_view(session, "en")
        page.show(view)
        page.until(lambda: all(name in page.text() for name in CONTAINERS))
        times.times_ms.append(1e3 * (time.perf_counter() - begin_s))
        wire = page.wire(view)
        sizes.times_ms.append(float(wire.opened_bytes + sum(one.size_bytes for one in wire.sent)))
        page.close(view)
        view.close()
    what = f"%lab view of a machine and {len(CONTAINERS)} containers"
    return [Row(what, times, goal=OPEN_MS), Row("  sent for it (bytes)", sizes, goal=OPEN_BYTES)]


def growth_rows(page: Stage, view_class: Any, documents: list[dict[str, Any]]) -> Iterator[Row]:
    """What the page and Python hold more of after many views, and after many updates."""

    def cycle() -> None:
        view = view_class(document=documents[0])
        page.show(view)
        page.close(view)
        view.close()

    yield from growth(f"{CYCLES} views opened and closed", page, cycle, CYCLES)
    later = moments(documents)
    view = view_class(document=next(later))
    page.show(view)

    def update() -> None:
        view.document = next(later)
        page.pump()
        page.wire(view).sent.clear()
        page.wire(view).carried.clear()

    yield from growth(f"{UPDATES} updates", page, update, UPDATES)
    page.close(view)
    view.close()


def growth(what: str, page: Stage, do: Callable[[], None], count: int) -> Iterator[Row]:
    """Both memories before and after; a quarter as many go before, as histories and caches fill up once."""
    tracemalloc.start()
    for _ in range(count // 4):
        do()
    before = held_kib(page)
    for _ in range(count):
        do()
    after = held_kib(page)
    tracemalloc.stop()
    yield Row(f"{what}: the page's heap (KiB more)", Series([after[0] - before[0]]), goal=256)
    yield Row("  Python's heap (KiB more)", Series([after[1] - before[1]]), goal=256)


def held_kib(page: Stage) -> tuple[float, float]:
    """What the page's and this process's heaps hold, rubbish left out."""
    gc.collect()
    session = page.page.context.new_cdp_session(page.page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return used / 1024, tracemalloc.get_traced_memory()[0] / 1024


if __name__ == "__main__":
    one = current()
    try:
        print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
        for line in rows(Notebook(), one):
            print(line.text(), flush=True)
    finally:
        one.close()
