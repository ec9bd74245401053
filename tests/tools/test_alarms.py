"""The benchmark of alarms: what an event is, what a rule's numbers are, and what is trained."""

import itertools
import math

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from keras_aeos import alarm_rule
from tools import alarms, planned
from tools.alarming import (
    curves,
    evaluation,
    events,
    fitting,
    judging,
    page,
    plan,
    rules,
    trainings,
)
from tools.alarming.evaluation import Case, Scored
from tools.alarming.events import Event

FALLING = 2.0 * 0.98 ** np.arange(100.0)


def changed(begin, end, factor):
    """`FALLING` with a part multiplied; the updates are counted from 1."""
    losses = FALLING.copy()
    losses[begin - 1 : end] *= factor
    return losses


# The losses of a training, and its event. With k of the eight losses of a level multiplied by f, it
# is (8 + (f - 1) k) / 8 times what it were, and the smallest before is 0.98⁻⁸ = 1.175 times that.
EVENTS = {
    "none": (FALLING, None),
    "one loss": (changed(50, 50, 5.0), None),
    "spike": (changed(50, 65, 2.6), Event(49, events.SPIKE, True)),  # k = 7
    "to the end": (changed(85, 100, 4.0), Event(81, events.SPIKE, False)),  # k = 4
    "above the start": (changed(20, 40, 5.0), Event(14, events.ABOVE_START, True)),  # k = 2
    "small": (np.r_[FALLING[:80], [0.01] * 20, [0.03] * 20], None),
    "at the start": (np.r_[2.0, [3.0] * 20, FALLING], Event(1, events.ABOVE_START, True)),
    "nan": (np.r_[FALLING[:30], np.nan], Event(31, events.NOT_FINITE, False)),
    "rise to infinity": (
        np.r_[FALLING[:30], [9.0] * 8, np.inf],
        Event(25, events.NOT_FINITE, False),  # k = 2
    ),
    "at once": (np.array([np.nan]), Event(1, events.NOT_FINITE, False)),
}


@pytest.mark.parametrize(("losses", "expected"), EVENTS.values(), ids=EVENTS)
def test_event_of_a_training(losses, expected):
    assert events.find(losses) == expected


def test_event_is_the_first_level_above_twice_the_smallest_before():
    """By loops, on random walks."""
    generator = np.random.default_rng(0)
    found = set()
    for _ in range(50):
        losses = np.exp(np.cumsum(generator.normal(-0.02, 0.3, 60)))
        levels = [losses[i : i + 8].mean() for i in range(53)]
        onset = None
        for i, level in enumerate(levels):
            lowest = min(levels[: max(i - 7, 0)], default=math.inf)
            above = level > 1.1 * losses[0]
            if above or (level > 2.0 * lowest and level - lowest > 0.05 * losses[0]):
                onset = i + 1
                break
        event = events.find(losses)
        assert (event.onset if event else None) == onset
        found.add(event.kind if event else None)
    assert len(found) == 3


def made_up(scores, onset=None, network="a", seed=0):
    return Scored(network, seed, onset, np.maximum.accumulate(np.array(scores, float)))


@pytest.mark.parametrize("largest", [3, 1000])
def test_auroc_is_that_of_scikit_learn(largest):
    """With many ties and with few."""
    generator = np.random.default_rng(0)
    yes, no = (generator.integers(0, largest, count).tolist() for count in (40, 30))
    labels = [1] * len(yes) + [0] * len(no)
    expected = roc_auc_score(labels, [*yes, *no])
    assert evaluation.auroc(yes, no) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 10.0), (0.1, 9.0), (0.25, 8.0), (1.0, 1.0)])
def test_no_more_than_the_rate_is_above_the_threshold(rate, expected):
    assert evaluation.threshold(range(1, 11), rate) == expected


