"""A corpus of six pairs of sentences and a run on it."""

import dataclasses

from trainers import schema

SENTENCES = [
    ("a dog runs", "ein hund läuft"),
    ("two dogs run", "zwei hunde laufen"),
    ("the cat sleeps on the red house", "die katze schläft auf dem roten haus"),
    ("the man reads", "der mann liest"),
    ("a woman sees the old dog", "eine frau sieht den alten hund"),
    ("no", "nein"),
]


def write_files(directory, split="train", pairs=SENTENCES):
    for side, language in enumerate(("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in pairs)
        (directory / f"{split}.{language}").write_text(text, encoding="utf-8")
    return directory


def config(directory, **changes):
    """A run of seconds on six sentences."""
    data_changes = changes.pop("data", {})
    section = schema.Translation(
        name="files",
        data_dir=str(directory),
        vocabulary_size=60,
        buckets=[8, 16, 40],
        batch_size=6,
        micro_batch_size=6,
    )
    return schema.Config(
        **{
            "model": schema.Transformer(
                num_layers=1, dim=8, heads=2, hidden=8, dropout=0.0, label_smoothing=0.1
            ),
            "data": dataclasses.replace(section, **data_changes),
            "optimizer": schema.OPTIMIZERS["adam"](learning_rate=1e-2),
            "steps": 4,
            "monitor": schema.Monitor(update_freq=2, rtol=1e-2),
            "evaluation": schema.TranslationEvaluation(freq=None, beam_width=2),
            "output_dir": str(directory / "run"),
            **changes,
        }
    )
