"""Every constrained argument of the public API refuses the invalid values of its constraint."""

import inspect
import re
from collections.abc import Callable

import numpy as np
import pytest

import keras_aeos
from keras_aeos import constraints
from keras_aeos.solvers import SOLVERS
from tests.cases import build


def _on_model(function: Callable) -> Callable:
    """The function called with a model and its data."""

    def call(**arguments):
        model, x, y = build("dense")
        return function(model, (x, y), **arguments)

    return call


# The public classes and functions with constrained arguments, and how to call them with some.
PUBLIC: dict[str, tuple[Callable, Callable]] = {
    name: (getattr(keras_aeos.optimizers, name), getattr(keras_aeos.optimizers, name))
    for name in keras_aeos.optimizers.__all__
    if name != "save_second_moments"
} | {
    "AEoSMonitor": (keras_aeos.AEoSMonitor, keras_aeos.AEoSMonitor),
    "CurvatureWarmup": (keras_aeos.CurvatureWarmup, keras_aeos.CurvatureWarmup),
    "DivergenceAlarm": (keras_aeos.DivergenceAlarm, keras_aeos.DivergenceAlarm),
    "FreezePreconditioner": (keras_aeos.FreezePreconditioner, keras_aeos.FreezePreconditioner),
    "limit_memory": (keras_aeos.limit_memory, keras_aeos.limit_memory),
    "Eigensolver": (keras_aeos.Eigensolver, keras_aeos.Eigensolver),
    "EdgeMeter": (keras_aeos.EdgeMeter, _on_model(keras_aeos.EdgeMeter)),
    "top_eigenpairs": (keras_aeos.top_eigenpairs, _on_model(keras_aeos.top_eigenpairs)),
    "critical_learning_rate": (
        keras_aeos.critical_learning_rate,
        _on_model(keras_aeos.critical_learning_rate),
    ),
    "layer_eigenpairs": (keras_aeos.layer_eigenpairs, _on_model(keras_aeos.layer_eigenpairs)),
    "check_second_derivatives": (
        keras_aeos.check_second_derivatives,
        _on_model(keras_aeos.check_second_derivatives),
    ),
}
# Arguments whose values are checked elsewhere: models, data, names.
ELSEWHERE = {
    *("model", "data", "direction", "variables", "quantities", "preconditioner"),
    *("second_moments", "name", "kwargs"),
}
ARGUMENTS = [
    (name, argument)
    for name, (signed, _) in PUBLIC.items()
    for argument in inspect.signature(signed).parameters
    if argument not in ELSEWHERE
]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_invalid_values_are_refused_with_what_was_expected(name, argument):
    _, call = PUBLIC[name]
    constraint = constraints.ARGUMENTS[argument]
    assert len(constraint.invalid) >= 3
    for value in constraint.invalid:
        with pytest.raises(ValueError, match=f"Received: {argument}=") as error:
            call(**{argument: value})
        if value is not None or name != "AdamW":  # names Adam for a weight decay of None
            assert constraint.expected in str(error.value)


@pytest.mark.parametrize("argument", constraints.ARGUMENTS)
def test_the_values_called_invalid_are(argument):
    constraint = constraints.ARGUMENTS[argument]
    assert [value for value in constraint.invalid if constraint.holds(value)] == []


def test_every_constraint_belongs_to_a_public_argument():
    assert set(constraints.ARGUMENTS) == {argument for _, argument in ARGUMENTS}


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), 0.5])
def test_numbers_of_numpy_are_numbers(value):
    constraints.check(beta_1=value, rtol=value)
    constraints.check(num_eigenvalues=np.int64(3), update_freq=np.arange(1, 4))


def test_the_solvers_named_are_those_there_are():
    assert set(constraints.SOLVERS) == set(SOLVERS)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_documented_with_its_default(name):
    """An entry of Args names the default of an argument that has one."""
    signed, _ = PUBLIC[name]
    for argument, parameter in inspect.signature(signed).parameters.items():
        if argument == "kwargs":
            continue
        entry = re.search(
            rf"^ +{argument}: (.*?)(?=\n +\w+: |\n\n|\Z)",
            signed.__doc__ or "",
            re.DOTALL | re.MULTILINE,
        )
        assert entry, argument
        if parameter.default is not inspect.Parameter.empty:
            assert "default" in entry[1], argument


def test_every_positional_argument_after_the_data_is_by_keyword():
    for name in ("AEoSMonitor", "EdgeMeter", "top_eigenpairs", "check_second_derivatives"):
        signed, _ = PUBLIC[name]
        parameters = list(inspect.signature(signed).parameters.values())
        behind = parameters[[p.name for p in parameters].index("data") + 1 :]
        assert {p.kind for p in behind} == {inspect.Parameter.KEYWORD_ONLY}