def test_numbers_of_a_rule_by_hand():
    others = [made_up([0.1 * i]) for i in range(20)]  # 0 to 1.9; 5% is one of them: above 1.8
    cases = [
        made_up([0.0] * 19 + [1.85] * 30, onset=50),  # announced at 20, 30 ahead
        made_up([0.0] * 39 + [1.85] * 10, onset=50),  # at 40, 10 ahead
        made_up([0.0] * 49, onset=50),
        made_up([0.0, 5.0, 5.0, 5.0], onset=5),  # at 2; too early to be 20 ahead
    ]
    numbers = evaluation.judge([*cases, *others])
    assert numbers["auroc"] == pytest.approx((19 + 19 + 0.5 + 20) / 80)
    assert numbers["recall at 5%"] == 0.75
    assert numbers["recall at 1%"] == 0.25
    assert numbers["20 ahead at 5%"] == pytest.approx(1 / 3)
    assert numbers["notice at 5%"] == 10


def test_interval_holds_the_number_and_is_that_of_resampled_networks():
    """Networks that differ, each alike in its seeds: the interval spans them."""
    cases = []
    for network, score in (("good", 1.0), ("bad", 0.0)):
        for seed in (0, 1):
            cases += [
                made_up([0.5], network=network, seed=seed),
                made_up([score], onset=2, network=network, seed=seed),
            ]
    low, high = evaluation.intervals(cases, 200)["auroc"]
    assert evaluation.judge(cases)["auroc"] == 0.5
    assert (low, high) == (0.0, 1.0)


def updates(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"update": np.arange(1, count + 1), **columns})


LOSSES = np.random.default_rng(1).uniform(1.0, 2.0, 40)


def standardised(values):
    """Deviations from exponentially weighted means of the values before, by loops."""
    found = []
    for i in range(len(values)):
        if i < 10:
            found.append(math.nan)
            continue
        weights = 0.97 ** np.arange(i - 1, -1, -1.0)
        mean = np.average(values[:i], weights=weights)
        variance = np.average((values[:i] - mean) ** 2, weights=weights)
        variance /= 1.0 - (weights**2).sum() / weights.sum() ** 2
        found.append((values[i] - mean) / math.sqrt(variance))
    return np.array(found)


def test_loss_over_the_mean_of_ten_before():
    scores = rules.loss_spike(updates(loss=LOSSES))
    assert (scores[:10] == -np.inf).all()
    assert scores[25] == pytest.approx(LOSSES[25] / LOSSES[15:25].mean())


def test_gradient_norm_over_the_median_before():
    scores = rules.gradient_norm(updates(gradient_norm=LOSSES))
    assert scores[25] == pytest.approx(LOSSES[25] / np.median(LOSSES[:25]))


def test_z_score_and_cusum():
    expected = standardised(LOSSES)
    scores = rules.gradient_z_score(updates(gradient_norm=LOSSES))
    assert scores[10:] == pytest.approx(expected[10:])
    total, totals = 0.0, []
    for value in expected:
        total = max(0.0, total + (0.0 if math.isnan(value) else value) - 0.5)
        totals.append(total)
    assert rules.loss_cusum(updates(loss=LOSSES)) == pytest.approx(totals)


@pytest.mark.parametrize("name", rules.RULES)
def test_a_score_knows_nothing_of_what_follows(name):
    generator = np.random.default_rng(2)
    columns = ("loss", "gradient_norm", "update_correlation", "sharpness", "edge_ratio")
    table = updates(**{column: generator.uniform(1.0, 2.0, 60) for column in columns})
    table.loc[table["update"] % 4 > 0, ["sharpness", "edge_ratio"]] = np.nan
    whole, part = (rules.RULES[name](rows) for rows in (table, table[:37]))
    assert (whole[:37] == part).all()


