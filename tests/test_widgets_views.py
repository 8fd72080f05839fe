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

from sastc.lab import AttentionView, RunBoard, live
from sastc.lab.board import by_value
from sastc.training.jobs import find_jobs
from sastc.training.records import write_json
from sastc.training.runs import Run, RunWriter, identity, now

RECORDED = Path(__file__).parent.parent / "nbs" / "results" / "cifar10_core"
CONFIG = Run(RECORDED / "sastc-seed0").config
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


def names(board) -> set[str]:
    "Names of the curves."
    return {trace["name"] for trace in board.figure["data"] if trace.get("name")}


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
    assert (steps(view), view.words, view.message) == ([10, 20], "Finished after 20 steps.", "")


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
    assert view.words.startswith("The run is being trained, at step 0 of 100 (epoch 1 of 2)") or view.words.startswith("The run is being trained")
    write_json(run.folder / "status.json", dict(state="running", step=5, steps=100, epoch=0, epochs=2, saved=True, time=now(), **dead_identity))
    view.refresh()
    board.refresh()
    assert view.words.startswith("The run broke off at step 5 of 100 (epoch 1 of 2): its process is gone without a final word")
    assert board.rows[0]["state"] == "lost" and board.rows[0]["problem"] == view.words and view.words.endswith("Resume continues from the last checkpoint.")


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


DAMAGE = dict(
    truncated='{"step": 1,\n', list="[1]\n", number="3\n", deep="[" * 100_000 + "\n",
    wrong='{"kind": 7, "settings": [], "step": "x", "state": 3, "time": 1, "test_accuracy_best": "x", "student": 1}\n',
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["config.json", "layers.json", "status.json", "result.json", "epochs.jsonl", "steps.jsonl"])
def test_a_damaged_file_is_a_row_that_says_so(tmp_path, name, damage):
    for run in ("good", "bad"):
        shutil.copytree(RECORDED / "sastc-seed0", tmp_path / run)
    board = RunBoard(tmp_path)
    assert [row["state"] for row in board.rows] == ["finished", "finished"]
    (tmp_path / "bad" / name).write_text(DAMAGE[damage])
    board.refresh()
    bad, good = board.rows
    assert (good["state"], bad["state"]) == ("finished", "damaged") and bad["problem"].startswith(f"{name}: "), bad
    assert names(board) == {"sastc"}
    if (RECORDED / "sastc-seed0" / name).exists():
        shutil.copy(RECORDED / "sastc-seed0" / name, tmp_path / "bad" / name)
    else:
        (tmp_path / "bad" / name).unlink()
    board.refresh()
    assert board.rows[0]["state"] == "finished"


