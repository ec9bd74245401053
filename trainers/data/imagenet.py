"""ImageNet in the TFDS format, decoded while the model trains.

Training in minibatches sees a random crop of each image, resized, and flipped half of the time.
Full batches, measurements and evaluation see its centre. The random numbers of an image follow from
`config.seed` and its place in the training order, so that a run can be repeated.

References:
    Szegedy et al., "Going deeper with convolutions", 2015 (random crops).
"""

import tensorflow as tf

from trainers import schema
from trainers.data import tfds
from trainers.data.images import targets
from trainers.data.share import ALL, Share

# Mean and standard deviation of the channels, from 0 to 255, over the training images.
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
# Random crops: fraction of the image's area, and width over height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
# The centre crop is this fraction of the shorter side.
_CENTRE = 0.875
# Decoded images up to this size are kept in memory if every pass sees the same ones.
_CACHED_BYTES = 2**31
# Encoded images, of 0.1 MB each, that random ones are drawn from.
_SHUFFLED = 8_192


class ImageNet:
    """A `Source` of images that are read and decoded in parallel to training."""

    def __init__(self, config: schema.Config) -> None:
        self._config = config
        self._builder = tfds.prepared(config.data)
        self.num_examples = schema.num_examples(config.data)
        self._side = schema.DATASETS[config.data.name].input_shape[0]
        tfds.check_split(self._builder, "train", self.num_examples)

    def ordered(self, num_examples: int, size: int) -> tf.data.Dataset:
        """Centre crops of the first images; decoded only once if they are few."""
        centres = self._centres(f"train[:{num_examples}]", size)
        return centres.cache() if num_examples * 12 * self._side**2 <= _CACHED_BYTES else centres

    def full_batch(self, size: int) -> None:
        """None: the micro-batches are made while the model trains."""

    def shuffled(self, batch: int, size: int, share: Share = ALL) -> tf.data.Dataset:
        """Endless random crops of images in random order.

        The images of updates that are left out are read, and not decoded.
        """
        seed = self._config.seed
        images = self._encoded(f"train[:{self.num_examples}]", shuffle=True)
        images = images.shuffle(min(_SHUFFLED, self.num_examples), seed=seed)
        images = images.take(self.num_examples // batch * batch).repeat().enumerate()
        images = share.of_examples(images.skip(share.initial_update * batch), size)

        def example(index: tf.Tensor, image: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            random = tf.stack([tf.constant(seed, tf.int64), index])
            return random_crop(image["image"], random, self._side), self._target(image)

        crops = images.map(example, tf.data.AUTOTUNE)
        return self._batched(crops, size // share.num_replicas, drop_remainder=True)

    def test(self, size: int) -> tf.data.Dataset:
        """Centre crops of the validation split."""
        split = schema.DATASETS[self._config.data.name].test_split
        tfds.check_split(self._builder, split)
        return self._centres(split, size)

    def _centres(self, split: str, size: int) -> tf.data.Dataset:
        def example(image: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            return centre_crop(image["image"], self._side), self._target(image)

        images = self._encoded(split, shuffle=False).map(example, tf.data.AUTOTUNE)
        return self._batched(images, size, drop_remainder=False)

    def _target(self, image: dict[str, tf.Tensor]) -> tf.Tensor:
        return targets(self._config, image["label"])

    def _encoded(self, split: str, shuffle: bool) -> tf.data.Dataset:
        import tensorflow_datasets

        return self._builder.as_dataset(
            split=split,
            shuffle_files=shuffle,
            decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
            read_config=tensorflow_datasets.ReadConfig(
                shuffle_seed=self._config.seed, try_autocache=False
            ),
        )

    @staticmethod
    def _batched(images: tf.data.Dataset, size: int, drop_remainder: bool) -> tf.data.Dataset:
        options = tf.data.Options()
        options.autotune.enabled = True
        options.deterministic = True
        batches = images.batch(size, drop_remainder, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def random_crop(encoded: tf.Tensor, seed: tf.Tensor, side: int) -> tf.Tensor:
    """A random crop of a JPEG image, resized to a square and flipped half of the time.

    Args:
        encoded: Content of the file, a string.
        seed: Two integers that determine the random numbers.
        side: Height and width of the result, in pixels.

    Returns:
        float32 (side, side, 3), standardised.
    """
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        whole,
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT,
        area_range=_AREA,
        max_attempts=10,
    )
    window = tf.concat([begin[:2], size[:2]], axis=0)
    image = _resized(tf.image.decode_and_crop_jpeg(encoded, window, channels=3), side)
    return tf.image.stateless_random_flip_left_right(image, seed + tf.constant([0, 1], seed.dtype))


def centre_crop(encoded: tf.Tensor, side: int) -> tf.Tensor:
    """The centre of a JPEG image, seven eighths of its shorter side, resized to a square.

    Args:
        encoded: Content of the file, a string.
        side: Height and width of the result, in pixels.

    Returns:
        float32 (side, side, 3), standardised.
    """
    shape = tf.image.extract_jpeg_shape(encoded)[:2]
    shorter = tf.cast(tf.reduce_min(shape), tf.float32)
    cropped = tf.maximum(tf.cast(tf.round(_CENTRE * shorter), tf.int32), 1)
    window = tf.stack([*tf.unstack((shape - cropped) // 2), cropped, cropped])
    return _resized(tf.image.decode_and_crop_jpeg(encoded, window, channels=3), side)


def _resized(image: tf.Tensor, side: int) -> tf.Tensor:
    image = tf.image.resize(image, [side, side], tf.image.ResizeMethod.BILINEAR, antialias=True)
    return (image - tf.constant(MEAN)) / tf.constant(DEVIATION)
