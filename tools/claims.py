"""Judge the claims of the paper from the tables of the figures.

    python tools/claims.py docs/figures

prints a table, as Markdown: the claims, the figures that show them, how many runs or comparisons
hold, and the numbers. Everything follows from the CSV files that `tools/figures.py` wrote.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

# As in `keras_aeos.summaries.edge`, whose import takes seconds: the ratio at which the edge counts
# as reached, and how far above 1 it may lie.
REACHED, ABOVE_THE_EDGE = 0.9, 1.15

# Ratios of λ₁(H) at the end and at the edge: from where on it has risen, and how far it may change
# where it stays.
RISEN, CONSTANT = 1.15, 0.1
# A rank correlation that counts as a trend, and a ratio that rises too little to count as rising.
TREND, LEVEL = 0.5, 1.2
# A slope over the warm-up that is near the threshold's, -1.
SLOPES = (-1.5, -0.5)

Tables = Callable[[str], pd.DataFrame]


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim: how many of them hold, and the numbers."""

    holds: int
    of: int
    unit: str
    measured: str

    def __str__(self) -> str:
        """The verdict, as in "4 of 5 runs"."""
        return f"{self.holds} of {self.of} {self.unit}"


@dataclass(frozen=True)
class Claim:
    """A claim, in the order of the paper's summary, with the figures that show it."""

    text: str
    figures: str
    judge: Callable[[Tables], Verdict]


def edge(*names: str, optimizers: Sequence[str] = ()) -> Callable[[Tables], Verdict]:
    """Judge R, or R to the end, of all runs in some tables, or of some optimizers."""

    def judge(tables: Tables) -> Verdict:
        runs = pd.concat([tables(name) for name in names])
        runs = runs[runs["optimizer"].isin(optimizers)] if optimizers else runs
        # R to the end stands in for R where the data were fitted before the edge.
        ratios = runs["R"].fillna(runs["R_to_end"]).dropna()
        missed = runs["edge_step"].isna().sum()
        left = f"; {missed} did not reach the edge" if missed else ""
        holds = int(runs["claim_holds"].eq(True).sum())
        return Verdict(holds, len(runs), "runs", f"R {spread(ratios)}{left}")

    return judge


def growth(*names: str, rises: bool) -> Callable[[Tables], Verdict]:
    """Judge whether the raw sharpness rises at the edge, or stays within a tenth."""

    def judge(tables: Tables) -> Verdict:
        runs = pd.concat([tables(name) for name in names])
        factors = (runs["sharpness_end"] / runs["sharpness_begin"]).dropna()
        holds = factors > RISEN if rises else (factors - 1).abs() <= CONSTANT
        measured = f"λ₁(H) at the end {spread(factors)} times that at the edge"
        return Verdict(int(holds.sum()), len(factors), "runs at the edge", measured)

    return judge


def flagged(name: str, column: str, measured: Callable[[pd.DataFrame], str]) -> Callable:
    """Judge by a column of a table that says whether a run holds."""

    def judge(tables: Tables) -> Verdict:
        runs = tables(name)
        return Verdict(int(runs[column].sum()), len(runs), "runs", measured(runs))

    return judge


def below_the_edge(tables: Tables) -> Verdict:
    """Judge whether the ratio stays below a bit above 1 in minibatches (Figure 6)."""
    largest = tables("fig06")["largest_ratio"]
    holds = int((largest <= ABOVE_THE_EDGE).sum())
    return Verdict(holds, len(largest), "runs", f"largest ratio {spread(largest)}")


def smaller_batches(tables: Tables) -> Verdict:
    """Judge whether smaller batches have lower ratios at equal learning rates (Figure 6)."""
    return _falls("fig06", "mid_ratio", "learning_rate", "batch", -1)(tables)


def larger_rates(column: str) -> Callable[[Tables], Verdict]:
    """Judge whether a column is smaller for larger learning rates at equal batches (Figure 6)."""
    return _falls("fig06", column, "batch", "learning_rate", 1)


def _falls(name: str, column: str, fixed: str, varied: str, sign: int) -> Callable:
    """Judge the neighbours in one setting, with another fixed: whether a column falls."""

    def judge(tables: Tables) -> Verdict:
        runs = tables(name)
        runs = runs.assign(mid_sharpness=runs["mid_ratio"] * runs["threshold"])
        changes = []
        for _, members in runs.groupby(fixed):
            values = members.sort_values(varied, ascending=sign > 0)[column]
            changes += [after / before for before, after in pairwise(values)]
        holds = int((np.array(changes) < 1).sum())
        return Verdict(holds, len(changes), "pairs", f"{spread(changes)} times the neighbor's")

    return judge


def warm_up(tables: Tables) -> Verdict:
    """Judge whether λ₁(P⁻¹H) meets the threshold in the warm-up and follows it down (Figure 7)."""
    runs = tables("fig07")
    follows = (runs["edge_step"] > 0) & runs["slope"].between(*SLOPES)
    slopes = ", ".join(f"{slope:.2f}" for slope in runs["slope"][follows])
    return Verdict(int(follows.sum()), len(runs), "runs", f"slopes {slopes}; the threshold's is -1")


def correlation(name: str, panel: str, sign: int) -> Callable[[Tables], Verdict]:
    """Judge the rank correlation with η or 1 - β₂, one for each batch size (Figures 10, 19)."""

    def judge(tables: Tables) -> Verdict:
        runs = tables(name)
        found = runs[runs["panel"] == panel].groupby("batch")["rank_correlation"].first()
        found = found.sort_index(ascending=False)
        holds = int((sign * found >= TREND).sum())
        numbers = " and ".join(f"{value:.2f}" for value in found)
        varied = {"learning_rate": "η", "beta_2": "1 - β₂"}[panel]
        return Verdict(
            holds, len(found), "batch sizes", f"rank correlations with {varied}: {numbers}"
        )

    return judge


