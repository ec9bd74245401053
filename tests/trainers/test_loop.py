"""The training loop: the updates of `fit`, on one device and on many, from any update on."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.strategies import strategy_of
from tests.trainers.endurance import measured_in
from tests.trainers.sentences import config as of_sentences
from trainers import loop, schema, strategies, training
from trainers.errors import UserError
from trainers.optimizers import build_optimizer
from trainers.tasks.base import task_of

TINY = {
    "fully_connected": schema.FullyConnected(hidden_layers=1, width=8),
    "cnn": schema.CNN(filters=[2, 3, 2], units=[4, 3]),
    "wide_resnet": schema.WideResNet(blocks_per_group=1, multiplier=1, filters=1, stem_stride=4),
    "wide_resnet without BatchNorm": schema.WideResNet(
        blocks_per_group=1, multiplier=1, filters=1, stem_stride=4, batch_norm=False
    ),
    "resnet50": schema.ResNet50(),
}


def of_digits(batch_size=None, micro_batch_size=15, **changes):
    return schema.Config(
        **{
            "model": TINY["fully_connected"],
            "data": schema.Data(
                name="digits",
                num_examples=60,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
            ),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=1e-3),
            "steps": 4,
            "monitor": schema.Monitor(update_freq=2, rtol=1e-4),
            "output_dir": "",
            **changes,
        }
    )


def of_images(name, directory):
    return of_digits(
        model=TINY[name],
        data=schema.Data(name="cifar10", data_dir=directory, num_examples=24, micro_batch_size=6),
        optimizer=schema.OPTIMIZERS["gradient_descent"](learning_rate=1e-2),
    )


def of_text(directory, dropout):
    settings = of_sentences(directory, data={"batch_size": 4, "micro_batch_size": 1})
    settings.model.dropout = dropout
    settings.optimizer = schema.OPTIMIZERS["gradient_descent"](learning_rate=1e-1)
    return settings


def prepared_run(settings, strategy=None):
    """A compiled model of a configuration, and its feed."""
    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(settings.seed)
    task = task_of(settings)
    feed = task.feed(strategy.num_replicas_in_sync)
    with strategy.scope():
        model = task.build_model()
        training.compile_model(model, task)
    return model, feed


def trained(settings, num_updates, strategy=None):
    """The model after some updates, and the losses before them."""
    model, feed = prepared_run(settings, strategy)
    loop.fit(model, feed, num_updates, [])
    return model, model.history.history["loss"]


def numbers(model):
    """The weights, without the counters of random generators."""
    return [v.numpy() for v in model.variables if v.dtype.startswith("float")]


# The configuration, given the directory that it asks for.
SAME_AS_FIT = [
    pytest.param(lambda place: of_digits(), id="full batch"),
    pytest.param(
        lambda place: of_digits(micro_batch_size=60), id="one micro-batch", marks=pytest.mark.slow
    ),
    pytest.param(lambda place: of_digits(20, 10), id="minibatches"),
    pytest.param(
        lambda place: of_images("wide_resnet", place("prepared")),
        id="BatchNorm",
        marks=pytest.mark.slow,
    ),
    pytest.param(lambda place: of_text(place("files"), 0.5), id="dropout", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("make", SAME_AS_FIT)
def test_updates_are_those_of_fit(make, request):
    """Bit for bit."""
    settings = make(request.getfixturevalue)
    tf.config.experimental.enable_op_determinism()
    model, losses = trained(settings, 3)
    other, feed = prepared_run(settings)
    number = feed.num_micro_batches
    optimizer = build_optimizer(
        settings.optimizer, gradient_accumulation_steps=number if number > 1 else None
    )
    other.compile(optimizer, loss=other.loss, steps_per_execution=number)
    options = {"epochs": 3, "steps_per_epoch": number, "shuffle": False, "verbose": 0}
    assert losses == other.fit(feed.training(), **options).history["loss"]
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "name",
    [
        *("fully_connected", "cnn", "wide_resnet"),
        *(
            pytest.param(slow, marks=pytest.mark.slow)
            for slow in ("wide_resnet without BatchNorm", "transformer", "resnet50")
        ),
    ],
)
def test_every_network_takes_the_same_step_on_two_replicas(name, request):
    """Two micro-batches of each replica, against the four of one device."""
    if name == "fully_connected":
        settings = of_digits()
    elif name == "transformer":
        settings = of_text(request.getfixturevalue("files"), 0.0)
    else:
        settings = of_images(name, request.getfixturevalue("prepared"))
    one, [loss] = trained(settings, 1)
    two, [loss_of_two] = trained(settings, 1, strategy_of("mirrored 2"))
    assert loss_of_two == pytest.approx(loss, rel=1e-5)
    floats = [v for v in one.variables if v.dtype.startswith("float")]
    for v, ours, theirs in zip(floats, numbers(two), numbers(one), strict=True):
        if "moving" not in v.path:  # averages of two micro-batches each, or of all four in a row
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_writes_the_same_measurements_on_every_number_of_replicas(
    batch_size, tmp_path, monkeypatch
):
    tables = {}
    for number in (1, 2, 4):
        if number > 1:
            several = strategy_of(f"mirrored {number}")
            monkeypatch.setattr(strategies, "strategy", lambda name, found=several: found)
        settings = of_digits(batch_size, 5, strategy="none" if number == 1 else "mirrored")
        record = training.train(settings, tmp_path / str(number), {}).record
        assert (record["status"], record["steps"]) == ("completed", 4)
        tables[number] = measured_in(tmp_path / str(number))
    assert tables[1]["step"].tolist() == [2, 4]
    for number in (2, 4):
        # The solver's tolerance; the values agree to 2e-6.
        pd.testing.assert_frame_equal(tables[number], tables[1], check_dtype=False, rtol=1e-4)


def test_training_goes_on_where_it_stopped():
    """With the variables and the random order of the minibatches as they were."""
    settings = of_digits(20, 10)
    whole, losses = trained(settings, 5)
    model, feed = prepared_run(settings)
    loop.fit(model, feed, 2, [])
    loop.fit(model, feed, 5, [], initial_update=2)
    assert model.history.history["loss"] == losses[2:]
    assert int(model.optimizer.iterations) == 5
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Recorder(keras.callbacks.Callback):
    """Writes down what it is called with, and stops in the third epoch."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def set_params(self, params):
        self.calls.append(("params", params))

    def set_model(self, model):
        super().set_model(model)
        self.calls.append(("model", model.train_function is None))

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def call(*args, **kwargs):
            if name == "on_epoch_end" and args[0] == 2:
                self.model.stop_training = True
            self.calls.append((name, args, kwargs))

        return call


