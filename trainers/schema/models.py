"""The `model` sections: one class a module under `trainers/`, and one row in `MODELS`."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from trainers.conditions import Condition, at_least, one_of

ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "softplus")


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


MODELS = {
    "fully_connected": FullyConnected,
    "cnn": CNN,
    "wide_resnet": WideResNet,
    "resnet50": ResNet50,
}
