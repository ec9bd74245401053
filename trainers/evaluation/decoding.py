"""Translation by a trained `trainers.models.transformer.Transformer`: greedy and beam search.

Each step runs the decoder on the whole prefix, so the layers need no caches.
"""

from typing import Any

import tensorflow as tf

from trainers.data.vocabulary import BEGIN, END, PADDING

_NEVER = -float("inf")


class Decoder:
    """Translates batches of sentences; traced once, whatever their number and length.

    Args:
        model: A `Transformer`.
        beam_width: Hypotheses kept for each sentence; 1 for greedy search.
        length_penalty: α of `beam_search`; unused in greedy search.
        extra_tokens: A translation has at most twice as many tokens as the longest source of its
            batch, plus this many, its end mark included.
    """

    def __init__(
        self, model: Any, beam_width: int = 1, length_penalty: float = 0.6, extra_tokens: int = 10
    ) -> None:
        def translate(source: tf.Tensor) -> tf.Tensor:
            limit = 2 * tf.shape(source)[1] + extra_tokens
            if beam_width == 1:
                return greedy_search(model, source, limit)
            return beam_search(model, source, limit, beam_width, length_penalty)

        self._translate = tf.function(
            translate, input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False
        )

    def __call__(self, source: tf.Tensor) -> tf.Tensor:
        """Translations, int32 (N, L): up to an end mark and then padding."""
        return self._translate(source)


def greedy_search(model: Any, source: tf.Tensor, limit: tf.Tensor | int) -> tf.Tensor:
    """Append the most probable next token until the end mark.

    Args:
        model: A `Transformer`.
        source: int32 (N, S).
        limit: Largest number of tokens of a translation, its end mark included.

    Returns:
        int32 (N, L) with L of at most `limit`: up to an end mark and then padding.
    """
    memory, real = model.encode(source)
    begin = tf.fill([tf.shape(source)[0], 1], BEGIN)

    def step(tokens: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        log_probabilities = _next_token(model, memory, real, tokens)
        best = tf.argmax(log_probabilities, -1, tf.int32)
        token = tf.where(ended, PADDING, best)
        return tf.concat([tokens, token[:, None]], 1), ended | (token == END)

    tokens, _ = tf.while_loop(
        lambda tokens, ended: (tf.shape(tokens)[1] <= limit) & ~tf.reduce_all(ended),
        step,
        (begin, tf.zeros_like(begin[:, 0], tf.bool)),
        shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([None])),
    )
    return tokens[:, 1:]


def beam_search(
    model: Any, source: tf.Tensor, limit: tf.Tensor | int, width: int, length_penalty: float
) -> tf.Tensor:
    r"""The best of `width` hypotheses that are extended in parallel.

    A hypothesis of n tokens, the end mark included, and log-probability log p has the score

        log p / ((5 + n) / 6)^α

    and the `width` best by score are extended in the next step; ended ones compete unchanged.

    Args:
        model: A `Transformer`.
        source: int32 (N, S).
        limit: Largest number of tokens of a translation, its end mark included.
        width: Hypotheses kept for each sentence.
        length_penalty: α, 0 for no preference of length.

    Returns:
        int32 (N, L) with L of at most `limit`: up to an end mark and then padding.

    References:
        Wu et al., "Google's neural machine translation system", 2016, Equation 14.
    """
    memory, real = (tf.repeat(tensor, width, axis=0) for tensor in model.encode(source))
    count = tf.shape(source)[0]
    begin = tf.fill([count, width, 1], BEGIN)
    # All hypotheses are equal at first, so the first step extends only one of them.
    log_p = tf.tile([[0.0] + [_NEVER] * (width - 1)], [count, 1])
    lengths = tf.zeros_like(log_p)

    def step(
        tokens: tf.Tensor, log_p: tf.Tensor, lengths: tf.Tensor, ended: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        flat = tf.reshape(tokens, [count * width, -1])
        extension = _next_token(model, memory, real, flat)
        num_tokens = tf.shape(extension)[-1]
        extension = tf.reshape(extension, [count, width, num_tokens])
        stay = tf.where(tf.range(num_tokens) == PADDING, 0.0, _NEVER)
        total = log_p[..., None] + tf.where(ended[..., None], stay, extension)
        lengths = tf.where(ended, lengths, lengths + 1.0)
        scores = total / ((5.0 + lengths[..., None]) / 6.0) ** length_penalty
        _, chosen = tf.math.top_k(tf.reshape(scores, [count, width * num_tokens]), width)
        beam, token = chosen // num_tokens, chosen % num_tokens
        log_p = tf.gather(tf.reshape(total, [count, -1]), chosen, batch_dims=1)
        tokens, lengths, ended = (
            tf.gather(tensor, beam, batch_dims=1) for tensor in (tokens, lengths, ended)
        )
        tokens = tf.concat([tokens, token[..., None]], -1)
        return tokens, log_p, lengths, ended | (token == END)

    beams = tf.TensorShape([None, width])
    tokens, *_ = tf.while_loop(
        lambda tokens, log_p, lengths, ended: (
            (tf.shape(tokens)[2] <= limit) & ~tf.reduce_all(ended)
        ),
        step,
        (begin, log_p, lengths, tf.zeros_like(log_p, tf.bool)),
        shape_invariants=(tf.TensorShape([None, width, None]), beams, beams, beams),
    )
    return tokens[:, 0, 1:]


def _next_token(model: Any, memory: tf.Tensor, real: tf.Tensor, prefix: tf.Tensor) -> tf.Tensor:
    """Log-probabilities of the token after each prefix (N, L): float32 (N, V).

    Padding and the begin mark never follow.
    """
    states = model.decode(memory, real, prefix)[:, -1:]
    log_probabilities = tf.nn.log_softmax(tf.cast(model.logits(states)[:, 0], tf.float32))
    tokens = tf.range(tf.shape(log_probabilities)[-1])
    return tf.where((tokens == PADDING) | (tokens == BEGIN), _NEVER, log_probabilities)
