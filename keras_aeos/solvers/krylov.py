"""Thick-restart Lanczos with full re-orthogonalisation, written so that one graph can hold it.

Every number is a tensor, and no shape depends on the operator: each function is traced once for a
precision. `solve` runs them with the operator's products, in a graph or from Python. Small tensors
are float64 and stay on the CPU. Once a product, one vector of them leaves the device of the basis.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_aeos.solvers.certificate import Basis, certificate, describe
from keras_aeos.solvers.operators import Operator
from keras_aeos.solvers.rounding import Rounding, zero
from keras_aeos.solvers.state import Outcome, Settings, State, settings_specs, state_specs
from keras_aeos.solvers.vectors import Matvec, norm, random_direction, remove, unit

# A sum of both that is shorter would be mostly rounding.
_LEAST_NORM = 1e-3
# Ritz vectors below the wanted ones that are passed to the next solve.
_NUM_GUARDS = 2
# Bytes to which rows are aligned, so that TensorFlow uses the first rows without a copy.
_ALIGNMENT = 64


def solve(matvec: Matvec, start: tf.Tensor, settings: Settings) -> Outcome:
    """Run a whole solve: the products of an `Operator` in one graph, others from Python.

    From Python there is one question a product.

    Args:
        matvec: Function from a tensor of shape (n,) to its product with A.
        start: Vectors of an earlier solve, shape (s, n).
        settings: What is asked for.
    """
    begin, _, finish = _traced(start.dtype)
    state = begin(start, settings)
    if isinstance(matvec, Operator):
        specs = [state_specs(start.dtype), settings_specs(start.dtype)]
        state = matvec.run(_loop, specs, state, settings)
    else:
        state = _loop(matvec, state, settings)
    return finish(state, settings)


def _loop(product: Matvec, state: State, settings: Settings) -> State:
    _, advance, _ = _traced(state.rows.dtype)
    (state,) = tf.while_loop(
        lambda state: state.running,
        lambda state: (advance(state, product(state.vector), settings),),
        (state,),
        (tf.nest.map_structure(lambda spec: spec.shape, state_specs(state.rows.dtype)),),
        parallel_iterations=1,
    )
    return state


@functools.cache
def _traced(dtype: tf.DType) -> tuple[Callable[..., Any], ...]:
    """The three parts of a solve, traced for a precision."""
    start, settings = tf.TensorSpec([None, None], dtype), settings_specs(dtype)
    state, image = state_specs(dtype), tf.TensorSpec([None], dtype)
    signatures = ((_begin, [start, settings]), (_advance, [state, image, settings]))
    return tuple(
        tf.function(function, input_signature=specs, autograph=False)
        for function, specs in (*signatures, (_finish, [state, settings]))
    )


def _begin(start: tf.Tensor, settings: Settings) -> State:
    """The state before the first product."""
    size, dtype = tf.shape(start)[1], start.dtype
    vector, fraction = _start_vector(start, settings)
    alignment = _ALIGNMENT // dtype.size
    width = -(-size // alignment) * alignment
    num_rows = tf.minimum(settings.capacity, settings.max_hvps)
    rows = tf.raw_ops.Empty(shape=[num_rows, width], dtype=dtype)
    with tf.device("CPU:0"):
        none, one = tf.constant(0), tf.constant(1)
        nothing = tf.zeros([settings.capacity], tf.float64)
        square = tf.zeros([settings.capacity, settings.capacity], tf.float64)
        return State(
            rows=_written(rows, tf.zeros([1], tf.int32), vector),
            vector=vector,
            length=one,
            projection=square,
            coupling=nothing,
            asymmetry=tf.constant(0.0, tf.float64),
            values=nothing,
            vectors=square,
            beta=tf.constant(0.0, tf.float64),
            begin=none,
            certificate=certificate(size, fraction, settings.capacity),
            num_hvps=none,
            num_exhausted=none,
            num_random=one,
            certified=tf.constant(False),
            finite=tf.constant(True),
            running=tf.constant(True),
        )


def _start_vector(start: tf.Tensor, settings: Settings) -> tuple[tf.Tensor, tf.Tensor]:
    """A unit vector and the norm of its random part."""
    fresh = _random_direction(start, settings.seed, tf.constant(1))
    one = tf.constant(1.0, start.dtype)

    def warm() -> tuple[tf.Tensor, tf.Tensor]:
        used = start[: tf.size(settings.weights)]
        old = unit(tf.matmul(settings.weights[None], used)[0])
        vector = old + settings.fresh_norm * fresh
        length = norm(vector)
        # In a space of few dimensions they may cancel.
        return tf.cond(
            length < _LEAST_NORM,
            lambda: (fresh, one),
            lambda: (vector / length, settings.fresh_norm / length),
        )

    return tf.cond(tf.shape(start)[0] == 0, lambda: (fresh, one), warm)


def _advance(state: State, image: tf.Tensor, settings: Settings) -> State:
    """The state after another product, `image`; ready for the next one if it is `running`."""
    size = tf.size(image)
    rest, beta, coefficients = _orthogonalise(state, image)
    with tf.device("CPU:0"):
        finite = tf.math.is_finite(beta) & tf.reduce_all(tf.math.is_finite(coefficients))
        coefficients = tf.where(finite, coefficients, 0.0)
        last, length = state.length - 1, state.length
        expected = tf.abs(coefficients - state.coupling)[:last]
        asymmetry = tf.maximum(state.asymmetry, tf.reduce_max(tf.pad(expected, [[0, 1]])))
        projection = tf.tensor_scatter_nd_update(state.projection, [[last]], [coefficients])
        values, vectors = tf.linalg.eigh(projection[:length, :length])
        state = state._replace(
            asymmetry=asymmetry,
            projection=projection,
            values=values[::-1],
            vectors=vectors[:, ::-1],
            beta=beta,
            num_hvps=state.num_hvps + 1,
            finite=finite,
        )
        exhausted = beta <= _floor(state)
        state = state._replace(num_exhausted=state.num_exhausted + tf.cast(exhausted, tf.int32))
        certified = _certified(state, size, settings)
        norms = _norms(state, size)
        rounding = _rounding(state)
        reached = rounding.met(norms, state.values, settings.rtol) | rounding.reached(norms)
        found = tf.reduce_all(reached[: settings.num_eigenvalues])
        found &= (length >= settings.num_eigenvalues) & certified
        running = finite & ~found & (state.num_hvps < settings.max_hvps)
        state = state._replace(certified=certified, running=running)
    return _expanded(state, size, rest, exhausted & running, settings)


def _orthogonalise(state: State, vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The rest of a vector (n,) beside the basis, its norm, and the components, shape (m,)."""
    basis = state.rows[: state.length]
    rest = tf.pad(vector, [[0, tf.shape(basis)[1] - tf.size(vector)]])
    rest, first = remove(basis, rest)
    rest, second = remove(basis, rest)
    found = tf.concat([first, second, norm(rest)[None]], 0)
    with tf.device("CPU:0"):
        first, second, beta = tf.split(
            tf.cast(found, tf.float64), tf.stack([state.length, state.length, 1]), num=3
        )
        missing = tf.shape(state.coupling)[0] - state.length
        components = tf.pad(first + second, [[0, missing]])
    return rest[: tf.size(vector)], beta[0], components


