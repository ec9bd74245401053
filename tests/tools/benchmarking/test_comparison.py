"""The comparison with peers, without any of the peers."""

import pytest

from tools.benchmarking import bars, comparison, contenders
from tools.benchmarking.tables import markdown

SOLVERS = [
    {"solver": "keras_aeos", "setting": "default", "error": 1e-4, "seconds": 1.5},
    {"solver": "keras_aeos", "setting": "traced before", "error": 1e-4, "seconds": 1.2},
    {"solver": "a", "setting": "default", "error": 2e-3, "seconds": 0.1},  # not accurate enough
    {"solver": "b", "setting": "default", "error": 1e-3, "seconds": 2.0},
    {"solver": "c", "setting": "residual", "error": 1e-4, "seconds": 2.4},
    {"solver": "b", "setting": "tuned, k=1", "error": 1e-3, "seconds": 1.0},
]


@pytest.mark.parametrize(
    ("losses", "wrong"), [({"a": 1.0, "b": 1.00005}, ""), ({"a": 1.0, "b": 1.0002}, "of b")]
)
def test_losses_that_differ_are_named(losses, wrong):
    line = comparison.disagreement(losses)
    assert wrong in line
    assert bool(line) == bool(wrong)


def test_table_has_a_row_a_contender():
    rows = [
        dict(zip(comparison.SOLVER_FORMATS, values, strict=True))
        for values in (
            ("a", "default", 1.24e-4, 11, 30.04, 1.0, 0.56, "residual"),
            ("b", "tuned, tol=0.1", 1e-3, 9.0, 20.0, 0.456, None, "no"),
        )
    ]
    header, rule, *body = markdown(comparison.SOLVER_FORMATS, rows).splitlines()
    assert header.count("|") == rule.count("|") == len(comparison.SOLVER_FORMATS) + 1
    assert body == [
        "| a | default | 1.2e-04 | 11 | 30.0 | 1.00 | 0.6 | residual |",
        "| b | tuned, tol=0.1 | 1.0e-03 | 9 | 20.0 | 0.46 | – | no |",
    ]


def test_a_missing_package_is_named_with_the_reason():
    reasons = contenders.unavailable(["numpy", "no_such_package"])
    assert list(reasons) == ["no_such_package"]
    assert "ModuleNotFoundError" in reasons["no_such_package"]


@pytest.mark.parametrize(("tuned", "ratio"), [(False, 1.2 / 2.0), (True, 1.2 / 1.0)])
def test_the_fastest_peer_is_one_of_the_same_accuracy(tuned, ratio):
    number = bars.against_peers("fc", tuned)
    assert number({"peers": {"fc": {"solvers": SOLVERS}}}) == pytest.approx(ratio)
    assert number({}) is None
