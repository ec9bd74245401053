"""The Transformer's loss and Hessian: exact, and untouched by padding."""

import functools
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.curvature.batches import from_list
from keras_aeos.curvature.objective import Objective
from keras_aeos.solvers.lanczos import lanczos
from tests.cases import flat, flat_parameters
from trainers import schema
from trainers.data.vocabulary import BEGIN, END, PADDING
from trainers.models import transformer
from trainers.models.transformer import TokenCrossEntropy, Transformer

VOCABULARY = 11
# Whose whole Hessian is built from differences of the gradient, which takes its time.
DENSE = "post"
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
    """Random sentences, as `sentences.Sentences` makes them, with these numbers of tokens."""
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


def with_more_padding(batch, by):
    return tf.nest.map_structure(lambda t: tf.pad(t, [[0, 0], [0, by]]), batch)


def with_noise_for_padding(batch):
    """The same sentences with other tokens in the place of padding, but for the encoder's mask."""
    (source, target), labels, weights = batch
    noise = tf.constant(np.random.default_rng(7).integers(4, VOCABULARY, labels.shape), tf.int32)
    shifted = tf.concat([tf.ones_like(weights[:, :1]), weights[:, :-1]], 1)
    target = tf.where(shifted > 0, target, noise)
    return (source, target), tf.where(weights > 0, labels, noise), weights


@dataclass
class Measured:
    """What one objective says of several forms of one batch, and what oracles say of that batch."""

    weights: list  # of the model
    vector: np.ndarray
    losses: list
    gradients: list
    products: list
    num_traces: int
    eigenvalues: np.ndarray  # of the first form
    gradient: np.ndarray
    hessian: np.ndarray  # all of it for the norm `DENSE`, along `vector` alone for the other
    slope: float  # of the loss along `vector`, in the table of embeddings alone


@functools.cache
def measured(norm):
    """A batch whole, its two micro-batches, and the batch with other padding: computed once."""
    model = network(norm, label_smoothing=0.1)
    lengths = [3, 4, 6, 7]
    whole = micro_batch(lengths, 7, scale=1 / sum(lengths))
    parts = [
        tf.nest.map_structure(lambda t, rows=rows, end=end: t[rows, :end], whole)
        for rows, end in ((slice(0, 2), 4), (slice(2, 4), 7))
    ]
    parts = [(x, y, 2 * weights) for x, y, weights in parts]  # K / T with K = 2
    batches = [whole, *parts, with_more_padding(whole, 4), with_noise_for_padding(whole)]
    objective = Objective(model, from_list(batches))
    found: list = []
    eigenvalues: list = []
    vector = np.random.default_rng(6).standard_normal(objective.num_parameters)

    def visit(gradient, product):
        found.append((gradient.numpy(), product(tf.constant(vector)).numpy()))
        if not eigenvalues:
            eigenvalues.extend(
                lanczos(product, tf.zeros([0, vector.size], tf.float64), 3, 1e-8, 500).eigenvalues
            )

    objective.linearise([visit])
    step, gradient = 1e-5, TrainingGradient(model, whole)
    shifts = np.eye(vector.size) if norm == DENSE else vector[None] / np.linalg.norm(vector)
    rows = gradient.differences(tf.constant(step * shifts)).numpy() / (2.0 * step)

    def loss(batch):
        x, y, weights = batch
        return float(model.compute_loss(x, y, model(x), weights))

    weights, losses = [v.numpy() for v in model.trainable_variables], [loss(b) for b in batches]
    at_point = gradient(flat_parameters(model))
    table, ends = model.embedding.table, []
    [(place, value)] = [
        (i, v.numpy()) for i, v in enumerate(model.trainable_variables) if v is table
    ]
    begin = sum(v.size for v in weights[:place])
    along = vector[begin : begin + value.size].reshape(value.shape)
    for shift in (1e-6, -1e-6):
        table.assign(value + shift * along)
        ends.append(loss(whole))
    return Measured(
        weights=weights,
        vector=vector,
        losses=losses,
        gradients=[gradient for gradient, _ in found],
        products=[product for _, product in found],
        num_traces=objective.num_traces,
        eigenvalues=np.array(eigenvalues),
        gradient=at_point,
        hessian=rows,
        slope=(ends[0] - ends[1]) / 2e-6 - along.ravel() @ at_point[begin : begin + value.size],
    )


@pytest.mark.parametrize("norm", schema.NORMS)
def test_product_is_that_of_differences_of_the_gradient(norm):
    it = measured(norm)
    if norm == DENSE:
        expected = it.hessian @ it.vector
    else:
        expected = it.hessian[0] * np.linalg.norm(it.vector)
    # Rounding of the differences, ε/step.
    assert np.linalg.norm(it.products[0] - expected) <= 1e-6 * np.linalg.norm(expected)


