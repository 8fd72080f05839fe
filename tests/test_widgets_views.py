"""The live views without a browser: what they hold while a run folder grows, ends, is rewound or breaks."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sastc.training.runs import RunWriter, identity, write_json
from sastc.lab import AttentionView, RunBoard

RECORDED = Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core"
CONFIG = json.loads((RECORDED / "sastc-seed0" / "config.json").read_text())["settings"]
LAYERS = dict(student=["a", "b"], teacher=["x", "y", "z"])


def record(step: int, favourite: int = 0) -> dict:
    weights = np.full((2, 2, 3), 0.15)
    weights[..., favourite] = 0.7
    return dict(step=step, epoch=0, attention=weights.tolist(), saturation=0.0)


@pytest.fixture
def run(tmp_path):
    "A run under way, written by this process."
    writer = RunWriter(tmp_path / "run", "student", CONFIG, LAYERS)
    writer.status(state="running", step=0, steps=100, epoch=0, epochs=2)
    return writer


def steps(view) -> list[int]:
    return [record["step"] for record in view.records]


def test_a_view_looks_by_itself_until_the_run_has_finished(run):
    async def watch():
        view = AttentionView(run.folder, seconds=0.01)
        assert "the first record comes after 14 training steps" in view.message
        run.record("attention", **record(10))
        while not view.records:
            await asyncio.sleep(0.01)
        run.record("attention", **record(20))
        run.status(state="finished", step=20, steps=20, epoch=2, epochs=2)
        await view._task
        return view

    view = asyncio.run(asyncio.wait_for(watch(), 60))
    assert (steps(view), view.words, view.message) == ([10, 20], "Finished after step 20 of 20.", "")


def test_a_closed_view_stops_looking(run):
    async def watch():
        view, board = AttentionView(run.folder, seconds=0.01), RunBoard(run.folder.parent, seconds=0.01)
        view.close()
        board.close()
        return await asyncio.gather(view._task, board._task, return_exceptions=True)

    assert [type(end) for end in asyncio.run(watch())] == [asyncio.CancelledError] * 2


def test_a_resumed_run_forgets_what_it_will_write_again(run):
    view = AttentionView(run.folder)
    for step in (10, 20, 30):
        run.record("attention", **record(step))
    view.refresh()
    run.rewind(10)
    view.refresh()
    assert steps(view) == [10]
    run.record("attention", **record(20, favourite=2))
    view.refresh()
    weights = np.frombuffer(view.attention, "<f4").reshape(2, 2, 2, 3)
    assert steps(view) == [10, 20] and weights[1, 0, 0].argmax() == 2


def test_a_killed_run_is_called_lost(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead_identity = identity(dead.pid)
    dead.wait()
    view, board = AttentionView(run.folder), RunBoard(run.folder.parent)
    assert view.words.startswith("Running: step 0 of 100")
    write_json(run.folder / "status.json", dict(state="running", step=5, steps=100, epoch=0, epochs=2, **dead_identity))
    view.refresh()
    board.refresh()
    assert view.words.startswith("Its process is gone without a word, at step 5 of 100")
    assert board.rows[0]["state"] == "lost" and "resumed from its last checkpoint" in board.rows[0]["problem"]


def test_a_long_run_is_thinned_and_saved_whole(run, tmp_path):
    with open(run.folder / "attention.jsonl", "w") as file:
        file.writelines(json.dumps(record(step)) + "\n" for step in range(1, 1002))
    view = AttentionView(run.folder)
    assert len(view.records) <= 201 and view.records[-1]["step"] == 1001
    assert np.load(view.save(tmp_path / "all.npy")).shape == (1001, 2, 2, 3)


def test_a_save_that_fails_leaves_the_file_that_was_there(run, tmp_path, monkeypatch):
    run.record("attention", **record(10))
    view, path = AttentionView(run.folder), tmp_path / "kept.npy"
    path.write_text("of the user")
    monkeypatch.setattr(np, "save", lambda file, array: (file.write(b"half"), (_ for _ in ()).throw(OSError("the disk is full"))))
    with pytest.raises(OSError, match="disk is full"):
        view.save(path)
    assert path.read_text() == "of the user" and sorted(p.name for p in tmp_path.iterdir()) == ["kept.npy", "run"]


@pytest.mark.parametrize("view", [AttentionView, RunBoard])
def test_a_page_asks_no_host_for_anything(view):
    page = view(RECORDED / "sastc-seed0").to_html("<page>")
    addresses = set(re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}, addresses
    assert "default-src 'none'" in page and "<title>&lt;page&gt;</title>" in page


@pytest.mark.parametrize("name", ["config.json", "layers.json", "status.json", "result.json", "epochs.jsonl"])
def test_a_damaged_file_is_a_row_that_says_so(tmp_path, name):
    for run in ("good", "bad"):
        shutil.copytree(RECORDED / "sastc-seed0", tmp_path / run)
    board = RunBoard(tmp_path)
    assert [row["state"] for row in board.rows] == ["finished", "finished"]
    (tmp_path / "bad" / name).write_text('{"step": 1,\n')
    board.refresh()
    bad, good = board.rows
    assert (good["state"], bad["state"]) == ("finished", "damaged") and bad["problem"].startswith(f"{name}: "), bad
    assert {line["name"] for line in board.lines} == {"sastc"}
    shutil.copy(RECORDED / "sastc-seed0" / name, tmp_path / "bad" / name)
    board.refresh()
    assert board.rows[0]["state"] == "finished"


def test_runs_that_come_and_go(tmp_path):
    board = RunBoard(tmp_path / "later")
    assert board.words.startswith("There is no folder")
    shutil.copytree(RECORDED, tmp_path / "later" / "deep" / "er")
    board.refresh()
    assert board.words == "8 runs: 8 finished."
    board.chosen = ["deep/er/kd-seed0", "deep/er/kd-seed1"]
    assert {line["name"] for line in board.lines} == {"kd (2 seeds)"} and board.differences["columns"] == ["seed"]
    shutil.rmtree(tmp_path / "later" / "deep" / "er" / "kd-seed1")
    board.refresh()
    assert {line["name"] for line in board.lines} == {"kd"} and board.differences["rows"] == []
