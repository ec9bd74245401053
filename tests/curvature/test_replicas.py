"""A measurement that replicas share is that of one device with all examples."""

import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
from keras_aeos import EdgeMeter, Eigensolver
from keras_aeos.curvature import linearisation
from keras_aeos.curvature import objective as objective_module
from keras_aeos.curvature import replicas as replicas_module
from keras_aeos.curvature.batches import from_data, split
from keras_aeos.curvature.measurement import BatchQuotients
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from keras_aeos.solvers.operators import Operator
from tests.strategies import REPLICAS, num_replicas, scope

# The last batch of three is uneven, and so is what it is cut into.
ROWS, BATCH_SIZE = 23, 8
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.standard_normal((ROWS, 4)), GENERATOR.standard_normal((ROWS, 3))
WEIGHTS = GENERATOR.uniform(0.5, 2.0, ROWS)
several = pytest.mark.parametrize("strategy", ["mirrored 2", "mirrored 4"])
# Rounding of sums of some hundred terms in another order, relative to the largest entry.
RTOL = {"float32": 1e-5, "float64": 1e-10}


def network(strategy, *extra, optimizer="sgd"):
    with scope(strategy):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, "tanh", kernel_regularizer="l2", activity_regularizer="l1"),
                *extra,
                layers.Dense(3, bias_regularizer="l2"),
            ]
        )
        model.compile(optimizer, "mse")
    return model


def objective_of(model, batch_size=BATCH_SIZE):
    return Objective(model, from_data((X, Y, WEIGHTS), batch_size))


def direction(objective):
    generator = np.random.default_rng(5)
    return tf.constant(generator.standard_normal(objective.num_parameters), objective.dtype)


def measured(objective, limit=None):
    """Loss, gradient and a product, as far as values are kept in a graph."""
    objective.kept_bytes = limit
    hessian, vector = objective.linearise(), direction(objective)
    product = hessian.operator(tf.ones_like(vector))(vector)
    return [np.asarray(part) for part in (hessian.loss, hessian.gradient, product)]


def assert_close(ours, theirs, rtol=RTOL["float64"]):
    for part, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(part, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


# ------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    ("strategy", "floatx"), [*((name, "float64") for name in REPLICAS), ("mirrored 2", "float32")]
)
def test_numbers_are_those_of_one_device_with_all_examples(strategy, floatx):
    """All values are kept, some, or none, with weights and regularisers."""
    keras.config.set_floatx(floatx)
    expected = measured(objective_of(network("none"), ROWS))
    objective = objective_of(network(strategy))
    for limit in (None, 1500, 0):
        assert_close(measured(objective, limit), expected, RTOL[floatx])
    assert objective.num_traces == 1


def normalised():
    return layers.BatchNormalization()


def synchronised():
    return layers.BatchNormalization(synchronized=True)


def noisy():
    return layers.Dropout(0.5, seed=1)


@pytest.mark.parametrize("layer", [normalised, synchronised, noisy])
def test_layer_sees_the_examples_of_its_replica(layer):
    """Noise differs between replicas; synchronised statistics are those of the whole batch."""
    keras.config.set_floatx("float64")
    whole = from_data((X, Y, WEIGHTS), BATCH_SIZE)
    batches = whole if layer is synchronised else split(whole, 2)
    assert batches is not None
    expected = measured(Objective(network("none", layer()), batches))
    assert_close(measured(objective_of(network("mirrored 2", layer()))), expected)


@several
def test_batches_are_visited_whole(strategy):
    """Their gradient and their Hessian are those of all replicas."""
    keras.config.set_floatx("float64")
    quotients = []
    for name in ("none", strategy):
        objective = objective_of(network(name))
        quotients.append(BatchQuotients(tf.ones([objective.num_parameters], tf.float64)))
        for limit in (2**30, 0):
            objective.kept_bytes = limit
            objective.linearise([quotients[-1].visit])
    assert len(quotients[1].values) == 2 * 3
    np.testing.assert_allclose(quotients[1].values, quotients[0].values, rtol=1e-10)


