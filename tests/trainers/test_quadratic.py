import itertools
import json
import math
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from keras_aeos.optimizers import GradientDescent
from trainers import command_line, quadratic, run_directory, schema, training
from trainers.__main__ import main
from trainers.errors import UserError

gradient_descent = schema.OPTIMIZERS["gradient_descent"]


def config(optimizer, **changes):
    return schema.Quadratic(**{"optimizer": optimizer, "output_dir": "", "steps": 30, **changes})


def ema_heavy_ball(rate):
    return schema.OPTIMIZERS["heavy_ball"](learning_rate=rate, beta_1=0.9, ema=True)


def trained(directory, *arguments, **changes):
    """The trajectory and the record of a run."""
    outcome = quadratic.train(config(*arguments, **changes), directory, {"config_name": "mine"})
    return pd.read_csv(directory / "trajectory.csv"), outcome.record


def recurrence(update, curvature=1.0, x=1.0, m=0.0, v=0.0, steps=30):
    """Iterates, first and second moments of ``x, m, v = update(x, m, v, g)``, in plain Python."""
    rows = [(x, m, v)]
    for _ in range(steps):
        rows.append(update(*rows[-1], curvature * rows[-1][0]))
    return np.array(rows)


def heavy_ball(x, m, v, g):
    m = 0.9 * m + g
    return x - 0.02 * m, m, v


def heavy_ball_average(x, m, v, g):
    m = 0.9 * m + 0.1 * g
    return x - 30.0 * m, m, v


def nesterov(x, m, v, g):
    m = 0.9 * m + g
    return x - 0.02 * (0.9 * m + g), m, v


def rmsprop(x, m, v, g):
    v = 0.99 * v + 0.01 * g * g
    return x - 2.2 * g / (math.sqrt(v) + 1e-3), m, v


def adam(x, m, v, g):
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    return x - 0.1 * m / (math.sqrt(v) + 1e-3), m, v


def adamw(x, m, v, g):
    """The decayed iterate is where the step starts, not where the gradient is taken."""
    stepped, m, v = adam(x, m, v, g)
    return stepped - 0.1 * 0.5 * x, m, v


def amsgrad(highest):
    """The running maximum is over the initial second moment too."""

    def update(x, m, v, g):
        nonlocal highest
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        highest = max(highest, v)
        return x - 0.1 * m / (math.sqrt(highest) + 1e-3), m, v

    return update


ADAM: dict[str, Any] = {
    "learning_rate": 0.1,
    "beta_2": 0.99,
    "epsilon": 1e-3,
    "bias_correction": False,
}
# section, settings of the run, the recurrence, moments that the optimizer has
PATHS = {
    "gradient descent": (
        gradient_descent(learning_rate=0.3),
        {},
        lambda x, m, v, g: (x - 0.3 * g, m, v),
        (),
    ),
    "heavy ball": (
        schema.OPTIMIZERS["heavy_ball"](learning_rate=0.02),
        {"curvature": 50.0, "start": -3.0},
        heavy_ball,
        ("first_moment",),
    ),
    "heavy ball, average": (
        ema_heavy_ball(30.0),
        {"first_moment": 0.2},
        heavy_ball_average,
        ("first_moment",),
    ),
    "Nesterov": (
        schema.OPTIMIZERS["nesterov"](learning_rate=0.02),
        {"curvature": 60.0, "first_moment": -0.5},
        nesterov,
        ("first_moment",),
    ),
    "RMSprop": (
        schema.OPTIMIZERS["rmsprop"](learning_rate=2.2, beta_2=0.99, epsilon=1e-3),
        {"second_moment": 1.0},
        rmsprop,
        ("second_moment",),
    ),
    "Adam": (
        schema.OPTIMIZERS["adam"](**ADAM),
        {"first_moment": 0.3, "second_moment": 0.5},
        adam,
        ("first_moment", "second_moment"),
    ),
    "AdamW": (
        schema.OPTIMIZERS["adamw"](**ADAM, weight_decay=0.5),
        {},
        adamw,
        ("first_moment", "second_moment"),
    ),
    "AMSGrad": (
        schema.OPTIMIZERS["amsgrad"](**ADAM),
        {"second_moment": 4.0},
        amsgrad(4.0),
        ("first_moment", "second_moment"),
    ),
}


