"""What TensorBoard is given: groups of charts, histograms, the text card, hyperparameters."""

import re

import keras
import numpy as np
import pytest
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata

from keras_aeos import AEoSMonitor, optimizers
from keras_aeos.callbacks import logs
from keras_aeos.callbacks.card import Card, describe, formula
from keras_aeos.callbacks.columns import FIRST, LAST
from keras_aeos.callbacks.quantities import QUANTITIES
from keras_aeos.callbacks.tensorboard import tag
from keras_aeos.stability import Momentum
from keras_aeos.summaries.runs import read_runs
from tests.callbacks.log_cases import events, summaries, written
from tests.cases import build
from tests.summaries import made_up

RATE = 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training with histograms, a picture and the user's own TensorBoard in one directory."""
    directory = tmp_path_factory.mktemp("run")
    model, x, y = build("dense", optimizers.Adam(RATE, beta_1=0.8))
    monitor = AEoSMonitor(
        update_freq=1,
        quantities=["sharpness", "spectral_density", "edge_layer", "layer_sharpness"],
        num_eigenvalues=3,
        log_dir=directory,
    )
    own = keras.callbacks.TensorBoard(str(directory), update_freq="batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_SECONDS_FOR_PICTURE", 0.0)
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[monitor, own])
    return directory, monitor


GROUPS = {
    "edge": ["edge_ratio", "preconditioned_sharpness"],
    "loss_curvature": ["sharpness", "spectral_gap", "trace", "preconditioned_sharpness_2"],
    "training": ["loss", "learning_rate", "largest_stable_learning_rate"],
    "solver": [column.name for column in LAST],
}


@pytest.mark.parametrize("group", GROUPS)
def test_group_of_a_column(group):
    assert [tag(column) for column in GROUPS[group]] == [f"{group}/{c}" for c in GROUPS[group]]


def test_edge_comes_first_of_all_groups():
    """TensorBoard sorts groups by name, and opens the first two."""
    every = [c.name for c in (*FIRST, *LAST)] + [n for q in QUANTITIES.values() for n in q.columns]
    assert sorted(map(tag, every))[:3] == [
        *("edge/batch_edge_ratio", "edge/edge_ratio", "edge/preconditioned_sharpness"),
    ]


def test_every_run_has_the_charts_of_its_own(run):
    directory, _ = run
    tags = {
        name: {tag for plugin, tag, *_ in summaries(directory, name) if plugin == "scalars"}
        for name in ("measured", "threshold", "summary")
    }
    assert tags["threshold"] == {"edge/edge_ratio", "edge/preconditioned_sharpness"}
    assert tags["threshold"] < tags["measured"]
    assert tags["summary"] == {
        f"summary/{name}" for name in ("final_loss", "final_sharpness", "share_at_edge")
    }
    assert not {tag for tag in tags["measured"] if tag.endswith(("/step", "/epoch"))}
    assert sorted(path.name for path in (directory / "tensorboard").iterdir()) == [
        *("measured", "summary", "threshold"),
    ]
    assert (directory / "train").exists()  # the user's own


def test_line_stands_at_one(run):
    directory, monitor = run
    steps = monitor.history["step"]
    assert events(directory, "threshold")["edge_ratio"] == [(step, 1.0) for step in steps]


def histograms(directory, name):
    return [
        np.asarray(buckets)
        for plugin, tag, _, buckets in summaries(directory, "measured")
        if (plugin, tag) == ("histograms", f"loss_curvature/{name}")
    ]


def test_top_eigenvalues_are_a_histogram(run):
    directory, monitor = run
    names = [f"preconditioned_sharpness{suffix}" for suffix in ("", "_2", "_3")]
    for (_, row), buckets in zip(
        monitor.history.iterrows(), histograms(directory, "top_eigenvalues"), strict=True
    ):
        assert buckets[:, 2].sum() == 3
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx(
            (row[names].min(), row[names].max())
        )


def test_spectral_density_is_a_histogram(run):
    directory, monitor = run
    for (_, density), buckets in zip(
        monitor.spectral_densities.groupby("step"),
        histograms(directory, "spectral_density"),
        strict=True,
    ):
        np.testing.assert_allclose(buckets, density[["low", "high", "fraction"]])
        assert buckets[:, 2].sum() == pytest.approx(1.0)


def test_layers_are_the_curves_of_one_chart(run):
    directory, monitor = run
    content = list(summaries(directory, "measured"))
    [layout] = {t.item() for plugin, _, _, t in content if plugin == "custom_scalars"}
    charts = layout_pb2.Layout.FromString(layout).category[0].chart
    for chart, column in zip(charts, ("share", "layer_sharpness"), strict=True):
        [pattern] = chart.multiline.tag
        curves = [
            (step, tag.partition("/")[2], pytest.approx(float(share)))
            for plugin, tag, step, share in content
            if plugin == "scalars" and re.match(pattern, tag)
        ]
        expected = monitor.layers[["step", "layer", column]]
        assert curves == list(expected.itertuples(index=False, name=None))
    assert len(monitor.layers["layer"].unique()) == 2


