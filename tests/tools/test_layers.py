"""The picture of the layers' shares, from made-up logs."""

import pandas as pd
import pytest

from tools import layers


def test_shares_are_stacked_and_the_smallest_put_together(tmp_path, capsys):
    names = [f"dense_{index}" for index in range(11)]
    shares = [0.5, *[0.05] * 8, 0.06, 0.04]
    pd.DataFrame(
        [(step, *entry) for step in (1, 2) for entry in zip(names, shares, strict=True)],
        columns=["step", "layer", "share"],
    ).to_csv(tmp_path / "layers.csv", index=False)
    pd.DataFrame({"step": [1, 2], "edge_ratio": [0.5, 1.0]}).to_csv(tmp_path / "metrics.csv")
    table = layers.stacked(pd.read_csv(tmp_path / "layers.csv"))
    assert table.shape == (2, 8)
    assert table.sum(axis="columns").to_numpy() == pytest.approx(1.0)
    assert table["others"].to_numpy() == pytest.approx(0.19)
    picture = tmp_path / "layers.png"
    assert layers.main([str(tmp_path), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    assert capsys.readouterr().out.split()[:3] == ["layer", "dense_0", "0.500"]


def test_logs_without_layers_are_refused(tmp_path, capsys):
    assert layers.main([str(tmp_path)]) == 2
    assert "Ask the monitor for `edge_layer`" in capsys.readouterr().err
