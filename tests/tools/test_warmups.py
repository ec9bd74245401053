"""The benchmark of warm-ups: what is trained, and what the tables say, on made-up trainings."""

import math

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos import CurvatureWarmup
from tools import planned, warmups
from tools.warming import judging, page, plan, trainings
from tools.warming.judging import BEST, NONE
from tools.warming.plan import CURVATURE, GI_ADAM


def test_plan_has_every_combination_once():
    every = [plan.training(number) for number in range(plan.NUM_TRAININGS)]
    assert len(every) == 6 * 2 * 3 * 6 * 8
    keys = {(t.task, t.optimizer, t.seed, t.target, t.warm_up) for t in every}
    assert len(keys) == len(every)
    assert [t.number for t in every] == list(range(len(every)))


def test_a_block_has_all_warm_ups_at_all_targets():
    block = [plan.training(number) for number in range(48, 96)]
    assert {(t.task, t.optimizer, t.seed) for t in block} == {
        ("fully connected, full batch", "Adam", 0)
    }
    assert {t.target for t in block} == set(plan.TARGETS)
    assert {t.warm_up for t in block} == {CURVATURE, GI_ADAM, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2}


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (np.linspace(2.0, 1.0, 40), 0),
        # Eight equal losses up by 0.8: the levels rise by 0.1 k, against 0.05 · 2.
        (np.r_[[2.0] * 8, [1.0] * 20, [1.8] * 8, [1.0] * 20], 13),
        (np.r_[[2.0] * 10, np.nan, np.nan], 2),
        ([1.0], 0),
    ],
    ids=["falling", "spike", "nan", "short"],
)
def test_updates_are_wasted_above_ground_already_won(losses, expected):
    assert judging.wasted(np.asarray(losses)) == expected


def made_up(loss, survived=lambda *_: True, seeds=(0,)):
    """Trainings of one task whose final loss is a function of warm-up, target and seed."""
    lines = [
        {
            "training": 0,
            "task": "fully connected, mini-batch",
            "optimizer": "Adam",
            "seed": seed,
            "target": target,
            "warm_up": warm_up,
            "first_loss": 10.0,
            "final_loss": loss(warm_up, target, seed) if survived(warm_up, target, seed) else 9.0,
            "test_loss": 1.0,
            "test_accuracy": 0.5,
            "others": 15.0 if warm_up == CURVATURE else 0.0,
            "num_measured": 10,
            "seconds": 1.0,
            "num_updates": 285 if warm_up == CURVATURE else 300,
            "num_wasted": 3,
        }
        for seed in seeds
        for target in plan.TARGETS
        for warm_up in plan.WARM_UPS
    ]
    return pd.DataFrame(lines)


def stored(tmp_path, table):
    table.to_csv(tmp_path / "table.csv.xz", index=False)
    return judging.read(tmp_path / "table.csv.xz")


def loss_of(warm_up, target, seed):
    if warm_up == CURVATURE:
        return 1.0 + seed
    return 2.0 if warm_up == GI_ADAM else 1.5 + abs(warm_up - 0.05) + target + seed


def test_best_linear_warm_up_is_that_of_the_mean_over_seeds(tmp_path):
    table = stored(tmp_path, made_up(loss_of, seeds=(0, 1)))
    assert judging.at_targets(table, CURVATURE).tolist() == [1.5] * 6
    expected = [2.0 + target for target in plan.TARGETS]
    assert judging.at_targets(table, BEST).tolist() == pytest.approx(expected)
    assert judging.at_targets(table, NONE).tolist() == pytest.approx([e + 0.05 for e in expected])


def test_loss_that_is_not_finite_counts_as_the_first(tmp_path):
    table = stored(tmp_path, made_up(lambda *_: math.nan))
    assert judging.at_targets(table, CURVATURE).tolist() == [10.0] * 6
    assert not table["survived"].any()


def test_block_that_is_not_whole_is_left_out(tmp_path):
    table = pd.concat([made_up(loss_of), made_up(loss_of, seeds=(1,))[:-1]])
    assert stored(tmp_path, table)["seed"].unique().tolist() == [0]


