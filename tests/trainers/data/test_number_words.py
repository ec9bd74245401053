"""Sums in words."""

from trainers.data import number_words


def test_numbers_are_spelt_and_splits_are_apart():
    train, test = (number_words.pairs("en", "de", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20_000, 500)
    assert len({*train, *test}) == 20_500
    assert number_words._sentence(42, 701, "en") == (
        "forty-two plus seven hundred and one is seven hundred and forty-three"
    )
    assert number_words._sentence(42, 701, "de") == (
        "zweiundvierzig plus siebenhunderteins ist siebenhundertdreiundvierzig"
    )
    assert number_words.pairs("de", "en", "test") == [(de, en) for en, de in test]
