"""TensorBoard and the report, opened in a browser on a real run and a real sweep."""

import json
import re
import urllib.request

import keras
import pytest

from keras_aeos.summaries import command_line
from tools import screenshots
from trainers.__main__ import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.browser() is None, reason="Chromium is not installed"),
]
TINY = ("-cn", "quickstart", "data.num_examples=60", "model.width=8", "steps=12")
TINY = (*TINY, "monitor.update_freq=2", "monitor.num_eigenvalues=2")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run, a sweep, and logs of Keras' own callback beside the run."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main([*TINY, "output_dir=run"])
        main([*TINY, "-m", "optimizer.learning_rate=1e-4,3e-4", "output_dir=sweep"])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    own = keras.callbacks.TensorBoard(str(root / "run" / "tensorboard"))
    model.fit([[1.0, 2.0]], [1.0], verbose=0, callbacks=[own])
    return root


def titles(page):
    """Names of the groups and of the charts that a page shows, from top to bottom."""
    groups = re.findall(r'class="group-name"[^>]*>\s*([^<]+?)\s*<', page)
    charts = re.findall(r'class="tag-path"[^>]*>(?:<[^>]*>|\s)*([\w/]+)', page)
    return groups, charts


def data(url, path, body=None):
    request = urllib.request.Request(  # noqa: S310 - of this machine
        f"{url}data/plugin/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.loads(answer.read())


def test_run_opens_with_the_chart_of_the_edge(root):
    with screenshots.tensorboard(root / "run" / "tensorboard") as url:
        page = screenshots.dom(f"{url}#timeseries")
        text = data(url, "text/tags")
    groups, charts = titles(page)
    assert groups[:2] == ["edge", "epoch_learning_rate"] or groups[0] == "edge"
    assert charts[0].endswith("edge_ratio")
    assert not {"step", "epoch"} & {chart.rpartition("/")[2] for chart in charts}
    assert text["measured"] == ["run"]
    for name in ("measured", "threshold", "train"):
        assert name in page


def test_sweep_has_short_names_and_hyperparameters(root):
    with screenshots.tensorboard(root / "sweep" / "tensorboard") as url:
        page = screenshots.dom(f"{url}#timeseries")
        groups = data(url, "hparams/session_groups", {
            "startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_UNKNOWN"],
        })  # fmt: skip
    for rate in ("1e-4", "3e-4"):
        assert f"eta={rate}/measured" in page
    found = [group["hparams"] for group in groups["sessionGroups"]]
    assert sorted(h["learning_rate"] for h in found) == pytest.approx([1e-4, 3e-4])
    assert {h["optimizer"] for h in found} == {"Adam"}


def test_report_draws_its_curves(root, tmp_path):
    out = tmp_path / "report.html"
    assert command_line.main(["report", str(root / "sweep"), "-o", str(out)]) == 0
    page = screenshots.dom(out.as_uri())
    assert page.count('<div class="chart">') >= 4
    assert "bk-Figure" in page
