"""Settings: from names to objects and back, changes, sentences for what has no effect, registries, and folders that run nothing."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sastc.common.settings import Registry, Settings, choices_of, entries, flat, own_parts, own_settings, part, read, resolve, setting, written
from sastc.methods import METHODS, SASTC
from sastc.methods.alignment import ALIGNMENTS
from sastc.methods.attention import ATTENTIONS
from sastc.neurons.neuron import LIF, NEURONS
from sastc.training.config import OPTIMIZERS, SCHEDULES, Config, TeacherConfig, settings_for
from sastc.training.opening import open_run
from sastc.training.runs import Run
from sastc.training.session import distill, train_teacher

CHOICES = dict(  # of a student's run
    data=["digits", "cifar10", "cifar100", "nmnist", "dvs_gesture", "some/file.npz", "some/folder"],
    student=["vgg11", "resnet18", "vggsnn", "wrn16_2_sastc"],
    neuron=list(NEURONS),
    method=[*METHODS, "sastc+kd", "kd+baseline"],
    attention=list(ATTENTIONS),
    alignment=list(ALIGNMENTS),
    optimizer=list(OPTIMIZERS),
    schedule=list(SCHEDULES),
)


def values(entry):
    "A strategy for values that a setting accepts."
    declared, rule = entry.declared, entry.declared.metadata
    default = declared.default
    low, high = rule.get("least"), rule.get("most")
    if entry.name == "milestones":
        return st.lists(st.floats(0, 1), max_size=4).map(tuple)
    if entry.name in ("keep_epochs", "trackers"):
        return st.just(())
    if isinstance(default, tuple):
        return st.lists(st.sampled_from(["layer1", "layer2", "layer3"]), max_size=3).map(tuple)
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, str):
        return st.sampled_from(names) if (names := choices_of(declared)) else st.sampled_from(["", "a", "b/c"])
    if isinstance(default, int):
        return st.integers(low or 0, high or 1000)
    return st.floats(0 if low is None else low, 100 if high is None else high)


@st.composite
def configs(draw, kind=Config):
    "Settings with random choices and random values."
    chosen = {}
    for name, names in CHOICES.items():  # a choice may bring another one
        known = entries(settings_for(kind, chosen))
        if name in known and known[name].choice is not None and draw(st.booleans()):
            chosen[name] = draw(st.sampled_from(names))
    known = {
        name: entry for name, entry in entries(settings_for(kind, chosen)).items() if entry.choice is None and name not in ("teacher_mode", "frames")
    }  # these two are for event recordings alone
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=8, unique=True)):
        chosen[name] = draw(values(known[name]))
    for name, entry in known.items():  # what has an effect only with another one
        needed = entry.declared.metadata.get("needs")
        if name in chosen and needed and not chosen.get(needed):
            chosen.pop(name)
    if chosen.get("attention_gradient") == "labels" and chosen.get("method") == "rate":
        chosen.pop("attention_gradient")
    if kind is Config and not METHODS.find(chosen.get("method", "sastc")).uses_teacher:
        chosen.pop("teacher_until", None)
    return settings_for(kind, chosen)


# ---------------------------------------------------------------- from names to objects and back


@given(configs() | configs(TeacherConfig))
def test_the_names_of_a_configuration_give_it_again(config):
    again = settings_for(type(config), flat(config))
    assert again == config and flat(again) == flat(config)
    assert settings_for(type(config), {}, json.loads(json.dumps(flat(config))), importing=False) == config
    assert again.label() == config.label()


@given(configs())
def test_every_setting_has_a_name_a_value_and_a_sentence(config):
    for name, entry in entries(config).items():
        assert name in (entry.name, ".".join(entry.path)) and config[name] == entry.value
        if entry.choice is None:
            assert entry.declared.metadata["help"] and read(entry.declared, written(entry.value)) == entry.value


@given(configs(), configs())
def test_a_change_keeps_what_still_exists_and_drops_the_rest(before, after):
    "Changed to the choices of another configuration: values follow where a setting of that name is still there, defaults where they were not named."
    choices, own = (
        {name: entry.value for name, entry in entries(config).items() if entry.choice is not None and "." not in name} for config in (after, before)
    )
    defaults, others = flat(settings_for(type(before), own)), flat(settings_for(type(before), choices))
    kept = {name: value for name, value in flat(before).items() if "." not in name}
    try:
        changed = before.but(**choices)
    except ValueError as error:  # values that the new choices do not accept
        assert str(error).split(":")[0] in {*kept, *choices}
        return
    for name, entry in entries(changed).items():
        if name in choices:
            assert entry.value == choices[name]
        elif name in kept and entries(before)[name].path == entry.path:
            assert entry.value == kept[name] or (kept[name] == defaults[name] and entry.value == others[name])
    assert before.but() == before and before.but(seed=77).but(seed=before["seed"]) == before


def test_a_change_of_the_method_keeps_its_weights_and_drops_its_parts():
    config = settings_for(Config, dict(method="sastc", beta=3.0, alpha=0.5, factor=2, similarity_norm="row"))
    assert "factor" in flat(config) and config.method.attention.factor == 2
    kd = config.but(method="kd")
    assert (kd["alpha"], "beta" in flat(kd), "factor" in flat(kd)) == (0.5, False, False)
    rsa = config.but(method="rsa")
    assert (rsa["beta"], "factor" in flat(rsa), type(rsa.method.attention).__name__) == (3.0, False, "SimilarityAttention")
    assert config.but(attention="rsa")["method"] == "sastc" and config["beta"] == 3.0  # the first is left as it was


def test_names_that_two_parts_have():
    config = settings_for(Config, dict(method="sastc", similarity_norm="row", alignment="similarity"))
    assert (config.method.attention.similarity_norm, config.method.alignment.similarity_norm) == ("row", "row")
    assert (
        settings_for(Config, dict(method="sastc", alignment="similarity", **{"method.alignment.similarity_norm": "row"})).method.attention.similarity_norm
        == "raw"
    )


# ---------------------------------------------------------------- without effect


def every_setting():
    "Settings of all choices, by name, with the choices that bring them."
    found = {}
    for part_name in CHOICES:
        for choice in CHOICES[part_name]:
            owner = dict(method="sastc") if part_name in ("attention", "alignment") else {}
            for name, entry in entries(settings_for(Config, owner | {part_name: choice})).items():
                found.setdefault(name, entry)
    return found


EVERY = every_setting()


@settings(max_examples=150)
@given(configs(), st.sampled_from(sorted(EVERY)), st.data())
def test_a_setting_without_effect_is_refused_with_the_place_where_it_would_have_one(config, name, data):
    given = {key: value for key, value in flat(config).items() if "." not in key}
    if name in flat(config) or "." in name:
        return
    entry = EVERY[name]
    value = data.draw(values(entry)) if entry.choice is None else data.draw(st.sampled_from(CHOICES[name]))
    with pytest.raises(ValueError) as caught:
        settings_for(Config, {name: value}, given)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name}: expected only with ") and "where it has no effect" in sentence
    places = sentence.removeprefix(f"{name}: expected only with ").split(", got ")[0]
    works = []
    for place in places.split(" or "):  # "method sastc, rsa or attention self": each of them takes the setting
        part_name, _, options = place.partition(" ")
        for option in options.split(", "):
            if not option.startswith(("an .npz", "an image")):
                owner = dict(method="sastc") if part_name in ("attention", "alignment") else {}
                works.append(name in flat(settings_for(Config, owner | {part_name: option})))
    assert all(works)


@pytest.mark.parametrize("given, sentence", [
    (dict(method="kd", beta=3.0), "beta: expected only with method .*feature_kd.*sastc.*, got 3.0 with method 'kd', where it has no effect"),
    (dict(method="uniform", attn_scale=2.0), "attn_scale: expected only with .*, got 2.0 with .*, where it has no effect"),
    (dict(method="rsa", factor=2), "factor: expected only with .*, got 2 with "),
    (dict(neuron="if", decay=0.3), "decay: expected only with neuron lif, plif, got 0.3 with neuron 'if'"),
    (dict(optimizer="adam", momentum=0.5), "momentum: expected only with optimizer sgd, got 0.5 with optimizer 'adam'"),
    (dict(schedule="cosine", milestones=(0.5,)), "milestones: expected only with schedule step"),
    (dict(student="resnet18", fc_neurons=True), "fc_neurons: expected only with student vgg11, got True with student 'resnet18'"),
    (dict(data="digits", workers=2), "workers: expected only with data an image folder, torchvision:NAME, hf:NAME, got 2 with data 'digits'"),
    (dict(noise_seed=1), "noise_seed: expected only together with label_noise, got 1 with label_noise 0.0"),
    (dict(over_teacher="mean"), "setting: expected .*, got 'over_teacher'"),
    (dict(drop_last=True), "setting: expected .*, got 'drop_last'"),
    (dict(align="features"), "setting: expected a setting of this run .did you mean 'alignment'"),
])  # fmt: skip
def test_sentences_for_settings_without_effect(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings_for(Config, given)


@pytest.mark.parametrize("given, sentence", [
    (dict(beta=-1.0), "beta: expected a number of at least 0, got -1.0"),
    (dict(beta="much"), "beta: expected .*, got 'much'"),
    (dict(epochs=1.5), "epochs: expected a whole number, got 1.5"),
    (dict(epochs=True), "epochs: expected a whole number, got True"),
    (dict(augment="yes"), "augment: expected True or False, got 'yes'"),
    (dict(milestones=0.5), "milestones: expected a list, got 0.5"),
    (dict(milestones=(1.5,)), "milestones: expected a number from 0 to 1, got 1.5"),
    (dict(candidates="codes"), "candidates: expected one of code, paper, stages, got 'codes' .did you mean 'code'"),
    (dict(method=3.5), "method: expected a name, a class or an object of yours, got 3.5"),
    (dict(beta=3.0, method=SASTC()), r"beta: expected inside the object that was passed, as method=sastc\\(beta=3.0\\), got 3.0 beside it"),
])  # fmt: skip
def test_sentences_for_values(given, sentence):
    with pytest.raises(ValueError, match=sentence.replace("\\\\", "\\")):
        settings_for(Config, given)


def test_parts_have_to_be_objects_where_no_names_are_read():
    for value in ("kd", METHODS["kd"], None):
        with pytest.raises(ValueError, match="method: expected an object with settings, got"):
            Config(method=value)
    assert Config(method=METHODS["kd"]())["method"] == "kd"


@given(st.integers(), st.floats(allow_nan=True), st.text(max_size=8))
def test_whatever_is_typed_gives_a_setting_or_a_sentence(whole, number, text):
    for name, value in dict(seed=whole, lr=number, folder=text, method=text, decay=number, neuron=text, batch_size=text).items():
        try:
            held = settings_for(Config, {name: value})[name]
        except ValueError as error:
            assert name in str(error) and "expected" in str(error) and "\n" not in str(error).replace(repr(text), "")
        else:
            assert held == value


# ---------------------------------------------------------------- registries


class Engine(Settings):
    power: float = setting(60.0, "kilowatts", least=1)


PLUGIN = """
from sastc.common.settings import Settings, setting
class Steam(Settings):
    "A steam engine."
    coal: float = setting(10.0, "kilogrammes an hour", least=0)
