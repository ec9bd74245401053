"""The Transformer: encoder and decoder, Pre-LN or Post-LN, with one embedding table.

Attention is Keras' own in its plain form, whose second derivatives are exact; fused kernels have
none. Padding is masked in the encoder's keys. In the decoder it needs no mask: it follows the
sentence, where no real token attends, and has weight zero in the loss.

References:
    Vaswani et al., "Attention is all you need", 2017; Xiong et al., "On layer normalization in the
    Transformer architecture", 2020 (Pre-LN and Post-LN).
"""

from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from trainers import schema
from trainers.data.vocabulary import PADDING

# The longest wavelength of the position encoding, over 2π.
_LONGEST = 10_000.0
_register = keras.saving.register_keras_serializable(package="keras_aeos.trainers")


def build_model(config: schema.Config, vocabulary_size: int) -> "Transformer":
    """Build the network of the `model` section for a vocabulary.

    Kernels are Glorot uniform and biases zero; embeddings are normal with variance 1/dim, not
    truncated. They follow from `keras.utils.set_random_seed`.

    Args:
        config: Its `model` is a `schema.Transformer`.
        vocabulary_size: Number of subwords, including the special ones.
    """
    sizes = cast(schema.Transformer, config.model)
    model = Transformer(
        vocabulary_size,
        norm=sizes.norm,
        num_layers=sizes.num_layers,
        dim=sizes.dim,
        heads=sizes.heads,
        hidden=sizes.hidden,
        dropout=sizes.dropout,
        dtype=sizes.precision,
        name=sizes.name,
    )
    model((ops.ones((1, 2), "int32"), ops.ones((1, 2), "int32")))
    return model


@_register
class TokenCrossEntropy(keras.losses.Loss):
    r"""Sum of the weighted cross-entropies of tokens, with label smoothing.

    With logits z, the label y and the smoothing s over V tokens,

        (1 - s) (-log softmax(z)_y) + s (1/V) Σᵢ (-log softmax(z)ᵢ) = CE(z, y) + s (z_y - z̄).

    The labels are integers (N, L), the logits (N, L, V), the sample weights (N, L).

    Args:
        label_smoothing: s, from 0 to below 1.
    """

    def __init__(
        self, label_smoothing: float = 0.0, name: str = "token_cross_entropy", **kwargs: Any
    ):
        super().__init__(name=name, reduction="sum", dtype=kwargs.get("dtype"))
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Loss of each token, float32 (N, L)."""
        labels = tf.cast(y_true, tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, y_pred)
        if self.label_smoothing:
            of_label = tf.gather(y_pred, labels, axis=2, batch_dims=2)
            losses += self.label_smoothing * (of_label - tf.reduce_mean(y_pred, -1))
        return losses

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"label_smoothing": self.label_smoothing, "name": self.name}


@_register
class TiedEmbedding(layers.Layer):
    """Embeddings of subwords and positions, and logits from the same table.

    Token i at position p of a sentence becomes ``√d E_i + s_p`` with the sines and cosines s_p of
    Vaswani et al.; a state h gets the logits ``E h``.

    Args:
        vocabulary_size: Rows of the table E.
        dim: Its columns d, an even number.
    """

    def __init__(self, vocabulary_size: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.dim = dim

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the table."""
        self.table = self.add_weight(
            shape=(self.vocabulary_size, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=self.dim**-0.5),
            name="table",
        )
        self.built = True

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Embeddings (N, L, d) of tokens (N, L)."""
        embedded = ops.take(ops.cast(self.table, self.compute_dtype), tokens, axis=0)
        positions = _positions(ops.shape(tokens)[1], self.dim)
        return embedded * self.dim**0.5 + ops.cast(positions, self.compute_dtype)

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Logits (N, L, V) of states (N, L, d)."""
        return ops.matmul(states, ops.transpose(ops.cast(self.table, states.dtype)))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        sizes = {"vocabulary_size": self.vocabulary_size, "dim": self.dim}
        return {**super().get_config(), **sizes}


