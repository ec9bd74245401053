"""Rows in every precision, way of compiling and kind of trainable layer, or a clear refusal."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_aeos import AEoSMonitor, Eigensolver
from tests.cases import dense_hessian, flat
from tests.strategies import scope

GENERATOR = np.random.default_rng(1)
X, Y = GENERATOR.standard_normal((12, 4)), GENERATOR.standard_normal((12, 3))


@dataclasses.dataclass
class Setting:
    """How a model is made and compiled, and the relative error of its sharpness.

    The tolerance is that of the oracle in float64 (1e-6), of the solver in float32 (1e-4), of
    adapters, which Keras keeps in float32, in the oracle's differences (1e-3), ten roundings of
    2⁻¹¹ in float16, and in bfloat16 the tolerance of the solver, whose residuals do not fall below
    the rounding of a product.
    """

    rtol: float = 1e-4
    policy: str = "float32"
    solver_rtol: float = 1e-5
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    compile: dict[str, Any] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Any], None] = lambda model: None
    step: float = 1e-5


def adapt(model):
    """Put an adapter of rank 2 on the first layer, away from its zeros."""
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(0.25 * np.ones((2, 5)))


def quantise_the_frozen(model):
    model.layers[-1].quantize("int8")


SETTINGS = {
    "float32": Setting(),
    "float64": Setting(1e-6, "float64", 1e-6),
    "mixed_float16": Setting(10 * 2.0**-11, "mixed_float16", 2e-2),
    "mixed_bfloat16": Setting(1e-1, "mixed_bfloat16", 1e-1),
    "jit_compile": Setting(compile={"jit_compile": True}),
    "accumulation": Setting(optimizer={"gradient_accumulation_steps": 2}),
    "ema": Setting(optimizer={"use_ema": True, "ema_momentum": 0.5}),
    "adapters": Setting(1e-3, prepare=adapt, step=2.0**-8),
    "quantised": Setting(prepare=quantise_the_frozen),
}
# Keras itself trains with these on one replica alone.
ALONE = ("jit_compile", "accumulation")
QUANTISATION = pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")


def network(setting, policy, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, "tanh", dtype=policy),
            layers.Dense(3, dtype=policy),
        ]
    )
    setting.prepare(model)
    return model


class Weights(keras.callbacks.Callback):
    """The weights after the last batch, before `fit` puts averages in their place."""

    def on_train_batch_end(self, batch, logs=None):
        self.last = [v.numpy() for v in self.model.weights]


@QUANTISATION
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        (name, strategy)
        for name in SETTINGS
        for strategy in ("none", "mirrored 2")
        if name != "quantised" and not (name in ALONE and strategy != "none")
    ],
)
def test_sharpness_is_that_of_the_dense_hessian_in_float64(name, strategy):
    setting = SETTINGS[name]
    with scope(strategy):
        model = network(setting, setting.policy)
        model.compile(keras.optimizers.Adam(0.01, **setting.optimizer), "mse", **setting.compile)
    solver = Eigensolver(rtol=setting.solver_rtol)
    monitor = AEoSMonitor((X, Y), update_freq=1, quantities=["sharpness"], solver=solver)
    weights = Weights()
    model.fit(X, Y, batch_size=12, epochs=2, verbose=0, callbacks=[monitor, weights])
    row = monitor.history.iloc[-1]
    assert row["step"] == (1 if name == "accumulation" else 2)

    keras.config.set_floatx("float64")
    twin = network(setting, "float64")
    twin.compile("sgd", "mse")
    twin.set_weights(weights.last)
    hessian = dense_hessian(twin, X, Y, step=setting.step)
    expected = np.linalg.eigvalsh(hessian)[-1]
    assert np.isfinite(flat(weights.last)).all()
    assert row["sharpness"] == pytest.approx(expected, rel=setting.rtol)


@QUANTISATION
@pytest.mark.parametrize("strategy", ["none", "mirrored 2"])
def test_quantised_layers_are_refused_in_a_warning(strategy):
    setting = SETTINGS["quantised"]
    with scope(strategy):
        model = network(setting, "float32")
        model.compile("adam", "mse")
    monitor = AEoSMonitor((X, Y), update_freq=1)
    with pytest.warns(UserWarning, match=r"No exact Hessian: .* in layer .*quantisation"):
        model.fit(X, Y, batch_size=12, verbose=0, callbacks=[monitor])
    assert monitor.history["sharpness"].isna().all()