def test_callbacks_are_called_as_by_fit():
    settings = of_digits(20, 20)
    tf.config.experimental.enable_op_determinism()
    ours, theirs = Recorder(), Recorder()
    model, feed = prepared_run(settings)
    loop.fit(model, feed, 4, [ours])
    model, feed = prepared_run(settings)
    model.fit(
        feed.training(), epochs=4, steps_per_epoch=1, shuffle=False, verbose=0, callbacks=[theirs]
    )
    # `fit` does not know the batch size of a data set.
    assert ours.calls[1][1].pop("batch_size") == 20
    assert ours.calls == theirs.calls
    assert [name for name, *_ in ours.calls].count("on_epoch_end") == 3


def test_one_trace_serves_every_update():
    traces = []
    model, feed = prepared_run(of_digits())
    compute_loss = model.compute_loss

    def counted(*args, **kwargs):
        traces.append(1)
        return compute_loss(*args, **kwargs)

    model.compute_loss = counted
    loop.fit(model, feed, 6, [])
    assert len(traces) == 1
    assert model.train_function is None
    assert "make_train_function" not in vars(model)


def test_dropout_differs_between_replicas():
    inputs = keras.Input([64])
    strategy = strategy_of("mirrored 2")
    with strategy.scope():
        model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs))
    loop.seed_replicas(model)
    masks = tf.function(lambda: strategy.run(lambda: model(tf.ones([1, 64]), training=True)))()
    one, other = strategy.experimental_local_results(masks)
    assert not np.array_equal(one, other)


def test_mirrored_takes_all_devices_and_is_one_strategy():
    strategy = strategies.strategy("mirrored")
    assert strategy.num_replicas_in_sync == len(tf.config.list_logical_devices("CPU")) == 4
    assert strategies.strategy("mirrored") is strategy
    assert strategies.strategy("none") is tf.distribute.get_strategy()


def test_multi_worker_needs_its_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="TF_CONFIG"):
        strategies.strategy("multi_worker")


def test_others_than_the_chief_write_elsewhere(tmp_path):
    class Worker:
        class extended:  # noqa: N801
            should_save_summary = False

    with strategies.own_directory(Worker(), tmp_path / "run") as place:
        place.mkdir()
        assert place.name == "run"
        assert place.parent != tmp_path
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []
    strategy = tf.distribute.get_strategy()
    with strategies.own_directory(strategy, tmp_path / "run") as place:
        assert place == tmp_path / "run"
