"""The Transformer's loss and Hessian: exact, and untouched by padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeos
from keras_aeos.curvature.batches import from_list
from keras_aeos.curvature.check import check_second_derivatives
from keras_aeos.curvature.objective import Objective
from tests.cases import flat, flat_parameters
from trainers import schema, transformer
from trainers.transformer import TokenCrossEntropy, Transformer
from trainers.vocabulary import BEGIN, END, PADDING

VOCABULARY = 11
SIZES = {
    "num_layers": 1,
    "dim": 8,
    "heads": 2,
    "hidden": 8,
    "dropout": 0.0,
}


def network(norm="pre", label_smoothing=0.0, dtype="float64", optimizer="sgd", **changes):
    """A compiled network; float64 unless told otherwise."""
    if dtype == "float64":
        keras.config.set_floatx("float64")
    model = Transformer(VOCABULARY, norm=norm, dtype=dtype, **{**SIZES, **changes})
    model((tf.ones((1, 2), tf.int32), tf.ones((1, 2), tf.int32)))
    model.compile(optimizer, TokenCrossEntropy(label_smoothing), jit_compile=False)
    # Away from the symmetric start: biases, and scales of LayerNorm, that matter.
    generator = np.random.default_rng(5)
    for variable in model.trainable_variables:
        noise = 0.1 * generator.standard_normal(variable.shape)
        variable.assign(variable.numpy() + noise)
    return model


def micro_batch(lengths, longest, seed=0, scale=1.0, dtype="float64"):
    """Random sentences, as a `translation.Sentences` makes them: so many tokens in each."""
    generator = np.random.default_rng(seed)
    count = len(lengths)
    source, target, labels = np.full((3, count, longest), PADDING, np.int32)
    for row, length in enumerate(lengths):
        source[row, : length - 1] = generator.integers(4, VOCABULARY, length - 1)
        labels[row, : length - 1] = generator.integers(4, VOCABULARY, length - 1)
        target[row, 1:length] = labels[row, : length - 1]
        source[row, length - 1] = labels[row, length - 1] = END
    target[:, 0] = BEGIN
    weights = (labels != PADDING).astype(dtype) * scale
    batch = (source, target), labels, weights
    return tf.nest.map_structure(tf.constant, batch)


def training_gradient(model, batches):
    """Mean gradient over micro-batches as a function of the parameters, by one tape alone."""
    variables = model.trainable_variables
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    states = [v.numpy() for v in seeds]

    @tf.function(reduce_retracing=True)
    def gradient(x, y, weights):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True), weights)
        parts = tape.gradient(loss, [v.value for v in variables])
        return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in parts], 0)

    def at(vector):
        begin = 0
        for variable in variables:
            size = int(np.prod(variable.shape))
            variable.assign(np.reshape(vector[begin : begin + size], variable.shape))
            begin += size
        for variable, state in zip(seeds, states, strict=True):
            variable.assign(state)
        return np.mean([gradient(*batch).numpy() for batch in batches], axis=0)

    return at


def product_and_difference(model, batches, step=1e-6):
    """H v by `Objective`, and by central differences of fourth order of the gradient."""
    objective = Objective(model, from_list(batches))
    vector = np.random.default_rng(4).standard_normal(objective.num_parameters)
    product = objective.linearise().hessian_product(tf.constant(vector, objective.dtype)).numpy()
    point, gradient = flat_parameters(model), training_gradient(model, batches)
    near = gradient(point + step * vector) - gradient(point - step * vector)
    far = gradient(point + 2 * step * vector) - gradient(point - 2 * step * vector)
    gradient(point)
    return product, (8.0 * near - far) / (12.0 * step), objective


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("norm", schema.NORMS)
def test_product_is_that_of_differences_of_the_gradient(norm, label_smoothing, dropout):
    model = network(norm, label_smoothing, dropout=dropout)
    product, expected, _ = product_and_difference(model, [micro_batch([3, 5], 6)])
    # The differences' truncation, step⁴, and rounding, ε/step.
    assert np.linalg.norm(product - expected) <= 1e-7 * np.linalg.norm(expected)


@pytest.mark.parametrize("norm", schema.NORMS)
def test_top_of_the_spectrum_is_that_of_the_dense_hessian(norm):
    model = network(norm, label_smoothing=0.1)
    batches = [micro_batch([3, 4], 5)]
    gradient, point = training_gradient(model, batches), flat_parameters(model)
    step, hessian = 1e-5, np.empty((len(point), len(point)))
    for row, shift in zip(hessian, step * np.eye(len(point)), strict=True):
        row[:] = (gradient(point + shift) - gradient(point - shift)) / (2.0 * step)
    gradient(point)
    [(x, y, weights)] = batches
    found = keras_aeos.top_eigenpairs(model, (x, y, weights), num_eigenvalues=3, rtol=1e-8)
    expected = np.linalg.eigvalsh((hessian + hessian.T) / 2.0)[:-4:-1]
    # Rounding of the differences, ε/step.
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-6)


def test_one_trace_serves_every_length():
    model = network()
    lengths = [([3, 4], 4), ([5, 6], 6), ([8, 9], 10)]
    batches = [micro_batch(*case, seed=i) for i, case in enumerate(lengths)]
    product, expected, objective = product_and_difference(model, batches)
    assert np.linalg.norm(product - expected) <= 1e-7 * np.linalg.norm(expected)
    assert objective.num_traces == 1


def measured(model, batch):
    """Loss, gradient and a Hessian-vector product on one micro-batch."""
    at_point = Objective(model, from_list([batch])).linearise()
    vector = tf.constant(np.random.default_rng(6).standard_normal(at_point.gradient.shape))
    return at_point.loss, at_point.gradient.numpy(), at_point.hessian_product(vector).numpy()


def with_more_padding(batch, by):
    return tf.nest.map_structure(lambda t: tf.pad(t, [[0, 0], [0, by]]), batch)


def with_noise_for_padding(batch):
    """The same sentences with other tokens in the place of padding, but for the encoder's mask."""
    (source, target), labels, weights = batch
    noise = tf.constant(np.random.default_rng(7).integers(4, VOCABULARY, labels.shape), tf.int32)
    shifted = tf.concat([tf.ones_like(weights[:, :1]), weights[:, :-1]], 1)
    target = tf.where(shifted > 0, target, noise)
    return (source, target), tf.where(weights > 0, labels, noise), weights


