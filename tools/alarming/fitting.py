"""The coefficients of the alarm's rule, from trainings: a logistic regression on their rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from keras_aeos import alarm_rule
from tools.alarming.evaluation import Case

# A row is a positive one if an event begins within so many updates after it.
HORIZON = 32


def rows_of(updates: pd.DataFrame, spacing: int) -> dict[str, np.ndarray]:
    """The rows of a training whose steps are multiples of a number, as the rule takes them."""
    measured = updates[updates["edge_ratio"].notna() & (updates["update"] % spacing == 0)]
    names = {"step": "update", "loss": "measured_loss"}
    return {
        name: measured[names.get(name, name)].to_numpy(np.float64) for name in alarm_rule.COLUMNS
    }


def fit(cases: Sequence[Case], spacings: Sequence[int]) -> alarm_rule.Rule:
    """Fit the rule to the rows of trainings at several spacings; its threshold is 1."""
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for case in cases:
        for spacing in spacings:
            rows = rows_of(case.updates, spacing)
            until = np.inf if case.event is None else case.event.onset
            known = rows["step"] < until
            columns = [function(rows)[known] for function in alarm_rule.FEATURES.values()]
            features.append(np.stack(columns, axis=1))
            ahead = until - rows["step"][known]
            labels.append(ahead <= HORIZON)
    x, y = np.concatenate(features), np.concatenate(labels)
    scale = x.std(axis=0)
    model = LogisticRegression(max_iter=1000).fit(x / scale, y)
    weights = model.coef_[0] / scale
    named = dict(zip(alarm_rule.FEATURES, weights.tolist(), strict=True))
    return alarm_rule.Rule(named, float(model.intercept_[0]), 1.0)