@pytest.mark.parametrize(("section", "changes", "update", "moments"), PATHS.values(), ids=PATHS)
def test_trajectory_is_the_recurrence_worked_by_hand(tmp_path, section, changes, update, moments):
    curvature = changes.get("curvature", 1.0)
    table, _ = trained(tmp_path, section, **{"curvature": 1.0, **changes})
    names = {"start": "x", "first_moment": "m", "second_moment": "v"}
    initial = {names[key]: value for key, value in changes.items() if key in names}
    x, m, v = recurrence(update, curvature, **initial).T
    assert list(table.columns) == list(run_directory.TRAJECTORY_COLUMNS)
    assert list(table["step"]) == list(range(31))
    # Float64, 30 steps, each rounding a few times in another order; iterates pass close by zero.
    near = {"rtol": 1e-12, "atol": 1e-13 * np.abs(x).max()}
    np.testing.assert_allclose(table["iterate"], x, **near)
    np.testing.assert_allclose(
        table["objective"], curvature * table["iterate"] ** 2 / 2, rtol=1e-14
    )
    np.testing.assert_allclose(
        table["gradient_norm_squared"], (curvature * table["iterate"]) ** 2, rtol=1e-14
    )
    for name, expected in (("first_moment", m), ("second_moment", v)):
        if name in moments:
            near["atol"] = 1e-13 * np.abs(expected).max()
            np.testing.assert_allclose(table[name], expected, **near)
        else:
            assert table[name].isna().all()


@pytest.mark.parametrize("section", [s for n, s in schema.OPTIMIZERS.items() if n != "frozen_adam"])
def test_every_optimizer_takes_a_step(tmp_path, section):
    table, record = trained(tmp_path, section(), curvature=1.0, steps=1)
    assert record["status"] == "completed"
    assert table["iterate"][1] != 1.0


# Figure 2: the threshold of the learning rate is 38.
EDGE = {37.0: True, 37.9: True, 38.1: False, 39.0: False}


@pytest.mark.parametrize(("rate", "converges"), EDGE.items())
def test_ema_heavy_ball_converges_below_38_only(tmp_path, rate, converges):
    table, record = trained(tmp_path, ema_heavy_ball(rate), curvature=1.0, steps=100)
    assert (table["objective"][90:].max() < 0.5) == converges
    assert (table["objective"][90:].min() > 0.5) != converges
    assert record["stability_threshold"] == pytest.approx(38 / rate, rel=1e-12)
    assert record["status"] == "completed"


@pytest.mark.parametrize("rate", [2.1, 2.2, 2.3])
def test_rmsprop_diverges_until_its_preconditioner_has_grown(tmp_path, rate):
    section = schema.OPTIMIZERS["rmsprop"](learning_rate=rate, beta_2=0.999, epsilon=1e-7)
    table, _ = trained(tmp_path, section, curvature=1.0, second_moment=1.0, steps=60)
    distance = table["iterate"].abs().to_numpy()
    # The step from x to (1 - η/(√ν + ε)) x shrinks x exactly for √ν + ε > η/2.
    stable = np.sqrt(table["second_moment"].to_numpy()[1:]) + 1e-7 > rate / 2
    assert list(np.diff(distance) < 0) == list(stable)
    assert not stable[0]
    assert stable[-1]
    assert distance.max() > 3
    assert distance[-1] < distance[0]


THRESHOLDS = {
    "gradient descent": (gradient_descent(learning_rate=0.2), 10.0),
    "heavy ball": (schema.OPTIMIZERS["heavy_ball"](learning_rate=0.02), 190.0),
    "Nesterov": (schema.OPTIMIZERS["nesterov"](learning_rate=0.02), 3.8 / 2.8 / 0.02),
    "Adam": (schema.OPTIMIZERS["adam"](learning_rate=0.1), 380.0),
    "AdamW": (
        schema.OPTIMIZERS["adamw"](learning_rate=0.1, weight_decay=0.5),
        1.9 * 1.95 / 0.1 / 0.1,
    ),
}


