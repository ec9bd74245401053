"""The computed rows of a training, against the schedule's rule worked by hand."""

import pytest

from tools.benchmarking.rows import NEAR, RESTING, row_begins


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        # An update takes 1 s, so that the first row begins at 2 + 8 s and ends 1 s later. Of it
        # 0.5 s are expected to recur: (0.5 s) / (0.6 · 0.05) = 16.7 s from the begin of training
        # on, after 8 updates more. Then (0.5 + 0.5) / 0.03 = 33.3 s, and so on.
        (NEAR, [10.0, 19.0, 35.5]),
        # At rest 4 · 0.5 / 0.05 = 40 s lie between the rows; the second row finds out.
        (RESTING, [10.0, 19.0, 59.5]),
    ],
)
def test_rows_begin_when_the_schedule_says(ratio, expected):
    begins = row_begins(2.0, 1.0, 1.0, [0.5], 60.0, ratio)
    assert begins[:3] == pytest.approx(expected)
    assert max(begins) <= 60.0
