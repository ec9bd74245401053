"""Evaluation by translating the test split."""

import pandas as pd

from tests.trainers.sentences import SENTENCES, config
from trainers import run_directory, schema, training


def test_run_translates_and_writes_its_directory(files):
    settings = config(files, evaluation=schema.TranslationEvaluation(freq=2, beam_width=2))
    outcome = training.train(settings, files / "run", {})
    table = pd.read_csv(files / "run" / run_directory.EVALUATION)
    assert list(table["step"]) == [2, 4]
    assert list(table.columns[2:]) == [
        *("test_loss", "test_error", "bleu", "exact_match", "copied_source_bleu")
    ]
    assert (table["test_loss"] > 0).all()
    assert table["bleu"].between(0, 100).all()
    translations = pd.read_csv(files / "run" / run_directory.TRANSLATIONS, keep_default_na=False)
    assert sorted(translations["reference"]) == sorted(target for _, target in SENTENCES[2:4])
    assert len(pd.read_csv(files / "run" / "metrics.csv")) == 2
    assert "bleu" in outcome.report(files / "run")