@pytest.mark.parametrize(("section", "threshold"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_edge_ratio_is_in_units_of_the_threshold(tmp_path, section, threshold):
    table, record = trained(tmp_path, section, edge_ratio=0.7, steps=1)
    assert record["stability_threshold"] == pytest.approx(threshold, rel=1e-12)
    assert record["curvature"] == pytest.approx(0.7 * threshold, rel=1e-12)
    assert table["objective"][0] == record["curvature"] / 2


def test_run_writes_its_directory(tmp_path):
    settings = config(gradient_descent(learning_rate=0.5), curvature=1.0, steps=2)
    outcome = quadratic.train(settings, tmp_path, {"config_name": "mine"})
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "run.json", "trajectory.csv"}
    assert OmegaConf.load(tmp_path / "config.yaml").optimizer.learning_rate == 0.5
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == outcome.record
    assert (record["status"], record["stop_reason"]) == ("completed", "all steps done")
    assert (record["steps"], record["choices"]) == (2, {"config_name": "mine"})
    # x halves: objectives 1/2 and 1/32.
    assert (record["first_objective"], record["last_objective"]) == (0.5, 0.03125)
    assert run_directory.is_finished(tmp_path, settings)
    assert str(tmp_path / "trajectory.csv") in outcome.report(tmp_path)
    for part in ("all steps done", "objective 0.5", "0.03125", "curvature 1,", "threshold 4 "):
        assert part in outcome.line(tmp_path)


def test_numbers_are_read_back_exactly(tmp_path):
    table, _ = trained(tmp_path, gradient_descent(learning_rate=0.1), curvature=1.0, steps=3)
    x = [1.0]
    for _ in range(3):
        x.append(x[-1] - 0.1 * x[-1])
    assert list(table["iterate"]) == x


def test_divergence_ends_the_run_and_keeps_the_rows(tmp_path):
    settings = config(gradient_descent(learning_rate=1e60), curvature=1.0)
    outcome = quadratic.train(settings, tmp_path, {})
    table = pd.read_csv(tmp_path / "trajectory.csv")
    # The objectives are 1, 1e120 and 1e240, halved, before they overflow.
    assert (outcome.record["status"], outcome.record["steps"]) == ("diverged", 3)
    np.testing.assert_allclose(table["objective"], [0.5, 0.5e120, 0.5e240], rtol=1e-12)
    assert "objective became inf" in outcome.line(tmp_path)
    # Valid JSON even for numbers that are not; and a sweep doesn't run it again.
    json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert run_directory.is_finished(tmp_path, settings)


FAR = {
    "objective": {"start": 1e250, "curvature": 1e-150},
    "gradient": {"start": 1.0, "curvature": 1e200},
}


@pytest.mark.parametrize("changes", FAR.values(), ids=FAR)
def test_start_that_overflows_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match="start: expected an objective and a squared gradient"):
        trained(tmp_path / "new", gradient_descent(), **changes)
    assert not (tmp_path / "new").exists()


