"""The code in the documentation runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

import keras_aeos

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def code_blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def anchors(page):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


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


def test_rows_on_64_devices_are_those_of_the_formula_beside_them(capsys):
    exec(code_blocks("scaling.md")[0], {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert set(lines) <= set((DOCS / "scaling.md").read_text().splitlines())


def test_check_on_the_page_on_exactness():
    names: dict = {}
    exec(code_blocks("exactness.md")[0], names)  # noqa: S102
    assert "/spectral' (SpectralNormalization)" in names["found"]