@pytest.mark.parametrize("strategy", ["one device", "mirrored 4"])
def test_rows_are_those_of_one_device(strategy):
    """Of an optimizer with a P, frozen variables, and the quantities that add products."""
    quantities = ["sharpness", "gradient_norm_squared", "alignment", "update_curvature", "trace"]
    columns = ["loss", "preconditioned_sharpness", "stability_threshold", "edge_ratio", "exact"]
    rows = []
    for name in ("none", strategy):
        keras.utils.set_random_seed(2)
        frozen = layers.Dense(5, trainable=False)
        model = network(name, frozen, optimizer="adam")
        meter = EdgeMeter(
            model,
            (X, Y, WEIGHTS),
            quantities=quantities,
            solver=Eigensolver(rtol=1e-4),
            batch_size=BATCH_SIZE,
        )
        before = [tf.identity(v.value) for v in model.trainable_variables]
        with scope(name):
            model.optimizer.build(model.trainable_variables)
            model.optimizer.iterations.assign(3)
            for variable in model.optimizer.variables:
                if "velocity" in variable.path:
                    shape = tuple(variable.shape)
                    variable.assign(np.linspace(0.01, 0.1, np.prod(shape)).reshape(shape))
            for variable in model.trainable_variables:
                variable.assign(0.9 * variable)
        rows.append(meter.measure(before_update=before))
    for column in [*columns, *quantities]:
        expected = pytest.approx(rows[0][column], rel=1e-4, abs=1e-7, nan_ok=True)
        assert rows[1][column] == expected, column


# -------------------------------------------------------------------------- who computes and keeps


