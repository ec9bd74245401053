"""The Transformer's loss and Hessian: exact, and untouched by padding."""

import functools

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


class TrainingGradient:
    """Gradient of a micro-batch as a function of a flat vector of parameters, by one tape alone."""

    def __init__(self, model, batch):
        self._model, self._batch = model, batch
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._at = tf.function(self._gradient, autograph=False)

    def __call__(self, vector):
        return self._at(tf.constant(vector)).numpy()

    def differences(self, shifts):
        """Central differences around the model's parameters, a row a shift."""
        point = tf.constant(flat_parameters(self._model))

        @tf.function(autograph=False)
        def rows():
            return tf.map_fn(
                lambda s: self._gradient(point + s) - self._gradient(point - s), shifts
            )

        return rows()

    def _gradient(self, vector):
        (x, y, weights), variables = self._batch, self._model.trainable_variables
        parts = tf.split(vector, self._sizes)
        parts = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(parts)
            with keras.StatelessScope(list(zip(variables, parts, strict=True))):
                loss = self._model.compute_loss(x, y, self._model(x, training=True), weights)
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, parts)], 0)


def difference(gradient, point, vector, step=1e-6):
    """H v by central differences of fourth order, so short that no ReLU comes to its kink."""
    near = gradient(point + step * vector) - gradient(point - step * vector)
    far = gradient(point + 2 * step * vector) - gradient(point - 2 * step * vector)
    return (8.0 * near - far) / (12.0 * step)


@pytest.mark.parametrize("norm", schema.NORMS)
def test_product_is_that_of_differences_of_the_gradient(norm):
    """With dropout and label smoothing, in micro-batches of several lengths, traced once."""
    model = network(norm, label_smoothing=0.1, dropout=0.3)
    batches = [micro_batch([3, 4], 4), micro_batch([8, 9], 10, seed=1)]
    products = []
    objective = Objective(model, from_list(batches))
    vector = np.random.default_rng(4).standard_normal(objective.num_parameters)
    objective.linearise(lambda _, product: products.append(product(tf.constant(vector)).numpy()))
    assert objective.num_traces == 1
    point = flat_parameters(model)
    # Seeds of the first micro-batch are those of training; the second has others.
    expected = difference(TrainingGradient(model, batches[0]), point, vector)
    # The differences' truncation, step⁴, and rounding, ε/step.
    assert np.linalg.norm(products[0] - expected) <= 1e-7 * np.linalg.norm(expected)
    assert not np.allclose(products[1], products[0])


@pytest.mark.parametrize("norm", schema.NORMS)
def test_top_of_the_spectrum_is_that_of_the_dense_hessian(norm):
    model = network(norm, label_smoothing=0.1)
    batches = [micro_batch([3, 4], 5)]
    gradient, point = TrainingGradient(model, batches[0]), flat_parameters(model)
    step = 1e-5
    shifts = tf.constant(step * np.eye(len(point)))
    hessian = gradient.differences(shifts).numpy() / (2.0 * step)
    [(x, y, weights)] = batches
    found = keras_aeos.top_eigenpairs(model, (x, y, weights), num_eigenvalues=3, rtol=1e-8)
    expected = np.linalg.eigvalsh((hessian + hessian.T) / 2.0)[:-4:-1]
    # Rounding of the differences, ε/step.
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=1e-6)


def test_accumulated_hessian_is_that_of_the_whole_batch():
    """Micro-batches of different numbers of tokens, with the weights of a `Sentences`."""
    model = network("pre", label_smoothing=0.1)
    lengths = [3, 4, 8, 9]
    whole = micro_batch(lengths, 10, scale=1 / sum(lengths))
    cut = [
        tf.nest.map_structure(lambda t, rows=rows, end=end: t[rows, :end], whole)
        for rows, end in ((slice(0, 2), 4), (slice(2, 4), 10))
    ]
    parts = [(x, y, 2 * weights) for x, y, weights in cut]  # K / T with K = 2
    objective = Objective(model, from_list(parts))
    at_point = objective.linearise()
    assert objective.num_traces == 1
    vector = np.random.default_rng(4).standard_normal(objective.num_parameters)
    gradient, point = TrainingGradient(model, whole), flat_parameters(model)
    np.testing.assert_allclose(at_point.gradient, gradient(point), rtol=1e-9, atol=1e-12)
    expected = difference(gradient, point, vector)
    product = at_point.hessian_product(tf.constant(vector)).numpy()
    assert np.linalg.norm(product - expected) <= 1e-7 * np.linalg.norm(expected)


