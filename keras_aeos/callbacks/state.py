"""What the next rows of a monitor depend on beside the model, and its file."""

import collections
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_aeos import array_files
from keras_aeos.callbacks.guarded_meter import GuardedMeter
from keras_aeos.callbacks.quantities import TABLES, Tables
from keras_aeos.callbacks.schedule import Automatic
from keras_aeos.callbacks.watched_fit import WatchedFit
from keras_aeos.curvature import layers
from keras_aeos.curvature.precision import full_precision

_VERSION = 2
# What is kept of each object that has a memory: a file sets these attributes and no others.
_KEPT: dict[str, tuple[str, ...]] = {
    "schedule": (
        *("_setup", "_spent", "_costs", "_elapsed", "_ratio", "_last_step", "_due"),
        "_seconds_per_update",
    ),
    "latest": ("_values", "first_loss", "_begun"),
    "unconverged": ("_num_in_succession", "_said"),
    "guarded_meter": ("_num_failures", "refused", "_falls_back"),
    "meter": ("_num_rows", "_seconds", "_warned"),
    "critical": ("_guess",),
    "fit": ("_num_batches", "_counted"),
    "probe": ("confirmed", "_num_missing"),
}
_VECTORS, _EXAMPLES = "vectors/", "examples/"


@dataclasses.dataclass
class State:
    """The state of a monitor after some updates.

    Attributes:
        facts: Rows, tables, schedule and counters, as JSON has them. Without the rows and the
            tables if ``facts["complete"]`` is false: the logs have them.
        arrays: The vectors from which the next solves start, and the examples that were gathered.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def step(self) -> int:
        """Number of updates at the last row; 0 without one."""
        return self.facts["step"]

    @property
    def num_updates_covered(self) -> int:
        """Number of updates up to which it holds all rows."""
        return self.step if self.facts["complete"] else 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, dictionaries of the columns."""
        return [dict(zip(self.facts["columns"], row, strict=True)) for row in self.facts["rows"]]

    @property
    def counts_batches(self) -> bool:
        """Whether the steps are batches, because the optimizer counts no updates."""
        return bool(self.facts.get("fit", {}).get("_counted"))

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What the rows have in the tables beside them."""
        return self.facts["tables"]

    def until(self, step: int) -> "State":
        """The state, or if it is a later one what of it holds at an earlier step: the rows."""
        if self.step <= step:
            return self
        place = self.facts["columns"].index("step")
        kept = ("version", "complete", "columns", "warned", "num_rows_before", "seconds")
        facts = {key: self.facts[key] for key in kept}
        facts["rows"] = [row for row in self.facts["rows"] if row[place] <= step]
        facts["tables"] = {
            name: [line for line in lines if line["step"] <= step]
            for name, lines in self.tables.items()
        }
        facts["step"] = facts["rows"][-1][place] if facts["rows"] else 0
        return State(facts, {})

    def extend(self, rows: list[dict[str, Any]], tables: Tables) -> None:
        """Add rows that follow those that it holds."""
        facts = self.facts
        facts["rows"] += [[row[name] for name in facts["columns"]] for row in rows]
        for name, lines in tables.items():
            self.tables[name] += lines
        if "meter" in facts:
            facts["meter"]["_num_rows"] += sum(row["step"] > self.step for row in rows)
        if rows:
            facts["step"] = max(self.step, rows[-1]["step"])
        facts["complete"] = True

    def text(self) -> str:
        """The facts as a text; `parsed` is the inverse."""
        return json.dumps(self.facts, default=_as_number)

    def write(self, path: pathlib.Path) -> None:
        """Write the state to a file, whole or not at all.

        Raises:
            OSError: If it can't be written.
        """
        array_files.write(path, self.arrays, self.text())


def read(path: pathlib.Path) -> State:
    """Read the state in a file.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is damaged or of another kind.
    """
    arrays, text = array_files.read(path)
    return parsed(text, arrays)


def parsed(text: str, arrays: dict[str, np.ndarray]) -> State:
    """The state of a text and arrays.

    Raises:
        ValueError: If the text is not that of a state.
    """
    try:
        facts = json.loads(text)
    except RecursionError as error:
        raise ValueError("its text is nested too deeply") from error
    if not isinstance(facts, dict) or facts.get("version") != _VERSION:
        raise ValueError("it does not hold the state of a monitor, or that of another version")
    if not all(isinstance(facts.get(key), list) for key in ("columns", "rows")):
        raise ValueError("it has no rows")
    tables = facts.get("tables")
    if not isinstance(tables, dict) or tables.keys() != TABLES.keys():
        raise ValueError("it does not have the tables of its rows")
    num_columns = len(facts["columns"])
    if not all(isinstance(row, list) and len(row) == num_columns for row in facts["rows"]):
        raise ValueError("its rows do not have its columns")
    if not isinstance(facts.get("step"), int) or not isinstance(facts.get("complete"), bool):
        raise ValueError("it does not say of which step it is")
    return State(facts, arrays)


def of(monitor: Any, complete: bool = True) -> State:
    """The present state of an `AEoSMonitor`; without the rows so far if not `complete`."""
    if monitor._loaded is not None:
        return monitor._loaded
    facts: dict[str, Any] = {
        "version": _VERSION,
        "complete": complete,
        "step": monitor._rows[-1]["step"] if monitor._rows else 0,
        "columns": monitor.columns,
        "rows": [[row[name] for name in monitor.columns] for row in monitor._rows if complete],
        "tables": {k: list(v) if complete else [] for k, v in monitor._tables.items()},
        "warned": sorted(monitor._warned),
        "num_rows_before": monitor._num_rows_before,
        "seconds": time.perf_counter() - monitor._began,
        "guarded_meter": _kept("guarded_meter", monitor._meter),
        "unconverged": _kept("unconverged", monitor._unconverged),
        "latest": _kept("latest", monitor._latest),
    }
    if isinstance(monitor._schedule, Automatic):
        facts["schedule"] = _kept("schedule", monitor._schedule)
    arrays: dict[str, np.ndarray] = {}
    if monitor._fit is not None:
        facts["fit"] = _kept("fit", monitor._fit)
        facts["probe"] = _kept("probe", monitor._fit.probe)
        facts["examples"] = _examples(monitor._fit.probe.batches, arrays)
    waiting, meter = monitor._unmeasured, monitor._meter.meter
    if waiting is not None:  # no row since it was restored
        kept = ("meter", "critical", "num_solves")
        facts |= {k: waiting.facts[k] for k in kept if k in waiting.facts}
        arrays |= {k: v for k, v in waiting.arrays.items() if k.startswith(_VECTORS)}
    elif meter is not None:
        facts["meter"] = _kept("meter", meter)
        facts["critical"] = _kept("critical", meter.critical)
        facts["num_solves"] = meter._tracker._num_solves
        arrays |= {_VECTORS + k: v.numpy() for k, v in meter._tracker._last.items()}
    return State(facts, arrays)


def restore(monitor: Any, state: State, fit: WatchedFit) -> None:
    """Give a monitor and the `fit` that begins a state; `restore_meter` completes it.

    Raises:
        ValueError: If the state is damaged.
    """
    facts = state.facts
    try:
        monitor._take(facts["columns"], state.rows, state.tables)
        monitor._last_step = state.step or None
        monitor._warned = set(facts["warned"])
        monitor._num_rows_before = int(facts["num_rows_before"])
        monitor._began -= float(facts["seconds"])
        for name, owner in (
            ("guarded_meter", monitor._meter),
            ("unconverged", monitor._unconverged),
            ("latest", monitor._latest),
            ("schedule", monitor._schedule),
            ("probe", fit.probe),
        ):
            _give(name, owner, facts)
        if state.counts_batches:
            _give("fit", fit, facts)
            fit._begin = fit._num_batches
        examples = facts.get("examples")
        if examples is None:  # they could not be kept: gather them again
            fit.probe._num_missing = monitor._probe_size
        else:
            fit.probe.batches[:] = [_unpacked(batch, state.arrays) for batch in examples]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the state of the monitor is damaged: {type(error).__name__}: {error}"
        ) from error


def restore_meter(state: State, guarded: GuardedMeter, model: Any, fit: WatchedFit) -> None:
    """Let the solves of the first measurement start from a state's vectors."""
    try:
        with full_precision():
            meter = guarded._current(model, fit)
            _give("critical", meter.critical, state.facts)
            objective = meter._current_objective()
    except Warning:  # which the user wants to be an error
        raise
    except Exception:  # the measurement fails in the same way, and says so
        return
    vectors = {
        name.removeprefix(_VECTORS): array
        for name, array in state.arrays.items()
        if name.startswith(_VECTORS)
    }
    dtype, size = tf.as_dtype(objective.dtype), objective.num_parameters
    blocks = layers.blocks(objective, lambda vector: vector)
    sizes = {f"layer {number}": entry[-1] for number, entry in enumerate(blocks)}
    if vectors and all(
        array.shape[1:] == (sizes.get(name, size),) and tf.as_dtype(array.dtype) == dtype
        for name, array in vectors.items()
    ):
        tracker = meter._tracker
        try:
            tracker._last = {name: tf.constant(array) for name, array in vectors.items()}
            tracker._num_solves = {name: int(n) for name, n in state.facts["num_solves"].items()}
            _give("meter", meter, state.facts)
        except (AttributeError, KeyError, TypeError, ValueError):  # damage: begin cold
            tracker.clear()