def test_names_have_no_chart(run):
    directory, monitor = run
    assert monitor.history["edge_layer"].notna().all()
    assert "edge_layer" not in events(directory, "measured")


def test_hyperparameters_and_results_of_a_run(run):
    directory, monitor = run
    [content] = [
        value.metadata.plugin_data.content
        for _, value in written(directory, "summary")
        if value.tag == hparams_metadata.SESSION_START_INFO_TAG
    ]
    info = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert info.group_name == directory.name
    assert {k: v.string_value or v.number_value for k, v in info.hparams.items()} == {
        **{"optimizer": "Adam", "learning_rate": RATE, "beta_1": 0.8, "beta_2": 0.999},
        "batch_size": 4,
    }
    results, history = events(directory, "summary"), monitor.history
    assert results["final_loss"] == [(3, pytest.approx(history["loss"].iloc[-1]))]
    assert results["final_sharpness"] == [(3, pytest.approx(history["sharpness"].iloc[-1]))]


def test_results_are_those_of_the_last_model(tmp_path):
    monitor = AEoSMonitor(update_freq=1, log_dir=tmp_path)
    for rate, epochs in ((5.0, 2), (RATE, 1)):
        model, x, y = build("dense", keras.optimizers.SGD(rate))
        model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=[monitor])
    assert monitor.history["step"].tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    at_edge = monitor.history["edge_ratio"] > 0.9
    assert (at_edge[:6].any(), at_edge[6:].any()) == (True, False)
    assert len(events(tmp_path, "measured")["edge_ratio"]) == 3
    assert events(tmp_path, "summary")["share_at_edge"] == [(3, 0.0)]


@pytest.mark.parametrize(("first_loss", "ratio"), [(None, 1.1), (0.21, 1.025)])
def test_results_take_the_loss_before_training(first_loss, ratio):
    """Of 0.21, the third loss is less than a tenth, so that its ratio counts no more."""
    table = made_up.metrics(ratios=[0.95, 1.1, 3.0], loss=[0.1, 0.05, 0.02])
    results = Card("Adam", {}, "mean_squared_error", {}).results(table, first_loss)
    assert results["edge_ratio_R"] == pytest.approx(ratio)


def test_picture_is_a_card(run):
    directory, _ = run
    [(width, height, image)] = [
        tensor for plugin, *_, tensor in summaries(directory, "summary") if plugin == "images"
    ]
    assert image.startswith(b"\x89PNG")
    assert int(width) > int(height) > 400


def test_text_card_says_what_runs_and_how_to_read(run):
    directory, _ = run
    [text] = [
        str(np.asarray(tensor).item().decode())
        for plugin, *_, tensor in summaries(directory, "measured")
        if plugin == "text"
    ]
    for part in (
        "| optimizer | Adam(learning_rate=0.01",
        "beta_1=0.8",
        "(2 + 2β) / ((1 - β) η) = 18/η",
        "1800 now",
        "How to read",
        "| num_eigenvalues | 3 |",
        "43 trainable parameters",
    ):
        assert part in text
    [read] = read_runs([directory])
    assert (read.optimizer, read.settings["beta_1"]) == ("Adam", 0.8)
    assert read.card["batch size"] == "4"


FORMULAS = {
    "none": (Momentum.none(), "2/η"),
    "heavy ball": (Momentum.heavy_ball(0.9), "(2 + 2β) / η = 3.8/η with β = 0.9"),
    "ema": (Momentum.heavy_ball(0.9, ema=True), "(2 + 2β) / ((1 - β) η) = 38/η with β = 0.9"),
    "nesterov": (Momentum.nesterov(0.5), "(2 + 2β) / ((1 + 2β) η) = 1.5/η with β = 0.5"),
    "other": (Momentum(0.5, 0.3, 0.2, 0.1), ""),
    "of the user's own": (object(), ""),
}


@pytest.mark.parametrize(("momentum", "text"), FORMULAS.values(), ids=FORMULAS)
def test_formula_of_the_threshold(momentum, text):
    assert formula(momentum) == text


class Silent(keras.optimizers.SGD):
    def get_config(self):
        raise NotImplementedError


@pytest.mark.parametrize("optimizer", [None, Silent(0.1), keras.optimizers.Ftrl()])
def test_card_of_an_optimizer_that_tells_nothing(optimizer):
    model, *_ = build("dense", "adam")
    assert "How to read" in describe(model, optimizer, None, {}).markdown()