PADDED = {"longer": lambda batch: with_more_padding(batch, 4), "noise": with_noise_for_padding}


@pytest.mark.parametrize("change", PADDED.values(), ids=PADDED)
@pytest.mark.parametrize("norm", schema.NORMS)
def test_padding_enters_neither_loss_nor_hessian(norm, change):
    model = network(norm, label_smoothing=0.1)
    batch = micro_batch([3, 5, 8], 8)
    for before, after in zip(measured(model, batch), measured(model, change(batch)), strict=True):
        # Float64 sums in another order.
        np.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-12)


def test_smoothed_loss_is_the_textbook_one():
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((2, 3, 5)), generator.integers(0, 5, (2, 3))
    weights = generator.uniform(0, 1, (2, 3))
    smooth = 0.9 * np.eye(5)[labels] + 0.1 / 5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(weights[..., None] * smooth * log_p).sum()
    loss = TokenCrossEntropy(0.1)(labels, tf.constant(logits, tf.float32), weights)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_gradients_of_the_table_are_whole():
    """Of the rows that are looked up, by sparse gradients, and of all rows, by the logits."""
    model = network()
    batches = [micro_batch([3, 5], 6)]
    gradient, point = training_gradient(model, batches), flat_parameters(model)
    names = [v.path for v in model.trainable_variables]
    assert sum(name.endswith("table") for name in names) == 1
    (x, y, weights), table = batches[0], model.embedding.table
    step, numeric = 1e-6, np.empty(table.shape)
    value = table.numpy()
    for index in np.ndindex(*table.shape):
        losses = []
        for sign in (1, -1):
            shifted = value.copy()
            shifted[index] += sign * step
            table.assign(shifted)
            losses.append(float(model.compute_loss(x, y, model(x), weights)))
        numeric[index] = (losses[0] - losses[1]) / (2 * step)
    table.assign(value)
    begin = sum(v.numpy().size for v in model.trainable_variables[: names.index(table.path)])
    analytic = gradient(point)[begin : begin + table.numpy().size].reshape(table.shape)
    np.testing.assert_allclose(analytic, numeric, atol=1e-7)


