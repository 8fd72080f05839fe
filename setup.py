"""Packaging. Every value comes from settings.ini, which nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

settings = ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf-8")
project = settings["DEFAULT"]
STATUS = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}  # as PyPI writes them

setup(
    name=project["lib_name"],
    version=project["version"],
    description=project["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=project["author"],
    author_email=project["author_email"],
    url=project["git_url"],
    license_expression="Apache-2.0",
    keywords=project["keywords"],
    python_requires=f">={project['min_python']}",
    packages=find_packages(include=["sastc", "sastc.*"]),
    package_data={"sastc.lab": ["static/*.js", "static/*.css", "share/voila/templates/sastc/*"], "sastc.cli": ["help.json"]},
    data_files=[
        ("share/jupyter/voila/templates/sastc", ["sastc/lab/share/voila/templates/sastc/index.html.j2", "sastc/lab/share/voila/templates/sastc/conf.json"])
    ],
    install_requires=project["requirements"].split(),
    extras_require={
        extra: project[f"{extra}_requirements"].split() for extra in ("aedat", "cluster", "data", "export", "lab", "students", "teachers", "tonic", "dev")
    },
    entry_points={"console_scripts": project["console_scripts"].split(), "nbdev": [f"{project['lib_name']}={project['lib_name']}._modidx:d"]},
    classifiers=[
        f"Development Status :: {STATUS[project['status']]}",
        f"Intended Audience :: {project['audience']}",
        f"Natural Language :: {project['language']}",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in project["pythons"].split()),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    project_urls={"Documentation": project["doc_host"] + project["doc_baseurl"], "Issues": project["git_url"] + "/issues"},
    zip_safe=False,
)
