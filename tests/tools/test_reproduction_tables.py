"""The tables of the pages on the reproduction: every number is that of the figure's table."""

import math
import re
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# What the head of a column stands for in the tables that `tools/figures.py` writes.
COLUMNS = {
    **{"η": "learning_rate", "β₁": "beta_1", "β₂": "beta_2", "seed": "seed"},
    **{"examples": "examples", "batch": "batch", "eigenvectors": "num_eigenvalues"},
    **{"λ*": "threshold", "steps": "steps", "fitted at": "fit_step", "window": "window"},
    **{"steps to the edge": "edge_step", "to the edge": "edge_step", "claim": "claim"},
    **{"R": "R", "R to end": "R_to_end", "claim holds": "claim_holds", "holds": "claim_holds"},
    "λ₁(H) at its start": "sharpness_begin",
    "λ₁(H) at the window's start": "sharpness_begin",
    "at its end": "sharpness_end",
    "remark": "remark",
    "median ratio, steps 50 to 150": "mid_ratio",
    "largest ratio": "largest_ratio",
    **{"varied": "panel", "λ₁(H)": "sharpness", "test error": "test_error"},
    "over momentum's at equal steps": "ratio_to_momentum",
    **{"crossings": "crossings", "steps above λ*, median": "steps_above"},
    **{"growth of ‖∇f‖²": "gradient_growth", "growth of ‖P‖²": "preconditioner_growth"},
    **{"‖∇f‖² at least doubles": "gradient_grew", "‖P‖² grows by 1%": "preconditioner_grew"},
    "share of λ₁(H) in the fall": "share_of_H",
    **{"spikes": "spikes", "measurements of them": "measurements_of_spikes"},
    "share of ‖P^-½∇f‖² along the top, at spikes": "share_at_spikes",
    "elsewhere": "share_elsewhere",
    **{"edge ratio at step 1,000": "ratio_at_half", "at step 2,000": "last_ratio"},
    **{"λ/λ*": "edge_ratio", "stable by theory": "stable_by_theory", "converged": "converged"},
    "f at step 100 (0.5 at the start)": "final_objective",
    "λ/λ* at the start": "first_edge_ratio",
    "step of the peak": "peak_step",
    r"\|x\| there (1 at the start)": "peak_distance",
    "first step with λ/λ* < 1": "stable_step",
    r"lowest \|x\| after the peak": "lowest_after_peak",
    r"\|x\| at step 40": "final_distance",
    "largest g² (1 at the start)": "largest_squared_gradient",
    **{"at step": "largest_step", "g² at step 30": "final_squared_gradient"},
    **{"algorithm": "algorithm", "at η = 0.1, β₁ = 0.9": "threshold"},
    **{"growth factor at 0.999 λ*": "growth_below", "at 1.001 λ*": "growth_above"},
    "edge ratio at 5% of the warm-up": "ratio_at_5%",
    **{f"{part}%": f"ratio_at_{part}%" for part in (10, 25, 50, 75, 100)},
    "slope from there": "slope",
}
# The tables of a page, in its order: heading, number below it, the figure's table, panel if any.
TABLES = [
    *(
        ("fully_connected", "### (a) Learning rate and (b) β₁, at the paper's scale", *table)
        for table in ((0, "fig01", "a"), (1, "fig01", "b"))
    ),
    ("fully_connected", "### (c) β₂, at a smaller scale", 0, "fig01", "c"),
    *(
        ("fully_connected", heading, 0, name, None)
        for heading, name in {
            "## Figure 3: with a frozen preconditioner the raw sharpness stops rising": "fig03",
            "## Figure 5: eight adaptive optimizers": "fig05",
            "### At the paper's scale": "paper/fig08",
            "### At a smaller scale": "fig08",
            "## Figure 9: what follows a crossing": "fig09",
            "## Figure 18: spikes lie in the top eigenvectors": "fig18",
            "## Figure 13: without a preconditioner": "fig13",
            "## Figure 16: freezing the preconditioner": "fig16",
        }.items()
    ),
    *(
        ("networks", heading, 0, name, None)
        for heading, name in {
            "## Figure 4: other networks train at the edge": "fig04",
            "## Figure 6: minibatches stay below the edge": "fig06",
            "## Figure 11: Adam against momentum": "fig11",
            "## Figure 15: very small learning rates": "cnn/fig15",
            "## Figure 16 on the CNN": "cnn/fig16",
        }.items()
    ),
    *(
        ("quadratic", heading, 0, name, None)
        for heading, name in {
            "## Table 1: the thresholds": "table01",
            "## Figure 2: the threshold of heavy ball": "fig02",
            "## Figure 12: RMSprop's divergence heals": "fig12",
            "## Figure 17: large gradients while stable": "fig17",
        }.items()
    ),
    (
        *("translation", "## Figure 7: warm-up pushes the preconditioned sharpness down"),
        *(0, "fig07", None),
    ),
    ("README", "## How much R depends on the seed", 0, "quickstart", None),
]


