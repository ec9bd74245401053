"""The edge in mini-batches: exact quadratics against a closed form, and made-up rows."""

import numpy as np
import pandas as pd
import pytest

from keras_aeos.stability import Momentum
from tools import batch_edges
from tools.mini_batches import plan, plateaus, quadratics, trainings


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_exact_edge_of_a_single_parameter(beta, batch_size):
    """``η (λ / (1+β) + σ²λ / (1-β)) = 2`` for a heavy ball, with σ² of independent examples."""
    examples = np.random.default_rng(0).standard_normal((30, 1))
    hessian, variance = quadratics.hessian_moments(examples, batch_size)
    curvatures = examples[:, 0] ** 2
    size, noise = np.mean(curvatures), np.var(curvatures) / np.mean(curvatures) ** 2 / batch_size
    assert quadratics.noise_along(variance, np.ones(1)) == pytest.approx(noise * size**2)
    found = quadratics.exact_edge(Momentum.heavy_ball(beta), hessian, variance)
    expected = 2.0 / (size / (1.0 + beta) + noise * size / (1.0 - beta))
    assert found == pytest.approx(expected, rel=1e-5)


def test_ratio_of_the_noise_is_near_one_at_the_exact_edge():
    for row in quadratics.at_the_edge(num_parameters=4, num_examples=20, batch_sizes=(1, 16)):
        assert float(row["λ₁ / λ_σ"]) == pytest.approx(1.0, abs=0.2)


def test_plan_has_every_combination_once():
    planned = [plan.training(number) for number in range(len(plan.COMBINATIONS))]
    assert [each.number for each in planned] == list(range(6 * 3 * 3 * 4))
    assert len({str(each) for each in planned}) == len(planned)
    assert {each.optimizer for each in planned} == set(trainings.OPTIMIZERS)
    assert {each.network for each in planned} == set(trainings.NETWORKS)


def test_table_and_picture_of_measured_rows():
    """Adam with η = 0.01: λ* is 3,800, κ* is 200, and the first half is no plateau."""
    columns = [*plateaus.KEY, *trainings.OF_ROW, "diverged"]
    rows = [
        dict.fromkeys(columns, 1.0)
        | {"training": number, "network": "transformer", "optimizer": "Adam"}
        | {"learning_rate": rate, "batch_size": batch_size, "diverged": number == 0}
        | {"step": step, "stability_threshold": 38.0 / rate, "edge_ratio": 0.1 * step}
        | {"preconditioned_batch_sharpness": 2.0 / rate}
        for number, (rate, batch_size) in enumerate(
            (rate, batch_size) for rate in (1e-3, 1e-2, 1e-1) for batch_size in (8, 32, 512)
        )
        for step in (1, 2, 3, 4)
    ]
    table = plateaus.summary(pd.DataFrame(rows))
    assert table["edge ratio"].isna().tolist() == [True, *[False] * 8]
    assert table["edge ratio"][1:].to_numpy() == pytest.approx(0.35)
    batch = table[["batch sharpness / κ*", "batch sharpness / λ*"]][table["batch_size"] < 512][1:]
    assert batch.to_numpy() == pytest.approx(np.array([[1.0, 1.0 / 19.0]] * 5), rel=1e-6)
    assert table["batch sharpness / κ*"][table["batch_size"] == 512].isna().all()
    assert [list(row.values()) for row in plateaus.medians(table)] == [
        ["Adam", "8", "0.35", "0 of 2", "1.00", "1.00"],
        ["Adam", "32", "0.35", "0 of 3", "1.00", "1.00"],
        ["Adam", "512", "0.35", "0 of 3", "1.00", ""],
    ]
    text = plateaus.drawn("a\n<!-- plateaus -->\nold\n<!-- end -->\nb", table)
    assert text.startswith("a\n<!-- plateaus -->\n\n| network |")
    assert [line.split(" | ")[3:] for line in text.splitlines()[5:-3]] == [
        ["2 of 3", "0.35 to 0.35", "1.00 to 1.00", "1.00 to 1.00 |"],
        ["3 of 3", "0.35 to 0.35", "1.00 to 1.00", "1.00 to 1.00 |"],
        ["3 of 3", "0.35 to 0.35", "1.00 to 1.00", " |"],
    ]
    assert len(plateaus.draw(table).axes) == 1


def test_page_has_the_table():
    table = plateaus.summary(pd.read_csv(batch_edges.TABLE))
    text = plateaus.PAGE.read_text(encoding="utf-8")
    assert plateaus.drawn(text, table) == text


def test_networks_take_their_examples():
    for name, make in trainings.NETWORKS.items():
        model, x, y = make()
        assert len(x) == len(y) == plan.NUM_EXAMPLES
        outputs = model(x[:2])
        classes = outputs.shape[-1]
        assert tuple(outputs.shape[:-1]) == np.shape(y[:2])[: len(outputs.shape) - 1], name
        assert np.shape(y)[-1] == classes or np.max(y) < classes


def test_thresholds_are_those_of_the_optimizers(monkeypatch):
    """The plan's recurrences have the threshold that the monitor measured."""
    monkeypatch.setattr(trainings, "NUM_UPDATES", 4)
    monkeypatch.setattr(trainings, "SPACING", 2)
    for name, optimizer in plan.OPTIMIZERS.items():
        each = plan.Training(0, "fully connected", name, optimizer.rates[0], 128)
        rows = trainings.run(each)
        expected = optimizer.momentum.recurrence(each.learning_rate).stability_threshold()
        assert rows["stability_threshold"].iloc[-1] == pytest.approx(expected, rel=1e-3), name
        assert rows["optimizer"].tolist() == [name] * len(rows)
        assert not rows["diverged"].any()


def test_training_that_diverges_at_once_has_a_row(monkeypatch):
    monkeypatch.setattr(trainings, "NUM_UPDATES", 40)
    rows = trainings.run(plan.Training(0, "fully connected", "SGD", 1e30, 128))
    assert len(rows) >= 1
    assert rows["diverged"].all()
    assert plateaus.summary(rows.assign(training=0))["network"].tolist() == ["fully connected"]
