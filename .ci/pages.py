"""Finish the pages that smalldocs laid out: maths as MathML, Plotly from the site itself, relative links, nothing from another host."""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from latex2mathml.symbols_parser import convert_symbol
from plotly.offline import get_plotlyjs

SEARCH = Path(__file__).with_name("search.js")
FIGURES = Path(__file__).with_name("figures.js")
PLOTLY_MIME = "application/vnd.plotly.v1+json"
ELSEWHERE = re.compile(r"(https?:)?//")
FETCHED_BY_CSS = re.compile(r"@import|url\(['\"]?(https?:)?//")
FETCHED_BY_SCRIPT = re.compile(r"\b(import|from|fetch|importScripts)\s*\(?\s*['\"`](https?:)?//")
SHOW_PLACE = """// the sidebar is longer than most windows: bring the place of this page into view
addEventListener("DOMContentLoaded", () => {
  const place = document.querySelector("#quarto-sidebar a.active"), bar = place?.closest("#quarto-sidebar");
  if (bar) bar.scrollTop = Math.max(0, place.getBoundingClientRect().bottom - bar.getBoundingClientRect().top - bar.clientHeight / 2);
});"""
Pages = dict[Path, BeautifulSoup]


class Problem(Exception):
    "What is wrong with the documentation, in a sentence."


def finish_site(site: Path, home: str) -> int:
    "Finish and check every page in place. `home` is the address that nbdev's links begin with. Returns the number of pages."
    (site / "site_libs" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (site / "site_libs" / "sidebar.js").write_text(SHOW_PLACE, encoding="utf-8")
    shutil.copy(FIGURES, site / "site_libs")
    drop_web_fonts(site)
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in sorted(site.rglob("*.html"))}
    write_search(site, pages)
    for path, soup in pages.items():
        to_root = "../" * len(path.relative_to(site).parent.parts)
        drop_scripts(soup)
        add_scripts(soup, to_root)
        write_mathml(soup, path.name)
        make_relative(soup, home, to_root)
        drop_empty_sections(soup)
    for path in pages:
        point_at_symbols(path, pages)
    problems = [problem for path in pages for problem in check_page(path, pages)] + missing_from_sidebar(pages, site / "index.html")
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    problems += [f"{name} asks another host for a file" for name, css in styles.items() if FETCHED_BY_CSS.search(css)]
    if problems:
        raise Problem("\n  ".join(["the site has faults:", *problems]))
    for path, soup in pages.items():
        path.write_text(str(soup), encoding="utf-8")
    return len(pages)


def write_search(site: Path, pages: Pages):
    """The search index as a script that answers for the file, because browsers refuse `fetch` for pages opened from disk; and `search.js`,
    which takes the place of Fuse."""
    answer = """const answer = %s, web = window.fetch;
window.fetch = (url, ...rest) => String(url).endsWith("search.json") ? Promise.resolve(new Response(JSON.stringify(answer))) : web(url, ...rest);
"""
    entries = json.loads((site / "search.json").read_text(encoding="utf-8"))
    index = json.dumps([entry | search_fields(entry, site, pages) for entry in entries], ensure_ascii=False)
    (site / "site_libs" / "search.js").write_text(answer % index + SEARCH.read_text(encoding="utf-8"), encoding="utf-8")
    shutil.rmtree(site / "site_libs" / "fuse")


def search_fields(entry: dict, site: Path, pages: Pages) -> dict:
    "What smalldocs leaves out or writes otherwise: the sentence below a title, the room of a module, text without commands of LaTeX."
    name = entry["href"].partition("#")[0]
    about, room = pages[site / name].select_one("div.description"), name.rpartition("/")[0]
    a_module = room and re.fullmatch(r"\w+", entry["title"]) and entry["title"] != room
    title = f"{room}.{entry['title']}" if a_module else entry["title"]
    return dict(title=title, about=about.get_text(" ", strip=True) if about else "", text=without_latex(entry["text"]))


def without_latex(text: str) -> str:
    "Text for a list of search results: commands of formulas as the sign they stand for, or left out where they stand for none."
    return re.sub(r"\\[a-zA-Z]{2,}", lambda command: chr(int(convert_symbol(command[0]) or "20", 16)), text)


def drop_web_fonts(site: Path):
    "The themes import fonts from Google; without them the browser's own sans-serif serves."
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"@import url\((['\"]?)https?:.*?\1\);?", "", css), encoding="utf-8")


