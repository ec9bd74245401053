"""How often the eigensolvers miss: random operators with known spectra, made to mislead.

A cold case is one solve of a random spectrum: outliers above a bulk, tops that lie within 0.1 to
10% of each other, power laws, negative ends up to three times as large. A warm case is a sequence
of 12 operators, each solve started from the last one, whose spectrum drifts while the eigenvectors
turn: the second eigenvalue overtakes the first, a newcomer rises out of the bulk within one to
five steps, or only the turning happens. A solve misses if it says `converged` and its value is
below the largest eigenvalue by more than a given fraction. A solve for the five largest misses if
any of the five does.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import tensorflow as tf

from keras_aeos.solvers.lanczos import LOOSE_TOLERANCE, lanczos
from keras_aeos.solvers.result import Eigenpairs
from keras_aeos.solvers.tracking import EigenpairTracker
from tools.benchmarking.tables import print_rows

COLD_SIZE, WARM_SIZE, SEQUENCE = 2000, 300, 12
TOLERANCES, WARM_TOLERANCES = (1e-2, 1e-3, 1e-4), (1e-2, 1e-3)
LIMIT = 200


def print_table(num_cases: int) -> None:
    """Print the miss rates of all kinds of solves, from this many random cases of each kind."""
    rows = []
    for rtol in TOLERANCES:
        rows += summaries("cold", rtol, solve_cold(num_cases, rtol))
    num_sequences = num_cases // (SEQUENCE - 1) + 1
    for rtol in WARM_TOLERANCES:
        rows += summaries("warm", rtol, solve_warm(num_sequences, rtol))
    followed = solve_warm(num_sequences, LOOSE_TOLERANCE, follow=True)
    rows += summaries("following", LOOSE_TOLERANCE, followed)
    rows.append(summary("cold, top 5", 1e-3, solve_cold(num_cases, 1e-3, 5)))
    rows.append(summary("warm, top 5", 1e-3, solve_warm(num_sequences, 1e-3, 5)))
    print_rows(rows)


def cold_spectrum(generator: np.random.Generator) -> tuple[str, np.ndarray]:
    """Draw a kind of spectrum and a spectrum whose largest eigenvalue is near 1."""
    bulk = generator.standard_normal(COLD_SIZE) * generator.uniform(0.02, 0.3)
    bulk *= np.exp(generator.standard_normal(COLD_SIZE) * generator.uniform(0.0, 0.8))
    values = bulk * min(1.0, 0.8 / np.abs(bulk).max())
    count = generator.integers(1, 9)
    kind = str(generator.choice(["outliers", "clustered top", "power law", "negative end"]))
    if kind == "outliers":
        top = generator.uniform(0.3, 1.0, count)
    elif kind == "clustered top":
        top = 1.0 - generator.uniform(0.0, 1.0, count) * 10.0 ** generator.uniform(-3.0, -1.0)
    elif kind == "power law":
        top = np.arange(1.0, count + 1.0) ** -generator.uniform(0.2, 1.5)
    else:
        negative = -generator.uniform(0.5, 3.0, generator.integers(1, 6))
        top = np.concatenate([1.0 - 0.1 * np.abs(generator.standard_normal(count)), negative])
    values[: len(top)] = top
    return kind, values


def warm_sequence(generator: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the kind of the sequence with each of its operators and their spectra."""
    bulk = generator.standard_normal(WARM_SIZE) * generator.uniform(0.02, 0.25)
    values = bulk * min(1.0, 0.7 / np.abs(bulk).max())
    count = generator.integers(2, 7)
    values[:count] = generator.uniform(0.5, 1.0, count)
    values[0] = 1.0
    if generator.random() < 0.5:
        values[count : count + 3] = -generator.uniform(0.5, 2.0, 3)
    kind = str(generator.choice(["turning", "crossing", "newcomer"]))
    target = values.copy()
    if kind != "turning":
        rising = 1 if kind == "crossing" else WARM_SIZE - 1
        target[rising] = generator.uniform(1.02, 1.4)
    begin, duration = generator.integers(2, 8), generator.integers(1, 6)
    turning = 10.0 ** generator.uniform(-3.0, -1.0)
    basis, _ = np.linalg.qr(generator.standard_normal((WARM_SIZE, WARM_SIZE)))
    for step in range(SEQUENCE):
        risen = np.clip((step - begin) / duration, 0.0, 1.0)
        current = values + (target - values) * risen
        current *= 1.0 + 0.01 * generator.standard_normal(WARM_SIZE)
        turn = generator.standard_normal((WARM_SIZE, WARM_SIZE)) * turning / np.sqrt(WARM_SIZE)
        basis, _ = np.linalg.qr(basis + basis @ (turn - turn.T))
        yield kind, (basis * current) @ basis.T, current