def test_every_layer_passes_the_check_of_second_derivatives():
    model = network(dtype="float32", dropout=0.1)
    x, y, weights = micro_batch([3, 5], 6, dtype="float32")
    check_second_derivatives(model, (x, y, weights))


# Precision, what compiles training, largest relative error beside float64: rounding of bfloat16
# has 8 bits and that of float16 11, and there are some tens of operations in a row.
PRECISIONS = {
    "float32": ("float32", False, 1e-4),
    "float32 by XLA": ("float32", True, 1e-4),
    "bfloat16": ("mixed_bfloat16", False, 0.2),
    "float16": ("mixed_float16", False, 0.03),
}


@pytest.mark.parametrize(("dtype", "jit", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)
def test_product_in_other_precisions_and_after_training_by_xla(dtype, jit, tolerance):
    exact = network("pre", 0.1)
    batch = micro_batch([3, 5], 6, dtype="float32")
    keras.config.set_floatx("float32")
    model = network("pre", 0.1, dtype)
    model.compile(keras.optimizers.SGD(0.0), model.loss, jit_compile=jit)
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    for variable, other in zip(exact.trainable_variables, model.trainable_variables, strict=True):
        variable.assign(tf.cast(other.value, tf.float64))
    vector = np.random.default_rng(6).standard_normal(flat_parameters(model).shape)
    objective = Objective(model, from_list([batch]))
    product = objective.linearise().hessian_product(tf.constant(vector, objective.dtype)).numpy()
    keras.config.set_floatx("float64")
    expected = measured(exact, micro_batch([3, 5], 6))
    reference = Objective(exact, from_list([micro_batch([3, 5], 6)])).linearise()
    expected = reference.hessian_product(tf.constant(vector)).numpy()
    assert np.linalg.norm(product - expected) <= tolerance * np.linalg.norm(expected)


def test_hessian_product_inside_of_xla():
    model = network("pre", 0.1, "float32")
    batch = micro_batch([3, 5], 6, dtype="float32")
    objective = Objective(model, from_list([batch]))
    vector = tf.constant(
        np.random.default_rng(6).standard_normal(objective.num_parameters), tf.float32
    )
    (source, target), labels, weights = batch
    parameters = [tf.convert_to_tensor(v.value) for v in objective.variables]
    compiled = tf.function(objective._product_of_batch, jit_compile=True, autograph=False)
    product = compiled(
        vector, parameters, tf.constant(0, tf.int64), source, target, labels, weights
    )[-1]
    expected = objective.linearise().hessian_product(vector)
    # Float32 operations in another order.
    assert np.linalg.norm(product - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("norm", schema.NORMS)
def test_sizes_are_those_of_the_configuration(norm):
    sizes = schema.Transformer(
        norm=norm, num_layers=2, dim=8, heads=2, hidden=16, dropout=0.0, label_smoothing=0.0
    )
    config = schema.Config(model=sizes, optimizer=schema.Adam(), output_dir="")
    model = transformer.build_model(config, vocabulary_size=20)
    attention, forward, normalise = 4 * (8 * 8 + 8), 2 * 8 * 16 + 16 + 8, 2 * 8
    encoder, decoder = attention + forward + 2 * normalise, 2 * attention + forward + 3 * normalise
    expected = 20 * 8 + 2 * (encoder + decoder) + (2 * normalise if norm == "pre" else 0)
    assert model.count_params() == expected


def test_model_is_saved_and_loaded_whole(tmp_path):
    model = network(dtype="float32")
    inputs, *_ = micro_batch([3, 5], 6, dtype="float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_positions_are_told_apart():
    """Without positions, a sentence turned around would give the states turned around."""
    model = network()
    source = tf.constant([[4, 5, 6, 7]])
    forward, _ = model.encode(source)
    backward, _ = model.encode(source[:, ::-1])
    assert not np.allclose(flat([forward]), flat([backward[:, ::-1]]), atol=1e-3)
