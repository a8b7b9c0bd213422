"""A real JupyterLab and Notebook 7 in a real Chromium: one server and one browser for the whole run, one page a test.

Readiness is asked of JupyterLab itself (``jupyterapp``), never guessed from indicators: the application is restored,
the notebook's context is ready, its session is ready.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser.stage import CHROMIUM_ARGUMENTS, Stage, chromium
from tests.patience import now_s

SAMPLES = Path(__file__).with_name("samples")
START_TIMEOUT_S = 60

# The panel is found by its path: a workspace may hold others, and the one in front changes while it is restored.
PANEL = """
window.panelOf = (name) => [...window.jupyterapp.shell.widgets("main")].find((one) => one.context?.path === name);
"""
WHEN_READY = """async (name) => {
  while (!window.jupyterapp) await new Promise((done) => setTimeout(done, 50));
  await window.jupyterapp.restored;
  let panel;
  while (!(panel = window.panelOf(name))) await new Promise((done) => setTimeout(done, 50));
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
RUN_CELL = """async ([name, index]) => {
  const panel = window.panelOf(name), notebook = panel.content;
  window.jupyterapp.shell.activateById(panel.id);
  notebook.activeCellIndex = index;
  await window.jupyterapp.commands.execute("notebook:run-cell");
  return notebook.widgets[index].model.outputs.toJSON();
}"""
EXECUTE = """async ([name, code]) => {
  const kernel = window.panelOf(name).sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false, stop_on_error: false });
  let text = "";
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") text += content.text;
    if (header.msg_type === "error") text += content.traceback.join("\\n");
  };
  await future.done;
  return text;
}"""


def sample(name: str) -> dict[str, Any]:
    """A view document of the form that a real machine gives: ``hypervisor`` or ``kernel``."""
    document: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return document


def violations(page: Any, selector: str, *rules: str) -> list[str]:
    """What axe-core finds wrong in a part of a page: rule, how bad it is, the element, what would make it right.

    `rules`: only these, as all take seconds on a long page.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = page.evaluate("([selector, options]) => axe.run(selector, options)", [selector, options])
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:300]}\n{node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab server."""

    url: str
    token: str
    root: Path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(folder: Path) -> dict[str, str]:
    folders = {
        name: folder / name.lower() for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    folders |= {"IPYTHONDIR": folder / "ipython", "JUPYTERLAB_SETTINGS_DIR": folder / "settings"}
    folders |= {"JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces"}
    for path in folders.values():
        path.mkdir(parents=True)
    quiet = folders["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY", "IPYTHON"))}
    return kept | {name: str(path) for name, path in folders.items()}


def _wait_until_serving(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = now_s() + START_TIMEOUT_S
    while now_s() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.url}/api?token={lab.token}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start in {START_TIMEOUT_S} s:\n{log.read_text()[-2000:]}")


