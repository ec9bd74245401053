"""Where measured examples are: on the device as far as they fit, fetched one ahead beyond that."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_aeos.curvature import batches as batches_module
from keras_aeos.curvature import device_memory
from keras_aeos.curvature import objective as objective_module
from keras_aeos.curvature.batches import from_data, from_list, smaller, split
from keras_aeos.curvature.objective import Objective

ROWS, SIZE = 10, 4  # three micro-batches, the last of them smaller
X, Y = np.arange(3.0 * ROWS, dtype="float32").reshape(ROWS, 3), np.arange(ROWS)
NUM_BYTES = SIZE * (3 * 4 + 8)  # of a whole micro-batch
HOST = "/job:localhost/replica:0/task:0/device:CPU:0"
# The second logical CPU takes the place of an accelerator.
DEVICE = "/job:localhost/replica:0/task:0/device:CPU:1"


class Fetched(keras.utils.PyDataset):
    """Micro-batches that note which of them are asked for, and from which thread."""

    def __init__(self):
        super().__init__()
        self.asked, self.threads = [], set()

    def __len__(self):
        return -(-ROWS // SIZE)

    def __getitem__(self, index):
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        rows = slice(index * SIZE, (index + 1) * SIZE)
        return X[rows], Y[rows]


def pieces():
    return smaller(from_data((X, Y), ROWS), SIZE)


def leaves_of(given, begin):
    """The tensors of the micro-batches from a number on, on the device."""
    numbers, leaves = zip(*given.on([DEVICE], begin), strict=True)
    assert numbers == tuple(range(begin, 3))
    return leaves


SOURCES = {
    "arrays": lambda: from_data((X, Y), SIZE),
    "dataset": lambda: from_data(tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE)),
    "PyDataset": lambda: from_data(Fetched()),
    "list": lambda: from_list([(tf.constant(x), tf.constant(y)) for x, y in Fetched()]),
    "pieces": pieces,
}


@pytest.fixture
def accelerator(monkeypatch):
    """Makes the second CPU an accelerator, with room for so many micro-batches."""
    monkeypatch.setattr(batches_module, "is_host", lambda device: device != DEVICE)

    def with_room(num_batches):
        monkeypatch.setattr(batches_module, "room", lambda device: int(num_batches * NUM_BYTES))

    return with_room


@pytest.mark.parametrize("num_fitting", [0, 1.5, 2, 5])
@pytest.mark.parametrize("source", SOURCES)
def test_the_same_micro_batches_on_every_pass_from_any_number_on(source, num_fitting, accelerator):
    """However many of them stay on the device; those that do are the same tensors again."""
    accelerator(num_fitting)
    given = SOURCES[source]()
    passes = [leaves_of(given, begin) for begin in (1, 0, 0, 2)]
    for begin, seen in zip((1, 0, 0, 2), passes, strict=True):
        assert {leaf.device for leaves in seen for leaf in leaves} == {DEVICE}
        x, y = (np.concatenate(column) for column in zip(*seen, strict=True))
        np.testing.assert_array_equal(x, X[begin * SIZE :])
        np.testing.assert_array_equal(y, Y[begin * SIZE :])
    same = [first[0] is again[0] for first, again in zip(passes[1], passes[2], strict=True)]
    assert same == [index < int(num_fitting) for index in range(3)]
    assert len(list(given)) == 3


@pytest.mark.parametrize("source", SOURCES)
def test_places_take_turns_and_those_of_other_processes_are_left_out(source, accelerator):
    """Of three micro-batches the first and the last are here; the second one's place is not."""
    accelerator(1)  # the last one does not fit
    given = SOURCES[source]()
    for begin, expected in ((0, [0, 2]), (1, [2]), (0, [0, 2])):
        seen = list(given.on([DEVICE, None], begin))
        assert [number for number, _ in seen] == expected
        for number, (x, _) in seen:
            assert x.device == DEVICE
            np.testing.assert_array_equal(x, X[number * SIZE : (number + 1) * SIZE])
    seen = list(given.on([HOST, DEVICE]))
    assert [leaves[0].device for _, leaves in seen] == [HOST, DEVICE, HOST]


@pytest.mark.parametrize(("rows", "num_pieces", "sizes"), [
    (8, 2, [4, 4, 1, 1]), (8, 4, [2, 2, 2, 2, 1, 1]), (10, 3, [4, 3, 3]), (2, 3, 10 * [1]),
])  # fmt: skip
def test_batches_are_cut_evenly(rows, num_pieces, sizes):
    """Into as many pieces as they have rows at most; their shape is known if it is one."""
    cut = split(from_data((X, Y), rows), num_pieces)
    assert cut is not None
    pieces = list(cut)
    assert [len(x) for x, _ in pieces] == sizes
    np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), Y)
    whole = split(from_data((X[:8], Y[:8]), 8), 4)
    assert whole is not None
    assert [spec.shape[0] for spec in tf.nest.flatten(whole.spec[:2])] == [2, 2]


