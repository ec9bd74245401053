"""Small data sets in the files that TFDS would write for the real ones."""

import io
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Height, width and mode of the images of the small ImageNet, of photographs' many shapes.
SHAPES = (
    *((250, 333, "RGB"), (500, 375, "RGB"), (64, 64, "L"), (9, 13, "RGB"), (1200, 1600, "RGB")),
    *((40, 400, "RGB"), (300, 300, "L"), (224, 224, "RGB"), (1, 1, "RGB")),
)
LABELS = tuple(100 * index for index in range(len(SHAPES)))


def jpeg(height, width, mode="RGB", value=None):
    """A JPEG file: noise, or one value everywhere."""
    random = np.random.default_rng(height * width)
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = random.integers(0, 256, shape, np.uint8)
    if value is not None:
        pixels[:] = value
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", quality=90)
    return file.getvalue()


def _cifar(num_classes, broken):
    with tfds.core.registered.skip_registration():

        class Cifar(tfds.core.GeneratorBasedBuilder):
            """Noise images, 120 to train on and 40 to test."""

            VERSION = tfds.core.Version("3.0.2")
            name = f"cifar{num_classes}"

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=num_classes),
                }
                if num_classes == 100:
                    features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)
                return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._examples(120, 0), "test": self._examples(40, 1)}

            def _generate_examples(self):
                raise NotImplementedError

            def _examples(self, count, seed):
                random = np.random.default_rng(seed)
                for index in range(count):
                    shape = (32, 32, 3)
                    image: Any = random.integers([0, 50, 100], [100, 200, 256], shape, np.uint8)
                    labels = {"label": index % num_classes}
                    if num_classes == 100:
                        labels["coarse_label"] = index % 20
                    if index == broken:
                        image = io.BytesIO(b"\x89PNG, and no more")
                    yield index, {"id": f"train_{index}", "image": image, **labels}

    return Cifar


def _imagenet(encoded, splits):
    with tfds.core.registered.skip_registration():

        class Imagenet(tfds.core.GeneratorBasedBuilder):
            """JPEG files as they are, of several shapes."""

            VERSION = tfds.core.Version("5.1.0")
            name = "imagenet2012"

            def _info(self):
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=1000),
                    "file_name": tfds.features.Text(),
                }
                return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples() for split in splits}

            def _generate_examples(self):
                for index, (content, label) in enumerate(zip(encoded, LABELS, strict=False)):
                    yield (
                        index,
                        {
                            "image": io.BytesIO(content),
                            "label": label,
                            "file_name": f"n{index:08d}.JPEG",
                        },
                    )

    return Imagenet


def write_cifar(directory, num_classes=10, broken=None):
    """Write a small CIFAR data set below a TFDS directory, `broken` the index of a broken image."""
    _cifar(num_classes, broken)(data_dir=str(directory)).download_and_prepare()
    return str(directory)


def write_imagenet(directory, encoded=None, splits=("train", "validation")):
    """Write a small ImageNet, of given JPEG files or of one for each of `SHAPES`."""
    encoded = encoded or [jpeg(*shape) for shape in SHAPES]
    _imagenet(encoded, splits)(data_dir=str(directory)).download_and_prepare()
    return str(directory)
