"""The alarm: on quadratics that diverge or don't, by closed form, and as a callback of `fit`."""

import math
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from keras_aeos import AEoSMonitor, Alarm, DivergenceAlarm, alarm_rule
from tests.strategies import scope
from trainers import loop
from trainers.data import feed

# A quadratic: a linear map without bias and the squared error. Its Hessian is 2 XᵀX / n.
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((64, 4)).astype("f") * np.array([6.0, 1.0, 1.0, 1.0], "f")
Y = (X @ GENERATOR.standard_normal((4, 1))).astype("f")
VALUES, VECTORS = np.linalg.eigh(2.0 / len(X) * X.T @ X)
SOLUTION = np.linalg.lstsq(X, Y, rcond=None)[0]
LARGEST = VALUES[-1]
# Distance from the solution along the top eigenvector, at first: too small to be seen in the loss.
SMALL = 1e-4
UNSTABLE, STABLE = 1.6, 0.6


def quadratic(ratio, strategy="none"):
    """A model whose edge ratio under gradient descent is the given one at every update."""
    with scope(strategy):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(keras.optimizers.SGD(float(2.0 * ratio / LARGEST)), "mse")
    start = SOLUTION + VECTORS[:, :-1].sum(axis=1, keepdims=True) + SMALL * VECTORS[:, -1:]
    model.set_weights([start])
    return model


def losses(ratio, num_updates):
    """The loss before each update, by the recurrence of each coordinate."""
    factors = 1.0 - 2.0 * ratio / LARGEST * VALUES
    start = np.array([1.0, 1.0, 1.0, SMALL])
    times = np.arange(num_updates)[:, np.newaxis]
    return ((start * factors**times) ** 2 * VALUES / 2.0).sum(axis=1)


def fit(model, alarm, num_updates, *others, monitor=None, **options):
    monitor = monitor or AEoSMonitor((X, Y), update_freq=1)
    return model.fit(
        X,
        Y,
        batch_size=len(X),
        epochs=num_updates,
        verbose=0,
        callbacks=[monitor, alarm, *others],
        **options,
    ).history


quiet = pytest.mark.filterwarnings("ignore:At step")
FIFTH = 5


class FromTheFifth(alarm_rule.Rule):
    """An alarm from the fifth update on, whatever the rows say."""

    def scores(self, rows):
        late = np.where(rows["step"] >= FIFTH, 0.9, 0.1)
        return np.where(np.isnan(rows["edge_ratio"]), np.nan, late)


@pytest.fixture(autouse=True)
def rule(request, monkeypatch):
    """`FromTheFifth` in place of the fitted rule, unless a test asks for that."""
    if "fitted" not in request.fixturenames:
        monkeypatch.setattr(alarm_rule, "load", lambda: FromTheFifth({}, 0.0, 0.5))


@pytest.fixture
def fitted():
    """The test is of the rule of the package."""


@quiet
def test_alarm_comes_before_the_loss_of_a_quadratic_is_above_its_first_value(fitted):
    """Along the top eigenvector the distance grows by 2r - 1 an update."""
    expected = losses(UNSTABLE, 30)
    rises = int(np.argmax(expected > expected[0]))
    alarm = DivergenceAlarm()
    history = fit(quadratic(UNSTABLE), alarm, rises)
    assert history["loss"] == pytest.approx(expected[:rises], rel=1e-2)
    assert max(history["loss"]) <= history["loss"][0]
    [raised] = alarm.alarms
    assert raised.step < rises
    assert raised.edge_ratio == pytest.approx(UNSTABLE, rel=1e-3)
    assert raised.learning_rate == pytest.approx(2.0 * UNSTABLE / LARGEST, rel=1e-6)
    assert raised.stable_learning_rate == pytest.approx(2.0 / LARGEST, rel=1e-3)
    assert raised.since == 1
    assert raised.score > alarm.threshold


def test_no_alarm_where_a_quadratic_converges(fitted):
    alarm = DivergenceAlarm()
    fit(quadratic(STABLE), alarm, 12)
    assert alarm.alarms == []
    assert (alarm.scores["score"] < alarm.threshold).all()


