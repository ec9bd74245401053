"""Numbers in words: a small translation task that needs no download.

A sentence is a sum, "forty-two plus seven hundred and one is seven hundred and forty-three". To
translate it a model must copy word by word, join the words of a number into one and swap its ones
and tens: "zweiundvierzig plus siebenhunderteins ist siebenhundertdreiundvierzig".
"""

import random
from functools import cache

from trainers.errors import UserError

LARGEST = 999
NUM_TRAINING = 20_000
NUM_TEST = 500
# The words between the numbers of a sentence.
_WORDS = {"en": ("plus", "is"), "de": ("plus", "ist")}


def pairs(source: str, target: str, split: str) -> list[tuple[str, str]]:
    """The sentences of a split, "train" or "test", which share none; the same each time.

    Raises:
        UserError: There is no such split or language, or the library of number words is missing.
    """
    for key, language in (("source", source), ("target", target)):
        if language not in _WORDS:
            raise UserError(
                f"data.{key}: expected a language of the data set numbers, {' or '.join(_WORDS)}. "
                f"Received: data.{key}={language}"
            )
    parts = {"train": slice(NUM_TRAINING), "test": slice(NUM_TRAINING, None)}
    if split not in parts:
        raise UserError(
            f"expected a split of the data set numbers, {' or '.join(parts)}. Received: {split}"
        )
    draws = random.Random(0).sample(range((LARGEST + 1) ** 2), NUM_TRAINING + NUM_TEST)  # noqa: S311
    sums = [divmod(draw, LARGEST + 1) for draw in draws[parts[split]]]
    return [(_sentence(*numbers, source), _sentence(*numbers, target)) for numbers in sums]


def _sentence(first: int, second: int, language: str) -> str:
    plus, equals = _WORDS[language]
    a, b, c = (_in_words(number, language) for number in (first, second, first + second))
    return f"{a} {plus} {b} {equals} {c}"


@cache
def _in_words(number: int, language: str) -> str:
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError(
            "the data set numbers needs num2words. Install it with: "
            "python -m pip install -e '.[translation]'"
        ) from error
    return num2words(number, lang=language)