def _expanded(
    state: State, size: tf.Tensor, rest: tf.Tensor, exhausted: tf.Tensor, settings: Settings
) -> State:
    """The next basis vector is appended, after a restart if the basis is full; if `running`."""
    capacity = tf.shape(state.coupling)[0]
    with tf.device("CPU:0"):
        coupling = state.beta * tf.one_hot(state.length - 1, capacity, dtype=tf.float64)
        full = state.running & (state.length == capacity)

    def fresh() -> tuple[Any, ...]:
        """Only a fresh direction leads out of an invariant subspace."""
        num_random = state.num_random + 1
        direction = _random_direction(state.rows[:, :size], settings.seed, num_random)
        rest, beta, _ = _orthogonalise(state, direction)
        whole = certificate(size, tf.constant(1.0), capacity)
        return rest, beta, tf.zeros_like(coupling), whole, state.length, num_random

    rest, length, coupling, proof, begin, num_random = tf.cond(
        exhausted,
        fresh,
        lambda: (
            rest,
            state.beta,
            coupling,
            state.certificate,
            state.begin,
            state.num_random,
        ),
    )
    vector = rest / tf.cast(length, rest.dtype)

    def restart() -> tuple[Any, ...]:
        """Replace the basis by its best Ritz vectors."""
        num_kept = tf.minimum(settings.num_eigenvalues + 4, capacity - 1)
        with tf.device("CPU:0"):
            kept, missing = state.vectors[:, :num_kept], capacity - num_kept
            diagonal = tf.linalg.diag(tf.pad(state.values[:num_kept], [[0, missing]]))
            along = tf.pad(tf.linalg.matvec(kept, coupling, transpose_a=True), [[0, missing]])
            after = tf.cond(exhausted, lambda: proof, lambda: proof.restart(_described(state)))
        ritz = _combine(state, kept)
        with tf.control_dependencies([ritz, vector]):  # they read the rows that are overwritten
            rows = tf.raw_ops.InplaceUpdate(x=state.rows, i=tf.range(num_kept), v=ritz)
        return rows, num_kept, diagonal, along, num_kept, after

    rows, length, projection, coupling, begin, proof = tf.cond(
        full,
        restart,
        lambda: (state.rows, state.length, state.projection, coupling, begin, proof),
    )
    after = length + tf.cast(state.running, tf.int32)
    return state._replace(
        rows=_written(rows, tf.range(length, after), vector),
        vector=vector,
        length=after,
        projection=projection,
        coupling=coupling,
        begin=begin,
        certificate=proof,
        num_random=num_random,
    )


