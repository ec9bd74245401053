"""The `model` sections: one class a module under `trainers/`, and one row in `MODELS`."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainers.schema.conditions import Condition, at_least, fraction, one_of

ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "softplus")
NORMS = ("pre", "post")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def _sizes(count: int) -> dict[str, Condition]:
    """Metadata of a list of so many whole numbers above 0."""
    return {
        "condition": Condition(
            f"a list of {count} whole numbers above 0",
            lambda sizes: len(sizes) == count and all(size >= 1 for size in sizes),
        )
    }


@dataclass
class Model:
    """Base of every model section; `name` is the module under `trainers/` that builds it."""

    name: str = MISSING


@dataclass
class FullyConnected(Model):
    """Fully connected network: `hidden_layers` layers of `width` units each."""

    name: str = one_of(("fully_connected",), "fully_connected")
    hidden_layers: int = at_least(0, 5)
    width: int = at_least(1, 200)
    activation: str = one_of(ACTIVATIONS, "tanh")


@dataclass
class CNN(Model):
    """Convolutional network: `filters` of its three convolutions, `units` of its two layers."""

    name: str = one_of(("cnn",), "cnn")
    filters: list[int] = field(default_factory=lambda: [64, 96, 128], metadata=_sizes(3))
    units: list[int] = field(default_factory=lambda: [512, 256], metadata=_sizes(2))


@dataclass
class WideResNet(Model):
    """Wide residual network of three groups.

    A group has `blocks_per_group` blocks of two convolutions with `multiplier` times `filters`
    filters in the first group, twice and four times as many in the others; `filters` are those
    of the first convolution, `stem_stride` its stride (1 in the literature; more makes a cheaper
    network). Without `batch_norm` a learnable scalar scales each residual branch.
    """

    name: str = one_of(("wide_resnet",), "wide_resnet")
    blocks_per_group: int = at_least(1, 4)
    multiplier: int = at_least(1, 10)
    filters: int = at_least(1, 16)
    stem_stride: int = at_least(1, 1)
    batch_norm: bool = True


@dataclass
class ResNet50(Model):
    """ResNet-50 as in Keras Applications; it has no sizes to choose."""

    name: str = one_of(("resnet50",), "resnet50")


@dataclass
class Transformer(Model):
    """Encoder and decoder of `num_layers` layers each, of width `dim`.

    `norm` puts LayerNorm before ("pre") or after ("post") each sublayer; `hidden` is the width
    inside of the feed-forward sublayers. The loss of a token gives the part `label_smoothing` of
    the probability to all tokens alike. `precision` is a policy of Keras for all layers.
    """

    name: str = one_of(("transformer",), "transformer")
    norm: str = one_of(NORMS, "pre")
    num_layers: int = at_least(1, 6)
    dim: int = at_least(2, 512)
    heads: int = at_least(1, 8)
    hidden: int = at_least(1, 2_048)
    dropout: float = fraction(0.1)
    label_smoothing: float = fraction(0.1)
    precision: str = one_of(PRECISIONS, "float32")


MODELS = {
    "fully_connected": FullyConnected,
    "cnn": CNN,
    "wide_resnet": WideResNet,
    "resnet50": ResNet50,
    "transformer": Transformer,
}
