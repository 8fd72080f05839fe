"""The documentation build: what it mends on a page, and what it refuses."""

import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

sys.path.append(str(Path(__file__).resolve().parent.parent / ".ci"))
from pages import Problem, check_page, make_relative, point_at_symbols, write_mathml  # noqa: E402


def page(body):
    return BeautifulSoup(body, "html.parser")


def test_maths_becomes_mathml():
    soup = page(r'<span class="math inline">\(\tau v^{t-1}\)</span>')
    write_mathml(soup, "x.html")
    assert soup.find("math") and soup.find("msup") and "\\" not in soup.get_text()


def test_unknown_latex_is_refused():
    with pytest.raises(Problem, match=r"x.html: \\nonsense in the formula"):
        write_mathml(page(r'<span class="math inline">\(\nonsense\)</span>'), "x.html")


def test_links_to_the_published_site_stay_on_disk(tmp_path):
    soup = page('<a href="https://docs.example/sastc/neuron.html#lif"><code>LIF</code></a>')
    make_relative(soup, "https://docs.example/sastc", "../")
    assert soup.a["href"] == "../neuron.html#lif"
    here = tmp_path / "tutorials" / "first.html"
    pages = {here: soup, tmp_path / "neuron.html": page('<h3 id="lif">lif</h3><h3 id="lif-1">LIF</h3>')}
    point_at_symbols(here, pages)
    assert soup.a["href"] == "../neuron.html#lif-1"
    assert check_page(here, pages) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">x</a>', "gone.html does not exist"),
        ('<a href="#gone">x</a>', "#gone does not exist"),
        ('<img src="images/gone.png">', "images/gone.png does not exist"),
        ('<script src="https://cdn.example/x.js"></script>', "<script> asks another host"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "<link> asks another host"),
        ("<style>@import url(https://fonts.example/x)</style>", "<style> asks another host"),
    ],
)
def test_faults_of_a_page_are_named(tmp_path, body, problem):
    path = tmp_path / "x.html"
    faults = check_page(path, {path: page(body)})
    assert len(faults) == 1 and problem in faults[0]


def test_ordinary_links_may_leave_the_site(tmp_path):
    path = tmp_path / "x.html"
    assert check_page(path, {path: page('<a href="https://arxiv.org">paper</a> <img src="data:image/png;base64,AA">')}) == []