LOADED = True
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    "An installed package that says by an entry point what it has."
    (tmp_path / "steam_plugin.py").write_text(PLUGIN)
    about = tmp_path / "steam_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: steam_plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tests.engines]\nsteam = steam_plugin:Steam\nbroken = no_such_module:Engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "steam_plugin"
    sys.modules.pop("steam_plugin", None)


def engines():
    found = Registry("engine", "tests.engines")
    found.register("combustion")(Engine)
    return found


def test_entry_points_are_known_by_name_and_loaded_when_they_are_used(plugin):
    found = engines()
    assert list(found) == ["combustion", "steam", "broken"] and plugin not in sys.modules
    assert [name for name, _ in found.options()] == ["combustion"]  # what is not loaded has no settings yet
    kind = found.find("steam")
    assert sys.modules[plugin].LOADED and kind is sys.modules[plugin].Steam
    assert found.name_of(kind) == "steam" and found["steam"] is kind
    with pytest.raises(ModuleNotFoundError):
        found["broken"]

    class Car(Settings):
        engine: Settings = part(Engine, "what drives it", found)

    car = resolve(Car, dict(engine="steam", coal=5))
    assert flat(car) == dict(engine="steam", coal=5.0) and resolve(Car, {}, flat(car), importing=False).engine.coal == 5
    with pytest.raises(ValueError, match="coal: expected only with engine steam, got 1 with engine 'combustion'"):
        resolve(Car, dict(coal=1))


