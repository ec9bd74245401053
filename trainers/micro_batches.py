"""Micro-batches of equal size, so that their mean is the mean over the examples."""


def micro_batch_size(num_examples: int, limit: int) -> int:
    """Largest divisor of `num_examples` that is at most `limit`.

    >>> micro_batch_size(50_000, 3_000)
    2500

    Raises:
        ValueError: The divisor is below an eighth of `limit`, which would make training slow.
    """
    size = _largest_divisor(num_examples, limit)
    if 8 * size < min(limit, num_examples):
        good = [
            count
            for count in range(max(1, num_examples - limit), num_examples + limit)
            if 2 * _largest_divisor(count, limit) >= limit
        ]
        near = sorted(sorted(good, key=lambda count: abs(count - num_examples))[:2])
        raise ValueError(
            f"{num_examples} examples divide into micro-batches of {size} at most, far below the "
            f"limit of {limit}; {' or '.join(map(str, near))} examples divide well. "
            f"Received: num_examples={num_examples}, micro_batch_size={limit}"
        )
    return size


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(limit, number), 0, -1) if number % size == 0)
