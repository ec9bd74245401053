"""The picture of the rules: their ROC curves, and how early their alarms come."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from tools.alarming import judging
from tools.alarming.evaluation import Case, Scored, threshold

# False alarms per training at which the notice is drawn.
_RATE = 0.05


def draw(cases: Sequence[Case]) -> Figure:
    """Draw the ROC curves, and how many events are announced how far ahead."""
    rules = judging.left_out(cases)
    scores: dict[str, list[Scored]] = {
        judging.OURS: [
            judging.of_ours(case, rules[case.training.network], judging.SPACINGS[0])
            for case in cases
        ]
    }
    scores |= judging.of_rivals(cases)
    with sns.axes_style("ticks"):
        figure = _drawn(scores)
    sns.despine(figure)
    return figure


def _drawn(scores: Mapping[str, Sequence[Scored]]) -> Figure:
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    roc, notice = figure.subplots(1, 2)
    colours = sns.color_palette("colorblind", len(scores))
    for colour, (name, found) in zip(colours, scores.items(), strict=True):
        events = [each for each in found if each.onset is not None]
        others = [each.score for each in found if each.onset is None]
        width = 2.6 if name == judging.OURS else 1.3
        limits = np.unique([*others, *(each.score for each in events)])
        rates = [
            [np.mean(np.greater(part, limit)) for limit in (*limits[::-1], -np.inf)]
            for part in (others, [each.score for each in events])
        ]
        roc.plot(*rates, color=colour, linewidth=width, label=name)
        limit = threshold(others, _RATE)
        ahead = np.nan_to_num([each.notice(limit) for each in events])
        distances = np.arange(1, 121)
        shares = [np.mean(ahead >= distance) for distance in distances]
        notice.plot(distances, shares, color=colour, linewidth=width)
    roc.set(
        xlabel="false alarms per training",
        ylabel="events announced",
        xlim=(0.0, 1.0),
        ylim=(0.0, 1.02),
    )
    roc.legend(fontsize="small", loc="lower right", frameon=False)
    notice.set(
        xlabel="updates ahead, at least",
        ylabel=f"events announced, {_RATE:.0%} false alarms",
        ylim=(0.0, 1.02),
        xlim=(1, 120),
    )
    for axes in (roc, notice):
        axes.grid(alpha=0.3)
    return figure