def test_names_of_the_package_win_over_those_of_plug_ins(monkeypatch):
    point = metadata.EntryPoint("combustion", "no_such_module:Engine", "tests.engines")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "tests.engines" else [])
    assert engines()["combustion"] is Engine


def test_import_paths(plugin):
    found = engines()
    with pytest.raises(ValueError, match="engine: expected Steam of a module that is imported, got 'steam_plugin:Steam'; import steam_plugin first"):
        found.find("steam_plugin:Steam", importing=False)
    assert plugin not in sys.modules
    kind = found.find("steam_plugin:Steam")
    assert kind is found.find("steam_plugin:Steam", importing=False) and found.name_of(kind) == "steam"
    for path in ("no_such_module:Engine", "steam_plugin:Stream"):
        with pytest.raises(ValueError, match=f"engine: expected a name or an import path, got '{path}'"):
            found.find(path)
    with pytest.raises(ValueError, match="engine: expected one of combustion, steam, broken, got 'steem' .did you mean 'steam'"):
        found.find("steem")


def test_what_is_typed_is_imported_and_what_is_read_is_not(plugin):
    class Car(Settings):
        engine: Settings = part(Engine, "what drives it", engines())

    with pytest.raises(ValueError, match="import steam_plugin first"):
        resolve(Car, {}, dict(engine="steam_plugin:Steam"), importing=False)
    assert plugin not in sys.modules
    assert resolve(Car, dict(engine="steam_plugin:Steam"), {}, importing=False).engine.coal == 10