def test_plan_has_every_combination_once_and_one_seed_after_the_other():
    combinations = [plan.training(n) for n in range(plan.NUM_COMBINATIONS)]
    keys = {(t.network, t.optimizer, t.batch, t.warm_up, t.seed) for t in combinations}
    assert len(keys) == plan.NUM_COMBINATIONS >= 300
    for name in ("network", "optimizer", "batch", "warm_up"):
        counts = pd.Series([getattr(t, name) for t in combinations[:48]]).value_counts()
        assert counts.nunique() == 1
    for optimizer, (low, high) in plan.LEARNING_RATES.items():
        rates = [t.peak for t in combinations if t.optimizer == optimizer]
        assert low <= min(rates) < 1.2 * low
        assert high / 1.2 < max(rates) <= high
        # Its logarithm is spread evenly: the middle of the range divides them.
        assert np.mean(np.array(rates) < math.sqrt(low * high)) == pytest.approx(0.5, abs=0.05)


def test_warm_up_is_linear():
    each = plan.Training(0, "n", "Adam", "mini", 120, 0, 0.6)
    assert [each.learning_rate(t) for t in (1, 60, 120, 200)] == pytest.approx(
        [0.005, 0.3, 0.6, 0.6]
    )


def test_trainings_that_are_there_are_not_made_again(tmp_path, capsys):
    files, packed = tmp_path / "runs", tmp_path / "all.csv.xz"
    made = []

    def run(training):
        made.append(training.number)
        return pd.DataFrame({"update": [1, 2], "loss": [1.0 / 3.0, math.nan]})

    def train(number, minutes=None, directory=files):
        return planned.train(directory, packed, number, minutes, plan.training, run)

    assert train(2) == 0
    assert train(4) == 0
    assert made == [0, 1, 2, 3]
    assert train(9, 0.0) == 5
    planned.pack(files, packed, curves.lines)
    first = packed.read_bytes()
    planned.pack(files, packed, curves.lines)
    assert packed.read_bytes() == first
    # Elsewhere, with the table alone.
    assert train(6, directory=tmp_path / "later") == 0
    assert made == [0, 1, 2, 3, 4, 5]
    planned.pack(tmp_path / "later", packed, curves.lines)
    read = curves.read(packed)
    assert [training for training, _ in read] == [plan.training(n) for n in range(6)]
    for _, updates in read:
        assert updates["loss"].tolist() == pytest.approx([0.33333, math.nan], 1e-12, nan_ok=True)


def test_training_that_is_made_again_takes_its_place(tmp_path):
    packed = tmp_path / "all.csv.xz"

    def pack(directory, **losses):
        directory.mkdir()
        for name, loss in losses.items():
            table = pd.DataFrame({"task": "none", "loss": [loss, math.inf]})
            table.to_csv(directory / f"{name[1:]}.csv", index=False)
        planned.pack(directory, packed, lambda number, updates: updates)

    pack(tmp_path / "first", _0010=1.0, _0002=2.0)
    pack(tmp_path / "second", _0010=3.0, _0007=1.0 / 3.0)
    pack(tmp_path / "none")
    table = pd.read_csv(packed, keep_default_na=False)
    assert table["training"].tolist() == [2, 2, 7, 7, 10, 10]
    assert table["loss"].tolist() == [2.0, math.inf, 0.33333, math.inf, 3.0, math.inf]
    assert set(table["task"]) == {"none"}


