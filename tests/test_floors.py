"""A room knows its floor: imports go down, in no circle, and nobody takes a private name from a neighbour."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sastc

ROOT = Path(sastc.__file__).parent
FLOORS = [  # from the ground up
    {"common"},
    {"neurons"},
    {"models", "data", "metrics"},
    {"methods"},
    {"training"},
    {"studies"},
    {"lab", "cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "_modidx.py"
}


def room(module):
    return (module.split(".") + [""])[1]


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


def absolute(module, node):
    "Module that a `from ... import` names."
    if not node.level:
        return node.module or ""
    parts = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imports(module, nodes=None) -> Iterator[tuple[str, str, str, int]]:
    "Imports from sastc among the nodes (all of the file): module, name taken from it or empty, name in the file, line."
    for node in ast.walk(tree(module)) if nodes is None else nodes:
        if isinstance(node, ast.ImportFrom) and (source := absolute(module, node)).split(".")[0] == "sastc":
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (
                    (inner, "", alias.asname or alias.name, node.lineno) if inner in MODULES else (source, alias.name, alias.asname or alias.name, node.lineno)
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "sastc":
                    yield alias.name, "", alias.asname or alias.name, node.lineno


def at_top(module):
    "Nodes that run when a module is imported: outside functions and outside `if TYPE_CHECKING`."
    waiting = list(tree(module).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def private_names(module) -> Iterator[str]:
    held = {}
    for source, name, known_as, line in imports(module):
        if name and source != module and (is_private(name) or is_private(source.rpartition(".")[2])):
            yield f"{module}:{line} imports {name} from {source}"
        held[known_as] = f"{source}.{name}" if name else source  # a class has private names too
        if not name and is_private(source.rpartition(".")[2]):
            yield f"{module}:{line} imports {source}"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and (source := held.get(ast.unparse(node.value))):
            yield f"{module}:{node.lineno} takes {node.attr} of {source}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_takes_a_private_name_of_another(module):
    assert not list(private_names(module))


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} - {""} == set(FLOOR)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "sastc"])
def test_imports_go_down(module):
    "Functions count too: an import that is put off is still one. Rooms of one floor may know each other, see below."
    own = FLOOR[room(module)]
    up = [f"{module}:{line} imports {source}" for source, _, _, line in imports(module) if FLOOR.get(room(source), len(FLOORS)) > own]
    assert not up


def circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: {source for source, *_ in imports(module, at_top(module)) if source in MODULES and source != module} for module in MODULES}
    assert circle(graph) is None


def test_no_rooms_import_each_other_in_a_circle():
    "Wherever the import stands."
    graph = {name: set() for name in FLOOR}
    for module in MODULES:
        if module != "sastc":
            graph[room(module)] |= {room(source) for source, *_ in imports(module) if room(source)} - {room(module)}
    assert circle(graph) is None, graph


def test_the_root_loads_no_room_by_itself():
    "Commands answer sooner, and the root, which names things of all floors, closes no circle."
    assert not list(imports("sastc", at_top("sastc")))


@pytest.mark.parametrize(
    "code, expected",
    [
        ("from sastc.data.batches import _check", "sastc.data.images:1 imports _check from sastc.data.batches"),
        ("from .batches import _check as check", "sastc.data.images:1 imports _check from sastc.data.batches"),
        ("def f():\n    from ..neurons.kernels import _compile", "sastc.data.images:2 imports _compile from sastc.neurons.kernels"),
        ("from . import batches\nbatches._check(1)", "sastc.data.images:2 takes _check of sastc.data.batches"),
        ("import sastc.data.batches\nsastc.data.batches._check(1)", "sastc.data.images:2 takes _check of sastc.data.batches"),
        ("import sastc.data.batches as b\nb._check(1)\nb.__doc__", "sastc.data.images:2 takes _check of sastc.data.batches"),
        ("from sastc.data.batches import Batches\nBatches._parts(1)", "sastc.data.images:2 takes _parts of sastc.data.batches.Batches"),
        ("from sastc.data.batches import Batches\nself._x = Batches.epoch", None),
    ],
)
def test_private_names_are_seen_wherever_they_are_taken(code, expected, monkeypatch):
    monkeypatch.setattr(f"{__name__}.tree", lambda module: ast.parse(code))
    assert list(private_names("sastc.data.images")) == ([expected] if expected else [])
