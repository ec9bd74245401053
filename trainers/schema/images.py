"""The sections of a run that learns to classify images: its data, evaluation and networks."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from trainers.errors import UserError
from trainers.micro_batches import micro_batch_size
from trainers.schema.conditions import PATH, Condition, above_zero, at_least, one_of, setting
from trainers.schema.datasets import DATASETS
from trainers.schema.section import Section

ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "softplus")


@dataclass
class Data(Section):
    """Training examples: the first `num_examples` of the data set, all of them when null.

    `data_dir` is the TFDS directory; null means the environment variable `TFDS_DATA_DIR`, else
    the default of TFDS. `batch_size` is the number of examples of an update, drawn at random for
    each, or null for all of them (full batch). `micro_batch_size` bounds the examples on the device
    at once, in training and in measuring.
    """

    task: ClassVar[str] = "images"

    name: str = one_of(tuple(DATASETS), "cifar10")
    data_dir: str | None = setting(None, PATH)
    num_examples: int | None = at_least(1, None)
    batch_size: int | None = at_least(1, None)
    micro_batch_size: int = at_least(1, 2_500)

    def check(self, config: Any) -> None:
        """Check that there are as many examples as asked for, and that they divide evenly."""
        available, wanted = DATASETS[self.name].num_examples, num_examples(self)
        measured = config.monitor.num_examples
        if self.data_dir is not None and self.name == "digits":
            raise UserError(
                "data.data_dir: without effect, because digits are built in. "
                f"Received: data.data_dir={self.data_dir}"
            )
        if wanted > available:
            raise UserError(
                f"data.num_examples: expected at most {available}, the size of {self.name}. "
                f"Received: data.num_examples={wanted}"
            )
        if measured is not None and measured > wanted:
            raise UserError(
                f"monitor.num_examples: expected at most {wanted}, the number of training "
                f"examples. Received: monitor.num_examples={measured}"
            )
        if self.batch_size is not None and self.batch_size > wanted:
            raise UserError(
                f"data.batch_size: expected at most {wanted}, the number of training examples; "
                f"null for all of them. Received: data.batch_size={self.batch_size}"
            )
        if self.batch_size is None:
            self.check_divides("data.num_examples", wanted)
        else:
            self.check_divides("data.batch_size", self.batch_size)
        self.check_divides("monitor.num_examples", measured or wanted)

    def check_divides(self, key: str, count: int) -> None:
        """Check that the examples of a key divide into equal micro-batches."""
        try:
            micro_batch_size(count, self.micro_batch_size)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from error


def num_examples(data: Data) -> int:
    """Number of training images that a `data` section asks for."""
    return DATASETS[data.name].num_examples if data.num_examples is None else data.num_examples


@dataclass
class Evaluation(Section):
    """When to evaluate on the test split: every `freq` updates; null for never.

    Also after the first update with a training loss of at most `loss_threshold`, if it is given.
    """

    task: ClassVar[str] = "images"

    freq: int | None = at_least(1, None)
    loss_threshold: float | None = above_zero(None)

    def check(self, config: Any) -> None:
        """Check that there is a test split if it is needed."""
        for key in ("freq", "loss_threshold"):
            value = getattr(self, key)
            if value is not None and not DATASETS[config.data.name].test_split:
                raise UserError(
                    f"evaluation.{key}: expected null, because {config.data.name} has no test "
                    f"split. Received: evaluation.{key}={value}"
                )


@dataclass
class Model(Section):
    """Base of every `model` section; `name` is the module in `trainers/models/` that builds it."""

    task: ClassVar[str] = "images"

    name: str = MISSING


def _sizes(count: int) -> dict[str, Condition]:
    """Metadata of a list of `count` whole numbers above 0."""
    return {
        "condition": Condition(
            f"a list of {count} whole numbers above 0",
            lambda sizes: len(sizes) == count and all(size >= 1 for size in sizes),
        )
    }


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

    The first convolution has `filters` filters and the stride `stem_stride` (1 in the literature;
    more makes a cheaper network). A group has `blocks_per_group` blocks of two convolutions, with
    `multiplier` times `filters` filters in the first group, twice and four times as many in the
    others. Without `batch_norm` a learnable scalar scales each residual branch.
    """

    name: str = one_of(("wide_resnet",), "wide_resnet")
    blocks_per_group: int = at_least(1, 4)
    multiplier: int = at_least(1, 10)
    filters: int = at_least(1, 16)
    stem_stride: int = at_least(1, 1)
    batch_norm: bool = True


@dataclass
class ResNet50(Model):
    """ResNet-50 as in Keras Applications; its sizes are fixed."""

    name: str = one_of(("resnet50",), "resnet50")


# The sections of this task that a file chooses, by group and by the name under `schema/GROUP/`.
SECTIONS: dict[str, dict[str, type]] = {
    "model": {
        "fully_connected": FullyConnected,
        "cnn": CNN,
        "wide_resnet": WideResNet,
        "resnet50": ResNet50,
    },
}