@pytest.mark.slow
def test_training_makes_the_updates_of_keras(monkeypatch):
    monkeypatch.setattr(trainings, "NUM_UPDATES", 5)
    monkeypatch.setattr(trainings, "SPACING", 4)
    each = plan.Training(0, "fully connected", "Adam", "mini", 0, 1, 1e-2)
    bench = trainings.Bench(each.network)
    table = trainings.quietly(bench, each)
    again = trainings.quietly(bench, each)
    timed = ["update_seconds", "seconds"]
    pd.testing.assert_frame_equal(table.drop(columns=timed), again.drop(columns=timed))

    x, y, _ = trainings.NETWORKS["fully connected"].examples()
    keras.utils.set_random_seed(1)
    model = trainings.NETWORKS["fully connected"].build()
    model.compile(keras.optimizers.Adam(1e-2), trainings.NETWORKS["fully connected"].loss())
    order = np.random.default_rng(1).permutation(len(y))
    losses, points = [], [np.concatenate([w.ravel() for w in model.get_weights()])]
    for begin in range(0, 160, 32):
        rows = order[begin : begin + 32]
        model.reset_metrics()
        losses.append(model.train_on_batch(x[rows], y[rows]))
        points.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    assert table["loss"].tolist() == pytest.approx(losses, rel=1e-5)
    steps = np.diff(points, axis=0)
    assert table["update_norm"].tolist() == pytest.approx(np.linalg.norm(steps, axis=1), rel=1e-3)
    directions = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    cosines = [a @ b for a, b in itertools.pairwise(directions)]
    assert table["update_correlation"].tolist()[1:] == pytest.approx(cosines, abs=1e-2)
    row = table[table["update"] == 4].iloc[0]
    assert row["stability_threshold"] == pytest.approx(38 / 1e-2)
    assert row["edge_ratio"] > 0


def separable(onset):
    """A training whose edge ratio rises to 1.5 before its event, or stays low."""
    steps = np.arange(1, 101)
    ratio = np.where(steps > (onset or 1000) - 24, 1.5, 0.5).astype(float)
    ratio[steps % 4 > 0] = np.nan
    event = None if onset is None else Event(onset, events.SPIKE, False)
    loss = np.where(np.isnan(ratio), np.nan, 2.0 + np.sin(steps))
    columns = {"update": steps, "edge_ratio": ratio, "measured_loss": loss}
    return Case(plan.training(0), pd.DataFrame(columns), event)


def test_fit_is_the_logistic_regression_of_its_rows():
    """At the optimum the gradient of the penalised likelihood vanishes."""
    cases = [separable(onset) for onset in (40, 60, 80, None, None)]
    rule = fitting.fit(cases, [4])
    features, labels = [], []
    for case in cases:
        rows = fitting.rows_of(case.updates, 4)
        until = case.event.onset if case.event else math.inf
        known = rows["step"] < until
        features.append(np.stack([f(rows)[known] for f in alarm_rule.FEATURES.values()], axis=1))
        labels.append(until - rows["step"][known] <= fitting.HORIZON)
    x, y = np.concatenate(features), np.concatenate(labels)
    weights = np.array(list(rule.weights.values()))
    error = 1.0 / (1.0 + np.exp(-rule.intercept - x @ weights)) - y
    scale = x.std(axis=0)
    gradient = (error @ x) / scale + weights * scale
    assert np.abs(gradient).max() < 1e-2 * len(y)
    assert abs(error.sum()) < 1e-2 * len(y)


def test_scores_of_sparse_rows_are_those_of_the_last_row():
    case = separable(60)
    rule = alarm_rule.Rule({"ratio": 1.0}, 0.0, 0.5)
    scores = judging.of_rule(case, rule, 8)
    assert (scores[:7] == -np.inf).all()
    low, high = (1.0 / (1.0 + 1.0 / ratio) for ratio in (0.5, 1.5))
    assert scores[7:39] == pytest.approx([low] * 32)
    assert scores[39:] == pytest.approx([high] * 61)


def test_stored_coefficients_are_those_of_the_stored_trainings():
    cases = [c for c in judging.cases_of(alarms.TABLE) if not judging.at_start(c)]
    assert len(cases) >= 100
    fitted, stored = judging.fitted(cases), alarm_rule.load()
    assert stored.weights == pytest.approx(fitted.weights, rel=1e-3)
    assert (stored.intercept, stored.threshold) == pytest.approx(
        (fitted.intercept, fitted.threshold), rel=1e-3
    )


def test_tables_of_the_page_are_those_of_the_stored_numbers():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.drawn(text, page.stored()) == text
