"""What a run is, in words and numbers: the text card and the hyperparameters in TensorBoard."""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from keras_aeos.optimizers import dynamics
from keras_aeos.stability import Momentum
from keras_aeos.summaries.edge import claim, edge_summary, loss_kind

# Arguments of optimizers that become hyperparameters, beside the learning rate.
_ARGUMENTS = ("beta_1", "beta_2", "momentum", "nesterov", "rho", "weight_decay")
_HOW_TO_READ = """\
### How to read the charts

- `edge/edge_ratio` is λ₁(P⁻¹H) / λ*. Well below 1 the optimizer is stable. Around 1 it trains at
  the edge of stability: the step size now limits the curvature. Far above 1 for long, it diverges.
- `edge/preconditioned_sharpness` stands beside λ*, from which on the optimizer diverges.
- `loss_curvature/sharpness` is λ₁(H). It may rise at the edge, because P adapts.
- `solver/converged` and `solver/error_bound` say how far to trust a row.
"""


@dataclasses.dataclass(frozen=True)
class Card:
    """A run in words and numbers.

    Attributes:
        optimizer: Name of the optimizer's class.
        settings: Its arguments that are numbers, and the batch size if it is known.
        loss: Name of the loss.
        tables: Tables of names and values, by title.
    """

    optimizer: str
    settings: dict[str, float]
    loss: str
    tables: dict[str, dict[str, str]]

    def markdown(self) -> str:
        """The text card."""
        parts = []
        for title, table in self.tables.items():
            rows = "".join(f"| {k} | {_cell(v)} |\n" for k, v in table.items())
            parts.append(f"### {title}\n\n| | |\n|---|---|\n{rows}")
        return "\n".join([*parts, _HOW_TO_READ])

    def hyperparameters(self, metrics: pd.DataFrame) -> dict[str, float | str]:
        """What was chosen; the learning rate is the largest of the run."""
        rate = metrics["learning_rate"].max()
        rates = {} if math.isnan(rate) else {"learning_rate": float(f"{rate:.6g}")}
        return {"optimizer": self.optimizer, **rates, **self.settings}

    def results(self, metrics: pd.DataFrame, first_loss: float | None) -> dict[str, float]:
        """What came out: the last loss, R, the share of steps at the edge, the last sharpness."""
        claimed = claim(self.optimizer, self.settings)
        summary = edge_summary(metrics, loss_kind(self.loss), first_loss, claimed)
        known = metrics["sharpness"].dropna().tolist() if "sharpness" in metrics else []
        return {
            "final_loss": float(metrics["loss"].iloc[-1]),
            "edge_ratio_R": summary.ratio,
            "share_at_edge": summary.share_at_edge,
            "final_sharpness": known[-1] if known else math.nan,
        }


def describe(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None,
    batch_size: int | None,
    arguments: Mapping[str, Any],
) -> Card:
    """The card of a training.

    Args:
        model: The model.
        optimizer: The optimizer whose updates are measured; None if there is none.
        batch_size: Number of examples of a batch of `fit`; None if it is not known.
        arguments: The monitor's arguments.
    """
    inner = None if optimizer is None else dynamics.unwrap(optimizer)
    name = "none" if inner is None else type(inner).__name__
    config = _config(inner)
    settings = {k: config[k] for k in _ARGUMENTS if isinstance(config.get(k), (int, float))}
    if batch_size is not None:
        settings["batch_size"] = batch_size * (config.get("gradient_accumulation_steps") or 1)
    loss = _name(getattr(model, "loss", None) or "of the model's own")
    size = sum(math.prod(v.shape) for v in model.trainable_variables)
    given = {
        k: _name(v)
        for k, v in arguments.items()
        if v is not None and v is not False and k not in ("data", "log_dir")
    }
    tables = {
        "What is trained": {
            "model": f"{model.name}, {size:,} trainable parameters",
            "loss": loss,
            "optimizer": f"{name}({', '.join(f'{k}={v}' for k, v in _plain(config).items())})",
            **({} if batch_size is None else {"batch size": f"{settings['batch_size']:,}"}),
            "stability threshold": "not known" if inner is None else _threshold(inner),
        },
        "What is measured": {
            "on": "the first batches of `fit`" if arguments.get("data") is None else "`data`",
            **given,
        },
        "Environment": {
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "versions": ", ".join(f"{k} {v}" for k, v in _versions().items()),
            "machine": f"{platform.system()} {platform.machine()}",
            "devices": ", ".join(
                f"{len(found)} {kind}"
                for kind in ("CPU", "GPU")
                if (found := tf.config.list_logical_devices(kind))
            ),
        },
    }
    return Card(name, settings, loss, tables)


def formula(momentum: Any) -> str:
    """The formula of λ* without weight decay; empty for a momentum that is none of the named ones.

    >>> formula(Momentum.heavy_ball(0.9, ema=True))
    '(2 + 2β) / ((1 - β) η) = 38/η with β = 0.9'
    """
    if not isinstance(momentum, Momentum):
        return ""
    beta = momentum.beta
    named = {
        "(2 + 2β) / η": Momentum.heavy_ball(beta),
        "(2 + 2β) / ((1 - β) η)": Momentum.heavy_ball(beta, ema=True),
        "(2 + 2β) / ((1 + 2β) η)": Momentum.nesterov(beta),
        "(2 + 2β) / ((1 - β) (1 + 2β) η)": Momentum.nesterov(beta, ema=True),
    }
    if beta == 0.0 and momentum.recurrence(1.0).stability_threshold() == 2.0:
        return "2/η"
    size = momentum.recurrence(1.0).stability_threshold()
    for text, other in named.items():
        if other == momentum:
            return f"{text} = {size:.6g}/η with β = {beta:g}"
    return ""


def _threshold(optimizer: keras.optimizers.Optimizer) -> str:
    try:
        description = dynamics.describe(optimizer)
        value = f"{description.stability_threshold():.6g}"
    except TypeError:
        return "not known"
    decay = f" and weight decay {description.weight_decay:g}" if description.weight_decay else ""
    text = formula(description.momentum)
    return f"λ* = {text}{decay}; {value} now" if text else f"λ* = {value} now{decay}"


def _config(optimizer: keras.optimizers.Optimizer | None) -> dict[str, Any]:
    """The arguments of an optimizer; none of one that does not tell."""
    try:
        return {} if optimizer is None else optimizer.get_config()
    except Exception:  # an optimizer of the user's, in any way
        return {}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an optimizer that say something: numbers, words, flags that are set."""
    plain = {}
    for key, value in config.items():
        if isinstance(value, dict) and "class_name" in value:  # a schedule
            plain[key] = value["class_name"]
        elif isinstance(value, float):
            plain[key] = f"{value:.6g}"
        elif key != "name" and isinstance(value, (int, str)) and value is not False:
            plain[key] = value
    if not config.get("use_ema"):
        plain.pop("ema_momentum", None)
    return plain


def _name(value: Any) -> str:
    """A short name of a loss, a function or a plain value."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_name(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_name, value))
    return str(getattr(value, "name", getattr(value, "__name__", value)))


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for name in ("keras-aeos", "keras", "tensorflow", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