def test_classes_with_settings():
    class Plain(Settings):
        weight: float = 1.0
        names: tuple[str, ...] = ()

    assert flat(Plain(weight=2, names=["a"])) == dict(weight=2.0, names=("a",))
    assert (list(own_settings(Plain)), own_parts(Plain), repr(Plain())) == (["weight", "names"], {}, "Plain(weight=1.0, names=())")
    with pytest.raises(TypeError, match="unexpected keyword"):
        Plain(wait=1)


# ---------------------------------------------------------------- a folder of somebody else

EVIL = "import os\nopen(os.environ['MARK'], 'w').close()\nfrom sastc.methods import KD as X\nfrom sastc.neurons import LIF\nfrom sastc.models.resnet import ResNet\n"
READ = """
import sys
from sastc.training.opening import assess, open_run
from sastc.training.runs import Run, compare
from sastc.training.session import distill
run = Run(sys.argv[1])
assert run.config["method"] == "evil_module:X" and run.state and run.layers is not None and run.terms and len(run.metrics) and run.result
compare([run])
for attempt in (lambda: run.settings, lambda: open_run(run).method, lambda: open_run(run).network, lambda: run.model(), lambda: assess(run),
                lambda: distill(folder=sys.argv[1], resume=True), lambda: distill(folder=sys.argv[1], resume=True, epochs=1)):
    try:
        attempt()
    except (ValueError, FileNotFoundError) as error:
        assert "import evil_module first" in str(error), error
    else:
        raise AssertionError("opened")
assert "evil_module" not in sys.modules
print("untouched")
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    "A finished run whose files name a module that would run something when it is imported."
    import torch

    folder = tmp_path_factory.mktemp("foreign") / "run"
    distill(data="digits", train_images=64, holdout=0.0, batch_size=16, width=1 / 16, method="baseline", epochs=1, folder=folder)
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= dict(method="evil_module:X", neuron="evil_module:LIF", student="evil_module:ResNet")
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("checkpoints/*.pt"):
        content = torch.load(path, weights_only=True)
        content["spec"] |= dict(name="evil_module:ResNet", neuron="evil_module:LIF")
        torch.save(content, path)
    return folder


def test_a_folder_of_somebody_else_runs_nothing(foreign, tmp_path):
    (tmp_path / "evil_module.py").write_text(EVIL)
    mark = tmp_path / "mark"
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", READ, str(foreign)], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=paths, MARK=str(mark)))
    assert done.stdout.strip() == "untouched", done.stderr[-2000:]
    assert not mark.exists()


def test_a_version_1_folder_that_names_a_class_is_shown_as_it_is(foreign, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(kind="student", settings=dict(method="evil_module:X", align="features", drop_last=False))))
    assert Run(tmp_path).config == dict(method="evil_module:X", alignment="features", drop_last=False)


def test_a_teacher_is_no_student(tmp_path):
    run = train_teacher(data="digits", train_images=64, holdout=0.0, batch_size=16, width=1 / 16, model="wrn16_2", epochs=1, folder=tmp_path / "run")
    assert type(run.settings) is TeacherConfig and run.settings["model"] == "wrn16_2"
    with pytest.raises(ValueError, match="run: expected the run of a student, got that of a teacher"):
        open_run(run)
    assert isinstance(LIF(), Settings)