@several
def test_each_device_holds_its_share(strategy):
    """Of the examples, the parameters and the kept values; less of each, the more there are."""
    number = num_replicas(strategy)
    objective = objective_of(network(strategy))
    hessian = objective.linearise()
    devices = objective.replicas.devices
    assert len(set(devices)) == number
    resident = [leaves for _, leaves in objective.batches._resident]
    assert len(hessian.kept) == len(resident) == 3 * number
    for position, (values, leaves) in enumerate(zip(hessian.kept, resident, strict=True)):
        assert {t.device for t in (*values, *leaves)} == {devices[position % number]}
    for device, parameters in zip(devices, hessian._parameters, strict=True):
        assert {parameter.device for parameter in parameters} == {device}
    # An example needs the same wherever it is; the rest, of the parameters, stays.
    whole, _, last = num_bytes(objective_of(network("none")).linearise().kept)
    example = whole - last
    rest = whole - BATCH_SIZE * example
    shares = [sum(num_bytes(hessian.kept[index::number])) for index in range(number)]
    most = -(-ROWS // number)
    assert max(shares) == 3 * rest + most * example


def num_bytes(kept):
    """Bytes that are kept of each micro-batch."""
    return [sum(value.numpy().nbytes for value in values) for values in kept]


def graph_of_product(strategy):
    objective = Objective(network(strategy), from_data((X[:16], Y[:16], WEIGHTS[:16]), 16))
    operator = objective.linearise().operator(tf.ones([objective.num_parameters]))
    assert isinstance(operator, Operator)
    traced = tf.function(operator.program.product, autograph=False).get_concrete_function(
        tf.TensorSpec([objective.num_parameters]),
        *(tf.TensorSpec(t.shape, t.dtype) for t in operator.state),
    )
    return traced.graph.get_operations()


def test_graph_on_one_device_holds_nothing_of_replicas():
    kinds = [operation.type for operation in graph_of_product("none")]
    expected = {"Placeholder", "Mul", "EnsureShape", "PartitionedCall", "Identity"}
    assert {*kinds} == expected
    assert kinds.count("PartitionedCall") == 1


@several
def test_graph_of_a_product_holds_one_copy_of_the_vector_for_each_device_and_one_sum(strategy):
    operations = graph_of_product(strategy)
    kinds = [operation.type for operation in operations]
    number = num_replicas(strategy)
    assert kinds.count("AddN") == 1
    calls = [op for op in operations if op.type == "PartitionedCall"]
    assert [op.device.rpartition("/")[2] for op in calls] == [
        f"device:CPU:{index}" for index in range(number)
    ]
    for call in calls:
        assert call.inputs[0].op.type == "Identity"
        assert call.inputs[0].op.device == call.device


@several
def test_solves_share_one_trace_and_find_the_eigenvalues_of_one_device(strategy):
    keras.config.set_floatx("float64")
    single, model = network("none"), network(strategy)
    objective = objective_of(model)
    for _ in range(2):
        solved = []
        for of in (Objective(single, from_data((X, Y, WEIGHTS))), objective):
            ones = tf.ones([of.num_parameters], tf.float64)
            start = tf.zeros([0, of.num_parameters], tf.float64)
            solved.append(lanczos(of.linearise().operator(ones), start, 2, 1e-9, 60).eigenvalues)
        np.testing.assert_allclose(solved[1], solved[0], rtol=1e-10)
        for variable in (*single.trainable_variables, *model.trainable_variables):
            variable.assign(1.1 * variable)
    assert len(objective.program.traces) == 1


def test_values_are_kept_of_the_first_micro_batches_alone(monkeypatch):
    """Also if those of one turn out larger than its shapes had said."""
    keras.config.set_floatx("float64")
    expected = measured(objective_of(network("none")))
    objective = objective_of(network("mirrored 2"))
    sizes = iter([1, 1, 2**60])
    monkeypatch.setattr(linearisation, "num_bytes", lambda values: next(sizes, 1))
    assert_close(measured(objective), expected)
    sizes = iter([1, 1, 2**60])
    assert len(objective.linearise().kept) == 2


def test_few_examples_leave_replicas_without_work():
    keras.config.set_floatx("float64")
    data = X[:3], Y[:3], WEIGHTS[:3]
    expected = measured(Objective(network("none"), from_data(data)))
    assert_close(measured(Objective(network("mirrored 4"), from_data(data))), expected)


def test_sparse_examples_are_shared_whole():
    keras.config.set_floatx("float64")

    def objective(name):
        batches = [(tf.sparse.from_dense(X[i : i + 8]), Y[i : i + 8]) for i in (0, 8)]
        made = tf.data.Dataset.from_tensors(batches[0]).concatenate(
            tf.data.Dataset.from_tensors(batches[1])
        )
        return Objective(network(name), from_data(made))

    assert_close(measured(objective("mirrored 2")), measured(objective("none")))


@several
def test_devices_of_a_host_share_its_memory(strategy, monkeypatch):
    monkeypatch.setattr(objective_module, "room", lambda device: 1000)
    objective = objective_of(network(strategy))
    rooms = {objective.room_for_values(device) for device in objective.replicas.devices}
    assert rooms == {1000 // num_replicas(strategy)}


# ------------------------------------------------------------------------------- what is refused


def test_strategy_without_a_single_point_is_refused(monkeypatch):
    server = unittest.mock.Mock(spec=tf.distribute.ParameterServerStrategy)
    model = network("none")
    monkeypatch.setattr(type(model), "distribute_strategy", server)
    with pytest.raises(ValueError, match=r"ParameterServerStrategy.*MirroredStrategy.*Received"):
        keras_aeos.top_eigenpairs(model, (X, Y))
    monitor = keras_aeos.AEoSMonitor()
    monitor.set_model(model)
    with pytest.raises(ValueError, match="ParameterServerStrategy"):
        monitor.on_train_begin()


def test_fit_of_several_workers_is_refused_by_the_name_of_the_loop(monkeypatch):
    monkeypatch.setattr(replicas_module, "has_workers", lambda strategy: True)
    monkeypatch.setattr(replicas_module, "is_chief", lambda model: True)
    model = network("none")
    with pytest.raises(ValueError, match=r"trainers/loop.py.*Received: model="):
        model.fit(X, Y, verbose=0, callbacks=[keras_aeos.AEoSMonitor()])