def with_more_padding(batch, by):
    return tf.nest.map_structure(lambda t: tf.pad(t, [[0, 0], [0, by]]), batch)


def with_noise_for_padding(batch):
    """The same sentences with other tokens in the place of padding, but for the encoder's mask."""
    (source, target), labels, weights = batch
    noise = tf.constant(np.random.default_rng(7).integers(4, VOCABULARY, labels.shape), tf.int32)
    shifted = tf.concat([tf.ones_like(weights[:, :1]), weights[:, :-1]], 1)
    target = tf.where(shifted > 0, target, noise)
    return (source, target), tf.where(weights > 0, labels, noise), weights


@pytest.mark.parametrize("norm", schema.NORMS)
def test_padding_enters_neither_loss_nor_hessian(norm):
    model = network(norm, label_smoothing=0.1)
    batch = micro_batch([3, 5, 8], 8)
    batches = [batch, with_more_padding(batch, 4), with_noise_for_padding(batch)]
    objective, measured = Objective(model, from_list(batches)), []
    vector = tf.constant(np.random.default_rng(6).standard_normal(objective.num_parameters))
    objective.linearise(lambda gradient, product: measured.append((gradient, product(vector))))
    losses = [float(model.compute_loss(x, y, model(x), weights)) for x, y, weights in batches]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    for other in measured[1:]:
        for before, after in zip(measured[0], other, strict=True):
            # Float64 sums in another order.
            np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-12)


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
    gradient, point = TrainingGradient(model, batches[0]), flat_parameters(model)
    names = [v.path for v in model.trainable_variables]
    assert sum(name.endswith("table") for name in names) == 1
    (x, y, weights), table = batches[0], model.embedding.table
    loss = tf.function(lambda: model.compute_loss(x, y, model(x), weights))
    step, numeric = 1e-6, np.empty(table.shape)
    value = table.numpy()
    for index in np.ndindex(*table.shape):
        losses = []
        for sign in (1, -1):
            shifted = value.copy()
            shifted[index] += sign * step
            table.assign(shifted)
            losses.append(float(loss()))
        numeric[index] = (losses[0] - losses[1]) / (2 * step)
    table.assign(value)
    begin = sum(v.numpy().size for v in model.trainable_variables[: names.index(table.path)])
    analytic = gradient(point)[begin : begin + table.numpy().size].reshape(table.shape)
    np.testing.assert_allclose(analytic, numeric, atol=1e-7)


def test_every_layer_passes_the_check_of_second_derivatives():
    model = network(dtype="float32", dropout=0.1)
    x, y, weights = micro_batch([3, 5], 6, dtype="float32")
    check_second_derivatives(model, (x, y, weights))


@functools.cache
def exact_product():
    """Weights, a vector and H v in float64."""
    model = network("pre", 0.1)
    at_point = Objective(model, from_list([micro_batch([3, 5], 6)])).linearise()
    vector = np.random.default_rng(6).standard_normal(at_point.gradient.shape)
    weights = [v.numpy() for v in model.trainable_variables]
    return weights, vector, at_point.hessian_product(tf.constant(vector)).numpy()


# Precision, whether XLA compiles training, largest relative error: float32 has 24 bits, float16 11
# and bfloat16 8, and there are some tens of operations in a row.
PRECISIONS = {
    "float32 by XLA": ("float32", True, 1e-4),
    "float16": ("mixed_float16", False, 0.03),
    "bfloat16": ("mixed_bfloat16", False, 0.3),
}


@pytest.mark.parametrize(("dtype", "jit", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)
def test_product_in_other_precisions_and_after_training_by_xla(dtype, jit, tolerance):
    weights, vector, expected = exact_product()
    keras.config.set_floatx("float32")
    model = network("pre", 0.1, dtype)
    model.compile(keras.optimizers.SGD(0.0), model.loss, jit_compile=jit)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    batch = micro_batch([3, 5], 6, dtype="float32")
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    objective = Objective(model, from_list([batch]))
    product = objective.linearise().hessian_product(tf.constant(vector, objective.dtype)).numpy()
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