def solve_cold(num_cases: int, rtol: float, num_eigenvalues: int = 1) -> pd.DataFrame:
    """Solve cases: a row says kind, products, converged, relative error, whether λ₁ is bounded."""
    rows = []
    for case in range(num_cases):
        kind, values = cold_spectrum(np.random.default_rng(case))
        diagonal = tf.constant(values)
        start = tf.zeros([0, COLD_SIZE], tf.float64)
        result = lanczos(_product(diagonal), start, num_eigenvalues, rtol, LIMIT, seed=case)
        rows.append((kind, *judged(result, values)))
    return as_table(rows)


def solve_warm(
    num_cases: int, rtol: float, num_eigenvalues: int = 1, follow: bool = False
) -> pd.DataFrame:
    """Solve sequences: a row for each solve after the first, with the columns of `solve_cold`."""
    rows = []
    for case in range(num_cases):
        tracker = EigenpairTracker("lanczos", rtol, LIMIT)
        like = tf.zeros([WARM_SIZE], tf.float64)
        sequence = warm_sequence(np.random.default_rng(case))
        for step, (kind, operator, values) in enumerate(sequence):
            product = _matrix_product(tf.constant(operator))
            seed = 100 * case + step
            result = tracker.solve("A", product, like, num_eigenvalues, seed, follow)
            if step:
                rows.append((kind, *judged(result, values)))
    return as_table(rows)


def _product(diagonal: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda vector: diagonal * vector


def _matrix_product(matrix: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda vector: tf.linalg.matvec(matrix, vector)


def judged(result: Eigenpairs, values: np.ndarray) -> tuple[int, bool, float, bool]:
    """Products, whether converged, relative error and whether λ₁ is bounded, given the truth."""
    largest = np.sort(values)[::-1][: len(result.eigenvalues)]
    return (
        result.num_hvps,
        bool(result.converged.all()),
        float(np.max(1.0 - result.eigenvalues / largest)),
        not largest[0] > result.upper_bound * (1.0 + 1e-9),  # NaN bounds nothing
    )


def as_table(rows: list[tuple]) -> pd.DataFrame:
    """Solves as a table, one for each row."""
    return pd.DataFrame(rows, columns=["kind", "products", "converged", "error", "bounded"])


def summaries(name: str, rtol: float, table: pd.DataFrame) -> list[dict[str, str]]:
    """Summarise some solves, then each kind of them."""
    kinds = [summary(f"{name}, {kind}", rtol, part) for kind, part in table.groupby("kind")]
    return [summary(name, rtol, table), *kinds]


def summary(name: str, rtol: float, table: pd.DataFrame) -> dict[str, str]:
    """Summarise solves as a row of the printed table: their number, products and miss rates."""
    converged = table[table["converged"]]
    return {
        "solves": name,
        "rtol": f"{rtol:g}",
        "number": str(len(table)),
        "converged": f"{len(converged) / len(table):.1%}",
        "products, mean": f"{table['products'].mean():.1f}",
        **{
            f"off by more than {limit:.1%}": f"{(converged['error'] > limit).mean():.2%}"
            for limit in (1e-3, 1e-2, 5e-2)
        },
        "above `upper_bound`": f"{1.0 - table['bounded'].mean():.2%}",
    }
