"""What several files say about the project, they say alike."""

import re
from configparser import ConfigParser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=["="])
settings.read(ROOT / "settings.ini", encoding="utf-8")
PROJECT = settings["DEFAULT"]


def parsed(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_has_the_version_of_the_package():
    citation = parsed("CITATION.cff")
    assert (citation["version"], citation["repository-code"]) == (PROJECT["version"], PROJECT["git_url"])


def test_the_changelog_begins_with_the_version_of_the_package():
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert PROJECT["version"] in headings[0]


def test_every_python_that_the_package_names_is_tested():
    jobs = parsed(".github/workflows/ci.yml")["jobs"]
    full = [step["with"]["python-version"] for step in jobs["check"]["steps"] if "setup-python" in step.get("uses", "")]
    assert full + jobs["pythons"]["strategy"]["matrix"]["python"] == PROJECT["pythons"].split()
    assert PROJECT["min_python"] == full[0]


def test_ruff_reads_code_as_the_oldest_python():
    target = re.search(r'^target-version = "py(\d)(\d+)"', (ROOT / "ruff.toml").read_text(encoding="utf-8"), re.M)
    assert ".".join(target.groups()) == PROJECT["min_python"]