def test_interrupted_run_keeps_its_rows_and_is_not_finished(tmp_path, monkeypatch):
    settings = config(gradient_descent(), curvature=1.0)
    apply, calls = GradientDescent.apply, itertools.count()

    def interrupted(self, *arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        apply(self, *arguments)

    monkeypatch.setattr(GradientDescent, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quadratic.train(settings, tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert list(pd.read_csv(tmp_path / "trajectory.csv")["step"]) == [0, 1, 2]
    assert not run_directory.is_finished(tmp_path, settings)


def test_directory_holds_one_kind_of_run(tmp_path):
    trained(tmp_path, gradient_descent(), curvature=1.0, steps=2)
    other = schema.Config(
        model=schema.FullyConnected(hidden_layers=1, width=4),
        data=schema.Data(name="digits", num_examples=20),
        optimizer=gradient_descent(),
        steps=1,
    )
    training.train(other, tmp_path, {})
    assert not (tmp_path / "trajectory.csv").exists()
    assert not run_directory.is_finished(tmp_path, config(gradient_descent(), curvature=1.0))
    trained(tmp_path, gradient_descent(), curvature=1.0, steps=2)
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "run.json", "trajectory.csv"}


def test_float_type_of_the_process_stays(tmp_path):
    trained(tmp_path, gradient_descent(), curvature=1.0, steps=1)
    assert keras.config.floatx() == "float32"


QUADRATIC = ("-cn", "quadratic")
MISTAKES = {
    "two curvatures": (
        (*QUADRATIC, "edge_ratio=0.5"),
        ["curvature, edge_ratio", "null", "curvature=1.0", "edge_ratio=0.5"],
    ),
    "no curvature": (
        (*QUADRATIC, "curvature=null"),
        ["curvature, edge_ratio", "curvature=null", "edge_ratio=null"],
    ),
    "flat": ((*QUADRATIC, "curvature=0"), ["curvature: expected a finite number above 0"]),
    "no start": ((*QUADRATIC, "start=nan"), ["start: expected a finite number", "start=nan"]),
    "no momentum": (
        (*QUADRATIC, "first_moment=0.2"),
        ["first_moment", "gradient_descent", "first_moment=0.2"],
    ),
    "momentum of 0": (
        (*QUADRATIC, "optimizer=heavy_ball", "optimizer.beta_1=0", "first_moment=0.2"),
        ["first_moment", "heavy_ball"],
    ),
    "no second moment": (
        (*QUADRATIC, "optimizer=nesterov", "second_moment=1"),
        ["second_moment", "nesterov", "second_moment=1.0"],
    ),
    "second moment of a file": (
        (*QUADRATIC, "optimizer=frozen_adam", "optimizer.second_moments=a", "second_moment=1"),
        ["second_moment", "frozen_adam"],
    ),
    "negative second moment": (
        (*QUADRATIC, "optimizer=rmsprop", "second_moment=-1"),
        ["second_moment: expected a finite number, 0 or more"],
    ),
    "key of the other kind of run": ((*QUADRATIC, "seed=1"), ["'seed'", "curvature", "start"]),
    "misspelt key": ((*QUADRATIC, "curvatur=1"), ["'curvatur'", "'curvature'?"]),
    "key without its section": ((*QUADRATIC, "learning_rate=1"), ["'optimizer.learning_rate'?"]),
    "last job of a figure": (
        ("-cn", "fig02", "optimizer.learning_rate=1,-1"),
        ["optimizer.learning_rate", "above 0"],
    ),
    "unknown optimizer of a figure": (("-cn", "fig14", "fig14=adam"), ["'adam'", "heavy_ball"]),
}


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_on_the_command_line_is_named_in_one_line(arguments, parts):
    with pytest.raises(UserError) as error:
        command_line.jobs(command_line.parse(arguments))
    message = str(error.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


@pytest.fixture
def started(tmp_path, monkeypatch, capsys):
    """Runs a command line; gives back what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["trainers"])

    def start(*arguments):
        main(list(arguments))
        return capsys.readouterr().out

    return start


def test_single_run_by_the_command_line(tmp_path, started):
    printed = started(*QUADRATIC, "optimizer=adam", "steps=2")
    directory = "runs/quadratic__optimizer=adam__steps=2"
    assert printed.startswith("2 steps in ")
    assert f"{directory}/trajectory.csv" in printed
    assert len(pd.read_csv(tmp_path / directory / "trajectory.csv")) == 3
    record = json.loads((tmp_path / directory / "run.json").read_text())
    assert record["choices"] == {"config_name": "quadratic", "optimizer": "adam"}


def test_sweep_goes_on_where_it_stopped(tmp_path, started):
    arguments = ("-cn", "fig14", "fig14=nesterov", "edge_ratio=0.5,1.1", "steps=3")
    printed = started(*arguments)
    assert printed.count("all steps done") == 2
    runs = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert [run.name for run in runs] == [
        f"edge_ratio={ratio}__fig14=nesterov__steps=3" for ratio in (0.5, 1.1)
    ]
    settings = OmegaConf.load(runs[0] / "config.yaml").optimizer
    assert (settings.name, settings.learning_rate, settings.ema) == ("nesterov", 0.02, False)
    assert started(*arguments).count("skipped, already finished") == 2
