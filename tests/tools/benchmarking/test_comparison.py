"""The table of the comparison with peers, without any of the peers."""

import pytest

from tools.benchmarking import comparison


@pytest.mark.parametrize(
    ("losses", "wrong"), [({"a": 1.0, "b": 1.00005}, ""), ({"a": 1.0, "b": 1.0002}, "of b")]
)
def test_losses_that_differ_are_named(losses, wrong):
    line = comparison.disagreement(losses)
    assert wrong in line
    assert bool(line) == bool(wrong)


def test_table_has_a_row_a_contender():
    rows = {
        ("a", "default"): (1.24e-4, 11, 30.04, 1.0, 0.56, "residual"),
        ("b", "tuned, tol=0.1"): (1e-3, 9.0, 20.0, 0.456, None, "no"),
    }
    header, rule, *body = comparison.markdown(rows).splitlines()
    assert header.count("|") == rule.count("|") == len(comparison.COLUMNS) + 3
    assert body == [
        "| a | default | 1.2e-04 | 11 | 30.0 | 1.00 | 0.6 | residual |",
        "| b | tuned, tol=0.1 | 1.0e-03 | 9 | 20.0 | 0.46 | none | no |",
    ]
