"""One `fit` as a monitor sees it: its updates, variables, examples and loss."""

from collections.abc import Callable
from typing import Any

import keras

from keras_aeos.callbacks import examples, training_function
from keras_aeos.callbacks.probe import FitProbe
from keras_aeos.curvature import batches, replicas
from keras_aeos.curvature.loss import LossFunction
from keras_aeos.optimizers import dynamics

_TRAINABLE_CHANGED = (
    "`trainable` has changed since the model was compiled. Training goes on with the variables of "
    "before, as Keras does, and these are measured. To train others, compile the model again."
)
_OTHER_LOSS = (
    "its train_step does not log the loss of `compile`, which is measured. Give the monitor the "
    "loss that is trained, `loss=function(model, batch)`, or compute it in `compute_loss`."
)
_NO_UPDATES = (
    "the optimizer of `compile` makes no updates. Name the one that does, `optimizer=`, and the "
    "loss that it minimises, `loss=`. Batches are counted as steps."
)
_NO_FIT = (
    "Keras's `fit` does not run under MultiWorkerMirroredStrategy. Train with the loop of "
    "trainers/loop.py (`python -m trainers strategy=multi_worker`), or with one of your own that "
    "calls the monitor as `fit` does. Received: model={name!r} in `fit` under {strategy}"
)
_NO_WEIGHTS = (
    "`fit` trains with sample weights, which `data` lacks. Pass `data=(x, y, sample_weight)`."
)


class WatchedFit:
    """What a monitor knows of the `fit` that runs.

    Args:
        model: The model.
        optimizer: The optimizer whose updates are measured; None if there is none.
        loss: The monitor's `loss`.
        given: The monitor's `data`; None if it has none.
        batch_size: The monitor's `batch_size`.
        probe_size: Number of examples to gather.
        had_function: Whether the model had a training function before this `fit`.
        warn: Function of a text, called when it differs from the texts so far.

    Attributes:
        probe: The `FitProbe`.
        variables: The variables that are trained, if not the model's trainable ones; else None.
        approximation: Why the measured loss is not the one that is trained; empty if it is.
        writes: Whether the rows are written here, and not by another worker.

    Raises:
        ValueError: If the model's strategy can't be measured, or `fit` does not run under it.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        loss: LossFunction | None,
        given: batches.MicroBatches | None,
        batch_size: int | None,
        probe_size: int,
        had_function: bool,
        warn: Callable[[str], None],
    ) -> None:
        _check_loop(model, had_function)
        self._model = model
        self._optimizer = optimizer
        self._loss_function = loss
        self._given = given
        self._batch_size = batch_size
        self._warn = warn
        self._chosen: batches.MicroBatches | None = None
        self._num_batches = 0
        self._counted = optimizer is None
        self._begin: int | None = None
        self.approximation = ""
        self.writes = replicas.is_chief(model)
        self.variables: list[keras.Variable] | None = None
        changed = had_function and self._trainable_changed()
        if changed:
            warn(_TRAINABLE_CHANGED)
            self.variables = list(dynamics.unwrap(model.optimizer)._trainable_variables)
        own_step = type(model).train_step is not keras.Model.train_step and loss is None
        self.probe = FitProbe(probe_size, model, optimizer, own_step)
        self.probe.attach(training_function.observe(model, retrace=not changed))

    def _trainable_changed(self) -> bool:
        """Whether the training function that the model has would be another one if made now."""
        optimizer = dynamics.unwrap(self._model.optimizer)
        if optimizer is None or not optimizer.built:
            return False
        known = {id(v) for v in optimizer._trainable_variables}
        return known != {id(v) for v in self._model.trainable_variables}

    @property
    def begun(self) -> bool:
        """Whether a batch has begun."""
        return self._begin is not None

    def begin(self) -> int:
        """Number of updates before the first batch. Only now is a restored optimizer restored."""
        self._begin = self.num_updates()
        return self._begin

    @property
    def num_updates_here(self) -> int:
        """Number of updates of this `fit`."""
        return 0 if self._begin is None else self.num_updates() - self._begin

    @property
    def num_updates_before(self) -> int:
        """Number of updates before this `fit`; 0 until a batch has begun."""
        return self._begin or 0

    def count(self, num_batches: int) -> None:
        """Take note of an execution of the training function."""
        self._num_batches += num_batches

    def num_updates(self) -> int:
        """The optimizer's number of updates; that of the batches if it makes none."""
        if self._optimizer is None or self._counted:
            return self._num_batches
        number = dynamics.num_updates(self._optimizer)
        patience = 2 * (dynamics.unwrap(self._optimizer).gradient_accumulation_steps or 1)
        if number == self._begin and self._num_batches >= patience:
            self._counted = True
            return self._num_batches
        return number

    def agreed(self, step: float) -> float:
        """The number of updates after which all workers measure next: the chief's."""
        return replicas.of_chief(self._model, step)

    def expect(self, due: bool, keep: bool) -> None:
        """A batch begins; a measurement follows if `due`, of the update if `keep`."""
        variables = self.variables or self._model.trainable_variables
        self.probe.expect(due, variables if keep else None)

    def has_examples(self) -> bool:
        """Whether there is something to measure on."""
        return any(e is not None for e in (self._given, self._chosen)) or bool(self.probe.batches)

    def examples(self) -> batches.MicroBatches:
        """The examples to measure on, chosen at the first call."""
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def _choose(self) -> batches.MicroBatches:
        probe = self.probe
        probe.finish()
        if self._counted:
            self._approximate(_NO_UPDATES)
        elif probe.confirmed is False:
            self._approximate(_OTHER_LOSS)
        if self._given is None:
            return batches.from_list(probe.batches)
        chosen = self._as_trained(self._given, probe.batches) if probe.batches else self._given
        probe.batches.clear()
        return chosen

    def _as_trained(self, given: batches.MicroBatches, seen: list[Any]) -> batches.MicroBatches:
        """The given examples, with the class weights and in the batch size of `fit` if needed."""
        unweighted = isinstance(given.spec, tuple) and given.spec[2] is None
        if unweighted and examples.has_weights(seen):
            table = examples.class_weights(seen)
            weighted = None if table is None else examples.weighted(given, table)
            if weighted is None:
                self._approximate(_NO_WEIGHTS)
            else:
                given = weighted
        if self._loss_function is not None or self.approximation:
            return given
        first = batches.unflatten(given.spec, next(iter(given)))
        size, trained = int(batches.num_rows(first)), int(batches.num_rows(seen[0]))
        if size != trained and not examples.is_mean_over_examples(self._model, first):
            pieces = batches.smaller(given, trained) if size > trained else None
            if pieces is not None and self._batch_size is None:
                return pieces
            self._approximate(
                "the loss is no mean over examples, so its scale depends on the batch size. "
                f"`data` is measured in batches of {size}, `fit` trains on batches of {trained}. "
                "Make them equal."
            )
        return given

    def _approximate(self, why: str) -> None:
        self.approximation = why
        self._warn(f"Rows are not exact: {why}")


def _check_loop(model: keras.Model, had_function: bool) -> None:
    """Raise ValueError if `fit` trains a model that only another loop can train.

    `fit` makes the training function after it has passed the model to its callbacks. So may a
    loop, by a `make_train_function` that it gives to the model.
    """
    strategy, made = model.distribute_strategy, model.train_function is not None
    by_fit = made and not had_function and "make_train_function" not in vars(model)
    observed = isinstance(model.train_function, training_function.TrainingFunction)
    if by_fit and not observed and replicas.has_workers(strategy):
        raise ValueError(_NO_FIT.format(name=model.name, strategy=type(strategy).__name__))
