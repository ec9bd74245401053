"""The verdicts on the paper's claims, and the page that states them."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from keras_aeos.summaries import edge
from tools import claims

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "reproduction" / "README.md").read_text()
EDGE = {"R_to_end": 9.0, "sharpness_begin": 10.0, "edge_step": 20.0}
REACHED = pd.DataFrame(
    [
        {**EDGE, "optimizer": "adam", "R": 1.0, "claim_holds": True, "sharpness_end": 30.0},
        {**EDGE, "optimizer": "adam", "R": 1.3, "claim_holds": False, "sharpness_end": 10.5},
        {"optimizer": "padam"},
        {"optimizer": "nadam", "R_to_end": 1.25, "claim_holds": True, "edge_step": 60.0},
    ]
)
MINIBATCHES = pd.DataFrame(
    {
        "batch": [100, 100, 10, 10],
        "learning_rate": [1e-3, 1e-2, 1e-3, 1e-2],
        "threshold": [38_000.0, 3_800.0, 38_000.0, 3_800.0],
        "mid_ratio": [0.5, 0.8, 0.6, 0.2],
        "largest_ratio": [0.9, 2.0, 0.9, 1.1],
    }
)
WARM_UP = pd.DataFrame({"edge_step": [60.0, 60.0, None], "slope": [-1.1, 2.5, None]})
SOLUTIONS = pd.DataFrame(
    {
        "panel": ["beta_2", "beta_2", "learning_rate"],
        "batch": [250, 1000, 1000],
        "rank_correlation": [0.4, 0.9, -1.0],
    }
)
RISES = pd.DataFrame({"ratio_at_half": [0.5, 0.8], "last_ratio": [0.9, 0.88]})
# What a claim makes of a table: (judge, table, verdict, the numbers).
JUDGED = {
    "at the edge": (
        claims.edge("any", optimizers=("adam", "padam")),
        REACHED,
        "1 of 3 runs",
        "R 1.00 to 1.30; 1 did not reach the edge",
    ),
    "to the end": (claims.edge("any", optimizers=("nadam",)), REACHED, "1 of 1 runs", "R 1.25"),
    "sharpness rises": (
        claims.growth("any", rises=True),
        REACHED,
        "1 of 2 runs at the edge",
        "λ₁(H) at the end 1.05 to 3.00 times that at the edge",
    ),
    "sharpness stays": (
        claims.growth("any", rises=False),
        REACHED,
        "1 of 2 runs at the edge",
        "λ₁(H) at the end 1.05 to 3.00 times that at the edge",
    ),
    "below the edge": (
        claims.below_the_edge,
        MINIBATCHES,
        "3 of 4 runs",
        "largest ratio 0.900 to 2.00",
    ),
    "smaller batches": (
        claims.smaller_batches,
        MINIBATCHES,
        "1 of 2 pairs",
        "0.250 to 1.20 times the neighbor's",
    ),
    "larger rates, ratio": (
        claims.larger_rates("mid_ratio"),
        MINIBATCHES,
        "1 of 2 pairs",
        "0.333 to 1.60 times the neighbor's",
    ),
    # 0.5 · 38,000 = 19,000 to 0.8 · 3,800 = 3,040; 0.6 · 38,000 = 22,800 to 0.2 · 3,800 = 760.
    "larger rates, sharpness": (
        claims.larger_rates("mid_sharpness"),
        MINIBATCHES,
        "2 of 2 pairs",
        "0.0333 to 0.160 times the neighbor's",
    ),
    "warm-up": (claims.warm_up, WARM_UP, "1 of 3 runs", "slopes -1.10; the threshold's is -1"),
    "smaller β₂": (
        claims.correlation("any", "beta_2", 1),
        SOLUTIONS,
        "1 of 2 batch sizes",
        "rank correlations with 1 - β₂: 0.90 and 0.40",
    ),
    "smaller η": (
        claims.correlation("any", "learning_rate", -1),
        SOLUTIONS,
        "1 of 1 batch sizes",
        "rank correlations with η: -1.00",
    ),
    "Adam and momentum": (
        claims.against_momentum,
        pd.DataFrame({"ratio_to_momentum": [0.5, 2.0, None]}),
        "1 of 2 pairs",
        "0.500 to 2.00 times as sharp",
    ),
    "levels off": (
        claims.levels_off,
        RISES,
        "1 of 2 runs",
        "the ratio rises 1.10 to 1.80-fold over the second half",
    ),
    "freezing": (
        claims.freezing,
        pd.DataFrame({"freeze_step": [None, 600.0], "last_ratio": [0.5, 0.95]}),
        "2 of 2 runs",
        "last ratio 0.950",
    ),
}


@pytest.mark.parametrize(("judge", "table", "holds", "measured"), JUDGED.values(), ids=JUDGED)
def test_verdict_counts_what_holds(judge, table, holds, measured):
    verdict = judge(lambda name: table)
    assert (str(verdict), verdict.measured) == (holds, measured)


def test_limits_are_those_of_the_package():
    assert (edge.REACHED, edge.AROUND[1]) == (claims.REACHED, claims.ABOVE_THE_EDGE)


def lines(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page, without its head."""
    section = PAGE.partition(f"{heading}\n")[2].partition("\n#")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line.strip("|")) for line in table[2:]]


