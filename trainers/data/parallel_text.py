"""Pairs of sentences as text: number words, plain files, or TFDS data sets of translations."""

from pathlib import Path

from trainers import schema
from trainers.data import number_words, tfds
from trainers.errors import UserError

Pair = tuple[str, str]
_READ_AT_ONCE = 10_000


def read(section: schema.Translation, split: str, count: int | None = None) -> list[Pair]:
    """The first `count` pairs (source, target) of a split, all of them if None.

    Pairs of a TFDS data set with an empty side are left out: large corpora have some. An empty
    line of a plain file is an error, because files that have got out of step look like that. White
    space around a sentence is removed.

    Raises:
        UserError: The data set, the language pair, the split or a file is missing, or a file is
            damaged, has invalid UTF-8, empty lines, or another number of lines than its partner.
    """
    if section.name == "numbers":
        return number_words.pairs(section.source, section.target, split)[:count]
    if section.name == "files":
        return _read_files(Path(section.data_dir or ""), section, split)[:count]
    return _read_tfds(section, split, count)


def _read_files(directory: Path, section: schema.Translation, split: str) -> list[Pair]:
    paths = [directory / f"{split}.{language}" for language in (section.source, section.target)]
    sides = [_lines(path) for path in paths]
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(
            f"{len(side):,} in {path}" for side, path in zip(sides, paths, strict=True)
        )
        raise UserError(f"expected the same number of lines in both files. Received: {counts}")
    return list(zip(*sides, strict=True))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"no such file: {path}. Expected one sentence per line, in UTF-8")
    lines = []
    # Only a line feed ends a line: Python takes other characters in text for line ends.
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            sentence = line.decode().strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid UTF-8, {error.reason}") from error
        if not sentence:
            raise UserError(f"{path}, line {number}: expected a sentence; the line is empty")
        lines.append(sentence)
    return lines


def _read_tfds(section: schema.Translation, split: str, count: int | None) -> list[Pair]:
    builder = tfds.prepared_pair(section)
    tfds.check_split(builder, split)
    languages = getattr(builder.info.features, "languages", None) or list(builder.info.features)
    for language in (section.source, section.target):
        if language not in languages:
            raise UserError(
                f"{builder.data_path} has no sentences in '{language}'. "
                f"Received: the languages {', '.join(languages)}"
            )
    wanted = split if count is None else f"{split}[:{count}]"
    batches = builder.as_dataset(split=wanted, batch_size=_READ_AT_ONCE, shuffle_files=False)
    pairs = []
    try:
        for batch in batches:
            columns = [batch[name].numpy() for name in (section.source, section.target)]
            for sentences in zip(*columns, strict=True):
                source, target = (sentence.decode().strip() for sentence in sentences)
                if source and target:
                    pairs.append((source, target))
    except UnicodeDecodeError as error:
        raise UserError(
            f"a sentence of the split '{split}' in {builder.data_path} is not valid UTF-8: "
            f"{error.object!r:.80}"
        ) from error
    except tfds.DAMAGED as error:
        raise tfds.damaged_file(section, builder, error) from error
    if not pairs:
        raise UserError(
            f"expected pairs of sentences in the split '{split}' of {builder.data_path}. "
            "Received: only pairs with an empty side"
        )
    return pairs
