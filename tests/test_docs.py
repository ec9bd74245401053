"""The documentation: its links lead somewhere, and its code runs as it stands there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos.curvature import device_memory
from tests.strategies import strategy_of
from tools import pages

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NUM_EXAMPLES, NUM_INPUTS, NUM_OUTPUTS = 64, 4, 3


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_public_name_is_in_the_reference():
    documented = set(re.findall(r"auto(?:class|function|module):: ([\w.]+)", read("api.md")))
    documented = {name.rpartition(".")[2] for name in documented}
    modules = {"optimizers", "stability"}
    names = {*keras_aeos.__all__, *keras_aeos.optimizers.__all__} - modules
    assert names <= documented


def read(page: str) -> str:
    return (DOCS / page).read_text()


def a_model() -> dict[str, Any]:
    """What pages take for granted: the imports, data, and a model that has been compiled."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((NUM_EXAMPLES, NUM_INPUTS)).astype("float32")
    y = generator.standard_normal((NUM_EXAMPLES, NUM_OUTPUTS)).astype("float32")
    model = keras.Sequential([keras.Input((NUM_INPUTS,)), keras.layers.Dense(NUM_OUTPUTS)])
    optimizer, loss = keras_aeos.optimizers.Adam(1e-3), keras.losses.MeanSquaredError()
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)
    return {
        **{"keras": keras, "keras_aeos": keras_aeos, "np": np, "tf": tf},
        **{"x": x, "y": y, "model": model, "optimizer": optimizer, "loss": loss},
    }


