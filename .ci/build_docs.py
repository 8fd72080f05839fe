"""Render the notebooks as a static site that works offline, and README.md, without Quarto.

nbdev prepares the notebooks as it does for Quarto, smalldocs lays them out, `pages.py` makes the pages independent of other hosts
and checks them. Everything happens on a copy of the project, so that a build never changes the checkout. `nbdev_docs` remains for
those who have Quarto.
"""

import ast
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import fastcore.docments
import plotly.io
from execnb.nbio import read_nb
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from plotly.graph_objects import Figure
from smalldocs.config import load
from smalldocs.site import Site

from pages import PLOTLY_MIME, Problem, finish_site

ROOT = Path(__file__).resolve().parent.parent


class NbdevSite(Site):
    "smalldocs names a page after its file; nbdev's links expect `neuron.html` from `00_neuron.ipynb` and say so in the front matter."

    def read(self, src):
        page = super().read(src)
        page.out = page.out.with_name(page.front.get("output-file", page.out.name))
        return page


def copy_project(target: Path):
    "Copy what the build reads."
    shutil.copy(ROOT / "settings.ini", target)
    shutil.copytree(ROOT / "sastc", target / "sastc", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "nbs", target / "nbs", ignore=shutil.ignore_patterns("runs", ".*"))


def show_source(nbs: Path):
    "Show exported cells below their documentation: nbdev leaves `export` out of a page and folds `exports` into it."
    for path in nbs.rglob("*.ipynb"):
        nb = json.loads(path.read_text(encoding="utf-8"))
        for cell in nb["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.search(r"^(def|class|@)", source, re.M):
                cell["source"] = re.sub(r"^#\| *export *$", "#| exports", source, flags=re.M)
        nb["cells"].append(dict(cell_type="markdown", id="end", metadata={}, source="<!-- end -->"))  # nbdev looks at the cell behind an exported one
        path.write_text(json.dumps(nb), encoding="utf-8")


def signature(symbol, eval_str: bool = True) -> inspect.Signature:
    "Signature for a page, with annotations as they are written where they name what a later cell defines."
    try:
        return inspect.signature(symbol, eval_str=eval_str)
    except NameError:
        return inspect.signature(symbol)


def figure_html(figure: dict, name: str) -> str:
    "The element and script that draw a saved figure with the Plotly of the page."
    config = {"displaylogo": False, "responsive": True}
    return plotly.io.to_html(figure, config, include_plotlyjs=False, full_html=False, validate=False, div_id=name)


def figure_makers() -> set[str]:
    "Names that a last line begins with when it shows a figure or a view."
    import sastc.studies.figures  # of this checkout, once `main` has put it on the path

    public = {name: getattr(sastc.studies.figures, name) for name in sastc.studies.figures.__all__}
    made = {name for name, thing in public.items() if inspect.isfunction(thing) and inspect.signature(thing).return_annotation is Figure}
    return made | {"fig", "figure", "px", "go", "view", "AttentionView", "RunBoard"}


def shows_figure(source: str, makers: set[str]) -> bool:
    "Whether a cell ends in an expression such as `figure`, `px.line(...)` or `training_curves(runs).update_layout(...)`."
    try:
        last = ast.parse(source).body[-1]
    except (SyntaxError, IndexError):  # shell commands, comments
        return False
    if not (isinstance(last, ast.Expr) and isinstance(last.value, (ast.Call, ast.Name))):
        return False
    node = last.value
    while isinstance(node, (ast.Call, ast.Attribute)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in makers


def draw_figures(proc: Path):
    "Replace Plotly's saved JSON by the HTML that draws it, and fail where a figure was never saved."
    makers = figure_makers()
    for path in sorted(proc.rglob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        nb = json.loads(text)
        # nbdev has put the documentation in as outputs already
        saved = [cell for cell in nb["cells"] if cell.get("outputs") and "show_doc(" not in "".join(cell["source"])]
        if re.search(r"plotly|\b(go|px)\.\w", text) and not saved:
            raise Problem(f"{path.name}: draws with Plotly and no output is saved in it; refresh the outputs (CONTRIBUTING.md)")
        for number, cell in enumerate(nb["cells"]):
            figures = [output["data"] for output in cell.get("outputs", []) if PLOTLY_MIME in output.get("data", {})]
            source, shown = "".join(cell["source"]), figures or any("text/html" in output.get("data", {}) for output in cell.get("outputs", []))
            if cell["cell_type"] == "code" and not shown and shows_figure(source, makers):
                last_line = source.rstrip().rpartition("\n")[2]
                raise Problem(f"{path.name}: a cell ends in `{last_line}` and no figure is saved with it; refresh the outputs (CONTRIBUTING.md)")
            for data in figures:
                for trace in data[PLOTLY_MIME]["data"]:
                    if isinstance(trace.get("source"), list):  # nbdev takes a picture's source for that of a cell and splits it into lines
                        trace["source"] = "".join(trace["source"])
                data["text/html"] = figure_html(data.pop(PLOTLY_MIME), f"figure-{number}")
        path.write_text(json.dumps(nb), encoding="utf-8")


def render(project: Path) -> Path:
    "Run nbdev and smalldocs on a copy of the project; return the folder of the site."
    # nbdev finds its settings from the working directory
    with chdir(project):
        show_source(project / "nbs")
        fastcore.docments.signature = signature  # pages are executed cell by cell, in this process
        refresh_quarto_yml()
        proc = proc_nbs(force=True, n_workers=0)
        draw_figures(proc)
        site = NbdevSite(load(proc), quiet=True)
        site.build()
    broken = [warning for warning in site.warnings if "broken link" in warning]
    if broken:
        raise Problem("; ".join(broken))
    return site.out


def build_site(out: Path):
    "Build the site into `out`, which a build replaces."
    if out.exists() and any(out.iterdir()) and not (out / "site_libs").is_dir():
        raise Problem(f"out: {out} holds something other than a built site and would be replaced; give another folder")
    settings = get_config(path=ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        copy_project(Path(scratch))
        site = render(Path(scratch))
        pages = finish_site(site, home=settings.doc_host + settings.doc_baseurl)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site, out)
    print(f"{pages} pages in {out}; open {out / 'index.html'}")


def from_root(match: re.Match) -> str:
    "Rewrite a link that is relative to nbs/ so that it holds from README.md."
    before, target, after = match.groups()
    if re.match(r"[a-z]+:|#|/", target):
        return match[0]
    if not (ROOT / "nbs" / target.partition("#")[0]).exists():
        raise Problem(f"nbs/index.ipynb: {target} is linked and does not exist in nbs/")
    return f"{before}{os.path.normpath(f'nbs/{target}')}{after}"


def cell_markdown(cell: dict) -> str:
    "A cell as GitHub shows it: code and text; figures and HTML stay on the site."
    if cell["cell_type"] == "markdown":
        return cell["source"]
    code = re.sub(r"^#\|.*\n?", "", cell["source"], flags=re.M)
    parts = [] if re.search(r"^#\| *echo: *false", cell["source"], re.M) else [f"```python\n{code}\n```"]
    for output in cell.get("outputs", []):
        data = output.get("data", {"text/plain": output.get("text", "")})
        text = "".join(data.get("text/plain", ""))
        parts += ["".join(data["text/markdown"])] if "text/markdown" in data else [f"```\n{text.rstrip()}\n```"] if text else []
    return "\n\n".join(parts)


def readme_text() -> str:
    "README.md as nbs/index.ipynb says it."
    with chdir(ROOT):
        nb = read_nb(ROOT / "nbs" / get_config().readme_nb)
        FilterDefaults()(nb)
    parts = [f"# {nb.frontmatter_['title']}", f"> {nb.frontmatter_['description']}"]
    parts += [cell_markdown(cell).strip() for cell in nb.cells if cell.source and cell.cell_type != "raw"]
    text = "\n\n".join(part for part in parts if part) + "\n"
    text = text.replace("<!-- WARNING: THIS FILE WAS AUTOGENERATED! DO NOT EDIT! -->", "<!-- written from nbs/index.ipynb; edit that -->")
    return re.sub(r"(\]\(|src=\")([^)\"\s]+)([)\"])", from_root, text)


@call_parse
def main(
    out: str = "_docs",  # Folder of the site; a build replaces it
    readme: bool = False,  # Write README.md instead of the site
    check: bool = False,  # With --readme: write nothing and fail if README.md is out of date
):
    "Build the documentation site, or README.md, from the notebooks in nbs/."
    # the notebooks import the package of this checkout, wherever another one is installed
    sys.path.insert(0, str(ROOT))
    path = ROOT / "README.md"
    try:
        if not readme:
            build_site(Path(out).resolve())
        elif not check:
            path.write_text(readme_text(), encoding="utf-8")
        elif path.read_text(encoding="utf-8") != readme_text():
            raise Problem("README.md is not what nbs/index.ipynb says; run `python .ci/build_docs.py --readme`")
    except Problem as problem:
        sys.exit(f"build_docs: {problem}")