def _finish(state: State, settings: Settings) -> Outcome:
    """What the state after the last product shows."""
    size = tf.size(state.vector)
    with tf.device("CPU:0"):
        norms, rounding = _norms(state, size), _rounding(state)
        bound = state.certificate.upper_bound(_described(state))
        shown = tf.minimum(settings.num_eigenvalues + _NUM_GUARDS, state.length)
        columns = tf.concat([state.vectors[:, :shown], state.vectors[:, shown:][:, -1:]], 1)
    ritz = _combine(state, columns)
    lengths = tf.norm(ritz, axis=1, keepdims=True)
    with tf.device("CPU:0"):
        return Outcome(
            values=state.values,
            norms=norms,
            met=rounding.met(norms, state.values, settings.rtol),
            rounding=rounding,
            certified=state.certified,
            upper_bound=tf.where(state.length == size, state.values[0], bound),
            vectors=(ritz / lengths)[:, :size],
            num_hvps=state.num_hvps,
            finite=state.finite,
        )


def _certified(state: State, size: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Whether no eigenvalue above the found ones is missed, by the margin."""
    floor = _floor(state)
    excluded = state.certificate.excludes(
        _above(state.values[: settings.num_checked], settings.margin, floor), _described(state)
    )
    # An invariant subspace holds one eigenvector per eigenvalue, which may be k-fold.
    repeated = state.num_exhausted >= settings.num_eigenvalues
    certified = tf.where(state.beta <= floor, repeated, tf.reduce_all(excluded))
    return certified | (state.length == size)


def _above(values: tf.Tensor, margin: tf.Tensor, floor: tf.Tensor) -> tf.Tensor:
    """Numbers above descending values, by the margin or halfway to the next larger value."""
    steps = tf.maximum(margin * tf.abs(values), floor)
    halves = (values[:-1] - values[1:]) / 2.0
    return values + tf.minimum(steps, tf.pad(halves, [[1, 0]], constant_values=np.inf))


def _described(state: State) -> Basis:
    return describe(state.values, state.vectors, state.beta, state.begin)


def _norms(state: State, size: tf.Tensor) -> tf.Tensor:
    """Norms of the residuals, 0 in a basis of the whole space."""
    partial = tf.cast(state.length < size, tf.float64)
    return partial * state.beta * tf.abs(state.vectors[-1])


def _rounding(state: State) -> Rounding:
    largest = tf.reduce_max(tf.abs(state.values))
    return Rounding(state.asymmetry, zero(largest, _epsilon(state)))


def _floor(state: State) -> tf.Tensor:
    """Coefficient β below which the Krylov space is exhausted."""
    return 100.0 * _epsilon(state) * tf.reduce_max(tf.abs(state.values))


def _epsilon(state: State) -> float:
    return float(np.finfo(state.rows.dtype.as_numpy_dtype).eps)


def _combine(state: State, columns: tf.Tensor) -> tf.Tensor:
    """Combinations of the basis vectors with columns of coefficients, as rows (j, n')."""
    columns = tf.cast(columns, state.rows.dtype)
    return tf.matmul(columns, state.rows[: state.length], transpose_a=True)


def _written(rows: tf.Tensor, index: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """The same tensor, with a vector (n,) as the row that `index` (1,) names; (0,) for none."""
    row = tf.pad(vector, [[0, tf.shape(rows)[1] - tf.size(vector)]])
    return tf.raw_ops.InplaceUpdate(x=rows, i=index, v=row[None][: tf.size(index)])


def _random_direction(like: tf.Tensor, seed: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return random_direction(tf.shape(like)[1], like.dtype, seed, tf.cast(index, tf.int64))