def _kept(name: str, owner: Any) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, set | collections.deque) else value
        for key, value in ((key, getattr(owner, key)) for key in _KEPT[name])
    }


def _give(name: str, owner: Any, facts: Mapping[str, Any]) -> None:
    """Set what was kept of an object, in the types that it has."""
    for key in _KEPT[name] if name in facts else ():
        value, present = facts[name][key], getattr(owner, key)
        if isinstance(present, set):
            value = set(value)
        elif isinstance(present, collections.deque):
            value = collections.deque(value, present.maxlen)
        setattr(owner, key, value)


def _as_number(value: Any) -> Any:
    """A number of NumPy or TensorFlow as JSON has it."""
    return np.asarray(value).item()


def _examples(batches: Sequence[Any], arrays: dict[str, np.ndarray]) -> list[Any] | None:
    """Descriptions of batches whose tensors are added to `arrays`; None if one can't be."""
    added: dict[str, np.ndarray] = {}
    try:
        described = [_packed(batch, added) for batch in batches]
    except TypeError:
        return None
    arrays.update(added)
    return described


def _packed(part: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A nest of tensors as JSON has it, with the names of its tensors in `arrays`."""
    if part is None:
        return None
    if isinstance(part, tf.SparseTensor):
        tensors = (part.indices, part.values, part.dense_shape)
        return {"sparse": [_packed(tensor, arrays) for tensor in tensors]}
    if isinstance(part, tf.RaggedTensor):
        return {"ragged": [_packed(t, arrays) for t in (part.values, part.row_splits)]}
    if isinstance(part, Mapping):
        return {"dict": [[key, _packed(value, arrays)] for key, value in part.items()]}
    if isinstance(part, list | tuple):
        kind = "list" if isinstance(part, list) else "tuple"
        return {kind: [_packed(value, arrays) for value in part]}
    dtype = tf.as_dtype(part.dtype)
    if not (dtype.is_bool or dtype.is_integer or dtype.is_floating or dtype.is_complex):
        raise TypeError(f"Only numbers are kept. Received: a tensor of dtype {dtype.name}")
    array = np.asarray(part)
    name = f"{_EXAMPLES}{len(arrays)}"
    arrays[name] = array_files.plain(array)
    return {"tensor": [name, dtype.name]}


def _unpacked(description: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Inverse of `_packed`."""
    if description is None:
        return None
    ((kind, parts),) = description.items()
    if kind == "tensor":
        name, dtype = parts
        return tf.constant(array_files.typed(arrays[name], tf.as_dtype(dtype).as_numpy_dtype))
    if kind == "dict":
        return {key: _unpacked(value, arrays) for key, value in parts}
    values = [_unpacked(part, arrays) for part in parts]
    if kind == "sparse":
        return tf.SparseTensor(*values)
    if kind == "ragged":
        return tf.RaggedTensor.from_row_splits(*values)
    return values if kind == "list" else tuple(values)