def test_an_empty_config_is_no_settings(tmp_path):
    shutil.copytree(RECORDED / "sastc-seed0", tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_text("")
    assert "config.json: damaged" in RunBoard(tmp_path).rows[0]["problem"]
    assert "config.json: damaged" in AttentionView(tmp_path / "bad").message


ATTENTION = dict(
    text='{"step": 1, "epoch": 0, "attention": "much", "saturation": 0}', ragged='{"step": 1, "epoch": 0, "attention": [[1], [1, 2]], "saturation": 0}',
    short='{"step": 1, "epoch": 0, "attention": [[[1.0]]], "saturation": 0}', none='{"step": 1, "epoch": 0}', list="[]", half='{"step": 1, "ep',
    saturation='{"step": 1, "epoch": 0, "attention": [[[1, 0, 0], [1, 0, 0]]], "saturation": [3]}',
)  # fmt: skip


@pytest.mark.parametrize("damage", ATTENTION)
def test_damaged_attention_is_a_sentence(run, damage):
    (run.folder / "attention.jsonl").write_text(ATTENTION[damage] + "\n")
    view = AttentionView(run.folder)
    assert view.message and not view.records, view.message
    assert "attention.jsonl" in view.message
    (run.folder / "attention.jsonl").unlink()
    run.record("attention", **record(10))
    view.refresh()
    assert (steps(view), view.message) == ([10], "")


@pytest.mark.parametrize("name", ["config.json", "layers.json", "status.json", "result.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_view_of_a_damaged_run_says_which_file(tmp_path, name, damage):
    shutil.copytree(RECORDED / "sastc-seed0", tmp_path / "run")
    view = AttentionView(tmp_path / "run")
    (tmp_path / "run" / name).write_text(DAMAGE[damage])
    view._look()
    assert f"{name}: damaged" in view.message and len(view.records) == 60  # what it had stays


def test_a_model_to_give_away_is_no_damaged_run(tmp_path):
    "Neither is a folder of another library, which has a config.json too; a run that lost all other files is."
    shutil.copytree(RECORDED / "sastc-seed0", tmp_path / "run")
    for place in ("run/model", "given away", "hf/vit"):
        write_json(tmp_path / place / "config.json", dict(model_type="vit"))
    assert [row["state"] for row in RunBoard(tmp_path).rows] == ["finished"] and [job.folder.name for job in find_jobs(tmp_path)] == ["run"]
    for name in ("bare", "half"):
        (tmp_path / name).mkdir()
    shutil.copy(RECORDED / "sastc-seed0" / "config.json", tmp_path / "bare")
    (tmp_path / "half" / "config.json").write_text("{")
    assert {row["name"]: row["state"] for row in RunBoard(tmp_path).rows} == dict(bare="not started", half="damaged", run="finished")
    assert {job.folder.name for job in find_jobs(tmp_path)} == {"bare", "half", "run"}


def test_runs_that_come_and_go(tmp_path):
    board = RunBoard(tmp_path / "later")
    assert board.words.startswith("There is no folder")
    shutil.copytree(RECORDED, tmp_path / "later" / "deep" / "er")
    board.refresh()
    assert board.words == "8 runs: 8 finished."
    board.chosen = ["deep/er/kd-seed0", "deep/er/kd-seed1"]
    assert names(board) == {"kd (2 seeds)"} and board.differences["columns"] == ["seed"]
    shutil.rmtree(tmp_path / "later" / "deep" / "er" / "kd-seed1")
    board.refresh()
    assert names(board) == {"kd"} and board.differences["rows"] == []


def test_what_a_page_asks_for_is_sent_and_written_nowhere(run, tmp_path):
    run.record("attention", **record(10))
    view, sent = AttentionView(run.folder), []
    view.send = lambda content, buffers: sent.append((content, buffers))
    before = sorted(tmp_path.rglob("*"))
    for wish in ("png", "../x", "/../../../x", None, "npy"):
        view._asked(dict(save=wish))
        assert view.saved.startswith("save: expected one of"), view.saved
    view._asked(dict(save="html"))
    assert sorted(tmp_path.rglob("*")) == before and [content for content, _ in sent] == [dict(download="run-attention.html")]
    page = sent[0][1][0].decode()
    assert str(tmp_path) not in page and "<img alt=" in page


def test_a_page_says_nothing_of_where_it_was_made(run):
    board = RunBoard(run.folder.parent)
    (run.folder / "steps.jsonl").write_text("no record\n")
    board.refresh()
    assert str(run.folder.parent.parent) not in board.to_html() + AttentionView(run.folder).to_html() and "steps.jsonl" in board.to_html()


def test_routes_that_do_not_fit_are_a_sentence(run):
    run.record("attention", **record(10), route=[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    view = AttentionView(run.folder)
    assert np.frombuffer(view.routes, "<f4").tolist() == [1, 0, 0, 0, 1, 0]
    run.record("attention", **record(20), route=[[1.0]])
    view.refresh()
    assert "attention.jsonl: damaged (route: expected" in view.message and steps(view) == [10]


def test_runs_of_other_versions_and_copies_are_seeds_of_one_experiment(tmp_path):
    for name, source, gone in (("a", "kd-seed0", ()), ("b", "kd-seed1", ("keep_epochs", "clip", "label_noise")), ("copy", "kd-seed0", ())):
        shutil.copytree(RECORDED / source, tmp_path / name)
        content = json.loads((tmp_path / name / "config.json").read_text())
        settings = {key: value for key, value in content["settings"].items() if key not in gone} | (
            dict(teacher="/elsewhere/teacher") if name == "copy" else {}
        )
        write_json(tmp_path / name / "config.json", content | dict(settings=settings))
        write_json(tmp_path / name / "origins.json", dict(teacher=dict(checksum="abc", path=f"/{name}/teacher", from_run="../teacher")))
    board = RunBoard(tmp_path)
    assert names(board) == {"kd (2 seeds)"}
    assert "1 run with the settings and the seed of another is not counted again" in board.figure["layout"]["title"]["subtitle"]["text"]
    assert "clip" not in board.differences["columns"]
    write_json(tmp_path / "b" / "origins.json", dict(teacher=dict(checksum="another")))
    board.refresh()
    board._draw()
    assert names(board) == {"kd", "kd, b"}  # another teacher is another experiment


def test_parts_of_one_name_that_methods_measure_in_their_own_way_are_told_apart(tmp_path):
    for name in ("routed-seed0", "rsa-seed0", "sastc-seed0"):
        shutil.copytree(RECORDED.parent / "routed" / name, tmp_path / name)
    board = RunBoard(tmp_path)

    def headings():
        return [part["text"] for part in board.figure["layout"]["annotations"] if part["text"].startswith("calibration")]

    assert sorted(headings()) == ["calibration (routed)", "calibration (rsa, sastc)"]
    board.chosen = ["rsa-seed0", "sastc-seed0"]
    assert headings() == ["calibration"]
    board.close()


def test_a_report_does_not_mix_data_sets(tmp_path):
    for name, data in (("a", "cifar10"), ("b", "cifar100")):
        shutil.copytree(RECORDED / "kd-seed0", tmp_path / name)
        content = json.loads((tmp_path / name / "config.json").read_text())
        write_json(tmp_path / name / "config.json", content | dict(settings=content["settings"] | dict(data=data)))
    page = RunBoard(tmp_path).report()
    training = page[page.index("<h2>Training</h2>") : page.index("<h2>Firing rates</h2>")]
    assert training.count("<h3>Budget: data cifar10") == 2 and training.count("Plotly.newPlot(") == 2
    assert not list(tmp_path.rglob("*.html"))


# ---- who goes on asking ----


class Shell:
    "As much of the kernel's shell as tells which cell is executed."

    def __init__(self):
        self.number = 0

    def execute(self, cell: str, code: str = "pass") -> None:
        self.number += 1
        self.cell, self.code = cell, code

    def get_parent(self) -> dict:
        metadata = dict(cellId=self.cell) if self.cell else {}
        return dict(msg_type="execute_request", header=dict(msg_id=str(self.number)), metadata=metadata, content=dict(code=self.code))


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(live, "_of_cell", {})
    return shell


def pollers() -> int:
    return sum(task.get_name() == "sastc view" and not task.cancelling() for task in asyncio.all_tasks())


@pytest.mark.parametrize("cell", ["a1b2", ""])  # a front end that names cells, and one that does not
def test_a_cell_that_is_run_again_leaves_no_poller_behind(run, shell, cell):
    async def watch():
        counts = []
        for _ in range(3):
            shell.execute(cell, "AttentionView(folder); RunBoard(folder)")
            AttentionView(run.folder, seconds=0.01)
            RunBoard(run.folder.parent, seconds=0.01)
            await asyncio.sleep(0.05)
            counts.append(pollers())
        shell.execute("another" if cell else "", "view = AttentionView(folder)")
        AttentionView(run.folder, seconds=0.01)
        counts.append(pollers())
        return counts

    assert asyncio.run(watch()) == [2, 2, 2, 3]


def test_a_view_asks_once(run):
    async def watch():
        view = AttentionView(run.folder, seconds=0.01)
        view.poll(view._look)
        first = pollers()
        view.close()
        view.poll(view._look)  # who is closed does not begin again
        return first, pollers()

    assert asyncio.run(watch()) == (1, 0)


def test_groups_by_a_setting_are_in_the_order_of_its_values(tmp_path):
    for number, lr in enumerate([0.1, 0.02, 0.003, 1.0]):
        write_json(tmp_path / f"run{number}" / "config.json", dict(kind="student", version=2, settings=dict(method="baseline", lr=lr, seed=0)))
    board = RunBoard(tmp_path)
    assert [name.split(" (")[0] for name in by_value(board._runs.values(), "lr")] == ["lr 0.003", "lr 0.02", "lr 0.1", "lr 1.0"]
    assert [*by_value(board._runs.values(), "method")] == ["method baseline (4 runs)"]
