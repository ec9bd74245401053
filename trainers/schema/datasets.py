"""Facts about the image data sets that are known without loading them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """One data set of labelled images.

    Attributes:
        num_examples: Size of the training split.
        input_shape: Height, width and channels of the images that the network sees.
        num_classes: Number of classes; labels count from 0.
        test_split: Name of the split to evaluate on; "" if there is none.
    """

    num_examples: int
    input_shape: tuple[int, int, int]
    num_classes: int
    test_split: str


DATASETS = {
    "digits": Dataset(1_797, (8, 8, 1), 10, ""),
    "cifar10": Dataset(50_000, (32, 32, 3), 10, "test"),
    "cifar100": Dataset(50_000, (32, 32, 3), 100, "test"),
    "imagenet2012": Dataset(1_281_167, (224, 224, 3), 1_000, "validation"),
}
