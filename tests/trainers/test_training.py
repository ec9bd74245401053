import json
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from keras_aeos.callbacks import quantities
from keras_aeos.summaries.runs import read_runs
from trainers import loop, run_directory, schema, training
from trainers.callbacks import StopCriteria
from trainers.data import images
from trainers.errors import UserError
from trainers.models import fully_connected
from trainers.tasks.base import task_of


def config(**changes):
    """A run of under a second on 60 digits."""
    return schema.Config(
        **{
            "model": schema.FullyConnected(hidden_layers=1, width=8),
            "data": schema.Data(name="digits", num_examples=60, micro_batch_size=60),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=1e-3, bias_correction=False),
            "loss": "squared_error",
            "steps": 6,
            "monitor": schema.Monitor(update_freq=2),
            "output_dir": "",
            **changes,
        }
    )


def moments_file(directory, value=1e-6):
    """Second moments for the network of `config`, all of one value."""
    variables = fully_connected.build_model(config()).trainable_variables
    np.savez(directory / "moments.npz", *(np.full(v.shape, value) for v in variables))
    return directory / "moments.npz"


def fitted(settings, steps=3):
    """Weights after, and losses before, each of some full-batch updates."""
    keras.utils.set_random_seed(settings.seed)
    task = task_of(settings)
    feed = task.feed()
    model = task.build_model()
    training.compile_model(model, task)
    loop.fit(model, feed, steps, [])
    return model, model.history.history["loss"], feed.num_micro_batches


@pytest.mark.parametrize("loss", schema.LOSSES)
@pytest.mark.parametrize("optimizer", schema.OPTIMIZERS.values())
@pytest.mark.parametrize("micro_batch", [30, 12])
def test_accumulated_update_equals_the_one_batch_update(loss, optimizer, micro_batch, tmp_path):
    section = optimizer()
    if section.name == "frozen_adam":
        section.second_moments = str(moments_file(tmp_path))
    whole, parts = (
        config(
            optimizer=section,
            loss=loss,
            data=schema.Data(name="digits", num_examples=60, micro_batch_size=size),
        )
        for size in (60, micro_batch)
    )
    one, losses, _ = fitted(whole)
    many, losses_of_parts, num_batches = fitted(parts)
    assert num_batches == 60 // micro_batch
    assert int(many.optimizer.iterations) == int(one.optimizer.iterations) == 3
    # Float32 sums in another order. Adam's g/√ν amplifies the rounding of tiny gradients, hence a
    # tolerance relative to what the three updates changed: about 3 learning rates.
    rtol, atol = 1e-5, 3e-3 * whole.optimizer.learning_rate
    np.testing.assert_allclose(losses_of_parts, losses, rtol=1e-5)
    for a, b in zip(many.trainable_variables, one.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("loss", schema.LOSSES)
def test_logged_loss_is_the_full_batch_loss_before_the_update(loss):
    settings = config(
        loss=loss, data=schema.Data(name="digits", num_examples=60, micro_batch_size=20)
    )
    _, losses, _ = fitted(settings, steps=1)
    examples, _ = images.load(settings.data)
    logits = fully_connected.build_model(settings)(examples.inputs).numpy().astype(np.float64)
    if loss == "squared_error":
        expected = np.mean((logits - np.eye(10)[examples.labels]) ** 2)
    else:
        log_sums = np.log(np.exp(logits).sum(-1))
        expected = np.mean(log_sums - logits[np.arange(60), examples.labels])
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)