def drop_scripts(soup: BeautifulSoup):
    "MathML needs no KaTeX, which smalldocs loads from a CDN, and the site has a search of its own."
    for tag in soup.find_all(["script", "link"]):
        if re.search("katex|fuse", tag.get("src") or tag.get("href") or ""):
            tag.decompose()


def add_scripts(soup: BeautifulSoup, to_root: str):
    "Load the search index and the sidebar's place, and Plotly and what fits figures to a narrow window where a page has figures; in the head, since the figures' own scripts run as they are read."
    names = ["search.js", "sidebar.js"] + ["plotly.min.js", "figures.js"] * bool(soup.select(".plotly-graph-div"))
    for name in names:
        soup.head.append(soup.new_tag("script", src=f"{to_root}site_libs/{name}"))


def write_mathml(soup: BeautifulSoup, page: str):
    "Replace LaTeX by MathML, which browsers draw themselves."
    for span in soup.select("span.math"):
        latex = re.sub(r"^\\[(\[]|\\[)\]]$", "", span.get_text().strip())
        mathml = convert(latex, display="block" if "display" in span["class"] else "inline")
        unknown = re.search(r"\\[a-zA-Z]+", BeautifulSoup(mathml, "html.parser").get_text())
        if unknown:
            raise Problem(f"{page}: {unknown[0]} in the formula {latex!r} is not known to latex2mathml; write it with another command")
        span.clear()
        span.append(BeautifulSoup(mathml, "html.parser"))


def make_relative(soup: BeautifulSoup, home: str, to_root: str):
    "nbdev links to the published site; a copy on disk should stay on disk."
    for link in soup.select("a[href]"):
        if link["href"].startswith(home + "/"):
            link["href"] = to_root + link["href"].removeprefix(home + "/")


def drop_empty_sections(soup: BeautifulSoup):
    "A floor of the sidebar that has no notebook yet is not shown."
    for section in soup.select("#quarto-sidebar li.sidebar-item-section"):
        if not section.select("ul a[href]"):
            section.decompose()


def point_at_symbols(path: Path, pages: Pages):
    """Mend nbdev's links to symbols: its anchors are in lower case, where `lif` and `LIF` are one, so go to the heading that is the name itself;
    a method that has no heading is described with its class."""
    for link in pages[path].select("a[href*='#']"):
        page, fragment = destination(link["href"], path)
        if not link.code or page not in pages:
            continue
        heading = pages[page].find(["h2", "h3", "h4"], string=link.get_text())
        owner, dot, _ = fragment.rpartition(".")
        if heading and heading.get("id"):
            fragment = heading["id"]
        elif dot and not pages[page].find(id=fragment):
            fragment = owner
        link["href"] = link["href"].partition("#")[0] + "#" + fragment


def missing_from_sidebar(pages: Pages, index: Path) -> list[str]:
    "Sentences about pages that a reader of the first page cannot find."
    listed = {destination(link["href"], index)[0] for link in pages[index].select("#quarto-sidebar a[href]")}
    return [f"{path.relative_to(index.parent)} is in no section of nbs/sidebar.yml" for path in pages if path not in listed]


def check_page(path: Path, pages: Pages) -> list[str]:
    "Sentences about resources of other hosts and about links that lead nowhere."
    name, problems = path.name, []
    for tag in pages[path].find_all(True):
        target = tag.get("src") or tag.get("href") or ""
        # only what a reader may click is allowed to leave the site
        if ELSEWHERE.match(target) and tag.name != "a":
            problems.append(f"{name}: <{tag.name}> asks another host for {target}")
        elif target and not re.match(r"[a-z]+:|//", target) and not leads_somewhere(target, path, pages):
            problems.append(f"{name}: {target} does not exist in the site")
    if any(FETCHED_BY_CSS.search(style.get_text()) for style in pages[path].find_all("style")):
        problems.append(f"{name}: a <style> asks another host for a file")
    if any(FETCHED_BY_SCRIPT.search(script.get_text()) for script in pages[path].find_all("script")):
        problems.append(f"{name}: a <script> asks another host for a file")
    return problems


def destination(target: str, path: Path) -> tuple[Path, str]:
    "File and fragment that a relative link on the page `path` leads to."
    address = urlsplit(target)
    file = Path(os.path.normpath(path.parent / unquote(address.path))) if address.path else path
    return file / "index.html" if file.is_dir() else file, unquote(address.fragment)


def leads_somewhere(target: str, path: Path, pages: Pages) -> bool:
    "Whether a relative link has a file, and its fragment an id."
    file, fragment = destination(target, path)
    if not fragment or file not in pages:
        return file.is_file()
    return pages[file].find(id=fragment) is not None
