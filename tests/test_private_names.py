"""What the package relies on in Keras and TensorFlow beyond their public interface.

Each row names one private thing and checks that it still does what the package needs. A release
that changes one fails here by name; elsewhere the change could pass in silence.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import private_keras, private_tensorflow

ROOT = Path(__file__).resolve().parent.parent


# Slots of the stock optimizers, with their values after one update by the gradient 2.
SLOTS: dict[str, tuple[dict, dict[str, float]]] = {
    "Adadelta": ({}, {"_accumulated_grads": 0.05 * 4.0, "_accumulated_delta_vars": 0.05 * 2e-6}),
    "Adafactor": ({}, {"_v": 4.0}),
    "Adagrad": ({}, {"_accumulators": 0.1 + 4.0}),
    "Adam": (
        {"amsgrad": True},
        {"_momentums": 0.1 * 2.0, "_velocities": 0.001 * 4.0, "_velocity_hats": 0.001 * 4.0},
    ),
    "Adamax": ({}, {"_u": 2.0}),
    "Ftrl": ({}, {"_accumulators": 0.1 + 4.0}),
    "Lamb": ({}, {"_momentums": 0.1 * 2.0, "_velocities": 0.001 * 4.0}),
    "Muon": ({}, {"adam_velocities": 0.001 * 4.0}),
    "Nadam": ({}, {"_velocities": 0.001 * 4.0}),
    "RMSprop": (
        {"centered": True},
        {"_velocities": 0.1 * 4.0, "_average_gradients": 0.1 * 2.0},
    ),
    "SGD": ({"momentum": 0.9}, {"momentums": -0.1 * 2.0}),
    "ScheduleFreeAdamW": ({}, {"_velocities": 0.001 * 4.0}),
}


@pytest.mark.parametrize("name", SLOTS)
def test_slots_of_stock_optimizers(name):
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    settings, slots = SLOTS[name]
    optimizer = getattr(keras.optimizers, name)(0.1, **settings)
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer.apply([tf.fill([3], 2.0)], [variable])
    for slot, value in slots.items():
        [found] = getattr(optimizer, slot)
        # Keras keeps β in float32: 1 - 0.999 is off by 1e-5.
        np.testing.assert_allclose(found.numpy(), np.full(3, value), rtol=1e-4)


# What each check stands for: the name in the source.
CHECKS: dict[str, Callable[[], None]] = {
    "gradient_registry": private_tensorflow.gradient_registry,
    "custom_gradient, _graph_mode_decorator": private_tensorflow.custom_gradients,
    "record": private_tensorflow.recorded_tensors,
    "global_state, context": private_tensorflow.global_generators,
    "pywrap_tfe, pywrap_tf_session, _handle": private_tensorflow.device_sizes,
    "op_def_registry": private_tensorflow.op_definitions,
    "nn_impl": private_tensorflow.moments,
    "_pywrap_util_port": private_tensorflow.onednn,
    "_current_frames": private_tensorflow.frames,
    "polymorphic_function": private_tensorflow.function_call,
    "_get_function": private_tensorflow.functions_of_a_graph,
    "__internal__": private_tensorflow.autograph,
    "seed_generator_state": private_keras.seeds,
    "train_function": private_keras.training_function,
    "_compute_loss, _compile_loss, _symbolic_build": private_keras.losses,
    "_call_has_training_arg": private_keras.training_argument,
    "_flatten_layers": private_keras.inner_layers,
    "SafeModeScope": private_keras.safe_mode,
    "cudnn_ok": private_keras.recurrent_kernels,
    "_trainable_variables, _learning_rate, _get_variable_index": private_keras.optimizer_variables,
    "_use_weight_decay": private_keras.excluded_variables,
    "_clip_gradients": private_keras.clipped_gradients,
    "the methods of a step": private_keras.steps,
    "overwrite_with_gradient": private_keras.overwritten_variables,
}


@pytest.mark.parametrize("names", CHECKS)
def test_private_name_does_what_the_package_relies_on(names):
    CHECKS[names]()


def _own_names(tree):
    """Private names that a module defines: functions, classes, attributes of its instances."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _private_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if re.match(r"(keras\.src|tensorflow\.python)\b", node.module):
                yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"keras\.src[.\w]+", str(node.value)):
            yield node.value


# Checked with another name: what holds, or what uses it.
WITH = {
    "_gradient_registry": "gradient_registry",
    "registry": "gradient_registry",
    "_registry": "gradient_registry",
    "_name": "gradient_registry",
    "ops": "gradient_registry",
    "_autograph": "polymorphic_function",
    "keras.src.backend.tensorflow.rnn": "cudnn_ok",
    "_should_use_adamw": "Muon",
}


def test_every_private_name_in_the_package_has_a_check():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "keras_aeos").rglob("*.py")]
    own = {name for tree in trees for name in _own_names(tree)}
    used = {name for tree in trees for name in _private_imports(tree)}
    used |= {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]|__internal__", node.attr)
    } - own
    checked = {name for names in CHECKS for name in names.split(", ")}
    checked |= {slot for _, slots in SLOTS.values() for slot in slots} | set(WITH)
    assert used <= checked, f"without a check: {sorted(used - checked)}"
