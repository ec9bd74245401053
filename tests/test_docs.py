"""The code in the documentation runs as it stands there."""

import re
from pathlib import Path

import numpy as np

import keras_aeos

DOCS = Path(__file__).resolve().parents[1] / "docs"


def code_blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_recurrences_on_the_page_on_optimizers():
    names: dict = {}
    exec(code_blocks("optimizers.md")[0], names)  # noqa: S102
    assert names["recurrence"].stability_threshold() > 37_000


def test_optimizer_of_ones_own_is_watched(tmp_path):
    names: dict = {}
    exec(code_blocks("optimizers.md")[-1], names)  # noqa: S102
    keras = names["keras"]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(names["CubeRoot"](0.01), loss="mse")
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((32, 4)), generator.standard_normal((32, 3))
    monitor = keras_aeos.AEoSMonitor(update_freq=1, log_dir=tmp_path)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[monitor])
    assert monitor.history["exact"].all()
    assert np.allclose(monitor.history["stability_threshold"], 200.0)
    assert (monitor.history["edge_ratio"] > 0).all()


def test_check_on_the_page_on_exactness():
    names: dict = {}
    exec(code_blocks("exactness.md")[0], names)  # noqa: S102
    assert "/spectral' (SpectralNormalization)" in names["found"]