def test_warning_says_what_was_seen():
    with pytest.warns(UserWarning, match="At step .* the edge ratio is 1.6") as caught:
        fit(quadratic(UNSTABLE), DivergenceAlarm(), FIFTH)
    (text,) = [str(w.message) for w in caught if "At step" in str(w.message)]
    assert "above 1 since step 1" in text
    assert f"the largest stable one is {2.0 / LARGEST:.3g}." in text


@quiet
def test_stop_ends_training_after_the_batch():
    alarm = DivergenceAlarm("stop")
    history = fit(quadratic(UNSTABLE), alarm, 20)
    assert len(history["loss"]) == alarm.alarms[0].step == FIFTH


def test_function_gets_the_alarm_and_may_save_the_training():
    model = quadratic(UNSTABLE)
    seen: list[Alarm] = []

    def slow_down(alarm):
        seen.append(alarm)
        model.optimizer.learning_rate = 0.5 * alarm.stable_learning_rate

    alarm = DivergenceAlarm(slow_down)
    history = fit(model, alarm, 20)
    assert seen == alarm.alarms
    assert len(seen) == 1
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    # The same without it, by the recurrence.
    assert losses(UNSTABLE, 20)[-1] > 10.0


def test_error_of_the_function_is_the_users():
    def raises(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(quadratic(UNSTABLE), DivergenceAlarm(raises), 20)


def test_error_of_the_alarm_does_not_end_training(monkeypatch):
    def broken():
        raise RuntimeError("broken")

    monkeypatch.setattr(alarm_rule, "load", broken)
    with pytest.warns(UserWarning, match="alarm failed and reads no more rows.*broken"):
        history = fit(quadratic(UNSTABLE), DivergenceAlarm("stop"), 6)
    assert len(history["loss"]) == 6
    assert np.isnan(history["alarm"]).all()


def test_score_is_in_the_logs_of_keras(tmp_path):
    alarm = DivergenceAlarm()
    monitor = AEoSMonitor((X, Y), update_freq=[2, 4])
    csv = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(quadratic(STABLE), alarm, 4, csv, monitor=monitor)
    first, second = alarm.scores["score"]
    expected = pytest.approx([math.nan, first, first, second], nan_ok=True)
    assert history["alarm"] == expected
    assert pd.read_csv(tmp_path / "log.csv")["alarm"].tolist() == expected
    assert alarm.scores["step"].tolist() == [2, 4]


@quiet
def test_training_with_a_warning_is_bit_for_bit_that_without():
    weights = []
    for callbacks in ([], [AEoSMonitor((X, Y), update_freq=1), DivergenceAlarm()]):
        model = quadratic(UNSTABLE)
        model.fit(X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)


@quiet
@pytest.mark.parametrize("stop", [FIFTH - 2, FIFTH + 2])
def test_resumed_training_has_the_scores_and_alarms_of_one_that_was_not(tmp_path, stop):
    whole = DivergenceAlarm()
    fit(quadratic(UNSTABLE), whole, 8)
    model, monitor = quadratic(UNSTABLE), AEoSMonitor((X, Y), update_freq=1, log_dir="first")
    fit(model, DivergenceAlarm(), stop, monitor=monitor)
    monitor.save(tmp_path / "monitor.npz")
    seen: list[Alarm] = []
    resumed, monitor = DivergenceAlarm(seen.append), AEoSMonitor((X, Y), update_freq=1)
    monitor.load(tmp_path / "monitor.npz")
    fit(model, resumed, 8, monitor=monitor, initial_epoch=stop)
    pd.testing.assert_frame_equal(resumed.scores, whole.scores, rtol=1e-3)
    assert [a.step for a in resumed.alarms] == [a.step for a in whole.alarms]
    # What was acted upon before is not acted upon again.
    assert [a.step for a in seen] == [a.step for a in whole.alarms if a.step > stop]


@quiet
def test_rows_of_another_model_do_not_count():
    monitor, alarm = AEoSMonitor((X, Y), update_freq=1), DivergenceAlarm()
    fit(quadratic(UNSTABLE), alarm, 6, monitor=monitor)
    assert alarm.alarms
    fit(quadratic(STABLE), alarm, FIFTH - 1, monitor=monitor)
    assert alarm.alarms == []
    assert alarm.scores["step"].tolist() == [1, 2, 3, 4]


@pytest.mark.slow
@quiet
@pytest.mark.parametrize("strategy", ["mirrored 2"])
def test_alarm_of_several_devices_is_that_of_one(strategy):
    found = []
    for name in ("none", strategy):
        alarm = DivergenceAlarm("stop")
        fit(quadratic(UNSTABLE, name), alarm, 12)
        found.append([(each.step, each.stable_learning_rate) for each in alarm.alarms])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)


