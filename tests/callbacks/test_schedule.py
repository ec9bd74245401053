"""When a monitor measures: given steps, and as often as a share of the time allows."""

import math
import time

import numpy as np
import pandas as pd
import pytest

from keras_aeos import AEoSMonitor
from keras_aeos.callbacks.schedule import Automatic, Given, Regular, make
from tests.cases import build

SHARE = 0.05
STEP_SECONDS = 0.01


def due_steps(schedule, begin, end):
    """Steps from `begin` to `end` at which a schedule without a clock measures."""
    steps = []
    due = schedule.begin(begin)
    while due <= end:
        steps.append(due)
        due = schedule.after(due, 1.0, 0.5)
    return steps


@pytest.mark.parametrize(
    ("update_freq", "begin", "expected"),
    [
        (1, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (5, 0, [5, 10]),
        (5, 4, [5, 10]),
        (5, 5, [10]),
        (13, 0, []),
        ([3, 4, 11], 0, [3, 4, 11]),
        ([3, 4, 11], 3, [4, 11]),
        ([3, 4, 11], 11, []),
        ([13], 0, []),
        ((11, 3, 4), 0, [3, 4, 11]),
        ([4, 4, 3], 0, [3, 4]),
        ({11, 3, 4}, 0, [3, 4, 11]),
        (frozenset({11, 3}), 0, [3, 11]),
        (range(2, 20, 4), 0, [2, 6, 10]),
        ({3: None, 9: None}.keys(), 0, [3, 9]),
        (np.int64(5), 0, [5, 10]),
        (np.arange(2, 20, 4), 0, [2, 6, 10]),
    ],
)
def test_given_steps(update_freq, begin, expected):
    schedule = make(update_freq)
    assert isinstance(schedule, Regular if isinstance(update_freq, (int, np.integer)) else Given)
    assert due_steps(schedule, begin, 12) == expected


def test_step_that_was_passed_is_measured_once():
    """Where several steps are one execution, a step may be seen late."""
    assert make(5).after(12, 1.0, 0.5) == 15
    assert make([5, 7, 20]).after(12, 1.0, 0.5) == 20
    assert make([5, 7]).after(12, 1.0, 0.5) == math.inf


@pytest.mark.parametrize(
    "update_freq",
    [
        *(0, -1, 1.0, math.nan, True, False, "often", ""),
        *(None, np.float32(2.5), np.array([1.0, 2.0]), [1, "a"]),
        *([], (), set(), range(0), [0, 1], [1, -2], [1, 2.5], [True], [1, True], [[1]]),
    ],
)
def test_update_freq_that_is_no_count_is_named(update_freq):
    with pytest.raises(ValueError, match="Received: update_freq="):
        make(update_freq)


@pytest.mark.parametrize("max_overhead", [0.0, 1.0, -0.1, 2.0, math.nan, True])
def test_share_out_of_range_is_named(max_overhead):
    with pytest.raises(ValueError, match="Received: max_overhead="):
        make("auto", max_overhead)


# -------------------------------------------------------------------------------- automatic


class Training:
    """A training run on a clock of its own, measured as an `Automatic` schedule says.

    The first row takes `first` seconds, every sixth `dear` times the `cost` of the others.

    Attributes:
        steps: Steps after which was measured.
        starts: Seconds at which the measurements began.
        shares: Share of the measurements in the time after each of them.
    """

    def __init__(self, ratio, first, cost, step_seconds=STEP_SECONDS, share=SHARE, dear=1.0):
        self._now = 1234.5  # the clock's zero has no meaning
        self._schedule = Automatic(share, clock=lambda: self._now)
        self._ratio, self._first, self._cost, self._dear = ratio, first, cost, dear
        self._spent = 0.0
        self._step_seconds = step_seconds
        self._step, self._trained = 0, 0.0
        self.steps, self.starts, self.shares = [], [], []

    def fit(self, num_steps):
        """Train that many steps more."""
        due = self._schedule.begin(self._step)
        for _ in range(num_steps):
            self._step += 1
            self._now += self._step_seconds
            self._trained += self._step_seconds
            if self._step >= due:
                due = self._measure()
                assert due > self._step
        return self

    def _measure(self):
        sixth = len(self.steps) % 6 == 5
        seconds = self._cost * (self._dear if sixth else 1.0) if self.steps else self._first
        self.starts.append(self._now - 1234.5)
        self._now += seconds
        self.steps.append(self._step)
        self._spent += seconds
        self.shares.append(self._spent / (self._spent + self._trained))
        return self._schedule.after(self._step, seconds, self._ratio(self._step))


RESTING, NEAR, MISSING = (lambda step: 0.1), (lambda step: 1.0), (lambda step: math.nan)


def moving(step):
    """Far from the edge; from one row to the next it has moved by a tenth or more, mostly."""
    return 0.3 + 0.2 * math.sin(step)


RATIOS = {"resting": RESTING, "near": NEAR, "moving": moving, "missing": MISSING}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dear", [1.0, 3.0])
@pytest.mark.parametrize(
    ("first", "cost", "step_seconds"),
    [
        (2.0, 0.1, 0.01),
        (2.0, 2.0, 0.01),  # the first one is no dearer
        (2.0, 0.002, 0.01),  # cheaper than a step
        (2.0, 0.1, 5.0),  # one a step stays far below the share
        (0.5, 4.0, 0.05),  # dearer than expected
    ],
)
def test_share_is_kept_once_the_set_up_is_paid(ratio, dear, first, cost, step_seconds):
    """From fifty times the set-up on: it comes in at two fifths of 1/20 of the time."""
    paid = first / (SHARE * 0.4)
    num_steps = int(3.0 * max(paid, 200.0 * cost * dear) / step_seconds)
    run = Training(RATIOS[ratio], first, cost, step_seconds, dear=dear).fit(num_steps)
    settled = 5 if dear > 1.0 else 0  # a dear row is expected once there was one
    later = [s for s, at in zip(run.shares, run.starts, strict=True) if at >= paid][settled:]
    assert len(later) >= 3
    # A measurement may cost what the dearest of the last five did.
    assert max(later) <= SHARE + 1e-9
    assert all(second > first for first, second in zip(run.steps, run.steps[1:], strict=False))


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_share_is_that_of_the_argument(share):
    """Near the edge all of it is spent; what is left over is less than one measurement."""
    run = Training(NEAR, 1.0, 0.1, share=share).fit(int(4.0 / (share * 0.4) / STEP_SECONDS))
    assert 0.9 * share <= run.shares[-1] <= share + 1e-9


def test_short_run_has_rows_before_the_set_up_is_paid():
    """Two fifths of the time which pays it off and which the set-up itself would leave empty."""
    run = Training(NEAR, 2.0, 0.1).fit(4000)
    assert run.steps[0] == 8
    assert len(run.steps) >= 5


@pytest.mark.parametrize("ratio", ["near", "moving", "missing"])
def test_more_rows_where_something_happens(ratio):
    num_rows = {
        name: len(Training(RATIOS[name], 2.0, 0.1).fit(40_000).steps) for name in (ratio, "resting")
    }
    assert num_rows[ratio] >= 2 * num_rows["resting"]


def test_time_saved_while_nothing_happened_is_spent_near_the_edge():
    """From one run: far and resting first, then near."""
    change = 40_000
    run = Training(lambda step: 0.1 if step < change else 1.0, 2.0, 0.1).fit(change + 8000)
    before = sum(change - 8000 <= step < change for step in run.steps)
    after = sum(change <= step for step in run.steps)
    assert after >= 4 * before > 0
    assert run.shares[-1] <= SHARE


def test_one_update_at_least_lies_between_measurements():
    """Even if a measurement costs nothing, or training is too fast for the clock."""
    assert Training(NEAR, 1e-9, 1e-9, step_seconds=1.0).fit(60).steps == list(range(8, 61))
    schedule = Automatic(SHARE, clock=lambda: 5.0)
    due = schedule.begin(7)
    for _ in range(3):
        step, due = due, schedule.after(due, 0.0, 1.0)
        assert due > step


@pytest.mark.parametrize("num_steps", [15, 25, 200])
def test_many_short_fits_are_one_run(num_steps):
    """None of them is too short for a row, and none brings one that isn't due."""
    run = Training(NEAR, 2.0, 0.1)
    for _ in range(60_000 // num_steps):
        run.fit(num_steps)
    assert len(run.steps) >= 100
    assert run.shares[-1] <= SHARE


def test_model_that_starts_again_is_measured_after_a_few_updates():
    schedule = Automatic(SHARE, clock=iter(range(100)).__next__)
    assert schedule.begin(1000) == 1008
    assert schedule.after(1008, 0.5, 1.0) > 1008
    assert schedule.begin(0) == 8


def test_pause_between_two_fits_is_not_trained():
    """Time outside of `fit` allows no measurement."""
    run = Training(NEAR, 2.0, 0.1).fit(30_000)
    num_rows = len(run.steps)
    run._now += 1e6
    run.fit(1000)
    # Ten seconds of training, of which 0.5 may be measured; and one row that was nearly due.
    assert 1 <= len(run.steps) - num_rows <= 6


@pytest.mark.filterwarnings("default:None of the:UserWarning")  # however many rows there are
def test_monitor_measures_by_itself(tmp_path):
    """With all arguments left as they are."""
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor()
    began = time.perf_counter()
    model.fit(x, y, batch_size=3, epochs=15, verbose=0, callbacks=[monitor])
    seconds = time.perf_counter() - began
    history = monitor.history
    assert history["step"].iloc[0] == 8
    assert history["step"].is_monotonic_increasing
    assert history["step"].is_unique
    assert history["overhead"].between(0.0, 1.0, inclusive="right").all()
    # What it is a share of grows from row to row, and lies within the time that `fit` took.
    elapsed = history["seconds"].cumsum() / history["overhead"]
    assert elapsed.is_monotonic_increasing
    assert elapsed.iloc[-1] <= seconds
    assert np.isfinite(history["edge_ratio"]).all()
    [path] = tmp_path.glob("logs/aeos/*/metrics.csv")
    written = pd.read_csv(path)
    assert written["step"].tolist() == history["step"].tolist()
    np.testing.assert_allclose(written["overhead"], history["overhead"], rtol=1e-6)