def _positions(length: int | tf.Tensor, dim: int) -> tf.Tensor:
    """Sines of position / 10000^(2i/d), then their cosines: float32 (length, d)."""
    rates = _LONGEST ** (-2.0 * np.arange(dim // 2, dtype=np.float32) / dim)
    angles = ops.cast(ops.arange(length), "float32")[:, None] * rates
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=1)


@_register
class TransformerLayer(layers.Layer):
    """Self-attention, in a decoder attention to the encoder's states, and a feed-forward network.

    A sublayer f maps x to ``x + f(LN(x))`` with Pre-LN, to ``LN(x + f(x))`` with Post-LN.

    Args:
        decoder: Whether the layer belongs to the decoder: causal, and attending to the encoder.
        norm: "pre" or "post".
        dim: Width of the states.
        heads: Number of attention heads, of width ``dim / heads``.
        hidden: Inner width of the feed-forward network.
        dropout: Fraction of a sublayer's outputs and of the attention weights that is dropped.
    """

    def __init__(
        self,
        decoder: bool,
        norm: str,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._settings = {
            **{"decoder": decoder, "norm": norm, "dim": dim},
            **{"heads": heads, "hidden": hidden, "dropout": dropout},
        }
        dtype = self.dtype_policy
        self._norm = norm
        self.attentions = [
            layers.MultiHeadAttention(
                heads, dim // heads, dropout=dropout, flash_attention=False, dtype=dtype
            )
            for _ in range(2 if decoder else 1)
        ]
        self.feed_forward = [
            layers.Dense(hidden, "relu", dtype=dtype),
            layers.Dropout(dropout, dtype=dtype),
            layers.Dense(dim, dtype=dtype),
        ]
        count = len(self.attentions) + 1
        self.norms = [layers.LayerNormalization(epsilon=1e-6, dtype=dtype) for _ in range(count)]
        self.drops = [layers.Dropout(dropout, dtype=dtype) for _ in range(count)]

    def call(
        self,
        states: tf.Tensor,
        memory: tf.Tensor | None = None,
        real: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """States (N, L, d) of the next layer.

        Args:
            states: (N, L, d).
            memory: The encoder's states (N, S, d), in a decoder.
            real: Whether each token of the source is real and not padding, bool (N, 1, S).
            training: Whether to apply dropout.
        """
        itself, *other = self.attentions
        if other:
            states = self._sublayer(
                0, states, training, lambda x: itself(x, x, use_causal_mask=True, training=training)
            )
            states = self._sublayer(
                1,
                states,
                training,
                lambda x: other[0](x, memory, attention_mask=real, training=training),
            )
        else:
            states = self._sublayer(
                0, states, training, lambda x: itself(x, x, attention_mask=real, training=training)
            )
        return self._sublayer(-1, states, training, lambda x: self._forward(x, training))

    def _sublayer(
        self,
        index: int,
        x: tf.Tensor,
        training: bool,
        function: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        norm, drop = self.norms[index], self.drops[index]
        if self._norm == "pre":
            return x + drop(function(norm(x)), training=training)
        return norm(x + drop(function(x), training=training))

    def _forward(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        widen, drop, narrow = self.feed_forward
        return narrow(drop(widen(x), training=training))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), **self._settings}


@_register
class Transformer(keras.Model):
    """Logits of the next token for every position of a target sentence, given a source sentence.

    Called on ``(source, target)``, int32 (N, S) and (N, L) with padding 0; gives (N, L, V).

    Args:
        vocabulary_size: Number V of subwords, including the special ones.
        norm: "pre" or "post". With "pre" the last states are normalised as well.
        num_layers: Number of layers, in the encoder as in the decoder.
        dim: Width of the states.
        heads: Number of attention heads.
        hidden: Inner width of the feed-forward networks.
        dropout: Fraction of embeddings, sublayer outputs and attention weights that is dropped.
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        norm: str,
        num_layers: int,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._settings = {
            **{"vocabulary_size": vocabulary_size, "norm": norm, "num_layers": num_layers},
            **{"dim": dim, "heads": heads, "hidden": hidden, "dropout": dropout},
        }
        dtype = self.dtype_policy
        self.embedding = TiedEmbedding(vocabulary_size, dim, dtype=dtype)
        self.drops = [layers.Dropout(dropout, dtype=dtype) for _ in range(2)]
        self.encoder, self.decoder = (
            [
                TransformerLayer(decoder, norm, dim, heads, hidden, dropout, dtype=dtype)
                for _ in range(num_layers)
            ]
            for decoder in (False, True)
        )
        self.norms = [
            layers.LayerNormalization(epsilon=1e-6, dtype=dtype)
            for _ in range(2 if norm == "pre" else 0)
        ]

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Logits (N, L, V)."""
        source, target = inputs
        states, real = self.encode(source, training)
        return self.embedding.logits(self.decode(states, real, target, training))

    def encode(self, source: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """States (N, S, d) of a source sentence and whether its tokens are real, (N, 1, S)."""
        real = ops.expand_dims(ops.not_equal(source, PADDING), 1)
        states = self.drops[0](self.embedding(source), training=training)
        for layer in self.encoder:
            states = layer(states, real=real, training=training)
        return self.norms[0](states) if self.norms else states, real

    def decode(
        self, memory: tf.Tensor, real: tf.Tensor, target: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """States (N, L, d) of a target sentence, given the result of `encode` for its source."""
        states = self.drops[1](self.embedding(target), training=training)
        for layer in self.decoder:
            states = layer(states, memory=memory, real=real, training=training)
        return self.norms[1](states) if self.norms else states

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Logits (N, L, V) of the decoder's states."""
        return self.embedding.logits(states)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Create all variables of a model that is loaded."""
        tokens = keras.KerasTensor((None, None), "int32")
        self((tokens, tokens))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), **self._settings}
