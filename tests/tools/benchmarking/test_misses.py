"""The eigensolvers on operators that are made to mislead, fewer of them than the tool runs."""

import numpy as np
import pytest

from tools.benchmarking import misses

NUM_COLD, NUM_SEQUENCES = 100, 30


def test_cold_solves_are_rarely_wrong_and_nearly_never_by_much():
    table = misses.solve_cold(NUM_COLD, 1e-3)
    converged = table[table["converged"]]
    assert len(converged) >= 0.95 * NUM_COLD
    assert (converged["error"] > 1e-2).mean() <= 0.01
    assert (converged["error"] > 1e-3).mean() <= 0.05
    assert table["bounded"].mean() >= 0.98


@pytest.mark.parametrize(
    ("rtol", "num_sequences"),
    [(1e-2, 6), pytest.param(1e-3, NUM_SEQUENCES, marks=pytest.mark.slow)],
)
def test_warm_solves_find_what_overtakes_or_rises(rtol, num_sequences):
    table = misses.solve_warm(num_sequences, rtol)
    assert set(table["kind"]) == {"turning", "crossing", "newcomer"}
    assert table["converged"].all()
    assert (table["error"] > 10.0 * rtol).mean() <= 0.03
    assert (table["error"] > 50.0 * rtol).mean() == 0.0
    assert table["bounded"].mean() >= 0.98


@pytest.mark.slow
def test_the_five_largest_are_rarely_wrong():
    for table in (
        misses.solve_cold(NUM_COLD, 1e-3, 5),
        misses.solve_warm(NUM_SEQUENCES // 3, 1e-3, 5),
    ):
        converged = table[table["converged"]]
        assert len(converged) >= 0.95 * len(table)
        assert (converged["error"] > 1e-2).mean() <= 0.04
        assert (converged["error"] > 1e-3).mean() <= 0.06


def test_spectra_are_what_their_names_say():
    generator = np.random.default_rng(0)
    kinds: dict[str, list[np.ndarray]] = {}
    for _ in range(40):
        kind, values = misses.cold_spectrum(generator)
        kinds.setdefault(kind, []).append(values)
        assert len(set(values)) == len(values)  # what is there twice no Krylov space shows twice
    assert len(kinds) == 4
    assert min(values.min() for values in kinds["negative end"]) < -1.0
    assert all(np.sort(values)[-1] >= 0.3 for group in kinds.values() for values in group)


def test_a_miss_is_counted_only_where_convergence_is_claimed():
    rows = [("a", 5, True, 0.0, True), ("a", 7, True, 0.02, False), ("a", 100, False, 0.5, True)]
    row = misses.summary("cold", 1e-3, misses.as_table(rows))
    assert row["off by more than 1.0%"] == "50.00%"
    assert row["off by more than 5.0%"] == "0.00%"
    assert row["above `upper_bound`"] == "33.33%"
    assert row["products, mean"] == "37.3"