def _shut_down(lab: Lab, server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, as it then ends its kernels in order; a server that does not answer is killed."""
    ask = urllib.request.Request(f"{lab.url}/api/shutdown?token={lab.token}", method="POST")
    try:
        urllib.request.urlopen(ask, timeout=10).close()
        server.wait(30)
    except (OSError, subprocess.TimeoutExpired):
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    root = folder / "notebooks"
    root.mkdir()
    port, token, log = _free_port(), secrets.token_hex(16), folder / "server.log"
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": str(port),
        "ServerApp.port_retries": "0",
        "ServerApp.allow_root": "True",
        "ServerApp.root_dir": str(root),
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": "True",
        "JupyterNotebookApp.expose_app_in_browser": "True",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    started = Lab(f"http://127.0.0.1:{port}", token, root)
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=_environment(folder), cwd=root
        )
    try:
        _wait_until_serving(started, server, log)
        yield started
    finally:
        _shut_down(started, server)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = chromium()
    if program is None:
        pytest.skip("chromium: there is none; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=CHROMIUM_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def plain_page(browser: Any) -> Iterator[Any]:
    # Without motion, as a colour that is on its way from one theme to another is in neither.
    size = {"width": 1280, "height": 1000}
    context = browser.new_context(viewport=size, locale="en-US", reduced_motion="reduce")
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def stage(plain_page: Any) -> Iterator[Stage]:
    """A page without a Jupyter for views; after the test no script of theirs has failed."""
    stage = Stage(plain_page)
    yield stage
    plain_page.unroute_all()
    plain_page.goto("about:blank")
    assert stage.errors == []


class Notebook:
    """A notebook open in JupyterLab or Notebook 7: run its cells, ask its kernel, look at its page."""

    def __init__(self, page: Any, lab: Lab, name: str, front: str = "lab") -> None:
        self.page = page
        self.lab = lab
        self.name = name
        self.front = front
        self.frames: list[bytes] = []
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda ws: ws.on("framereceived", self._frame))

    def _frame(self, payload: str | bytes) -> None:
        self.frames.append(payload.encode() if isinstance(payload, str) else payload)

    def open(self) -> None:
        """Open it in a workspace of its own, so that no other test's tabs are restored with it."""
        self.page.add_init_script(PANEL)
        workspace = self.name.removesuffix(".ipynb")
        place = "notebooks" if self.front == "notebook" else f"lab/workspaces/{workspace}/tree"
        self.page.goto(f"{self.lab.url}/{place}/{self.name}?token={self.lab.token}")
        self.page.evaluate(WHEN_READY, self.name)

    def run(self, index: int) -> list[dict[str, Any]]:
        """Run a cell as the user does, and give its outputs as the notebook file will hold them."""
        outputs: list[dict[str, Any]] = self.page.evaluate(RUN_CELL, [self.name, index])
        return outputs

    def text(self, index: int) -> str:
        """Run a cell; its standard output and error as text, without what it says of its progress."""
        outputs = [output for output in self.run(index) if output.get("name") != "stderr"]
        parts = [part for output in outputs for part in (output.get("text", ""), output.get("traceback", ""))]
        return "".join("".join(part) for part in parts)

    def ask(self, code: str) -> str:
        """Run code in the notebook's kernel beside its cells; what it printed."""
        text: str = self.page.evaluate(EXECUTE, [self.name, code])
        return text.strip()

    def eventually(self, code: str, wanted: str, *, timeout_s: float = 10) -> None:
        """Ask until the answer is `wanted`."""
        deadline = now_s() + timeout_s
        while (answer := self.ask(code)) != wanted:
            assert now_s() < deadline, f"{code} still prints {answer!r}, not {wanted!r}"
            time.sleep(0.1)

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def restart(self) -> None:
        """Restart the kernel, as its menu does once the user has said yes."""
        self.page.evaluate("(name) => window.panelOf(name).sessionContext.session.kernel.restart()", self.name)
        self.page.evaluate(WHEN_READY, self.name)

    def widen(self) -> None:
        """Fold the file browser away, for pictures."""
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")

    def theme(self, name: str) -> None:
        self.page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name)
        self.page.wait_for_selector(f"body[data-jp-theme-name='{name}']", state="attached")
        self.page.wait_for_timeout(300)


class Notebooks:
    """Opens notebooks, each in a page of its own; ends pages and kernels together."""

    def __init__(self, lab: Lab, browser: Any) -> None:
        self.lab = lab
        self.browser = browser
        self.contexts: list[Any] = []
        self.names: set[str] = set()

    def __call__(self, *cells: str, width: int = 1280, height: int = 1000, **options: Any) -> Notebook:
        """A new notebook of the given code cells, open and with a kernel.

        `options`: ``front="notebook"`` for Notebook 7; all others are of Playwright's context.
        """
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
        document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        name = f"{secrets.token_hex(6)}.ipynb"
        nbformat.write(document, self.lab.root / name)
        self.names.add(name)
        return self._page(name, width, height, **options)

    def again(self, opened: Notebook) -> Notebook:
        """The same notebook in one more page, as another browser has it: with the same kernel."""
        return self._page(opened.name, 1280, 1000)

    def _page(self, name: str, width: int, height: int, front: str = "lab", **options: Any) -> Notebook:
        context = self.browser.new_context(viewport={"width": width, "height": height}, locale="en-US", **options)
        self.contexts.append(context)
        context.set_default_timeout(60_000)
        opened = Notebook(context.new_page(), self.lab, name, front)
        opened.open()
        return opened

    def end(self) -> None:
        for context in self.contexts:
            context.close()
        with urllib.request.urlopen(f"{self.lab.url}/api/sessions?token={self.lab.token}", timeout=10) as answer:
            ours = [session["id"] for session in json.load(answer) if session["path"] in self.names]
        for session in ours:
            url = f"{self.lab.url}/api/sessions/{session}?token={self.lab.token}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30).close()


@pytest.fixture
def notebook(lab: Lab, browser: Any) -> Iterator[Notebooks]:
    """Opens notebooks that end with the test."""
    notebooks = Notebooks(lab, browser)
    yield notebooks
    notebooks.end()


@pytest.fixture(scope="module")
def shared(lab: Lab, browser: Any) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks that end with the module, and gives the same one again for the same cells."""
    notebooks, opened = Notebooks(lab, browser), dict[tuple[str, ...], Notebook]()

    def open_once(*cells: str) -> Notebook:
        if cells not in opened:
            opened[cells] = notebooks(*cells, height=1400)
        return opened[cells]

    yield open_once
    notebooks.end()
