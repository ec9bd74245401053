"""Nothing imports upwards: the table of layers, and the imports of every module against it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("keras_aeos", "trainers", "tools")
# layer: the packages and layers that its modules may import beside the standard library and the
# layer itself. A layer is the longest of these names that a module's name begins with.
KERAS = frozenset({"keras", "numpy", "tensorflow"})
LAYERS: dict[str, frozenset[str]] = {
    "keras_aeos.alarm_rule": frozenset({"numpy"}),
    "keras_aeos.array_files": frozenset({"numpy"}),
    "keras_aeos.constraints": frozenset(),
    "keras_aeos.stability": frozenset({"numpy"}),
    "keras_aeos.solvers": frozenset({"numpy", "tensorflow"}),
    "keras_aeos.optimizers": KERAS
    | {"keras_aeos.array_files", "keras_aeos.constraints", "keras_aeos.stability"},
    "keras_aeos.curvature": KERAS | {"keras_aeos.constraints", "keras_aeos.solvers"},
    "keras_aeos.callbacks.row": KERAS
    | {
        "keras_aeos.constraints",
        "keras_aeos.solvers",
        "keras_aeos.optimizers",
        "keras_aeos.curvature",
        "keras_aeos.callbacks.clipping",
        "keras_aeos.callbacks.columns",
        "keras_aeos.callbacks.quantities",
    },
    "keras_aeos.callbacks.clipping": KERAS | {"keras_aeos.curvature", "keras_aeos.optimizers"},
    "keras_aeos.callbacks.columns": frozenset(
        {
            "keras_aeos.solvers",
            "keras_aeos.optimizers",
            "keras_aeos.curvature",
            "keras_aeos.callbacks.quantities",
        }
    ),
    "keras_aeos.callbacks.quantities": KERAS | {"keras_aeos.curvature"},
    "keras_aeos.callbacks.card": KERAS
    | {"pandas", "keras_aeos.optimizers", "keras_aeos.stability", "keras_aeos.summaries"},
    # Matplotlib, Bokeh and PyYAML come with the extra `report`.
    "keras_aeos.summaries": frozenset(
        {
            *("bokeh", "matplotlib", "numpy", "pandas", "tensorboard", "yaml"),
            "keras_aeos.alarm_rule",
        }
    ),
    "keras_aeos.callbacks": KERAS
    | {
        "pandas",
        "tensorboard",
        "keras_aeos.alarm_rule",
        "keras_aeos.array_files",
        "keras_aeos.constraints",
        "keras_aeos.optimizers",
        "keras_aeos.curvature",
        "keras_aeos.summaries",
        "keras_aeos.callbacks.card",
        "keras_aeos.callbacks.columns",
        "keras_aeos.callbacks.quantities",
        "keras_aeos.callbacks.row",
    },
    "keras_aeos": frozenset(
        {
            "keras_aeos.callbacks",
            "keras_aeos.curvature",
            "keras_aeos.optimizers",
            "keras_aeos.stability",
        }
    ),
}
# The experiments may use any library and all that lies below them.
BELOW = {"trainers": {"keras_aeos"}, "tools": {"keras_aeos", "trainers"}}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def layer(name: str) -> str:
    """The layer of a module of keras_aeos."""
    return max((key for key in LAYERS if f"{name}.".startswith(f"{key}.")), key=len)


def imports(path: Path) -> Iterator[str]:
    """Names of the modules, or names in modules, that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def foreign(name: str) -> set[str]:
    """What a module of keras_aeos imports that its layer may not."""
    own = layer(name)
    found = set()
    for imported in imports(MODULES[name]):
        top = imported.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        target = layer(imported) if top == "keras_aeos" else top
        if target != own and target not in LAYERS[own]:
            found.add(imported)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "keras_aeos"])
def test_module_imports_what_its_layer_may(name):
    assert foreign(name) == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] in BELOW])
def test_experiments_import_nothing_above_them(name):
    own = name.split(".")[0]
    ours = {imported.split(".")[0] for imported in imports(MODULES[name])} & set(PACKAGES)
    assert ours - {own} <= BELOW[own]


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name: set(imports(path)) & set(MODULES) for name, path in MODULES.items()}
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in finished:
            for imported in sorted(graph[name] - {name}):
                visit(imported, (*path, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def test_every_layer_has_a_module():
    assert {layer(name) for name in MODULES if name.startswith("keras_aeos")} == set(LAYERS)


def test_an_import_upwards_is_found(tmp_path, monkeypatch):
    path = tmp_path / "lanczos.py"
    path.write_text(
        "def late():\n    from keras_aeos.curvature import objective\n    import keras\n"
    )
    monkeypatch.setitem(MODULES, "keras_aeos.solvers.lanczos", path)
    assert foreign("keras_aeos.solvers.lanczos") == {"keras_aeos.curvature.objective", "keras"}
