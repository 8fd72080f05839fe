"""Recipes: what they quote, that they can be trained, what their small variants change, and that what is typed overrides them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from sastc.cli import main
from sastc.cli.options import parse
from sastc.cli.training import distill_command, settings_of, teacher_command
from sastc.common.settings import entries, flat
from sastc.methods import METHODS
from sastc.models.pretrained import pretrained
from sastc.studies.recipes import ORIGINS, OTHERS, PUBLISHED, SMALL, find_recipes, recipe, recipe_table, recipes
from sastc.training.checkpoints import load_model
from sastc.training.config import Config, TeacherConfig, settings_for
from sastc.training.runs import Run

NAMES = [known.name for known in recipes()]
PAPER = Path(__file__).parents[2] / "shared" / "paper_tables.json"
each_recipe = pytest.mark.parametrize("known", recipes(), ids=NAMES)


# ---- the numbers ----


def own_rows():
    "Rows of the paper's tables about the method itself, as `Published`: what is looked up in the recipes."
    methods = {"Baseline": "baseline", "KD": "kd", "Feature KD": "feature_kd", "SASTC": "sastc", "Teacher (ANN)": "teacher"}
    for table, rows in json.loads(PAPER.read_text()).items():
        for row in rows if table.startswith("table") else []:
            if row.get("is_ours", True):
                measure, student = ("stm" if "stm" in row else "accuracy"), row.get("student") or row.get("architecture")
                if row["method"] == "Teacher (ANN)" and "noise_percent" not in row:
                    student = None
                # tables 4 and 6 print no teacher
                yield (
                    table,
                    row["dataset"],
                    student,
                    row.get("teacher", "any"),
                    methods[row["method"]],
                    row["T"],
                    row[measure],
                    measure,
                    row.get("noise_percent"),
                )


@pytest.mark.skipif(not PAPER.exists(), reason=f"{PAPER.name} is not part of the package; it lies beside the project where it is developed")
def test_every_own_row_of_the_paper_is_quoted_by_exactly_one_recipe():
    rows, quoted = list(own_rows()), set()
    assert len(rows) == 9 + 132 + 6 + 8 + 12 + 2 + 30  # tables 1 to 7; of 4 and 6 the own ones
    for table, dataset, student, teacher, *rest in rows:
        fitting = [
            (known.name, row)
            for known in recipes()
            for row in known.published
            if (row.dataset, row.student, *row[3:]) == (dataset, student, *rest) and teacher in ("any", row.teacher)
        ]
        assert len(fitting) == 1, f"{table}: {(dataset, student, teacher, *rest)} is quoted by {[name for name, _ in fitting]}"
        quoted.add(fitting[0][1])
    assert quoted == set(PUBLISHED)  # and nothing is quoted that is not printed


def test_a_printed_number_belongs_to_one_recipe():
    quoted = [row for known in recipes() for row in known.published]
    assert len(quoted) == len(set(quoted)) and set(quoted) == set(PUBLISHED)


# ---- networks that the paper does not have ----


NEWER = dict(sew_resnet18=3, sew_resnet34=3, ms_resnet18=3, spikformer4_256=2, spikformer4_384=2)  # data sets


def test_every_newer_network_has_a_recipe_of_ours_for_each_data_set():
    ours = find_recipes("(ours, no row of the paper)")
    assert {known.name for known in recipes() if known.others is not None} == {known.name for known in ours}
    for network, data_sets in NEWER.items():
        found = [known for known in ours if known.name.partition("/")[2].startswith(network)]
        students = {known.config()["student"] for known in found}
        assert students == {network} | ({f"imagenet_{network}"} if data_sets == 3 else set())
        assert len({known.protocol.data for known in found}) == data_sets
        assert all(known.config().time_steps == 4 and known.student["student"].origin == "ours" for known in found)
    assert len({known.name for known in find_recipes("from vit-s")}) == 3


def test_figures_of_others_are_notes_and_never_numbers_of_the_paper_or_ours():
    quoted = [other for known in recipes() for other in known.others or () if known.teacher_name != "vit_small"]
    assert sorted(map(str, quoted)) == sorted(map(str, OTHERS))  # each beside one recipe; beside the one from ViT-S again
    for known in recipes():
        assert not (known.published and known.others) and bool(known.notes()) == (known.others is not None)
        assert known.others is None or (not known.numbers() and not known.published)
    assert recipe("cifar10/ms_resnet18-from-wrn28_4-T4").notes() == ["none that is known to us"]
    assert recipe("cifar100/resnet18-from-resnet32x4-T3").notes() == []


RIVALS = PAPER.with_name("RIVALS.md")


@pytest.mark.skipif(not RIVALS.exists(), reason=f"{RIVALS.name} is not part of the package; it lies beside the project where it is developed")
def test_figures_of_others_stand_in_the_collection_with_their_source():
    paragraphs = RIVALS.read_text().split("\n### ")
    for other in OTHERS:
        place = other.source.partition("arXiv ")[2].rstrip(")")
        (own,) = [text for text in "\n### ".join(paragraphs).split("\n##") if f"arXiv {place})" in text.partition("\n")[0]]
        assert f"{other.value:.2f}" in own and other.mark in {"P", "2c", "C", "S"}, other


def test_a_recipe_of_ours_in_a_terminal(capsys):
    assert main(["recipes", "sew"]) == 0
    told = capsys.readouterr().out
    assert told.count("-from-") == 8 and "(ours, no row of the paper)" in told
    assert main(["recipes", "imagenet/sew_resnet34-from-vit_small-T4"]) == 0
    told = capsys.readouterr().out
    assert "printed by others: 73.05 % at T = 4: CKDSNN (arXiv 2511.06902) [S]" in told and "printed accuracy" not in told
    assert "timm:vit_small_patch16_224" in told


@pytest.mark.parametrize(
    "name",
    [
        "cifar10/sew_resnet18-from-wrn28_4-T4",
        "cifar10/sew_resnet34-from-wrn28_4-T4",
        "cifar10/ms_resnet18-from-wrn28_4-T4",
        "cifar10/spikformer4_256-from-wrn28_4-T4",
        "cifar10/spikformer4_384-from-wrn28_4-T4",
        "cifar100/spikformer4_384-from-resnet32x4-T4",
        "imagenet/sew_resnet34-from-vit_small-T4",
        "imagenet/ms_resnet18-from-resnet34-T4",
    ],
)
def test_the_small_variant_of_a_newer_network_trains_its_teacher_and_is_ready_for_all_methods(name, tmp_path, monkeypatch, capsys):
    if "vit_small" in name:
        pytest.importorskip("timm", reason="the extra `teachers` (timm) is not installed")
    monkeypatch.chdir(tmp_path)
    digits = "--data digits --image_size 32 --train_images 120 --batch_size 40 --width 0.0625 --device cpu".split()
    assert main(["teacher", "--recipe", name, "--small", "--epochs", "1", *digits]) == 0
    teacher = Run(recipe(name).teacher_place(small=True))
    assert teacher.state == "finished" and teacher.config["model"] == recipe(name).teacher["model"].value
    for command in ("distill", "compare"):
        assert main([command, "--recipe", name, "--small", "--dry-run", *digits]) == 0
    assert not recipe(name).folder(small=True).exists()
    assert main(["distill", "--recipe", name, "--small", "--epochs", "1", *digits]) == 0
    run = Run(recipe(name).config(small=True).folder)
    assert run.state == "finished" and run.config["student"] == recipe(name).student["student"].value and run.model().time_steps == 4
    assert len(run.layers["student"]) >= 4 and len(run.layers["teacher"]) >= 3


# ---- the settings ----


@each_recipe
@pytest.mark.parametrize("small", [False, True])
def test_every_recipe_gives_valid_settings_for_its_methods(known, small):
    for method in known.methods:
        config = known.config(method, small)
        assert config["method"] == method and config.teacher == known.teacher_place(small)
        assert known.seeds == (config.seed, config.seed + 1, config.seed + 2)
    if known.teacher:
        teacher, student = known.teacher_config(small), flat(config)
        # what the teacher learns from is what the student sees
        assert all(flat(teacher).get(name) == student.get(name) for name in ("data", "image_size", "frames_by", "frame_values"))
        trained = any(line.startswith("sastc teacher") for line in known.commands(small))
        assert config.teacher == (teacher.folder if trained else known.student["teacher"].value)
        assert trained or config.teacher == ("timm:vit_small_patch16_224" if "vit_small" in known.name else "torchvision:resnet34")
    else:
        assert known.methods == ("baseline",) and not config.teacher


KNOWN = dict(student={name for method in METHODS for name in entries(settings_for(Config, dict(method=method)))}, teacher=set(entries(TeacherConfig())))
for data in ("dvs_gesture", "a/folder"):
    KNOWN = {side: names | set(entries(settings_for(kind, dict(data=data)))) for (side, names), kind in zip(KNOWN.items(), (Config, TeacherConfig))}


@each_recipe
def test_every_setting_tells_its_origin(known):
    for side in ("student", "teacher"):
        for name, choice in getattr(known, side).items():
            assert name in KNOWN[side] and choice.origin in ORIGINS
    table = known.table()
    assert set(table.setting) >= {"data", "epochs", "lr", "student"} and (table.origin != "").all() and (table.meaning != "").all()
    assert "beta" not in set(table.setting) or set(known.methods) & {"feature_kd", "sastc"}


@pytest.mark.parametrize("computes, settled", [(True, "bf16"), (False, "fp32")])
def test_small_variants_and_presets_train_in_the_precision_that_is_fast_here(computes, settled, monkeypatch):
    from sastc.lab.plan import PRESETS

    monkeypatch.setattr("sastc.training.config.computes_in_bf16", lambda: computes)
    known = recipe("cifar10/vgg11-from-wrn28_4-T2")
    configs = [known.config(small=True, device="cpu"), known.teacher_config(small=True, device="cpu")]
    small = [sides for name, sides in PRESETS.items() if "two CPU cores" in name]
    configs += [settings_for(kind, side | dict(device="cpu")) for sides in small for kind, side in zip((Config, TeacherConfig), sides)]
    assert len(configs) == 6 and {config["precision"] for config in configs} == {settled}
    assert known.config()["precision"] == "fp32"  # as published
    table = known.table().set_index(["of", "setting"])
    assert list(table.small[:, "precision"]) == ["auto", "auto"] and list(table.value[:, "precision"]) == ["fp32", "fp32"]


DOCUMENTED = {"width", "keep_epochs", "data", "image_size", "teacher", "folder", *SMALL["student"], *SMALL["teacher"]}
OF_A_CHOICE = {"workers", "mirror", "root", "frames_by", "frame_values", "skip_damaged", "momentum", "milestones"}  # which data, optimiser or schedule have


@each_recipe
def test_a_small_variant_differs_in_the_documented_settings_alone(known):
    pairs = [(known.config(), known.config(small=True))] + ([(known.teacher_config(), known.teacher_config(small=True))] if known.teacher else [])
    for full, small in [(flat(full), flat(small)) for full, small in pairs]:
        changed = {name for name in full.keys() & small.keys() if full[name] != small[name]}
        assert changed <= DOCUMENTED and {"width", "epochs", "folder"} <= changed
        assert full.keys() ^ small.keys() <= OF_A_CHOICE
        assert small["width"] <= 0.25 and small["epochs"] <= 20 and small["train_images"] <= 5000


@each_recipe
def test_a_recipe_keeps_every_value_in_the_runs_that_have_the_setting(known):
    for method in known.methods:
        made = flat(known.config(method))
        assert all(made[name] == choice.value for name, choice in known.student.items() if name in made and name not in ("teacher", "method"))
    if known.teacher:
        made = flat(known.teacher_config())
        assert all(made[name] == choice.value for name, choice in known.teacher.items() if name in made)
        assert known.teacher.keys() - made.keys() <= ({"momentum", "milestones"} if made["optimizer"] == "adam" else set())


def test_recipes_with_the_same_teacher_share_its_run_and_others_do_not():
    trained = {}
    for known in recipes():
        for small in (False, True) if known.teacher else ():
            config = known.teacher_config(small)
            assert trained.setdefault(config.folder, config) == config, f"{known.name} trains another teacher in {config.folder}"
    runs = [str(known.folder(small)) for known in recipes() for small in (False, True)]
    assert len(set(runs)) == len(runs)


def test_what_varies_is_what_the_name_says():
    for noise in (10, 50):
        config, teacher = recipe(f"cifar100/noisy-labels-{noise}").config(), recipe(f"cifar100/noisy-labels-{noise}").teacher_config()
        assert config["label_noise"] == teacher["label_noise"] == noise / 100
        clean = recipe(f"cifar100/noisy-labels-{noise}-clean-teacher")
        assert clean.config()["label_noise"] == noise / 100 and clean.teacher_config()["label_noise"] == 0
    assert [recipe("cifar100/few-shot-25").config(small=small)["train_images"] for small in (False, True)] == [12_500, 1250]
    for small in (False, True):
        dynamics = recipe("cifar100/information").config(small=small)
        assert len(dynamics.keep_epochs) == 3 and dynamics.keep_epochs[-1] == dynamics["epochs"]
    (choice,) = recipe("cifar100/information").table().query("setting == 'keep_epochs'").itertuples()
    assert (choice.value, choice.small, choice.origin) == ((20, 120, 240), (1, 5, 10), "I")
    grid = recipe("cifar10/grid-vgg11-from-resnet19")
    assert (grid.values("student")["candidates"], grid.config()["method"]) == ("paper", "feature_kd")
    assert recipe("imagenet/resnet18-from-resnet34-T4").config().time_steps == 4


def test_finding_and_not_finding():
    assert [known.name for known in find_recipes("resnet18 wrn40 t7")] == ["cifar100/resnet18-from-wrn40_2-T7"]
    assert find_recipes("resnet50") == [] and len(find_recipes("")) == len(NAMES) == len(recipe_table(recipes()))
    with pytest.raises(ValueError, match="recipe: expected one of the .*, got 'cifar100/noisy-label-30' .did you mean 'cifar100/noisy-labels-30'"):
        recipe("cifar100/noisy-label-30")
    with pytest.raises(ValueError, match="recipe: expected one that distils, got cifar10/vgg11-baseline-T2, which has no teacher"):
        recipe("cifar10/vgg11-baseline-T2").teacher_config()


# ---- the command line ----


FUNCTIONS = dict(teacher=(teacher_command, TeacherConfig), distill=(distill_command, Config))


def parsed(name, *typed):
    "What reaches a command, by the parser that it has in a terminal."
    return parse(f"sastc {name}", FUNCTIONS[name][0], typed, FUNCTIONS[name][1])


def chosen(name, *typed):
    given = parsed(name, *typed)
    start, _ = given.pop("start"), given.pop("again")
    return settings_of(FUNCTIONS[name][1], start, given)


def test_a_default_that_is_typed_overrides_the_recipe_and_one_that_is_not_does_not():
    name, default = "imagenet/resnet18-baseline-T4", Config()
    typed = {option: str(default[option]) for option in ("epochs", "lr", "precision", "data")} | dict(time_steps="2")
    left, given = (
        chosen("distill", "--recipe", name),
        chosen("distill", "--recipe", name, *(text for option, value in typed.items() for text in (f"--{option}", value))),
    )
    assert [left[option] for option in typed] == [90, 0.1, "bf16", "data/imagenet", 4]
    assert [given[option] for option in typed] == [default[option] for option in typed]
    assert given["image_size"] == left["image_size"] == 224  # the rest stays the recipe's


def test_without_a_recipe_nothing_but_what_is_typed_reaches_a_command():
    assert parsed("teacher").keys() == {"start", "again"}
    given = parsed("distill", "--no-augment", "--milestones", "0.5,0.9", "--method", "kd")
    assert {name: given[name] for name in given.keys() - {"start", "again"}} == dict(augment=False, milestones=(0.5, 0.9), method="kd")


def test_small_and_flags_and_the_teachers_command():
    teacher = chosen("teacher", "--recipe", "cifar10/vgg11-from-resnet19-T2", "--small", "--no-augment", "--width", "1")
    assert [teacher[name] for name in ("augment", "width", "epochs")] == [False, 1, SMALL["teacher"]["epochs"]]
    for sentence, typed in {
        "small: expected only together with --recipe NAME": ["--small"],
        "recipe: expected one of the .*, got 'cifar10/vgg'": ["--recipe", "cifar10/vgg"],
        "epochs: expected a number of at least 1, got 0": ["--recipe", "cifar10/vgg11-baseline-T2", "--epochs", "0"],
        "beta: expected only with method": ["--recipe", "cifar10/vgg11-baseline-T2", "--beta", "3"],
    }.items():
        with pytest.raises(ValueError, match=sentence):
            chosen("distill", *typed)


def test_a_missing_teacher_is_answered_with_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = "--recipe", "cifar10/vgg11-from-resnet19-T2", "--small"
    with pytest.raises(FileNotFoundError, match="train it first: sastc teacher --recipe cifar10/vgg11-from-resnet19-T2 --small"):
        chosen("distill", *typed)
    assert chosen("distill", *typed, "--method", "baseline")["method"] == "baseline"
    assert chosen("distill", *typed, "--teacher", "mine").teacher == "mine"  # checked when it is read


def test_a_comparison_has_the_recipes_methods_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("sastc.studies.comparisons.compare_methods", lambda *given, **how: asked.append(given) or (_ for _ in ()).throw(ValueError("enough")))
    for typed in ([], ["--methods", "baseline", "--folder", "elsewhere", "--seeds", "4"]):
        assert main(["compare", "--recipe", "cifar10/vgg11-baseline-T2", "--small", *typed]) == 2
    assert [given[:3] for given in asked] == [("runs/cifar10-vgg11-baseline-T2-small", ("baseline",), (1000, 1001, 1002)), ("elsewhere", ("baseline",), (4,))]


def test_a_command_that_computes_nothing_loads_no_library_that_only_training_needs():
    code = "import sys; from sastc.cli import main; main(['recipes', 'grid']); print({'torchvision', 'sklearn', 'torchmetrics', 'torch._dynamo'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert told.count("cifar10/grid-") == 3 and told.endswith("set()\n")


def test_a_reader_that_has_seen_enough_is_no_mistake():
    code = "from sastc.cli import main; raise SystemExit(main(['recipes']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `head` does
    assert (process.wait(300), process.stderr.read()) == (0, b"")


def test_the_list_in_a_terminal(capsys):
    assert main(["recipes", "grid"]) == 0
    assert capsys.readouterr().out.count("cifar10/grid-") == 3
    assert main(["recipes", "cifar100/resnet18-from-resnet32x4-T3"]) == 0
    told = capsys.readouterr().out
    assert "baseline 75.72, kd 78.00, feature_kd 77.96, sastc 80.24" in told and "sastc 16.11" in told
    assert "sastc compare --recipe cifar100/resnet18-from-resnet32x4-T3 --small" in told and "SemCKD" in told


# ---- ImageNet, in small ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "An image folder of three classes that colour tells apart, with images of different sizes."
    place = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for split, count in dict(train=16, test=6).items():
        for label in range(3):
            (place / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                size = torch.randint(40, 60, (2,), generator=generator).tolist()
                pixels = torch.randint(90, (*size, 3), generator=generator, dtype=torch.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels.numpy()).save(place / split / f"class{label}" / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A state dict as torchvision has them, for three classes."
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), file)
    return file


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_train_the_imagenet_recipe_on_a_folder_with_weights_from_a_file(folder, weights, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("from sastc.cli import main\nraise SystemExit(main())\n")
    given = dict(
        data=folder,
        teacher=f"torchvision:resnet18:{weights}",
        image_size=32,
        width=0.0625,
        batch_size=8,
        epochs=1,
        workers=1,
        device="cpu",
        folder=tmp_path / "run",
        log_every=1,
    )
    typed = ["distill", "--recipe", "imagenet/resnet18-from-resnet34-T4", *(text for name, value in given.items() for text in (f"--{name}", str(value)))]
    done = subprocess.run([sys.executable, *TWO, str(script), *typed], capture_output=True, text=True, timeout=300, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(tmp_path / "run")
    assert run.status["state"] == "finished" and len(run.steps) == 48 // 16  # 48 images, two processes of 8
    assert run.config["beta"] == 50 and run.config["weight_decay"] == 1e-4 and run.config["precision"] == "bf16"
    assert run.layers == dict(student=[f"stage{n}" for n in range(1, 5)], teacher=[f"layer{n}" for n in range(1, 5)])
    assert run.attention.shape == (3, 4, 4, 4)
    assert run.model().time_steps == 4


def test_a_teacher_with_another_number_of_classes_is_refused_with_a_sentence(folder, tmp_path, capsys):
    file = tmp_path / "ten.pth"
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), file)
    given = dict(
        recipe="imagenet/resnet18-from-resnet34-T4", data=str(folder), image_size=32, width=0.0625, batch_size=8, device="cpu", folder=str(tmp_path / "run")
    )
    typed = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    assert main(["distill", "--teacher", f"torchvision:resnet18:{file}", *typed]) == 2
    assert "teacher: expected a network that tells 3 classes apart" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_weights_that_cannot_be_fetched_are_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **options: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(
        FileNotFoundError, match=r"expected a network connection to fetch \S+ of resnet34 from https://\S+, got no route to host.*torchvision:resnet34:FILE"
    ):
        load_model("torchvision:resnet34")


class Unpickled:
    "Would run code when it is unpickled."

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_weights_file_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(weight=Unpickled()), tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="evil.pth, which cannot be read"):
        pretrained(f"torchvision:resnet18:{tmp_path / 'evil.pth'}")
    assert not (tmp_path / "harmed").exists()
