"""The optimizer sections follow from the constructors of the optimizers."""

import copy
import dataclasses
import inspect
from pathlib import Path

import keras
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import MISSING

import keras_aeos
from trainers import command_line, schema
from trainers.errors import UserError
from trainers.optimizers import build_optimizer
from trainers.schema.optimizers import read_sections

CONSTRAINTS = Path(keras_aeos.__file__).with_name("constraints.py")
INIT = """
from package.optimizers.lion import Lion
from package.optimizers.tools import save

__all__ = ["Lion", "save"]
"""
LION = """
import nothing_that_is_installed

class Base:
    def __init__(self, learning_rate: LearningRate, name: str) -> None: ...

class Lion(Base):
    def __init__(
        self,
        learning_rate: LearningRate = 3e-4,
        beta_1: float = 0.9,
        steps: int | None = None,
        *,
        wide: bool = True,
        scale: float,
        name: str = "lion",
        **kwargs: Any,
    ) -> None: ...
"""


@pytest.fixture
def package(tmp_path):
    """A package with an optimizer that keras_aeos doesn't have."""
    (tmp_path / "constraints.py").write_text(CONSTRAINTS.read_text())
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "__init__.py").write_text(INIT)
    (tmp_path / "optimizers" / "lion.py").write_text(LION)
    (tmp_path / "optimizers" / "tools.py").write_text("def save(): ...\n")
    return tmp_path


def test_section_has_the_arguments_of_the_constructor(package):
    [(name, section)] = read_sections(package).items()
    assert (name, section.__name__) == ("lion", "Lion")
    assert [(f.name, f.type, f.default) for f in dataclasses.fields(section)] == [
        ("name", str, "lion"),
        ("learning_rate", float, 3e-4),
        ("beta_1", float, 0.9),
        ("steps", int | None, None),
        ("wide", bool, True),
        ("scale", float, MISSING),
    ]
    assert issubclass(section, schema.Optimizer)


def test_argument_that_no_file_can_hold_is_named(package):
    file = package / "optimizers" / "lion.py"
    file.write_text(LION.replace("beta_1: float = 0.9", "betas: list[float] = ()"))
    with pytest.raises(TypeError, match=r"Lion: .*Received: betas: list\[float\]"):
        read_sections(package)


@pytest.fixture
def lion(package, monkeypatch):
    """The optimizer among those of the trainers, as it would be without a file of its own."""
    monkeypatch.setitem(schema.OPTIMIZERS, "lion", read_sections(package)["lion"])
    Plugins.instance()  # adds Hydra's own options to the store, once per process
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))


def composed(*overrides):
    """The `optimizer` section of a configuration that chooses this optimizer."""
    arguments = ["-cn", "fully_connected", "optimizer=lion", *overrides]
    return command_line.jobs(command_line.parse(arguments)).jobs[0].config.optimizer


def test_optimizer_without_a_file_is_chosen_by_its_name(lion):
    section = composed("optimizer.scale=2", "optimizer.beta_1=0.5")
    assert dataclasses.asdict(section) == {
        **{"name": "lion", "learning_rate": 3e-4, "beta_1": 0.5},
        **{"steps": None, "wide": True, "scale": 2.0},
    }


MISTAKES = {
    "condition of the constructors": (["optimizer.beta_1=1"], "beta_1: expected a number in"),
    "learning rate": (["optimizer.learning_rate=0"], "learning_rate: expected a finite number"),
    "argument without a default": ([], "optimizer.scale: a value is missing"),
    "unknown argument": (["optimizer.beta_3=1"], "unknown key 'beta_3' in section 'optimizer'"),
    "name": (["optimizer.name=adam"], "optimizer.name: expected one of lion"),
}


@pytest.mark.parametrize(("overrides", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_in_a_section_is_named(lion, overrides, message):
    scale = ["optimizer.scale=1"] if overrides else []
    with pytest.raises(UserError, match=message):
        composed(*scale, *overrides)


def test_optimizer_without_a_file_is_among_the_known_ones(lion):
    with pytest.raises(UserError, match=r"Did you mean 'lion'\? Known: .*adam, .*lion"):
        composed("optimizer=lionn")


def test_every_exported_optimizer_has_a_section_and_no_other():
    classes = [getattr(keras_aeos.optimizers, name) for name in keras_aeos.optimizers.__all__]
    optimizers = {c.__name__ for c in classes if inspect.isclass(c)}
    assert {section.__name__ for section in schema.OPTIMIZERS.values()} == optimizers


@pytest.mark.parametrize("name", schema.OPTIMIZERS)
def test_section_agrees_with_the_signature_of_the_class(name):
    """As Python sees it, with what a file means by a schedule and by second moments."""
    section = schema.OPTIMIZERS[name]
    signature = inspect.signature(getattr(keras_aeos.optimizers, section.__name__))
    parameters = {k: p for k, p in signature.parameters.items() if p.kind != p.VAR_KEYWORD}
    types = {"learning_rate": float, "second_moments": str}
    defaults = {"second_moments": MISSING}
    assert {f.name: (f.type, f.default) for f in dataclasses.fields(section)} == {
        key: (types.get(key, p.annotation), defaults.get(key, p.default))
        for key, p in parameters.items()
    }
    assert section().name == name


# first and second moment that a run on a quadratic may start from
MOMENTS = {
    **{"gradient_descent": (False, False), "heavy_ball": (True, False), "nesterov": (True, False)},
    **{"rmsprop": (False, True), "adagrad": (False, True), "frozen_adam": (True, False)},
    **dict.fromkeys(("adam", "adamw", "amsgrad", "padam", "nadam", "adafactor"), (True, True)),
}


@pytest.mark.parametrize("name", schema.OPTIMIZERS)
def test_moments_that_a_section_says_are_those_of_the_optimizer(name):
    section = schema.OPTIMIZERS[name]()
    kept = section.keeps_first_moment(), section.keeps_second_moment()
    assert kept == MOMENTS[name]
    if name != "frozen_adam":
        optimizer = build_optimizer(section)
        optimizer.build([keras.Variable(1.0)])
        assert kept == (bool(optimizer.first_moments), bool(optimizer.second_moments))
