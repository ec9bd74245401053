"""Reading pairs of sentences: number words, plain files, TFDS data sets, and broken input."""

import dataclasses
import os
import shutil

import pytest
import tensorflow_datasets as tfds

from tests.trainers.sentences import SENTENCES, config
from trainers import schema
from trainers.data import parallel_text
from trainers.errors import UserError
from trainers.tasks.base import task_of


def test_files_are_read_line_by_line(tmp_path):
    # A line separator within a sentence, Windows' line ends, and none after the last line.
    (tmp_path / "train.en").write_bytes("one\u2028line\r\ntwo".encode())
    (tmp_path / "train.de").write_bytes(b"eine\r\nzwei\r\n")
    section = schema.Translation(name="files", data_dir=str(tmp_path))
    pairs = parallel_text.read(section, "train")
    assert pairs == [("one\u2028line", "eine"), ("two", "zwei")]
    assert parallel_text.read(section, "train", 1) == pairs[:1]


BROKEN = {
    "uneven": (b"a\nb\n", b"c\n", "2 in .*train.en and 1 in .*train.de"),
    "empty": (b"a\n\nb\n", b"c\nd\ne\n", "train.en, line 2: expected a sentence"),
    "blank": (b"a\nb\n", b"c\n \t\n", "train.de, line 2: expected a sentence"),
    "encoding": (b"a\nb\n", b"c\nsch\xf6n\n", "train.de, line 2: not valid UTF-8"),
    "nothing": (b"", b"", "train.en, line 1: expected a sentence"),
    "missing": (b"a\n", None, "no such file: .*train.de"),
}


@pytest.mark.parametrize(("english", "german", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_files_end_in_one_line(tmp_path, english, german, message):
    for name, content in (("train.en", english), ("train.de", german)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        task_of(config(tmp_path)).feed()
    assert "\n" not in str(error.value)


with tfds.core.registered.skip_registration():

    class SmallTranslate(tfds.core.GeneratorBasedBuilder):
        """The sentences of this file, in the form of TFDS, with an empty side and a broken one."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="de-en"),)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.Translation(languages=("de", "en"))
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(["", *range(6)]),
                "broken": self._generate_examples([b"\xff"]),
                "empty": self._generate_examples([""]),
            }

        def _generate_examples(self, rows):
            for key, row in enumerate(rows):
                english, german = SENTENCES[row] if isinstance(row, int) else ("so", row)
                yield key, {"en": english, "de": german}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    SmallTranslate(data_dir=str(directory), config="de-en").download_and_prepare()
    return str(directory)


def small(prepared, **changes):
    return schema.Translation(name="small_translate", data_dir=prepared, **changes)


@pytest.mark.parametrize("name", ["small_translate", "small_translate/de-en"])
def test_prepared_data_set_is_read_without_empty_sides(prepared, name):
    section = dataclasses.replace(small(prepared), name=name)
    assert sorted(parallel_text.read(section, "train")) == sorted(SENTENCES)
    turned = dataclasses.replace(section, source="de", target="en")
    assert sorted(parallel_text.read(turned, "train")) == sorted((b, a) for a, b in SENTENCES)


LACKING = {
    "pair": ({"target": "fr"}, "train", "no pair en-fr or fr-en.*Received.*: .*de-en"),
    "language": (
        {"target": "fr", "name": "small_translate/de-en"},
        "train",
        "no sentences in 'fr'.*de, en",
    ),
    "split": ({}, "test", "expected a split 'test'.*train"),
    "data set": ({"name": "wmt17_translate"}, "train", "prepare_data.py wmt17_translate/de-en"),
    "encoding": ({}, "broken", "not valid UTF-8"),
    "sentences": ({}, "empty", "expected pairs of sentences in the split 'empty'.*only pairs with"),
}


@pytest.mark.parametrize(("changes", "split", "message"), LACKING.values(), ids=LACKING)
def test_what_a_data_set_lacks_is_said_in_one_line(prepared, changes, split, message):
    section = dataclasses.replace(small(prepared), **changes)
    with pytest.raises(UserError, match=message) as error:
        parallel_text.read(section, split)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="needs a prepared data set")
def test_multi30k_is_read(monkeypatch):
    pairs = parallel_text.read(schema.Translation(name="multi30k_translate"), "test")
    assert len(pairs) == 1_000


def test_damaged_file_is_named(prepared, tmp_path):
    copied = shutil.copytree(prepared, tmp_path / "tfds")
    [file] = copied.glob("**/*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a file of small_translate in .* is damaged"):
        parallel_text.read(small(str(copied)), "train")