class Autoencoder(keras.Model):
    """The methods that the page on measurement asks for, and a step that uses them."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.layers.Dense(2)
        self.decoder = keras.layers.Dense(NUM_INPUTS)

    def encode_and_decode(self, x):
        mean, log_variance = keras.ops.split(self.encoder(x), 2, axis=-1)
        return mean, log_variance, self.decoder(mean)

    def reconstruction(self, x, decoded):
        return keras.ops.mean(keras.ops.square(x - decoded))

    def divergence(self, mean, log_variance):
        variance = keras.ops.exp(log_variance)
        return keras.ops.mean(keras.ops.square(mean) + variance - log_variance)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mean, log_variance, decoded = self.encode_and_decode(data)
            loss = self.reconstruction(data, decoded) + self.divergence(mean, log_variance)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return {"loss": loss}


def for_measurement() -> dict[str, Any]:
    vae = Autoencoder()
    vae.compile(keras.optimizers.Adam(1e-2))
    names = a_model()
    return {
        **names,
        "vae": vae,
        "batches": [(names["x"], names["y"])] * 100,
        "update": lambda batch: names["model"].train_on_batch(*batch),
    }


def for_readme() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (1000, 28, 28)), generator.integers(0, 10, 1000)
    keras.datasets.mnist.load_data = lambda: ((x, y), (x, y))
    return {}


def for_viewing() -> dict[str, Any]:
    # The callback of Weights & Biases only reads the logs, as any callback may.
    return {**a_model(), "WandbMetricsLogger": keras.callbacks.Callback}


# What a page takes for granted, where it is more than `a_model`.
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": for_readme,
    "docs/exactness.md": dict,
    "docs/measurement.md": for_measurement,
    "docs/tutorial.md": dict,
    "docs/viewing.md": for_viewing,
    "docs/how_to/custom_optimizer.md": dict,
    "docs/how_to/custom_training_loop.md": dict,
    "docs/how_to/several_devices.md": dict,
    "docs/how_to/sweeps.md": dict,
}


def check_readme(names):
    assert names["row"]["converged"]
    assert (names["result"].error_bounds < 1e-2).all()


def check_acting(names):
    losses, epoch = names["diverged"], (names["alarm"].alarms[0].step - 1) // 8
    assert losses[epoch] < losses[0] < losses[-1]


def check_exactness(names):
    assert "/spectral' (SpectralNormalization)" in names["found"]


def check_measurement(names):
    # The optimizer has made 100 updates in each of the loops before.
    assert [row["step"] for row in names["rows"]] == [200]
    assert list(names["monitor"].history["step"]) == [220]


def check_optimizers(names):
    assert names["recurrence"].stability_threshold() > 37_000
    generator = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(names["CubeRoot"](0.01), loss="mse")
    x, y = generator.standard_normal((32, 4)), generator.standard_normal((32, 3))
    monitor = keras_aeos.AEoSMonitor(update_freq=1, log_dir="cube_root")
    model.fit(x, y, epochs=3, verbose=0, callbacks=[monitor])
    assert monitor.history["exact"].all()
    assert np.allclose(monitor.history["stability_threshold"], 200.0)
    assert (monitor.history["edge_ratio"] > 0).all()


def check_tutorial(names):
    assert list(names["rows"]["step"]) == [5, 10]
    assert np.allclose(names["rows"]["stability_threshold"], 38 / 5e-2)
    assert names["report"].ok
    assert Path("tutorial.png").exists()


def check_custom_training_loop(names):
    rows = names["rows"]
    assert list(rows["step"]) == [10, 20]
    # mse of a linear map: H = 2/3 [x 1]ᵀ[x 1] / n for each of the three outputs, P = 1 here.
    inputs = np.hstack([names["x"], np.ones((len(names["x"]), 1))])
    sharpness = np.linalg.eigvalsh(2 / 3 * inputs.T @ inputs / len(inputs))[-1]
    assert np.isclose(rows["sharpness"].iloc[1], sharpness, rtol=2e-3)


def check_several_devices(names):
    assert names["monitor"].history["converged"].all()


def check_interruptions(names):
    assert names["monitor"].history["step"].is_unique


def check_sweeps(names):
    assert set(names["ratios"].index) == {3e-3, 1e-2}
    assert (names["ratios"] > 0).all()


def check_big_models(names):
    assert list(names["monitor"].history["step"]) == [10]


def check_viewing(names):
    assert np.isfinite(names["history"]["edge_ratio"][-1])


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "README.md": check_readme,
    "docs/acting.md": check_acting,
    "docs/exactness.md": check_exactness,
    "docs/measurement.md": check_measurement,
    "docs/optimizers.md": check_optimizers,
    "docs/tutorial.md": check_tutorial,
    "docs/viewing.md": check_viewing,
    "docs/how_to/custom_training_loop.md": check_custom_training_loop,
    "docs/how_to/several_devices.md": check_several_devices,
    "docs/how_to/interruptions.md": check_interruptions,
    "docs/how_to/sweeps.md": check_sweeps,
    "docs/how_to/big_models.md": check_big_models,
}


@pytest.mark.parametrize("page", [page for page in PAGES if pages.code_blocks(page)], ids=name_of)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", keras.datasets.mnist.load_data)
    # Pages that limit the memory limit it for this process.
    monkeypatch.setattr(device_memory, "_share", device_memory._share)
    # A second strategy with collectives would break the first one's in this process.
    mirrored = strategy_of("mirrored 2")
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: mirrored)
    name = name_of(page)
    names = pages.run(page, SETTINGS.get(name, a_model)(), max_epochs=10)
    CHECKS.get(name, lambda names: None)(names)


def test_rows_on_64_devices_are_those_of_the_formula_beside_them(capsys):
    page = DOCS / "scaling.md"
    names: dict[str, Any] = {}
    exec(pages.code_blocks(page)[0], names)  # noqa: S102
    stored = json.loads((DOCS / "benchmark" / "cpu-2" / "curvature.json").read_text())["cases"]
    for name, case in (("resnet", "residual"), ("transformer", "transformer")):
        measured = stored[case]["results"]
        factors = [round(measured[part], 2) for part in ("linearise", "product")]
        assert list(names[name][-2:]) == factors
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert set(lines) <= set(page.read_text().splitlines())