@pytest.mark.parametrize(
    ("device", "num_fitting", "asked"),
    [(DEVICE, 5, [0, 1, 2]), (DEVICE, 1, [0, 1, 2, 1, 2, 1, 2]), (HOST, 5, 3 * [0, 1, 2])],
)
def test_only_what_does_not_stay_is_fetched_again(device, num_fitting, asked, accelerator):
    """A pipeline's micro-batches never stay on the host; to a device a thread fetches them."""
    accelerator(num_fitting)
    dataset = Fetched()
    given = from_data(dataset)
    dataset.asked.clear()
    dataset.threads.clear()
    for _ in range(3):
        assert len(list(given.on([device]))) == 3
    assert dataset.asked == asked
    assert (threading.get_ident() in dataset.threads) == (device == HOST)


def test_arrays_are_converted_once_on_the_host_too():
    given = from_data((X, Y), SIZE)
    first, again = ([leaves for _, leaves in given.on([HOST])] for _ in range(2))
    assert all(a is b for a, b in zip(first[0] + first[2], again[0] + again[2], strict=True))
    given.release()
    assert next(given.on([HOST]))[1][0] is not first[0][0]


def test_the_next_is_fetched_while_the_one_before_is_in_use(accelerator):
    accelerator(0)
    dataset = Fetched()
    given = from_data(dataset)
    dataset.asked.clear()
    iterator = given.on([DEVICE])
    next(iterator)
    iterator.close()  # waits for the thread
    assert dataset.asked == [0, 1]


def test_an_error_of_the_source_comes_out(accelerator):
    accelerator(5)

    class Broken(Fetched):
        def __getitem__(self, index):
            if len(self.asked) >= 3 and index == 1:
                raise OSError("no such file")
            return super().__getitem__(index)

    iterator = from_data(Broken()).on([DEVICE])
    next(iterator)
    with pytest.raises(OSError, match="no such file"):
        next(iterator)


@pytest.mark.parametrize("num_fitting", [0, 1, 5])
@pytest.mark.parametrize("kept", [0, 2**20])
def test_measurement_is_the_same_on_a_device(num_fitting, kept, accelerator, monkeypatch):
    """The loss, the gradient and a product, bit for bit, at parameters that lie on the device."""
    accelerator(num_fitting)
    monkeypatch.setattr(objective_module, "room", lambda device: kept)
    measured = []
    for device in (HOST, DEVICE):
        keras.utils.set_random_seed(1)
        with tf.device(device):
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(ROWS, "tanh")])
            model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            hessian = Objective(model, from_data((X, Y), SIZE)).linearise()
            product = hessian.hessian_product(hessian.gradient)
        assert product.device == device
        measured.append((hessian.loss, hessian.gradient.numpy(), product.numpy()))
        assert len(hessian.kept) == (3 if kept else 0)
    for on_host, on_device in zip(*measured, strict=True):
        np.testing.assert_array_equal(on_device, on_host)


def test_room_is_a_share_of_what_is_free(monkeypatch):
    """Half of the share for the examples; at most 1 GiB of a host."""
    monkeypatch.setattr(device_memory, "_available_on_host", lambda: 1000)
    assert device_memory.room(HOST) == 250
    device_memory.limit_memory(0.2)
    assert device_memory.room(HOST) == 100
    device_memory.limit_memory()
    monkeypatch.setattr(device_memory, "_available_on_host", lambda: 2**40)
    assert device_memory.room(HOST) == 2**30


@pytest.mark.parametrize(("size", "peak", "expected"), [(80, 20, 15), (80, 90, 0), (0, 0, 2**30)])
def test_room_of_an_accelerator_is_beside_the_peak_of_training(size, peak, expected, monkeypatch):
    """A device that doesn't say how large it is has the room of a host."""
    monkeypatch.setattr(device_memory, "_size", lambda device: size)
    peaks = {"GPU:1": {"peak": peak}}
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", peaks.__getitem__)
    assert device_memory.room("/job:localhost/replica:0/task:0/device:GPU:1") == expected


def test_sizes_are_those_of_the_devices():
    assert device_memory._size(HOST) > 0
    assert device_memory._size("/job:localhost/replica:0/task:0/device:GPU:7") == 0
    assert 2**20 < device_memory._available_on_host() < 2**50
