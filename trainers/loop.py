"""The training loop: updates of accumulated gradients, on one device or on many.

The `fit` of Keras doesn't run under `MultiWorkerMirroredStrategy`. This loop runs under every
strategy. Without one it makes the updates of `fit`, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainers.data.feed import Feed
from trainers.data.resident import resident
from trainers.data.share import Share


def fit(
    model: keras.Model,
    feed: Feed,
    num_updates: int,
    callbacks: Sequence[keras.callbacks.Callback],
    initial_update: int = 0,
) -> None:
    """Train a model, and call callbacks as the `fit` of Keras does, with one batch an epoch.

    An epoch is one update, numbered from 0. In an update every replica adds up the gradients of its
    pieces of the micro-batches, these sums are added over the replicas, and the optimizer applies
    their mean over the micro-batches. Losses, sample weights and regularisers are scaled as Keras
    scales them under a strategy. The `loss` in the logs is that of the whole batch before the
    update.

    BatchNorm normalises by the statistics of a replica's piece of a micro-batch. Its moving
    averages are those of the replicas, averaged after each update.

    Args:
        model: Model, built and compiled in the scope of the strategy to train under, its optimizer
            built too and without `gradient_accumulation_steps`.
        feed: What to train on, for the number of replicas of the strategy.
        num_updates: Training ends after the update with this number, counted from 1.
        callbacks: Called as by `fit`; `stop_training` of the model ends training.
        initial_update: Number of updates done before. The variables of model and optimizer, and the
            callbacks, are expected to have the state of then. The batches go on from there.
    """
    strategy = model.distribute_strategy
    on_devices = None if feed.full_batch is None else resident(feed.full_batch, strategy)
    batches = _batches(strategy, feed, initial_update) if on_devices is None else None
    update = _make_update(model, feed.num_micro_batches, on_devices)
    seed_replicas(model)

    def make_train_function(force: bool = False) -> None:
        if force or model.train_function is None:
            model.train_function = update

    # A monitor finds the update where `fit` has it, and sees each of its executions.
    model.make_train_function = make_train_function
    try:
        calls = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            model=model,
            verbose=0,
            epochs=num_updates,
            steps=1,
            batch_size=feed.batch_size,
        )
        model.stop_training = False
        model.make_train_function()
        calls.on_train_begin()
        logs: dict[str, Any] = {}
        for number in range(initial_update, num_updates):
            calls.on_epoch_begin(number)
            calls.on_train_batch_begin(0)
            logs = model.train_function(batches)
            calls.on_train_batch_end(0, logs)
            calls.on_epoch_end(number, logs)
            if model.stop_training:
                break
        model.optimizer.finalize_variable_values(model.trainable_variables)
        calls.on_train_end(logs)
    finally:
        del model.make_train_function
        model.train_function = None


def _batches(strategy: tf.distribute.Strategy, feed: Feed, initial_update: int) -> Iterator[Any]:
    """The pieces of the micro-batches, one of each for every replica at a time."""

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        pieces = feed.training(
            Share(
                strategy.num_replicas_in_sync,
                context.num_input_pipelines,
                context.input_pipeline_id,
                initial_update,
            )
        )
        # Of a data set that may end, the workers would ask each other each time if theirs has.
        return pieces.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    return iter(strategy.distribute_datasets_from_function(of_worker))


def _make_update(
    model: keras.Model, num_micro_batches: int, on_devices: Any | None
) -> Callable[[Iterator[Any] | None], dict[str, tf.Tensor]]:
    """The function that makes an update and returns its logs, one graph.

    Args:
        model: The model.
        num_micro_batches: Micro-batches of an update.
        on_devices: The micro-batches of a full batch on the devices; None if the function is given
            an iterator instead.
    """
    strategy = model.distribute_strategy
    accumulated = num_micro_batches > 1
    sums = _sums(model) if accumulated else []
    # A function of its own, as in `fit`: within a loop TensorFlow would order some sums otherwise.
    terms = tf.function(lambda piece: _terms(model, piece), autograph=False, reduce_retracing=True)

    def pieces(number: tf.Tensor, batches: Any) -> Any:
        if on_devices is None:
            return batches.get_next()
        return strategy.run(lambda parts: tuple(p[number] for p in parts), args=(on_devices,))

    def add(piece: Any) -> None:
        for total, term in zip(sums, terms(piece), strict=True):
            total.assign(total + term)

    def apply_sums() -> tf.Tensor:
        loss = _apply(model, [total.value() for total in sums], num_micro_batches)
        for total in sums:
            total.assign(tf.zeros_like(total))
        return loss

    @tf.function(autograph=False)
    def update(batches: Iterator[Any] | None) -> dict[str, tf.Tensor]:
        if accumulated:

            def body(number: tf.Tensor) -> tf.Tensor:
                strategy.run(add, args=(pieces(number, batches),))
                return number + 1

            tf.while_loop(lambda number: number < num_micro_batches, body, [tf.constant(0)])
            loss = strategy.run(apply_sums)
        else:
            piece = pieces(tf.constant(0), batches)
            loss = strategy.run(lambda piece: _apply(model, terms(piece), 1), args=(piece,))
        # It is the same of all replicas.
        return {"loss": strategy.experimental_local_results(loss)[0]}

    return update


def _sums(model: keras.Model) -> list[tf.Variable]:
    """Zeros of each replica for the sum of what `_terms` returns."""
    kinds = [(v.shape, v.dtype) for v in model.trainable_variables]
    kinds += [((), keras.config.floatx())] * 2
    with model.distribute_strategy.scope():
        return [tf.Variable(tf.zeros(*kind), trainable=False) for kind in kinds]


def _terms(model: keras.Model, piece: Any) -> list[tf.Tensor]:
    """Gradient of a replica's loss, its loss times the number of examples, and this number."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(piece)
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = model.compute_loss(x, y, outputs, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradient = tape.gradient(scaled, model.trainable_variables)
    floatx = keras.config.floatx()
    number = tf.cast(tf.shape(tf.nest.flatten(x)[0])[0], floatx)
    # Keras divides the loss of a replica by their number, so that the sum over them is the mean.
    unscaled = tf.cast(loss, floatx) * model.distribute_strategy.num_replicas_in_sync
    return [*(tf.convert_to_tensor(part) for part in gradient), unscaled * number, number]


def _apply(model: keras.Model, sums: Sequence[tf.Tensor], num_micro_batches: int) -> tf.Tensor:
    """Apply the mean gradient of all replicas, and return their mean loss."""
    *gradient, losses, number = sums
    if num_micro_batches > 1:
        gradient = [part / num_micro_batches for part in gradient]
    model.optimizer.apply(gradient, model.trainable_variables)
    context = tf.distribute.get_replica_context()
    # What is read from a variable has no device until an operation takes it.
    losses, number = tf.unstack(
        context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([losses, number]))
    )
    statistics = [v for v in model.non_trainable_variables if v.dtype.startswith(("float", "bf"))]
    if context.num_replicas_in_sync > 1 and statistics:
        values = [tf.identity(v.value) for v in statistics]
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)
    return losses / number


def seed_replicas(model: keras.Model) -> None:
    """Make the random numbers of dropout differ between replicas, which Keras starts the same.

    The number of the replica is added to the seed of each generator. Those of the first replica,
    which are saved, stay what they are.
    """
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    first = [tf.identity(state.value) for state in states]

    def shift() -> None:
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for state, value in zip(states, first, strict=True):
            state.value.assign(value + tf.cast(tf.stack([replica, 0]), value.dtype))

    strategy = model.distribute_strategy
    if states and strategy.num_replicas_in_sync > 1:
        tf.function(lambda: strategy.run(shift), autograph=False)()