def test_optimizer_without_an_edge_ratio_has_no_alarm():
    model = quadratic(UNSTABLE)
    model.compile(keras.optimizers.Lion(1e-3), "mse")
    alarm = DivergenceAlarm()
    with pytest.warns(UserWarning, match="Only the raw sharpness"):
        history = fit(model, alarm, 3)
    assert alarm.alarms == []
    assert np.isnan(history["alarm"]).all()


@pytest.mark.parametrize("number", [0, 2])
def test_one_monitor_is_needed(number):
    monitors = [AEoSMonitor((X, Y), log_dir=f"{n}") for n in range(number)]
    with pytest.raises(ValueError, match=f"Received: callbacks with {number} monitors"):
        quadratic(STABLE).fit(X, Y, verbose=0, callbacks=[*monitors, DivergenceAlarm()])


@pytest.mark.slow
@quiet
def test_given_monitor_is_read_in_a_loop_of_ones_own():
    """Whose hooks are called by hand, without a list of callbacks."""
    model = quadratic(UNSTABLE)
    monitor = AEoSMonitor((X, Y), update_freq=1)
    alarm = DivergenceAlarm(monitor=monitor)
    for callback in (monitor, alarm):
        callback.set_model(model)
        callback.on_train_begin()
    for _ in range(6):
        monitor.on_train_batch_begin(0)
        model.train_on_batch(X, Y)
        for callback in (monitor, alarm):
            callback.on_train_batch_end(0)
    assert alarm.alarms[0].edge_ratio == pytest.approx(UNSTABLE, rel=1e-3)


def rows(**columns):
    return {name: np.array(values, float) for name, values in columns.items()}


def test_features_by_hand():
    table = rows(step=[4, 8, 24, 28], edge_ratio=[0.5, 2.0, 1e9, 1e-9], loss=[4.0, 1.0, 3.0, 90.0])
    assert alarm_rule.ratio(table) == pytest.approx([math.log(0.5), math.log(2.0), 1.0, -3.0])
    assert alarm_rule.rise(table) == pytest.approx([0.0, 0.0, math.log(3.0), 2.0])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, math.nan, 2.0], [0.0, 0.0, math.log(2.0)]),
        ([1.0, math.inf, 2.0], [0.0, 2.0, math.log(2.0)]),
        ([math.nan, 1.0, 2.0], [0.0, 0.0, math.log(2.0)]),
        ([2.0, -1.0, 5.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_losses_that_are_no_positive_numbers_break_nothing(losses, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alarm_rule.rise(rows(loss=losses)) == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [math.nan, 0.0, -1.0, math.inf])
def test_ratios_that_are_no_positive_numbers_break_nothing(ratio, fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = rows(step=[1, 2, 3], edge_ratio=[0.5, ratio, 0.5], loss=[1.0, 1.0, 2.0])
        scores = alarm_rule.load().scores(table)
    assert np.isfinite(scores[[0, 2]]).all()
    assert np.isnan(scores[1]) == math.isnan(ratio)


def test_score_knows_nothing_of_the_rows_that_follow(fitted):
    generator = np.random.default_rng(0)
    columns = {name: generator.uniform(0.1, 3.0, 40) for name in alarm_rule.COLUMNS}
    columns["step"] = np.arange(1.0, 41.0)
    whole = alarm_rule.load().scores(columns)
    for end in (1, 7, 39):
        part = alarm_rule.load().scores({name: c[:end] for name, c in columns.items()})
        np.testing.assert_array_equal(part, whole[:end])


@quiet
def test_loop_of_the_trainers_calls_the_alarm():
    model = quadratic(UNSTABLE)
    model.optimizer.build(model.trainable_variables)
    alarm, monitor = DivergenceAlarm("stop"), AEoSMonitor((X, Y), update_freq=1)
    batch = tuple(tf.constant(part[np.newaxis]) for part in (X, Y))
    loop.fit(model, feed.Feed(lambda _: None, batch, 1, 1, 1, None, None), 20, [monitor, alarm])
    assert int(model.optimizer.iterations) == alarm.alarms[0].step == FIFTH
