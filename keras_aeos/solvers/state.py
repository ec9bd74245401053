"""What a Lanczos solve passes from product to product, and what goes into it and comes out."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_aeos.solvers.certificate import Certificate
from keras_aeos.solvers.rounding import Rounding


class Settings(NamedTuple):
    """What a solve is asked for, tensors; scalars but for `weights`.

    Attributes:
        num_eigenvalues: Number k of eigenpairs.
        num_checked: Number of eigenvalues above which none may be missed.
        max_hvps: Largest number of products.
        capacity: Number of vectors of a full basis.
        rtol: Relative tolerance of each eigenvalue.
        margin: Relative margin of the certificate.
        seed: Seed of the random directions.
        weights: Weights in the start vector of the first vectors of an earlier solve.
        fresh_norm: Norm of its random part, where the part from earlier vectors has norm 1.
    """

    num_eigenvalues: Any
    num_checked: Any
    max_hvps: Any
    capacity: Any
    rtol: Any
    margin: Any
    seed: Any
    weights: Any
    fresh_norm: Any


class State(NamedTuple):
    """A solve after some of its products.

    Attributes:
        rows: The basis vectors and room for others, shape (c, n'). Each is padded with zeros to
            ``n' ≥ n``. The tensor is changed in place.
        vector: The last basis vector, which is multiplied next, shape (n,).
        length: Number of basis vectors.
        projection: The lower triangle of T, shape (m, m), for m vectors of a full basis.
        coupling: Components of the next image along the basis as symmetry makes them, shape (m,).
        asymmetry: Largest difference between such components and computed ones.
        values: Eigenvalues of T, descending, shape (length,).
        vectors: Eigenvectors of T, the columns of a tensor of shape (length, length).
        beta: Coefficient β.
        begin: Index of the basis vector from which the basis was expanded.
        certificate: The `Certificate` of the full bases before this one.
        num_hvps: Number of products.
        num_exhausted: Number of times that the Krylov space was exhausted.
        num_random: Number of random directions drawn.
        certified: Whether no eigenvalue is missed.
        finite: Whether all products were finite.
        running: Whether another product is needed.
    """

    rows: tf.Tensor
    vector: tf.Tensor
    length: tf.Tensor
    projection: tf.Tensor
    coupling: tf.Tensor
    asymmetry: tf.Tensor
    values: tf.Tensor
    vectors: tf.Tensor
    beta: tf.Tensor
    begin: tf.Tensor
    certificate: Certificate
    num_hvps: tf.Tensor
    num_exhausted: tf.Tensor
    num_random: tf.Tensor
    certified: tf.Tensor
    finite: tf.Tensor
    running: tf.Tensor


class Outcome(NamedTuple):
    """What a solve found; of the k wanted pairs only those that the basis holds.

    Attributes:
        values: Ritz values, descending, shape (m,).
        norms: Norms of their residuals in exact arithmetic, shape (m,).
        met: Whether each met the tolerance, shape (m,).
        rounding: The `Rounding` of the products.
        certified: Whether no eigenvalue is missed.
        upper_bound: Number that no eigenvalue exceeds, but for the rounding of the products.
        vectors: Unit Ritz vectors of the wanted pairs, of two more and of the lowest, as far as
            the basis holds them, shape (j, n).
        num_hvps: Number of products.
        finite: Whether all products were finite. If not, nothing else is of use.
    """

    values: tf.Tensor
    norms: tf.Tensor
    met: tf.Tensor
    rounding: Rounding
    certified: tf.Tensor
    upper_bound: tf.Tensor
    vectors: tf.Tensor
    num_hvps: tf.Tensor
    finite: tf.Tensor


def settings_specs(dtype: tf.DType) -> Settings:
    """The specs of the `Settings` of a solve with vectors of a precision."""
    count, number = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.float64)
    return Settings(
        num_eigenvalues=count,
        num_checked=count,
        max_hvps=count,
        capacity=count,
        rtol=number,
        margin=number,
        seed=tf.TensorSpec([], tf.int64),
        weights=tf.TensorSpec([None], dtype),
        fresh_norm=tf.TensorSpec([], dtype),
    )


def state_specs(dtype: tf.DType) -> State:
    """The specs of the `State` of a solve with vectors of a precision."""
    count, flag = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.bool)
    number = tf.TensorSpec([], tf.float64)
    array = tf.TensorSpec([None], tf.float64)
    matrix = tf.TensorSpec([None, None], tf.float64)
    return State(
        rows=tf.TensorSpec([None, None], dtype),
        vector=tf.TensorSpec([None], dtype),
        length=count,
        projection=matrix,
        coupling=array,
        asymmetry=number,
        values=array,
        vectors=matrix,
        beta=number,
        begin=count,
        certificate=Certificate(number, matrix, matrix),
        num_hvps=count,
        num_exhausted=count,
        num_random=count,
        certified=flag,
        finite=flag,
        running=flag,
    )
