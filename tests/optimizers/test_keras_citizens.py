"""Each custom optimizer in everything that Keras lets an optimizer do."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_aeos
import keras_aeos.optimizers as ours
from keras_aeos.optimizers import dynamics
from tests.cases import flat
from tests.optimizers.cases import (
    APPROXIMATE,
    CUSTOM_OPTIMIZERS,
    KERAS_OPTIMIZERS,
    OPTIMIZERS,
    RATE,
    SHAPES,
    schedule,
)
from tests.optimizers.paths import random_path
from tests.strategies import scope

custom = pytest.mark.parametrize("name", CUSTOM_OPTIMIZERS)
# A class of several rows has one among the quick tests of what its options hardly touch.
_FIRST = {type(case.make(RATE)): name for name, case in reversed(CUSTOM_OPTIMIZERS.items())}
each_class = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in _FIRST.values() else pytest.mark.slow)
        for name in CUSTOM_OPTIMIZERS
    ],
)
X = np.random.default_rng(0).standard_normal((12, 4)).astype("float32")
Y = np.random.default_rng(1).standard_normal((12, 2)).astype("float32")
MODEL_SHAPES = [(4, 3), (3,), (3, 2), (2,)]


def make(name, rate=RATE, shapes=MODEL_SHAPES, **settings):
    """The optimizer of a row, with second moments of the shapes if it needs them."""
    if name == "frozen_adam":
        moments = [np.full(shape, 0.5, "float32") for shape in shapes]
        return keras_aeos.optimizers.FrozenAdam(rate, moments, **settings)
    return OPTIMIZERS[name].make(rate, **settings)


def small_model(optimizer, dtype=None, **compile_options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, "tanh", dtype=dtype),
            layers.Dense(2, dtype=dtype),
        ]
    )
    model.compile(optimizer, loss="mse", **compile_options)
    return model


@functools.cache
def plain_path(name):
    """Parameters after training with nothing special."""
    return fit(small_model(make(name), jit_compile=False))


def fit(model, epochs=2):
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return flat(model.trainable_variables)


@custom
def test_second_moments_are_public_with_the_shapes_and_dtypes_of_the_variables(name):
    optimizer = CUSTOM_OPTIMIZERS[name].make(RATE)
    for _ in random_path(optimizer, num_steps=1, dtype="float32"):
        pass
    moments = optimizer.second_moments
    if name in ("gradient_descent", "heavy_ball", "heavy_ball_ema", "nesterov", "nesterov_ema"):
        assert list(moments) == []
    elif name.startswith("adafactor"):
        row, column = moments[3]
        assert (tuple(row.shape), tuple(column.shape)) == ((2, 3), (2, 4))
        assert tuple(moments[1].shape) == (5,)
    else:
        assert [tuple(m.shape) for m in moments] == SHAPES
        assert {m.dtype for m in moments} == {"float32"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioner_has_the_shapes_and_dtypes_of_the_variables(name):
    optimizer = OPTIMIZERS[name].make(RATE)
    for _ in random_path(optimizer, num_steps=1, dtype="float32"):
        pass
    diagonal = keras_aeos.preconditioner(optimizer)
    assert [tuple(part.shape) for part in diagonal] == SHAPES
    assert {part.dtype for part in diagonal} == {tf.float32}


@custom
def test_config_and_file_bring_an_optimizer_back(name, tmp_path):
    model = small_model(make(name, schedule(RATE), weight_decay=0.1, clipnorm=3.0, use_ema=True))
    optimizer = model.optimizer
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()

    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(fit(model), fit(loaded))
    np.testing.assert_array_equal(
        flat(keras_aeos.preconditioner(model.optimizer)),
        flat(keras_aeos.preconditioner(loaded.optimizer)),
    )


@each_class
def test_compiled_by_xla_makes_the_same_path(name):
    compiled = fit(small_model(make(name), jit_compile=True))
    np.testing.assert_allclose(compiled, plain_path(name), rtol=1e-4, atol=1e-5)


@each_class
def test_accumulated_gradients_make_the_path_of_the_whole_batch(name):
    """Three micro-batches of four against one batch of twelve."""
    split = small_model(make(name, gradient_accumulation_steps=3))
    whole = small_model(make(name))
    split.fit(X, Y, batch_size=4, epochs=4, shuffle=False, verbose=0)
    whole.fit(X, Y, batch_size=12, epochs=4, shuffle=False, verbose=0)
    assert dynamics.num_updates(split.optimizer) == 4
    np.testing.assert_allclose(
        flat(split.trainable_variables), flat(whole.trainable_variables), rtol=1e-4, atol=1e-5
    )


@each_class
def test_scaling_the_loss_changes_nothing(name):
    inner = make(name)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    np.testing.assert_allclose(fit(small_model(scaled)), plain_path(name), rtol=1e-4, atol=1e-5)
    assert len(keras_aeos.preconditioner(scaled)) == 4


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *(
            pytest.param(
                name, "mirrored 2", marks=() if name in _FIRST.values() else pytest.mark.slow
            )
            for name in CUSTOM_OPTIMIZERS
        ),
        ("adam", "one device"),
        ("adam", "mirrored 4"),
    ],
)
def test_strategy_makes_the_path_of_one_device(name, strategy):
    with scope(strategy):
        model = small_model(make(name))
    np.testing.assert_allclose(fit(model), plain_path(name), rtol=1e-4, atol=1e-5)
    assert [tuple(p.shape) for p in keras_aeos.preconditioner(model.optimizer)] == MODEL_SHAPES


@each_class
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_other_precisions(name, dtype):
    keras.config.set_dtype_policy(dtype)
    model = small_model(make(name))
    before = flat(model.trainable_variables)
    after = fit(model)
    assert np.isfinite(after).all()
    assert (after != before).any()
    assert {p.dtype for p in keras_aeos.preconditioner(model.optimizer)} == {tf.float32}


@each_class
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_the_variables_alone(name, dtype):
    """The path of the float64 twin, but for the rounding of the variable in each update."""
    ends = []
    for path_dtype in (dtype, "float64"):
        optimizer = CUSTOM_OPTIMIZERS[name].make(RATE)
        # (1-β₂)g² is 1e-9 for the first gradients: zero in float16.
        *_, end = half_path(optimizer, path_dtype)
        ends.append(flat(end).astype("float64"))
    # Twelve roundings of numbers below 4, and that of Padam's and RMSprop's longer steps.
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    tolerance = 12 * unit * (4.0 + np.abs(ends[1]))
    assert (np.abs(ends[0] - ends[1]) <= tolerance).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [n for n, case in CUSTOM_OPTIMIZERS.items() if case.twin])
def test_half_precision_is_finite_wherever_stock_keras_is(name, dtype):
    """Default ε, a coordinate without a gradient, and gradients whose squares vanish in float16."""
    ours_type = type(CUSTOM_OPTIMIZERS[name].make(RATE))
    settings = CUSTOM_OPTIMIZERS[name].make(RATE).get_config()
    settings |= {"epsilon": 1e-7} if "epsilon" in settings and ours_type != ours.Adafactor else {}
    stock = (KERAS_OPTIMIZERS | APPROXIMATE)[str(CUSTOM_OPTIMIZERS[name].twin)].make(RATE)
    theirs = stock.get_config()
    theirs |= {"epsilon": 1e-7} if "epsilon" in theirs else {}
    *_, end = half_path(ours_type.from_config(settings), dtype)
    *_, reference = half_path(type(stock).from_config(theirs), dtype)
    finite = np.isfinite(flat(reference).astype("float32"))
    assert np.isfinite(flat(end).astype("float32"))[finite].all()


def half_path(optimizer, dtype, num_steps=12):
    """Yields the variables after each update by small gradients, one of them zero throughout."""
    generator = np.random.default_rng(3)
    variables = [keras.Variable(generator.standard_normal(s), dtype=dtype) for s in SHAPES]
    for _ in range(num_steps):
        gradients = [1e-3 * generator.uniform(0.5, 2.0, s) for s in SHAPES]
        gradients[1][0] = 0.0
        # The same numbers in either precision.
        rounded = [tf.cast(tf.constant(g), "bfloat16") for g in gradients]
        optimizer.apply([tf.cast(g, dtype) for g in rounded], variables)
        yield [v.numpy() for v in variables]


def through_bytes(optimizer):
    return pickle.loads(pickle.dumps(optimizer))  # noqa: S301


@each_class
@pytest.mark.parametrize("again", [copy.deepcopy, through_bytes])
def test_copies_have_the_same_configuration(name, again):
    """As in Keras, a copy is made from the configuration."""
    optimizer = make(name, weight_decay=0.1, clipnorm=3.0)
    copied = again(optimizer)
    assert type(copied) is type(optimizer)
    assert copied.get_config() == optimizer.get_config()


@each_class
def test_sparse_gradients_make_the_path_of_dense_ones(name):
    """Slices that name a row twice and leave others out."""
    values = np.random.default_rng(0).standard_normal((5, 3, 2)).astype("float32")
    ends = []
    for sparse in (True, False):
        optimizer = make(name, shapes=[(4, 2)])
        variable = keras.Variable(np.ones((4, 2)), dtype="float32")
        for value in values:
            slices = tf.IndexedSlices(tf.constant(value), tf.constant([2, 0, 2]), (4, 2))
            optimizer.apply([slices if sparse else tf.convert_to_tensor(slices)], [variable])
        ends.append(variable.numpy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


@each_class
def test_decay_leaves_out_what_is_excluded(name):
    """The variables that are excluded move as without decay; the first update is the same else."""
    ends = {}
    for decay in (None, 0.3):
        optimizer = make(name, weight_decay=decay or (0.0 if name == "adamw" else None))
        model = small_model(optimizer)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(X, Y, batch_size=12, epochs=1, verbose=0)
        ends[decay] = [v.numpy() for v in model.trainable_variables]
    for variable, start, plain, decayed in zip(
        model.trainable_variables, before, ends[None], ends[0.3], strict=True
    ):
        shrunk = 0.0 if "bias" in variable.path else RATE * 0.3 * start
        # Parameter scaling sees the shrunk variable.
        tolerance = 1e-3 if name == "adafactor_scaled" else 1e-6
        np.testing.assert_allclose(decayed, plain - shrunk, rtol=1e-5, atol=tolerance)


@each_class
def test_clipping_acts_on_the_gradient(name):
    clipped = make(name, clipvalue=0.1, shapes=[(3,)])
    plain = make(name, shapes=[(3,)])
    ends = []
    for optimizer, gradient in ((clipped, [5.0, -0.05, -7.0]), (plain, [0.1, -0.05, -0.1])):
        variable = keras.Variable(np.ones(3), dtype="float32")
        optimizer.apply([tf.constant(gradient)], [variable])
        ends.append(variable.numpy())
    np.testing.assert_array_equal(ends[0], ends[1])


def test_learning_rate_and_count_under_gradient_accumulation():
    optimizer = keras_aeos.optimizers.HeavyBall(schedule(RATE), gradient_accumulation_steps=3)
    for count, _ in enumerate(random_path(optimizer, 7), 1):
        assert dynamics.num_updates(optimizer) == count // 3
    # The second update was made at the raw iteration 5.
    assert dynamics.last_learning_rate(optimizer) == pytest.approx(RATE * 0.5 ** (5 / 7), rel=1e-6)


# Our spelling of an argument that Keras calls otherwise.
SPELLINGS = {
    "momentum of HeavyBall": (ours.HeavyBall, "momentum", "beta_1"),
    "momentum of Nesterov": (ours.Nesterov, "momentum", "beta_1"),
    "rho of RMSprop": (ours.RMSprop, "rho", "beta_2"),
}


@pytest.mark.parametrize(("make", "theirs", "our_name"), SPELLINGS.values(), ids=SPELLINGS)
def test_spelling_of_keras_is_accepted_with_a_hint(make, theirs, our_name):
    with pytest.warns(UserWarning, match=f"`{theirs}`.*`{our_name}`"):
        optimizer = make(**{theirs: 0.75})
    assert optimizer.get_config()[our_name] == 0.75


@pytest.mark.parametrize(("make", "theirs", "our_name"), SPELLINGS.values(), ids=SPELLINGS)
def test_both_spellings_at_once_are_refused(make, theirs, our_name):
    with pytest.raises(ValueError, match=rf"Received: {our_name}=0\.5, {theirs}=0\.75"):
        make(**{our_name: 0.5, theirs: 0.75})


# An argument of Keras without a place here: its value, and the remedy that the error names.
NOT_SUPPORTED = {
    "momentum of GradientDescent": (ours.GradientDescent, "momentum", 0.9, "HeavyBall"),
    "nesterov of GradientDescent": (ours.GradientDescent, "nesterov", True, "Nesterov"),
    "nesterov of HeavyBall": (ours.HeavyBall, "nesterov", True, "Nesterov"),
    "centered of RMSprop": (ours.RMSprop, "centered", True, r"keras\.optimizers\.RMSprop"),
    "amsgrad of Adam": (ours.Adam, "amsgrad", True, "AMSGrad"),
    "amsgrad of AdamW": (ours.AdamW, "amsgrad", True, "AMSGrad"),
    "initial value of Adagrad": (ours.Adagrad, "initial_accumulator_value", 0.1, "zero"),
    "AMSGrad without its maximum": (ours.AMSGrad, "amsgrad", False, "Adam"),
    "Nesterov without its look ahead": (ours.Nesterov, "nesterov", False, "HeavyBall"),
    **{
        f"rho of {kind.__name__}": (kind, "rho", 0.9, "beta_2")
        for kind in (ours.Adam, ours.AdamW, ours.AMSGrad, ours.Padam, ours.Nadam)
    },
    "decay of Adafactor": (ours.Adafactor, "beta_2_decay", -0.8, "decay_exponent"),
}


@pytest.mark.parametrize(
    ("make", "argument", "value", "remedy"), NOT_SUPPORTED.values(), ids=NOT_SUPPORTED
)
def test_argument_of_keras_without_a_place_here_names_the_remedy(make, argument, value, remedy):
    with pytest.raises(ValueError, match=f"{remedy}.*Received: {argument}="):
        make(**{argument: value})


def test_amsgrad_of_keras_is_understood_where_it_changes_nothing():
    assert ours.AMSGrad(amsgrad=True).get_config() == ours.AMSGrad().get_config()
    assert ours.Adam(amsgrad=False).get_config() == ours.Adam().get_config()


def test_no_row_is_a_keras_optimizer_by_mistake():
    for name in CUSTOM_OPTIMIZERS:
        assert type(make(name)).__module__.startswith("keras_aeos.")
    for name, case in KERAS_OPTIMIZERS.items():
        assert type(case.make(RATE)).__module__.startswith("keras."), name
