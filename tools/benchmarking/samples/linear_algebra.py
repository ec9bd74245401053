"""Products, decompositions and transforms."""

import tensorflow as tf

from tools.benchmarking.samples.inputs import Sample, complex_numbers, definite, positive, regular

SAMPLES: dict[str, Sample] = {
    "matmul": lambda x: x @ x,
    "batch_matmul": lambda x: tf.reshape(x, (4, 2, 2)) @ tf.reshape(x, (4, 2, 2)),
    "einsum": lambda x: tf.einsum("ij,jk,kl->il", x, x, x),
    "cholesky": lambda x: tf.linalg.cholesky(definite(x)),
    "inverse": lambda x: tf.linalg.inv(regular(x)),
    "determinant": lambda x: tf.linalg.det(regular(x)) / 50.0,
    "log_determinant": lambda x: tf.linalg.slogdet(regular(x))[1],
    "solve": lambda x: tf.linalg.solve(regular(x), x),
    "triangular_solve": lambda x: tf.linalg.triangular_solve(regular(x), x),
    "banded_triangular_solve": lambda x: tf.linalg.banded_triangular_solve(
        tf.concat([positive(x[:1]), x[1:2]], 0), x
    ),
    "tridiagonal_solve": lambda x: tf.linalg.tridiagonal_solve(
        tf.stack([x[0], 4.0 + x[1] ** 2, x[2]]), x[3], diagonals_format="compact"
    ),
    "tridiagonal_matmul": lambda x: tf.linalg.tridiagonal_matmul(
        (x[0], x[1], x[2]), x, diagonals_format="sequence"
    ),
    "least_squares": lambda x: tf.linalg.lstsq(regular(x), x, fast=True),
    "eigenvalues": lambda x: tf.linalg.eigvalsh(definite(x)),
    "eigenvectors": lambda x: tf.linalg.eigh(definite(x))[1] ** 2,
    "singular_values": lambda x: tf.linalg.svd(regular(x), compute_uv=False),
    "singular_vectors": lambda x: tf.linalg.svd(regular(x))[1] ** 2,
    "qr": lambda x: tf.linalg.qr(regular(x))[1] ** 2,
    "matrix_root": lambda x: tf.linalg.sqrtm(definite(x)),
    "exponential": lambda x: tf.linalg.expm(0.1 * x),
    "complex": lambda x: tf.abs(complex_numbers(x) ** 3),
    "angle": lambda x: tf.math.angle(complex_numbers(x)),
    "conj": lambda x: tf.math.real(tf.math.conj(complex_numbers(x)) * complex_numbers(x) ** 2),
    "imag": lambda x: tf.math.imag(complex_numbers(x) ** 2),
    "fft": lambda x: tf.abs(tf.signal.fft(complex_numbers(x))),
    "fft2d": lambda x: tf.abs(tf.signal.fft2d(complex_numbers(x))),
    "ifft": lambda x: tf.abs(tf.signal.ifft(complex_numbers(x))),
    "ifft2d": lambda x: tf.abs(tf.signal.ifft2d(complex_numbers(x))),
    "fft3d": lambda x: tf.abs(tf.signal.fft3d(complex_numbers(x)[None])),
    "ifft3d": lambda x: tf.abs(tf.signal.ifft3d(complex_numbers(x)[None])),
    "rfft": lambda x: tf.abs(tf.signal.rfft(x)),
    "rfft2d": lambda x: tf.abs(tf.signal.rfft2d(x)),
    "irfft": lambda x: tf.signal.irfft(complex_numbers(x)),
    "irfft2d": lambda x: tf.signal.irfft2d(complex_numbers(x)),
}