def table_below(page: str, heading: str, number: int) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table."""
    text = (DOCS / "reproduction" / f"{page}.md").read_text()
    section = text.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    found = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()
    head, _, *lines = ([c.strip() for c in re.split(r"(?<!\\)\|", f)[1:-1]] for f in found)
    return head, lines


def agrees(cell: str, value) -> bool:
    """Whether a cell states a value, rounded to the digits that it has."""
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return cell == ("yes" if value else "no")
    if isinstance(value, str):
        return cell in (value, value.removeprefix("fig04")) or cell.lower() == value.replace(
            "_", " "
        )
    if math.isnan(value):
        return cell == ""
    stated = re.search(r"-?[\d,]*\.?\d+(?:e[+-]?\d+)?", cell)
    if stated is None:
        return False
    number = Decimal(stated[0].replace(",", ""))
    exact, exponent = Decimal(repr(float(value))), int(number.as_tuple().exponent)
    # Zeros at the end are left out, so that an integer may stand for three digits.
    rounding = Decimal(10) ** exponent / 2 if exponent else abs(exact) / 200
    return abs(exact - number) <= rounding * Decimal("1.001")


@pytest.mark.parametrize(("page", "heading", "number", "name", "panel"), TABLES)
def test_cells_state_the_values_of_the_figures_table(page, heading, number, name, panel):
    head, lines = table_below(page, heading, number)
    values = pd.read_csv(DOCS / "figures" / f"{name}.csv")
    if panel:
        values = values[values["panel"] == panel]
    assert len(lines) == len(values)
    compared = [column for column in head if COLUMNS.get(column) in values]
    assert len(compared) >= 3
    for line, (_, row) in zip(lines, values.iterrows(), strict=True):
        for column, cell in zip(head, line, strict=True):
            if column in compared:
                assert agrees(cell, row[COLUMNS[column]]), (column, cell, row[COLUMNS[column]])


def test_solutions_have_the_sharpness_and_the_error_of_both_figures():
    head, lines = table_below(
        "networks", "## Figures 10 and 19: sharpness and test error of the solutions", 0
    )
    figures = DOCS / "figures"
    both = pd.merge(
        pd.read_csv(figures / "fig10.csv"),
        pd.read_csv(figures / "fig19.csv"),
        how="outer",
        on=["panel", "batch", "learning_rate", "beta_2", "steps"],
    )
    for line in lines:
        cells = dict(zip(head, line, strict=True))
        same = both[(both["panel"] == cells["varied"]) & (both["batch"] == int(cells["batch"]))]
        same = same[
            (same["learning_rate"] == float(cells["η"])) & (same["beta_2"] == float(cells["β₂"]))
        ]
        [(_, row)] = same.iterrows()
        for column, cell in cells.items():
            assert agrees(cell, row[COLUMNS[column]]), (column, cell)
    assert len(lines) == len(both)


@pytest.mark.parametrize(
    ("cell", "value", "expected"),
    [
        *(("0.976", 0.97640, True), ("0.976", 0.97660, False), ("1.24e+03", 1235.3, True)),
        *(("1.24e+03", 1246.0, False), ("380,000", 380_000.01, True), ("1", 0.9966, True)),
        *(("", math.nan, True), ("0.9", math.nan, False), ("", 0.9, False), ("yes", True, True)),
        *(("1", 0.97, False), ("25", 25, True), ("25", 26, False)),
        *(("yes", False, False), ("-1.16", -1.1631, True), ("127-fold", 126.98, True)),
    ],
)
def test_a_cell_agrees_with_what_rounds_to_it(cell, value, expected):
    assert agrees(cell, value) is expected