def test_boundary_is_below_the_first_failure_of_any_seed(tmp_path):
    def survived(warm_up, target, seed):
        if warm_up == 0.2:
            return target < 0.1 or seed == 0
        return target < 0.01 or (warm_up == CURVATURE and target != 0.064)

    table = stored(tmp_path, made_up(loss_of, survived, seeds=(0, 1)))
    assert judging.boundary(table, plan.LINEAR) == 0.064
    assert judging.boundary(table, [CURVATURE]) == 0.032
    assert judging.boundary(table, [0.0]) == 0.008


def test_page_and_picture_are_drawn_from_the_table(tmp_path):
    table = stored(tmp_path, made_up(loss_of))
    text = "\n".join(f"<!-- {n} -->\nold\n<!-- end -->" for n in page.TABLES)
    found = page.drawn(f"before\n{text}\nafter", table)
    assert "old" not in found
    assert found.startswith("before\n")
    assert "| 1 (50.0%) at 0.008 | 1.5 (50.0%) at 0.008 |" in found
    assert "| 0.66 (0.64) |" in found  # 1 / 1.508 and 1 / 1.558
    assert "| 0.008 | 10 | 15 | 5 |" in found
    assert page.drawn(found, table) == found
    assert len(page.draw(table).axes) == 1


@pytest.fixture(scope="module")
def bench():
    before, trainings.NUM_UPDATES = trainings.NUM_UPDATES, 12
    yield trainings.Bench("fully connected, mini-batch", "Adam")
    trainings.NUM_UPDATES = before


def training(target, warm_up):
    return plan.Training(0, "fully connected, mini-batch", "Adam", 0, target, warm_up)


def test_trainings_cost_the_same(bench):
    for warm_up in plan.WARM_UPS:
        table = bench.run(training(0.064, warm_up))
        spent = len(table) + table["others"].iloc[-1]
        assert 12.0 <= spent < 14.0
        assert (table["others"].iloc[-1] > 0.0) == (warm_up in (CURVATURE, GI_ADAM))


def test_linear_warm_up_and_decay_by_hand(bench):
    rates = bench.run(training(0.1, 0.2))["learning_rate"].to_numpy()
    steps = np.arange(12)
    expected = 0.1 * np.minimum((steps + 1) / 2.4, 1.0) * (0.5 + 0.5 * np.cos(np.pi * steps / 12))
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_callback_is_judged_as_fit_calls_it(bench):
    """The benchmark makes the updates between measurements in one graph."""
    table = bench.run(training(0.064, CURVATURE))
    bench._begin(training(0.064, CURVATURE))
    warm_up = CurvatureWarmup()
    rates = []

    class Budget(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.extend([logs[k] for k in logs if k == "warmup_learning_rate"])
            bench._schedule.others.assign(trainings.spent(warm_up.history))

    rows = bench.rows(0)[: len(table)]
    feed = tf.data.Dataset.from_tensor_slices(rows).map(bench.batch)
    bench.model.fit(feed, verbose=0, shuffle=False, callbacks=[warm_up, Budget()])
    assert len(rates) > 1  # until the warm-up is over
    assert rates == pytest.approx(table["learning_rate"].tolist()[: len(rates)], rel=2e-2)


def test_trainings_that_are_there_are_not_made_again(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "Bench", lambda *_: bench)
    monkeypatch.setattr(warmups, "TABLE", tmp_path / "packed.csv.xz")
    warmups.train(tmp_path, 2, None)
    written = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())}
    warmups.train(tmp_path, 2, None)
    assert [path.name for path in written] == ["0000.csv", "0001.csv"]
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())} == written
    planned.pack(tmp_path, warmups.TABLE, judging.line)
    packed = pd.read_csv(warmups.TABLE)
    assert packed["warm_up"].tolist() == [CURVATURE, "0.0"]
    assert np.isfinite(packed["final_loss"]).all()