def test_run_writes_its_directory(tmp_path):
    settings = config(output_dir=str(tmp_path))
    outcome = training.train(settings, tmp_path, {"optimizer": "adam"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.yaml",
        "run.json",
        "metrics.csv",
        "tensorboard",
        "final.weights.h5",
        "second_moments.npz",
        "curves.png",
    }
    assert list(pd.read_csv(tmp_path / "metrics.csv")["step"]) == [2, 4, 6]
    assert OmegaConf.load(tmp_path / "config.yaml").optimizer.learning_rate == 1e-3
    record = json.loads((tmp_path / "run.json").read_text())
    assert record == outcome.record
    assert (record["status"], record["steps"], record["seed"]) == ("completed", 6, 0)
    assert {"python", "tensorflow", "keras", "keras_aeos", "numpy"} == set(record["versions"])
    assert run_directory.is_finished(tmp_path, settings)
    model = fully_connected.build_model(settings)
    before = [v.numpy() for v in model.trainable_variables]
    model.load_weights(tmp_path / "final.weights.h5")
    assert not np.array_equal(before[0], model.trainable_variables[0].numpy())
    for name in ("metrics.csv", "tensorboard"):
        assert str(tmp_path / name) in outcome.report(tmp_path)
    [read] = read_runs([tmp_path])
    assert read.card["batch size"] == "60"


def test_measured_on_the_first_examples(tmp_path):
    data_settings = schema.Data(name="digits", num_examples=60, micro_batch_size=20)
    settings = config(data=data_settings, monitor=schema.Monitor(update_freq=1, num_examples=20))
    training.train(settings, tmp_path, {})
    model = fully_connected.build_model(settings)
    model.load_weights(tmp_path / "final.weights.h5")
    examples, _ = images.load(data_settings)
    targets = images.targets(settings, examples.labels)
    losses = np.mean((model(examples.inputs).numpy() - targets) ** 2, axis=1)
    last = pd.read_csv(tmp_path / "metrics.csv")["loss"].iloc[-1]
    assert last == pytest.approx(float(np.mean(losses[:20])), rel=1e-5)
    assert last != pytest.approx(float(np.mean(losses)), rel=1e-3)


def test_same_seed_gives_the_same_measurements(tmp_path):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        data_settings = schema.Data(name="digits", num_examples=60, micro_batch_size=20)
        training.train(config(seed=seed, data=data_settings), tmp_path / name, {})
        tables.append(
            pd.read_csv(tmp_path / name / "metrics.csv").drop(columns=["seconds", "overhead"])
        )
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert not tables[0]["loss"].equals(tables[2]["loss"])


def test_new_run_replaces_the_old_one_whole(tmp_path):
    training.train(config(), tmp_path, {})
    training.train(config(steps=2), tmp_path, {})
    assert list(pd.read_csv(tmp_path / "metrics.csv")["step"]) == [2]
    assert len(list((tmp_path / "tensorboard").rglob("events*"))) == 3
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 2


def test_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        training.train(config(), tmp_path, {})
    assert (tmp_path / "metrics.csv").read_text() == "mine"


# update_freq, every_step, steps that are measured of ten
SCHEDULES = {
    "every fourth": (4, None, [4, 8]),
    "a window": (4, [5, 7], [4, 5, 6, 7, 8]),
    "one step": (20, [3, 3], [3]),
    "beyond the end": (4, [9, 30], [4, 8, 9, 10]),
    "never reached": (5, [30, 40], [5, 10]),
}


@pytest.mark.parametrize(("freq", "window", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_steps_that_are_measured(freq, window, expected):
    section = schema.Monitor(update_freq=freq, every_step=window)
    given = training.update_freq(config(steps=10, monitor=section))
    assert isinstance(given, int) == (window is None)
    steps = range(given, 11, given) if isinstance(given, int) else given
    assert [step for step in steps if step <= 10] == expected


def test_log_spaced_steps():
    section = schema.Monitor(steps_per_decade=2, every_step=[4, 5])
    assert training.update_freq(config(steps=50, monitor=section)) == [1, 3, 4, 5, 10, 32, 50]


def test_monitor_gets_its_settings(tmp_path):
    section = schema.Monitor(
        update_freq=4,
        every_step=[5, 6],
        quantities=["sharpness", "alignment", "spectral_density"],
        num_eigenvalues=2,
    )
    split = schema.Data(name="digits", num_examples=60, micro_batch_size=20)
    training.train(config(monitor=section, data=split), tmp_path, {})
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table["step"]) == [4, 5, 6]
    assert {"sharpness", "alignment", "preconditioned_sharpness_2"} <= set(table)
    assert not {"gradient_norm_squared", "preconditioned_sharpness_3"} & set(table)
    assert (table["alignment"] <= table["semi_preconditioned_gradient_norm_squared"]).all()
    assert (tmp_path / "spectral_density.csv").exists()
    training.train(config(), tmp_path, {})
    assert not (tmp_path / "spectral_density.csv").exists()


def test_quantities_are_those_of_the_monitor():
    # None of the trainers' optimizers clips.
    assert set(schema.QUANTITIES) == set(quantities.QUANTITIES) - {"clipping"}
    assert schema.DEFAULT_QUANTITIES == quantities.DEFAULT


def test_steps_below_the_first_measurement_are_measured_at_the_end(tmp_path):
    with pytest.warns(UserWarning, match="ended after 1 updates"):
        training.train(config(steps=1), tmp_path, {})
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [1]


STOPS = {
    "threshold": ({"stop": schema.Stop(loss_threshold=10.0)}, "completed", "loss_threshold", 1),
    "divergence": (
        {"optimizer": schema.OPTIMIZERS["gradient_descent"](learning_rate=1e6), "steps": 60},
        "diverged",
        "the loss became",
        None,
    ),
}


@pytest.mark.parametrize(("changes", "status", "reason", "steps"), STOPS.values(), ids=STOPS)
def test_run_stops_early_and_says_why(tmp_path, changes, status, reason, steps):
    record = training.train(config(**changes), tmp_path, {}).record
    assert record["status"] == status
    assert reason in record["stop_reason"]
    assert record["steps"] == steps if steps else record["steps"] < 60
    # Valid JSON even for a loss that is not a number.
    json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert (tmp_path / "final.weights.h5").exists()


ADAPTIVE = [name for name in schema.OPTIMIZERS if schema.OPTIMIZERS[name]().keeps_second_moment()]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_divergence_is_a_result_with_every_second_moment(tmp_path, name):
    """Eight layers of ReLU at this rate overflow float32, the moments included."""
    settings = config(
        model=schema.FullyConnected(hidden_layers=8, width=20, activation="relu"),
        optimizer=schema.OPTIMIZERS[name](learning_rate=1e6),
        monitor=schema.Monitor(update_freq=5),
        steps=20,
    )
    outcome = training.train(settings, tmp_path, {})
    assert outcome.record["status"] == "diverged"
    assert "\n" not in outcome.line(tmp_path)
    assert run_directory.is_finished(tmp_path, settings)
    assert not (tmp_path / "second_moments.npz").exists()


def test_last_update_that_overflows_is_a_divergence(tmp_path):
    """The loss of a step is from before its update; this one divides by 1e-30."""
    moments = str(moments_file(tmp_path, value=0.0))
    settings = config(
        optimizer=schema.OPTIMIZERS["frozen_adam"](
            learning_rate=1e15, second_moments=moments, epsilon=1e-30
        ),
        monitor=schema.Monitor(update_freq=1),
        steps=1,
    )
    record = training.train(settings, tmp_path / "run", {}).record
    assert np.isfinite(record["last_loss"])
    assert (record["status"], record["steps"]) == ("diverged", 1)


def test_divergence_is_in_the_measurements(tmp_path):
    settings = config(
        optimizer=schema.OPTIMIZERS["gradient_descent"](learning_rate=1e6),
        monitor=schema.Monitor(update_freq=1),
        steps=60,
    )
    record = training.train(settings, tmp_path, {}).record
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table["step"]) == list(range(1, record["steps"] + 1))
    assert np.isnan(table["edge_ratio"].iloc[-1])
    assert not table["converged"].iloc[-1]
    # A diverged run is a result: a sweep doesn't run it again.
    assert run_directory.is_finished(tmp_path, settings)


FINISHED: dict[str, tuple[dict[str, Any], bool]] = {
    "same": ({}, True),
    "elsewhere": ({"output_dir": "elsewhere"}, True),
    "longer": ({"steps": 3}, False),
    "another optimizer": ({"optimizer": schema.OPTIMIZERS["adam"](learning_rate=2e-3)}, False),
}


def test_only_the_same_configuration_counts_as_finished(tmp_path):
    training.train(config(steps=2), tmp_path, {})
    found = {
        name: run_directory.is_finished(tmp_path, config(**{"steps": 2, **changes}))
        for name, (changes, _) in FINISHED.items()
    }
    assert found == {name: expected for name, (_, expected) in FINISHED.items()}


def test_interrupted_run_is_not_finished(tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(StopCriteria, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(config(), tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert not run_directory.is_finished(tmp_path, config())


def test_frozen_run_starts_from_the_second_moments_of_another(tmp_path):
    training.train(config(), tmp_path / "source", {})
    moments = tmp_path / "source" / run_directory.SECOND_MOMENTS
    section = schema.OPTIMIZERS["frozen_adam"](learning_rate=1e-3, second_moments=str(moments))
    training.train(config(optimizer=section), tmp_path / "frozen", {})
    with np.load(moments) as before, np.load(tmp_path / "frozen" / moments.name) as after:
        assert before.files == after.files
        for name in before.files:
            np.testing.assert_array_equal(before[name], after[name])


def test_freeze_step_freezes_the_preconditioner(tmp_path):
    training.train(config(steps=8, freeze_step=4), tmp_path, {})
    norms = pd.read_csv(tmp_path / "metrics.csv").set_index("step")["preconditioner_norm_squared"]
    assert norms[2] != norms[4]
    assert norms[4] == norms[6] == norms[8]


@pytest.mark.parametrize("fault", ["absent", "damaged", "of another network"])
def test_bad_second_moments_are_said_before_anything_is_replaced(tmp_path, fault):
    moments = tmp_path / "moments.npz"
    if fault == "damaged":
        moments.write_bytes(b"PK")
    elif fault == "of another network":
        np.savez(moments, np.ones((2, 3)))
    section = schema.OPTIMIZERS["frozen_adam"](second_moments=str(moments))
    named = r"shapes \[\(2, 3\)\]" if fault == "of another network" else r"moments\.npz"
    with pytest.raises(UserError, match=f"optimizer: .*{named}") as caught:
        training.train(config(optimizer=section), tmp_path / "run", {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