def test_page_states_the_verdicts():
    stated = [tuple(cell.strip() for cell in line[:4]) for line in lines("## The claims, judged")]
    assert stated == claims.rows(claims.tables_of(FIGURES))


def test_page_gives_a_reason_for_every_miss():
    for *_, holds, _, reason in lines("## The claims, judged"):
        held, of = re.findall(r"\d+", holds)[:2]
        assert bool(reason.strip()) == (held != of), holds


def counted(name: str, column: str, value: str) -> str:
    """How many runs of a table hold, of those with a value in a column."""
    table = pd.read_csv(FIGURES / f"{name}.csv")
    table = table[table[column] == value]
    return f"{table['claim_holds'].eq(True).sum()} of {len(table)}"


# The counts in the table of figures, in the order of the cell.
COUNTS = {
    "1 (a)": [("fig01", "panel", "a")],
    "1 (b)": [("fig01", "panel", "b")],
    "1 (c)": [("fig01", "panel", "c")],
    "4": [("fig04", "panel", f"fig04{panel}") for panel in "abc"],
    "13": [("fig13", "optimizer", o) for o in ("gradient_descent", "heavy_ball", "nesterov")],
}
WHOLE = {"3": "fig03", "5": "fig05", "8": "paper/fig08", "Table 1": "table01"}


@pytest.mark.parametrize("figure", [*COUNTS, *WHOLE])
def test_table_of_figures_counts_the_runs(figure):
    [cell] = [
        line[-1] for line in lines("# The paper's figures, reproduced") if f"[{figure}]" in line[0]
    ]
    stated = re.findall(r"\d+ of \d+", cell)
    if figure in COUNTS:
        expected = [counted(*of) for of in COUNTS[figure]]
    else:
        holds = pd.read_csv(FIGURES / f"{WHOLE[figure]}.csv")["claim_holds"]
        expected = [f"{holds.eq(True).sum()} of {len(holds)}"]
    assert stated == expected


def test_program_prints_the_table_and_names_a_missing_one(tmp_path):
    def printed(directory):
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "claims.py", directory],
            capture_output=True,
            text=True,
            check=False,
        )

    assert f"| {' | '.join(claims.rows(claims.tables_of(FIGURES))[0])} |" in printed(FIGURES).stdout
    result = printed(tmp_path)
    assert result.returncode == 2
    assert (
        result.stderr == f"error: No such file or directory. Received: {tmp_path / 'fig01.csv'}\n"
    )
