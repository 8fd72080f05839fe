"""JupyterLab and Voila in a headless Chromium. Test modules import the fixtures: `from browser import browser, jupyter, needs_browser`."""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable") if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on PATH (apt-get install chromium)")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
TOKEN = secrets.token_hex(8)  # the server of another worker does not answer to it
TEMPLATES = Path(__file__).resolve().parent.parent / "sastc" / "lab" / "share"  # of Voila; an installed package has them in share/jupyter
PATIENCE = int(os.environ.get("PATIENCE_OF_TESTS", 240_000))  # ms; two busy cores start a kernel that imports torch in ten to thirty seconds
expect.set_options(timeout=PATIENCE)  # what a page shows is asked for with `expect`, which waits: a page is a moment behind its model


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(home: Path) -> dict:
    "Nothing of the user's Jupyter is read or written. Neurons are not compiled, which a run of many epochs would do first."
    folders = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTER_RUNTIME_DIR="runtime",
        IPYTHONDIR="ipython",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
    )
    root = str(Path(__file__).resolve().parent.parent)
    ours = dict(OMP_NUM_THREADS="1", SASTC_BACKEND="eager", PYTHONPATH=root, JUPYTER_PATH=str(TEMPLATES))
    return os.environ | {name: str(home / place) for name, place in folders.items()} | ours


def _answers(process: subprocess.Popen, url: str) -> bool:
    "Wait until a server answers; False for one that ended, or never does."
    deadline = time.monotonic() + PATIENCE / 1000
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):  # also where another program has the port
            urllib.request.urlopen(url, timeout=5).close()
            return True
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(120)  # it ends its kernels first, which takes a while where all cores are busy
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _serving(command: list[str], home: Path, asked: str, folder: Path):
    "The address of a web server as a process of its own, once it answers where it is asked."
    for _ in range(3):  # another program may take the port before the server does
        url = f"http://127.0.0.1:{(port := _free_port())}/"
        with open(home / "server.log", "wb") as log:
            process = subprocess.Popen([*command, f"--port={port}"], cwd=folder, env=_environment(home), stdout=log, stderr=log)
        try:
            if _answers(process, url + asked):
                yield url
                return
            if process.poll() is None:  # it has the port, and does not answer
                break
        finally:
            _end(process)
    pytest.fail(f"{command[2]} did not start:\n{(home / 'server.log').read_text()[-2000:]}")


def eventually(page, holds: Callable[[], object]):
    """What `holds` returns, once that is true; else what it returned last.

    For what `expect` has no word for: a layout that is still drawn, or what a kernel or a run is still told. An element that is drawn anew
    at the moment has no box: `bounding_box` returns None."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not (held := holds()) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    return held


class Jupyter:
    "A JupyterLab server whose notebooks lie in `folder`."

    def __init__(self, folder: Path, home: Path, url: str):
        self.folder, self.home, self.url = folder, home, url

    def write(self, name: str, *cells: str) -> Path:
        "Save a notebook of code cells."
        path = self.folder / name
        kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=kernel), path)
        return path

    def open(self, page, name: str) -> "Notebook":
        "Open a notebook in the page and wait for its kernel."
        page.goto(f"{self.url}/lab/tree/{name}?token={TOKEN}&reset")
        notebook = Notebook(page)
        notebook.ready()
        return notebook

    @contextlib.contextmanager
    def voila(self, name: str):
        "The address of a Voila server that shows a notebook."
        # the page of a notebook starts a kernel: ask for a file instead
        command = [
            sys.executable,
            "-m",
            "voila",
            name,
            "--template=sastc",
            "--no-browser",
            "--Voila.port_retries=0",
            "--Voila.ip=127.0.0.1",
            f"--VoilaExecutor.timeout={PATIENCE // 1000}",
        ]
        with _serving(command, self.home, "voila/static/favicon.ico", self.folder) as url:
            yield url


class Notebook:
    "A notebook that is open in a page of JupyterLab."

    def __init__(self, page):
        self.page = page

    def ready(self) -> None:
        "Wait until the notebook is shown and its kernel answers."
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        self.page.wait_for_function("() => Boolean(window.jupyterapp?.shell.currentWidget?.context)")  # it is shown a moment before it is the current one
        self.page.evaluate("""async () => {
            await jupyterapp.restored;
            const context = jupyterapp.shell.currentWidget.context;
            await context.ready; await context.sessionContext.ready;
            await context.sessionContext.session.kernel.info;
        }""")

    def command(self, name: str, **arguments) -> None:
        "Execute a command of JupyterLab and wait for its end."
        self.page.evaluate("([name, given]) => jupyterapp.commands.execute(name, given).then(() => null)", [name, arguments])

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")

    def run_cell(self, number: int) -> str:
        "Run the cell with this number; returns its text output."
        self.page.evaluate("n => { jupyterapp.shell.currentWidget.content.activeCellIndex = n; }", number)
        self.command("notebook:run-cell")
        return self.output(number)

    def output(self, number: int) -> str:
        "Text that the cell with this number printed or returned; the traceback of an error."
        outputs = self.page.evaluate("n => jupyterapp.shell.currentWidget.content.widgets[n].outputArea?.model.toJSON() ?? []", number)
        texts = [out.get("text") or out.get("data", {}).get("text/plain") or out.get("traceback", "") for out in outputs]
        return "".join("".join(text) for text in texts)

    def save(self) -> None:
        self.command("docmanager:save")

    def reload(self) -> None:
        "Save, reload the page, and wait for the kernel, which went on running."
        self.save()
        self.page.reload()
        self.ready()

    def restart_kernel(self) -> None:
        self.page.evaluate("() => jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart()")
        self.ready()

    def theme(self, name: str) -> None:
        '"light" or "dark"'
        self.command("apputils:change-theme", theme=f"JupyterLab {name.title()}")
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str(name == "light").lower())


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path):
    "A server for the notebooks in `folder`, with what it writes for itself in `home`."
    news = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps(dict(fetchNews="false", checkForUpdates=False)))
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        "--allow-root",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}",
        "--expose-app-in-browser",
    ]
    with _serving(command, home, f"api/status?token={TOKEN}", folder) as url:
        yield Jupyter(folder, home, url.rstrip("/"))


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "One server for all tests of a module."
    with jupyterlab(tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=PATIENCE)
        yield chromium
        chromium.close()


def _local(url: str) -> bool:
    return urlsplit(url).scheme in ("data", "blob") or urlsplit(url).hostname == "127.0.0.1"


@pytest.fixture
def page(browser):
    "A page that reaches this machine only, and fails its test when it asks another for anything."
    context = browser.new_context(viewport=dict(width=1280, height=900), accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    asked = []
    context.on("request", lambda request: asked.append(request.url))
    context.route(lambda url: not _local(url), lambda route: route.abort())
    page = context.new_page()
    page.on("websocket", lambda socket: asked.append(socket.url))
    yield page
    context.close()
    strangers = sorted({url for url in asked if not _local(url)})
    assert asked and not strangers, f"requests to other hosts: {strangers}"