def test_top_of_the_spectrum_is_that_of_the_dense_hessian():
    it = measured(DENSE)
    largest = np.linalg.eigvalsh((it.hessian + it.hessian.T) / 2.0)[:-4:-1]
    np.testing.assert_allclose(it.eigenvalues, largest, rtol=1e-6)


@pytest.mark.parametrize("norm", schema.NORMS)
def test_gradient_is_that_of_training_and_whole_for_the_table(norm):
    """The table's comes from tokens that are looked up, sparse, and from all logits."""
    it = measured(norm)
    np.testing.assert_allclose(it.gradients[0], it.gradient, rtol=1e-9, atol=1e-12)
    assert abs(it.slope) <= 1e-8 * np.linalg.norm(it.gradient) * np.linalg.norm(it.vector)


@pytest.mark.parametrize("norm", schema.NORMS)
def test_mean_over_micro_batches_is_the_whole_batch(norm):
    """Of different numbers of tokens and different lengths, by the weights of a `Sentences`."""
    it = measured(norm)
    for values in (it.losses, it.gradients, it.products):
        np.testing.assert_allclose((values[1] + values[2]) / 2, values[0], rtol=1e-9, atol=1e-12)
    assert it.num_traces == 1


@pytest.mark.parametrize("norm", schema.NORMS)
def test_padding_enters_neither_loss_nor_hessian(norm):
    it = measured(norm)
    for values in (it.losses, it.gradients, it.products):
        for other in values[3:]:
            # Float64 sums in another order.
            np.testing.assert_allclose(other, values[0], rtol=1e-9, atol=1e-12)


def test_product_with_dropout_is_that_of_differences_of_the_gradient():
    model = network("post", label_smoothing=0.1, dropout=0.3)
    batch = micro_batch([3, 4], 5)
    at_point = Objective(model, from_list([batch])).linearise()
    vector = np.random.default_rng(4).standard_normal(at_point.gradient.shape)
    product = at_point.hessian_product(tf.constant(vector)).numpy()
    expected = difference(TrainingGradient(model, batch), flat_parameters(model), vector)
    # The differences' truncation, step⁴, and rounding, ε/step.
    assert np.linalg.norm(product - expected) <= 1e-7 * np.linalg.norm(expected)


def test_smoothed_loss_is_the_textbook_one():
    generator = np.random.default_rng(0)
    logits, labels = generator.standard_normal((2, 3, 5)), generator.integers(0, 5, (2, 3))
    weights = generator.uniform(0, 1, (2, 3))
    smooth = 0.9 * np.eye(5)[labels] + 0.1 / 5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(weights[..., None] * smooth * log_p).sum()
    loss = TokenCrossEntropy(0.1)(labels, tf.constant(logits, tf.float32), weights)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def in_precision(dtype):
    """The network of `measured` and its batch in another precision."""
    it, lengths = measured("pre"), [3, 4, 6, 7]
    keras.config.set_floatx("float32")
    model = network("pre", 0.1, dtype)
    for variable, value in zip(model.trainable_variables, it.weights, strict=True):
        variable.assign(value)
    batch = micro_batch(lengths, 7, scale=1 / sum(lengths), dtype="float32")
    return model, Objective(model, from_list([batch])), batch


# Largest relative error: float16 has 11 bits and bfloat16 8, and there are some tens of operations
# in a row.
PRECISIONS = {"float16": ("mixed_float16", 0.03), "bfloat16": ("mixed_bfloat16", 0.3)}


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)
def test_product_in_mixed_precision(dtype, tolerance):
    it = measured("pre")
    _, objective, _ = in_precision(dtype)
    product = objective.linearise().hessian_product(tf.constant(it.vector, objective.dtype))
    error = np.linalg.norm(product.numpy() - it.products[0])
    assert error <= tolerance * np.linalg.norm(it.products[0])


@pytest.mark.slow
def test_training_and_product_compiled_by_xla():
    it = measured("pre")
    model, objective, batch = in_precision("float32")
    model.compile(keras.optimizers.SGD(0.0), model.loss, jit_compile=True)
    history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    assert history.history["loss"][0] == pytest.approx(it.losses[0], rel=1e-5)
    (source, target), labels, weights = batch
    compiled = tf.function(objective._product_of_batch, jit_compile=True, autograph=False)
    product = compiled(
        tf.constant(it.vector, tf.float32),
        [tf.convert_to_tensor(v.value) for v in objective.variables],
        tf.constant(0, tf.int64),
        *(source, target, labels, weights),
    )[-1]
    # Some tens of float32 operations in a row.
    error = np.linalg.norm(product.numpy() - it.products[0])
    assert error <= 1e-4 * np.linalg.norm(it.products[0])


@pytest.mark.parametrize("norm", schema.NORMS)
def test_sizes_are_those_of_the_configuration(norm):
    sizes = schema.Transformer(
        norm=norm, num_layers=2, dim=8, heads=2, hidden=16, dropout=0.0, label_smoothing=0.0
    )
    config = schema.Config(model=sizes, optimizer=schema.OPTIMIZERS["adam"](), output_dir="")
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
