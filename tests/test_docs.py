"""The documentation build: what it mends on a page, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots
from smalldocs.config import load

from browser import PATIENCE, browser, needs_browser  # noqa: F401 (a fixture)
from sastc.studies import figures as figure_module

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / ".ci"))
from build_docs import NbdevSite, draw_figures, figure_html, figure_makers, shows_figure, signature  # noqa: E402
from pages import Problem, check_page, make_relative, missing_from_sidebar, point_at_symbols, search_fields, without_latex, write_mathml  # noqa: E402
from visit_docs import visit, visit_narrow  # noqa: E402


def page(body):
    return BeautifulSoup(body, "html.parser")


def test_maths_becomes_mathml():
    soup = page(r'<span class="math inline">\(\tau v^{t-1}\)</span>')
    write_mathml(soup, "x.html")
    assert soup.find("math") and soup.find("msup") and "\\" not in soup.get_text()


def test_unknown_latex_is_refused():
    with pytest.raises(Problem, match=r"x.html: \\nonsense in the formula"):
        write_mathml(page(r'<span class="math inline">\(\nonsense\)</span>'), "x.html")


def test_an_annotation_that_a_later_cell_defines_is_shown_as_it_is_written():
    def takes(thing: "Later", number: "int" = 3) -> "Later":  # noqa: F821
        "Uses a class whose cell comes later."

    assert str(signature(takes)) == "(thing: 'Later', number: 'int' = 3) -> 'Later'"


def test_links_to_the_published_site_stay_on_disk(tmp_path):
    soup = page('<a href="https://docs.example/sastc/neurons/neuron.html#lif"><code>LIF</code></a>')
    make_relative(soup, "https://docs.example/sastc", "../")
    assert soup.a["href"] == "../neurons/neuron.html#lif"
    here = tmp_path / "tutorials" / "first.html"
    pages = {here: soup, tmp_path / "neurons" / "neuron.html": page('<h3 id="lif">lif</h3><h3 id="lif-1">LIF</h3>')}
    point_at_symbols(here, pages)
    assert soup.a["href"] == "../neurons/neuron.html#lif-1"
    assert check_page(here, pages) == []


def test_a_method_without_a_heading_is_looked_up_at_its_class(tmp_path):
    here = tmp_path / "page.html"
    pages = {here: page('<a href="runs.html#run.terms"><code>Run.terms</code></a>'), tmp_path / "runs.html": page('<h3 id="run">Run</h3>')}
    point_at_symbols(here, pages)
    assert pages[here].a["href"] == "runs.html#run" and check_page(here, pages) == []


def test_links_between_notebooks_become_addresses_of_pages(tmp_path):
    (tmp_path / "neurons").mkdir()
    (tmp_path / "_quarto.yml").write_text("project: {type: website}")
    cells = [dict(cell_type="raw", source="---\noutput-file: neuron.html\n---"), dict(cell_type="markdown", source="# Neuron\n\n## The LIF neuron")]
    (tmp_path / "neurons/02_neuron.ipynb").write_text(json.dumps(dict(cells=cells, metadata={})))
    linking = "[a](neurons/02_neuron.ipynb) [b](neurons/02_neuron.ipynb#the-lif-neuron) [c](neurons/gone.ipynb)"
    (tmp_path / "guide.ipynb").write_text(json.dumps(dict(cells=[dict(cell_type="markdown", source=linking)], metadata={})))
    site = NbdevSite(load(tmp_path), quiet=True)
    site.build()
    main = page((site.out / "guide.html").read_text()).main
    assert [link["href"] for link in main.select("a")] == ["neurons/neuron.html", "neurons/neuron.html#the-lif-neuron", "neurons/gone.html"]
    assert [warning for warning in site.warnings if "broken" in warning] == ["guide.ipynb: broken link neurons/gone.ipynb"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">x</a>', "gone.html does not exist"),
        ('<a href="#gone">x</a>', "#gone does not exist"),
        ('<img src="images/gone.png">', "images/gone.png does not exist"),
        ('<script src="https://cdn.example/x.js"></script>', "<script> asks another host"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "<link> asks another host"),
        ("<style>@import url(https://fonts.example/x)</style>", "<style> asks another host"),
        ('<script type="module">import x from "https://cdn.example/x.js"</script>', "<script> asks another host"),
    ],
)
def test_faults_of_a_page_are_named(tmp_path, body, problem):
    path = tmp_path / "x.html"
    faults = check_page(path, {path: page(body)})
    assert len(faults) == 1 and problem in faults[0]


def test_ordinary_links_may_leave_the_site(tmp_path):
    path = tmp_path / "x.html"
    assert check_page(path, {path: page('<a href="https://arxiv.org">paper</a> <img src="data:image/png;base64,AA">')}) == []


def test_a_page_outside_the_sidebar_is_named(tmp_path):
    index = page('<nav id="quarto-sidebar"><a href="index.html">x</a><a href="neuron.html">x</a></nav>')
    pages = {tmp_path / f"{name}.html": page("") for name in ("neuron", "lost")} | {tmp_path / "index.html": index}
    assert missing_from_sidebar(pages, tmp_path / "index.html") == ["lost.html is in no section of nbs/sidebar.yml"]


def test_search_results_show_signs_and_not_commands():
    assert without_latex(r"in [-\lambda, \lambda] \mathrm{x}, split at '\n'") == r"in [-λ, λ]  {x}, split at '\n'"


def test_the_search_knows_the_sentence_below_a_title_and_the_room_of_a_module(tmp_path):
    said = '<div class="description">Spiking <code>LIF</code> neurons.</div>'
    pages = {tmp_path / "neurons" / "neuron.html": page(said), tmp_path / "guide.html": page("")}
    module = dict(href="neurons/neuron.html#lif", title="neuron", text=r"\tau")
    assert search_fields(module, tmp_path, pages) == dict(title="neurons.neuron", about="Spiking LIF neurons.", text="τ")
    assert search_fields(dict(href="guide.html", title="guide", text=""), tmp_path, pages) == dict(title="guide", about="", text="")


@pytest.mark.parametrize("source", ["figure", "x = 1\npx.line(x)", "training_curves(\n    runs,\n).update_layout(height=3)", "RunBoard(folder)", "view"])
def test_cells_that_show_a_figure_are_known(source):
    assert shows_figure(source, figure_makers())


@pytest.mark.parametrize("source", ["figure = px.line(x)", "figure.data[0].y", "test_eq(figure, 1)", "!ls", "", "# px.line(x)", "runs"])
def test_other_cells_are_left_alone(source):
    assert not shows_figure(source, figure_makers())


def notebook(folder, *cells):
    "A notebook of (source, data of its output) in a folder of its own."
    folder.mkdir()
    code = [dict(cell_type="code", source=source, outputs=[dict(data=data)] if data else []) for source, data in cells]
    (folder / "x.ipynb").write_text(json.dumps(dict(cells=code)))
    return folder


def test_a_figure_that_was_not_saved_is_refused(tmp_path):
    table = ("table", {"text/html": "<table>"})
    with pytest.raises(Problem, match=r"x.ipynb: a cell ends in `training_curves\(runs\)` and no figure is saved"):
        draw_figures(notebook(tmp_path / "call", table, ("training_curves(runs)", None)))
    with pytest.raises(Problem, match="x.ipynb: draws with Plotly and no output is saved in it"):
        draw_figures(notebook(tmp_path / "none", ("import plotly.express as px", None)))
    picture = dict(type="image", source=["data:image/png;base64,", "AA"])  # as nbdev hands it on
    saved = {"application/vnd.plotly.v1+json": dict(data=[picture], layout={})}
    drawn = notebook(tmp_path / "saved", table, ("training_curves(runs)", saved))
    draw_figures(drawn)
    html = (drawn / "x.ipynb").read_text()
    assert "plotly-graph-div" in html and "source" in html and '[\\"data:image' not in html


def test_the_gallery_shows_every_figure_and_view():
    import sastc.lab

    cells = json.loads((ROOT / "nbs/gallery.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    figures = figure_makers() & set(figure_module.__all__)
    views = {name for name in ("AttentionView", "RunBoard") if hasattr(sastc.lab, name)}
    assert len(figures) >= 6 and len(views) == 2
    assert [name for name in sorted(figures | views) if f"{name}(" not in sources] == []


def test_the_first_screen_of_the_readme_has_the_picture_and_the_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = "\n".join(readme.splitlines()[:40])
    assert 'src="nbs/images/front.png"' in first_screen and (ROOT / "nbs/images/front.png").stat().st_size < 200_000
    for command in ("pip install . && sastc demo", 'pip install -e ".[dev]" && pytest', "distill("):
        assert command in first_screen


@pytest.fixture
def chromium_page(browser):  # noqa: F811
    page = browser.new_page(viewport=dict(width=800, height=600))
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@needs_browser
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<p id="fine">x</p>', None),
        ('<script>fetch("http://127.0.0.1:9/x").catch(() => {})</script>', "asks another host for http://127.0.0.1:9/x"),
        ('<img src="gone.png">', "the picture gone.png is broken"),
        ('<div style="width: 900px">x</div>', "is 100 pixels wider than the window"),
        ("<script>nowhere()</script>", "a script fails: nowhere is not defined"),
        ('<div class="plotly-graph-div"></div>', "a figure or a view is not drawn"),
        ("<script>document.documentElement.className = 'quarto-dark'</script>", "does not follow the light colour scheme"),
    ],
)
def test_what_a_reader_would_miss_is_named(chromium_page, tmp_path, monkeypatch, body, fault):
    if fault == "a figure or a view is not drawn":  # it never will be
        monkeypatch.setattr("visit_docs.PATIENCE", 3000)
    file = tmp_path / "x.html"
    file.write_text(f"<!doctype html><body style='margin: 0'>{body}</body>")
    faults = visit(chromium_page, file, dark=False)
    assert faults == [] if fault is None else fault in faults


@needs_browser
def test_figures_fit_a_telephone_and_are_as_before_in_a_wide_window(chromium_page, tmp_path):
    titles = [f"accuracy of method {n}, percent" for n in range(3)]
    grid = make_subplots(1, 3, subplot_titles=titles)
    for column, title in enumerate(titles, 1):
        grid.add_scatter(x=[1, 2], y=[1, 2], name=title, row=1, col=column)
    grid.update_layout(
        height=300, title=dict(text="A title that is wider than a telephone shows", subtitle_text="a sentence about it that is wider still, " * 3)
    )
    scripts = (f"<script>{source}</script>" for source in (get_plotlyjs(), (ROOT / ".ci/figures.js").read_text()))
    file = tmp_path / "x.html"
    box = f"<div class='cell-output-display' style='overflow-x: auto'>{figure_html(grid.to_plotly_json(), 'figure-0')}</div>"
    file.write_text(f"<!doctype html><meta charset='utf-8'>{''.join(scripts)}<body style='margin: 8px'>{box}", encoding="utf-8")
    chromium_page.set_viewport_size(dict(width=390, height=800))
    assert visit_narrow(chromium_page, file) == []
    layout = "({width, height, title}) => [width, height, title.text]"
    width, height, title = chromium_page.evaluate(f"({layout})(document.querySelector('.plotly-graph-div')._fullLayout)")
    assert width > 700 and height > 300 and "<br>" in title
    chromium_page.set_viewport_size(dict(width=800, height=800))
    chromium_page.wait_for_selector("[data-fitted=wide]")
    assert chromium_page.evaluate(f"({layout})(document.querySelector('.plotly-graph-div')._fullLayout)") == [784, 300, title.replace("<br>", " ")]


@needs_browser
def test_lettering_that_a_figure_cuts_off_is_named(chromium_page, tmp_path):
    file = tmp_path / "x.html"
    text = "<svg width='100'><text y='20'>long lettering that goes on</text></svg>"
    file.write_text(f"<!doctype html><div class='plotly-graph-div' data-fitted='narrow' style='width: 100px; overflow: hidden'>{text}</div>")
    assert visit_narrow(chromium_page, file) == ["a figure cuts off 'long lettering that goes on'"]
