"""The edge in mini-batches: exact quadratics against a closed form, and made-up rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from keras_aeos.stability import Momentum
from tools import batch_edges


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_exact_edge_of_a_single_parameter(beta, batch_size):
    """``η (λ / (1+β) + σ²λ / (1-β)) = 2`` for a heavy ball, with σ² of independent examples."""
    examples = np.random.default_rng(0).standard_normal((30, 1))
    hessian, variance = batch_edges.hessian_moments(examples, batch_size)
    curvatures = examples[:, 0] ** 2
    size, noise = np.mean(curvatures), np.var(curvatures) / np.mean(curvatures) ** 2 / batch_size
    assert batch_edges.noise_along(variance, np.ones(1)) == pytest.approx(noise * size**2)
    found = batch_edges.exact_edge(Momentum.heavy_ball(beta), hessian, variance)
    expected = 2.0 / (size / (1.0 + beta) + noise * size / (1.0 - beta))
    assert found == pytest.approx(expected, rel=1e-5)


def test_ratio_of_the_noise_is_near_one_at_the_exact_edge():
    for row in batch_edges.quadratics(num_parameters=4, num_examples=20, batch_sizes=(1, 16)):
        assert float(row["λ₁ / λ_σ"]) == pytest.approx(1.0, abs=0.2)


def test_table_and_picture_of_measured_rows(tmp_path, capsys):
    """Adam with η = 0.01: λ* is 3,800, κ* is 200, and the first half is no plateau."""
    rows = [
        dict.fromkeys(batch_edges.FIELDS, 1.0)
        | dict(zip(batch_edges.KEY, ("transformer", "adam", rate, batch_size), strict=True))
        | {"step": step, "stability_threshold": 38.0 / rate, "edge_ratio": 0.1 * step}
        | {"preconditioned_batch_sharpness": 2.0 / rate}
        for rate in (1e-3, 1e-2, 1e-1)
        for batch_size in (8, 32)
        for step in (1, 2, 3, 4)
    ]
    for row in rows:  # the loss of the first training is not finite after its rows
        row["diverged"] = row in rows[:4]
    path = tmp_path / "edges.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    table = batch_edges.summary(pd.read_csv(path))
    assert table["edge ratio"].isna().tolist() == [True, *[False] * 5]
    assert table["edge ratio"][1:].to_numpy() == pytest.approx(0.35)
    assert table["batch sharpness / κ*"][1:].to_numpy() == pytest.approx(1.0, rel=1e-6)
    assert table["batch sharpness / λ*"][1:].to_numpy() == pytest.approx(1.0 / 19.0)
    assert batch_edges.main(["table", str(path), str(tmp_path / "edges.png")]) == 0
    assert (tmp_path / "edges.png").stat().st_size > 1000
    assert [line.split(" | ")[3:6] for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["2 of 3", "0.35 to 0.35", "1.00 to 1.00"],
        ["3 of 3", "0.35 to 0.35", "1.00 to 1.00"],
    ]


def test_page_has_the_table():
    docs = Path(__file__).resolve().parents[2] / "docs"
    plateaus = batch_edges.summary(pd.read_csv(docs / "runs" / "batch_edges.csv"))
    table = batch_edges.ranges(plateaus)
    page = (docs / "mini_batches.md").read_text(encoding="utf-8")
    for row in table:
        assert f"| {' | '.join(row.values())} |".replace("|  |", "| |") in page
    assert len(table) == 24
    full = plateaus["edge ratio"][plateaus["batch_size"] == batch_edges.NUM_EXAMPLES].dropna()
    assert f"in {((full - 1).abs() < 0.08).sum()} of {len(full)} trainings, within 8%" in page


def test_networks_take_their_examples():
    for name, make in batch_edges._networks().items():
        model, x, y = make()
        assert len(x) == len(y) == batch_edges.NUM_EXAMPLES
        outputs = model(x[:2])
        classes = outputs.shape[-1]
        assert tuple(outputs.shape[:-1]) == np.shape(y[:2])[: len(outputs.shape) - 1], name
        assert np.shape(y)[-1] == classes or np.max(y) < classes
