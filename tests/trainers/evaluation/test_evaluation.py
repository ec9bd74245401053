"""Evaluation on the test split, and measuring at a loss."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.trainers.prepared import write_cifar
from trainers import schema, training
from trainers.tasks.base import task_of


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_cifar(tmp_path_factory.mktemp("tfds"))


def config(directory, batch_size=None, **changes):
    return schema.Config(
        **{
            "model": schema.FullyConnected(hidden_layers=1, width=8),
            "data": schema.Data(
                data_dir=directory, num_examples=60, batch_size=batch_size, micro_batch_size=20
            ),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=3e-3),
            "steps": 30,
            "monitor": schema.Monitor(update_freq=100, quantities=[]),
            "output_dir": "",
            **changes,
        }
    )


@pytest.mark.parametrize("loss", schema.LOSSES)
def test_evaluation_is_of_the_test_split(directory, tmp_path, loss):
    settings = config(directory, loss=loss, evaluation=schema.Evaluation(freq=10))
    training.train(settings, tmp_path, {})
    table = pd.read_csv(tmp_path / "evaluation.csv")
    assert list(table["step"]) == [10, 20, 30]
    task = task_of(settings)
    model = task.build_model()
    model.load_weights(tmp_path / "final.weights.h5")
    training.compile_model(model, task)
    x, y = (np.concatenate(parts) for parts in zip(*(task.feed().test or []), strict=True))
    outputs = model.predict(x, verbose=0)
    labels = y if loss == "cross_entropy" else y.argmax(-1)
    last = table.iloc[-1]
    assert last["test_error"] == pytest.approx(np.mean(outputs.argmax(-1) != labels))
    assert last["test_loss"] == pytest.approx(float(model.loss(y, outputs)), rel=1e-5)
    assert len(list((tmp_path / "tensorboard" / "test").glob("events*"))) == 1


@pytest.mark.parametrize("batch_size", [None, 20])
def test_solution_is_measured_and_evaluated_at_its_loss(directory, tmp_path, batch_size):
    monitor = schema.Monitor(update_freq=1000, loss_threshold=1.9, quantities=["sharpness"])
    settings = config(
        directory,
        batch_size,
        steps=300,
        monitor=monitor,
        stop=schema.Stop(1.5),
        evaluation=schema.Evaluation(loss_threshold=1.5),
    )
    outcome = training.train(settings, tmp_path, {})
    record = json.loads((tmp_path / "run.json").read_text())
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics["step"]) == [record["solution_step"]]
    assert 0 < record["solution_step"] < record["steps"] < 300
    assert np.isfinite(metrics["sharpness"]).all()
    table = pd.read_csv(tmp_path / "evaluation.csv")
    assert list(table["step"]) == [record["steps"]]
    assert (table["training_loss"] <= 1.5).all()
    assert "stop.loss_threshold=1.5" in outcome.record["stop_reason"]


def test_run_that_does_not_come_to_the_loss_has_no_solution(directory, tmp_path):
    settings = config(directory, steps=2, monitor=schema.Monitor(loss_threshold=1e-3))
    assert training.train(settings, tmp_path, {}).record["solution_step"] is None


def test_evaluation_does_not_disturb_training(directory, tmp_path):
    weights = []
    for name, freq in (("with", 1), ("without", None)):
        settings = config(directory, 20, steps=5, evaluation=schema.Evaluation(freq))
        training.train(settings, tmp_path / name, {})
        model = task_of(settings).build_model()
        model.load_weights(tmp_path / name / "final.weights.h5")
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
