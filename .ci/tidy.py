"""Mend format and imports of files and folders with ruff, and leave everything in a notebook but the source of its cells as it is.

Ruff alone would also write the numbers in saved outputs anew: 0.00001 for 1e-05, and 0.37125 for 0.37124999999999997.
"""

import json
import subprocess
import sys
from pathlib import Path


def notebooks(places: list[str]) -> list[Path]:
    "Notebooks among the files and below the folders that are given."
    found = [path for place in map(Path, places) for path in (place.rglob("*") if place.is_dir() else [place])]
    return [path for path in found if path.suffix == ".ipynb"]


def keep_outputs(path: Path, before: bytes) -> None:
    "Put the cells' new source into the notebook that was there before, written as nbdev_clean writes it."
    notebook, tidied = json.loads(before), json.loads(path.read_text(encoding="utf-8"))
    for cell, tidy in zip(notebook["cells"], tidied["cells"], strict=True):
        cell["source"] = tidy["source"]
    path.write_text(json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def main(places: list[str]) -> int:
    before = {path: path.read_bytes() for path in notebooks(places)}
    commands = ["check", "--fix"], ["format"]  # in this order: a removed import may leave an empty line
    failed = [subprocess.run(["ruff", *command, *places]).returncode for command in commands]
    for path, content in before.items():
        if path.read_bytes() != content:
            keep_outputs(path, content)
    return max(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
