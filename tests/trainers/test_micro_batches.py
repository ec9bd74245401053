import pytest

from trainers.micro_batches import micro_batch_size

SIZES = [
    (50_000, 2_500, 2_500),
    (50_000, 3_000, 2_500),
    (1_797, 2_500, 1_797),
    (1_797, 600, 599),
    (7, 1, 1),
    (3, 100, 3),
]


@pytest.mark.parametrize(("num_examples", "limit", "expected"), SIZES)
def test_largest_divisor_within_the_limit(num_examples, limit, expected):
    assert micro_batch_size(num_examples, limit) == expected


def test_prime_number_of_examples_names_good_ones():
    with pytest.raises(ValueError, match="49998 or 50000 examples divide well"):
        micro_batch_size(49_999, 2_500)