def against_momentum(tables: Tables) -> Verdict:
    """Judge whether Adam's solutions are sharper than momentum's at equal steps (Figure 11)."""
    ratios = tables("fig11")["ratio_to_momentum"].dropna()
    return Verdict(
        int((ratios > 1).sum()), len(ratios), "pairs", f"{spread(ratios)} times as sharp"
    )


def levels_off(tables: Tables) -> Verdict:
    """Judge whether the ratio hardly rises over the second half, below 1 (Figure 15)."""
    runs = tables("cnn/fig15")
    rises = runs["last_ratio"] / runs["ratio_at_half"]
    holds = int(((rises < LEVEL) & (runs["last_ratio"] < 1)).sum())
    measured = f"the ratio rises {spread(rises)}-fold over the second half"
    return Verdict(holds, len(runs), "runs", measured)


def freezing(tables: Tables) -> Verdict:
    """Judge whether the ratio rises to 1 once P is frozen (Figure 16)."""
    both = pd.concat([tables("cnn/fig16"), tables("fig16")])
    last = both[both["freeze_step"].notna()]["last_ratio"]
    return Verdict(int((last >= REACHED).sum()), len(last), "runs", f"last ratio {spread(last)}")


def spread(values: Sequence[float] | pd.Series) -> str:
    """The smallest and the largest value, to three digits."""
    low, high = (f"{value:#.3g}".rstrip(".") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


HEAVY_BALL = ("adam", "adamw", "adafactor", "amsgrad", "padam", "heavy_ball")
OTHERS = ("rmsprop", "adagrad", "nadam", "gradient_descent", "nesterov")
CLAIMS = (
    Claim("1. Adam: R is 0.9 to 1.15", "1, 8", edge("fig01", "paper/fig08")),
    Claim("1. meanwhile λ₁(H) keeps rising", "1, 8", growth("fig01", "paper/fig08", rises=True)),
    Claim("2. frozen Adam: R is 0.9 to 1.15", "3", edge("fig03")),
    Claim("2. meanwhile λ₁(H) stays", "3", growth("fig03", rises=False)),
    Claim(
        "3. with heavy-ball momentum R is 0.9 to 1.15",
        "5, 13",
        edge("fig05", "fig13", optimizers=HEAVY_BALL),
    ),
    Claim("3. otherwise R is 1 to 1.5", "5, 13", edge("fig05", "fig13", optimizers=OTHERS)),
    Claim("4. minibatches: the ratio stays below 1.15", "6", below_the_edge),
    Claim("4. it is lower for smaller batches", "6", smaller_batches),
    Claim("4. it is lower for larger η", "6", larger_rates("mid_ratio")),
    Claim("4. λ₁(P⁻¹H) is lower for larger η", "6", larger_rates("mid_sharpness")),
    Claim("5. warm-up pushes λ₁(P⁻¹H) down along 38/η", "7", warm_up),
    Claim("6. sharper solutions for smaller η", "10", correlation("fig10", "learning_rate", -1)),
    Claim("6. sharper solutions for smaller β₂", "10", correlation("fig10", "beta_2", 1)),
    Claim("6. Adam's are sharper than momentum's", "11", against_momentum),
    Claim(
        "7. EMA heavy ball diverges above η = 38",
        "2",
        flagged(
            "fig02",
            "as_in_theory",
            lambda runs: (
                f"f at step 100 is {spread(runs['final_objective'][:3])} below, "
                f"{spread(runs['final_objective'][3:])} above"
            ),
        ),
    ),
    Claim(
        "7. RMSprop's divergence heals",
        "12",
        flagged("fig12", "healed", lambda runs: f"peak of \\|x\\| {spread(runs['peak_distance'])}"),
    ),
    Claim("8. at tiny η the ratio levels off below 1", "15", levels_off),
    Claim("8. freezing P lets it rise to 1", "16", freezing),
    Claim(
        "9. the top 4 eigenvectors hold 0.9 of a spike",
        "18",
        flagged(
            "fig18", "claim_holds", lambda runs: f"median share {spread(runs['share_at_spikes'])}"
        ),
    ),
)


def tables_of(directory: Path) -> Tables:
    """Read the tables of figures below a directory, each with what the verdicts need beside."""

    def read(name: str) -> pd.DataFrame:
        table = pd.read_csv(directory / f"{name}.csv")
        if name == "fig02":
            table["as_in_theory"] = table["converged"] == table["stable_by_theory"]
        return table

    return read


def rows(tables: Tables) -> list[tuple[str, ...]]:
    """The lines of the table of claims."""
    found = [(claim, claim.judge(tables)) for claim in CLAIMS]
    return [(claim.text, claim.figures, str(v), v.measured) for claim, v in found]


def main(arguments: Sequence[str]) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/claims.py", description="Judge the claims of the paper."
    )
    parser.add_argument("tables", type=Path, metavar="DIR", help="where the tables are")
    options = parser.parse_args(arguments)
    try:
        lines = rows(tables_of(options.tables))
    except OSError as error:
        print(f"error: {error.strerror}. Received: {error.filename}", file=sys.stderr)
        return 2
    print("| claim | figures | holds | measured |\n| --- | --- | --- | --- |")
    for line in lines:
        print(f"| {' | '.join(line)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
