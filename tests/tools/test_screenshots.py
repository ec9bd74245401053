"""TensorBoard and the report, opened in a browser on a real run and a real sweep."""

import json
import urllib.request
from contextlib import contextmanager

import keras
import numpy as np
import pytest

from keras_aeos.callbacks import logs
from keras_aeos.summaries import command_line
from tools import browser, screenshots
from trainers.__main__ import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.command() is None, reason="Chromium is not installed"),
]
TINY = (
    *("-cn", "quickstart", "data.num_examples=60", "model.width=8", "steps=12"),
    *("monitor.update_freq=2", "monitor.num_eigenvalues=2"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run, a sweep, and logs of Keras' own callback beside the run."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(logs, "_SECONDS_FOR_PICTURE", 0.0)
        main([*TINY, "output_dir=run"])
        main([*TINY, "-m", "optimizer.learning_rate=1e-4,3e-4", "output_dir=sweep"])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    own = keras.callbacks.TensorBoard(str(root / "run" / "tensorboard"))
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, callbacks=[own])
    return root


@contextmanager
def opened(url):
    """TensorBoard's first page, once it shows charts."""
    with browser.page(1400, 4000) as page:
        page.open(url, "document.querySelectorAll('card-view').length > 2")
        page.wait("document.querySelector('card-view').innerText.includes('Smoothed')")
        yield page


GROUPS = "[...document.querySelectorAll('.group-title')].map(e => e.innerText.trim())"
TITLES = "[...document.querySelectorAll('card-view tb-truncated-path')].map(e => e.title)"
CARDS = "[...document.querySelectorAll('card-view')].map(e => e.innerText)"
TEXT = "document.body.innerText"
# The text of a page with parts that hide theirs.
DEEP_TEXT = """
(function text(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.tagName)) return "";
  return [node.shadowRoot, ...node.childNodes].filter(Boolean).map(text).join(" ");
})(document.body)
"""
# The colours of the first chart's curves.
COLOURS = (
    "[...document.querySelector('card-view').querySelectorAll('.row-circle span')]"
    ".map(e => getComputedStyle(e).backgroundColor)"
)
# Opens a group that is closed.
OPEN = """
[...document.querySelectorAll('metrics-card-group-toolbar button')]
  .find(e => e.innerText.includes('{}')).click()
"""
HISTOGRAM = "document.querySelector('tb-histogram svg') !== null"
PICTURE = "(document.querySelector('image-card img') || {naturalWidth: 0}).naturalWidth"


def data(url, path, body=None):
    request = urllib.request.Request(  # noqa: S310 - of this machine
        f"{url}data/plugin/{path}",
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.loads(answer.read())


def test_run_opens_with_the_chart_of_the_edge(root):
    with screenshots.tensorboard(root / "run" / "tensorboard") as url, opened(url) as page:
        groups, titles, cards, text, colours = map(
            page.evaluate, (GROUPS, TITLES, CARDS, TEXT, COLOURS)
        )
    # The user's own callback adds groups that begin with "epoch".
    assert groups[:2] == ["Pinned", "edge"]
    assert [group for group in groups[1:] if not group.startswith("epoch")] == [
        *("edge", "loss_curvature", "solver", "summary", "training"),
    ]
    assert titles[:2] == ["edge/edge_ratio", "edge/preconditioned_sharpness"]
    assert not {"step", "epoch"} & {title.rpartition("/")[2] for title in titles}
    # A curve and its line, in a table below each chart, in two colours.
    for card in cards[:2]:
        assert all(name in card for name in ("measured", "threshold"))
    assert len(set(colours)) == len(colours) == 2
    assert "train" in text.splitlines()  # the user's own


def test_run_has_a_histogram_and_its_picture(root):
    with screenshots.tensorboard(root / "run" / "tensorboard") as url, opened(url) as page:
        # The user's own group is the second one, which is open.
        page.evaluate(OPEN.format("loss_curvature"))
        page.wait(HISTOGRAM)
        page.evaluate(OPEN.format("summary"))
        page.wait(f"{PICTURE} > 400")


@pytest.mark.parametrize(
    ("plugin", "parts"),
    [
        ("text", ["What is trained", "38/η with β = 0.9", "How to read the charts"]),
        ("hparams", ["learning_rate", "summary/final_loss", "batch_size", "Adam"]),
    ],
)
def test_run_has_a_text_and_hyperparameters(root, plugin, parts):
    with (
        screenshots.tensorboard(root / "run" / "tensorboard") as url,
        browser.page(1400, 1000) as page,
    ):
        page.open(f"{url}#{plugin}")
        page.wait(f"{json.dumps(parts)}.every(part => {DEEP_TEXT}.includes(part))")


def test_sweep_has_short_names_and_hyperparameters(root):
    with screenshots.tensorboard(root / "sweep" / "tensorboard") as url:
        with opened(url) as page:
            text = page.evaluate(TEXT)
        groups = data(url, "hparams/session_groups", {
            "startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_UNKNOWN"],
        })  # fmt: skip
    for rate in ("1e-4", "3e-4"):
        assert f"eta={rate}/measured" in text
    found = [group["hparams"] for group in groups["sessionGroups"]]
    assert sorted(h["learning_rate"] for h in found) == pytest.approx([1e-4, 3e-4])
    assert {h["optimizer"] for h in found} == {"Adam"}


# Width in pixels, and whether the page is to be dark.
LOOKS = {"desktop": (1400, False), "phone": (390, False), "phone, dark": (390, True)}


@pytest.mark.parametrize(("width", "dark"), LOOKS.values(), ids=LOOKS)
def test_report_fits_the_window_and_draws_its_curves(root, tmp_path, width, dark):
    out = tmp_path / "report.html"
    assert command_line.main(["report", str(root / "sweep"), "-o", str(out)]) == 0
    with browser.page(width, 900, dark) as page:
        page.open(out.as_uri(), "window.Bokeh && Bokeh.documents.length > 0")
        charts = page.evaluate("document.querySelectorAll('.chart').length")
        drawn = "[...Bokeh.documents[0].all_models].filter(m => m.type === 'Figure').length"
        assert page.evaluate(drawn) == charts >= 4
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("performance.getEntriesByType('resource').length") == 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
        page.evaluate("document.querySelector('.legend').click()")
        hidden = "[...Bokeh.documents[0].all_models].filter(m => m.visible === false).length"
        assert page.evaluate(hidden) > charts
