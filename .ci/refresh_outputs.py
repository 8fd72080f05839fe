"""Execute notebooks and save their outputs, without progress bars: `python .ci/refresh_outputs.py [nbs/NAME.ipynb ...]`, all without names."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"(epoch|run|step) [\d,]+ of [\d,]+: ")  # begins a line that training prints


def passing(output: dict) -> bool:
    "Progress is for the one who waits; a page keeps what is left when it is over, and of a view the HTML that needs no kernel."
    widget = output.get("data", {}).pop(WIDGET, None)
    lines = "".join(output.get("text", [])).splitlines()
    if lines and all(PROGRESS.match(line) for line in lines):
        return True
    return output.get("name") == "stderr" or widget is not None and "text/html" not in output["data"]


def save(notebook: dict, path: Path) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def skip_cuda(path: Path) -> None:
    "Where there is no GPU, the cells that need one keep the outputs they have; nbdev_clean takes the mark away."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if re.search(r"^#\| *cuda", "".join(cell["source"]), re.M):
            cell["metadata"]["tags"] = ["skip-execution"]
    save(notebook, path)


def without_progress(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if not passing(output)]
    notebook["metadata"].pop("widgets", None)
    save(notebook, path)


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:]] or sorted(Path("nbs").rglob("[!_.]*.ipynb"))
    if not torch.cuda.is_available():
        for path in paths:
            skip_cuda(path)
    execute = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", *map(str, paths)]
    subprocess.run(execute, env=os.environ | {"PLOTLY_RENDERER": "plotly_mimetype"}, check=True)
    for path in paths:
        without_progress(path)
    subprocess.run(["nbdev_clean"], check=True)
