"""Values that are right by themselves and wrong together."""

import dataclasses

import pytest

from tests.trainers.sentences import config
from trainers import schema
from trainers.errors import UserError

SECTIONS: dict[str, tuple[dict, str]] = {
    "images": ({"data": schema.Data()}, "Received: images for data, translation for evaluation"),
    "model": ({"model": schema.CNN()}, "images for model"),
    "loss": ({"loss": "squared_error"}, "loss: expected cross_entropy"),
    "heads": ({"model": schema.Transformer(dim=12, heads=4)}, "model.dim: .* number of heads, 8"),
    "languages": ({"data": schema.Translation(target="en")}, "expected two different languages"),
    "files": ({"data": schema.Translation(name="files")}, "data.data_dir: expected"),
    "buckets": ({"data": schema.Translation(buckets=[8, 8])}, "data.buckets: expected increasing"),
    "batch": (
        {"data": schema.Translation(batch_size=127, micro_batch_size=100)},
        "data.batch_size: 127 examples divide",
    ),
}


@pytest.mark.parametrize(("changes", "message"), SECTIONS.values(), ids=SECTIONS)
def test_sections_that_do_not_fit_are_refused(tmp_path, changes, message):
    settings = dataclasses.replace(config(tmp_path), **changes)
    with pytest.raises(UserError, match=message) as error:
        schema.check(settings)
    assert "\n" not in str(error.value)
    schema.check(config(tmp_path))


def on_digits(evaluation=None, **changes):
    return schema.Config(
        model=schema.FullyConnected(),
        data=schema.Data(name="digits", **changes),
        optimizer=schema.OPTIMIZERS["adam"](),
        evaluation=evaluation or schema.Evaluation(),
        output_dir="runs",
    )


def test_evaluation_without_a_test_split_is_refused():
    settings = on_digits(evaluation=schema.Evaluation(freq=5))
    with pytest.raises(UserError, match=r"digits has no test split\. Received: evaluation\.freq=5"):
        schema.check(settings)


def test_batch_larger_than_the_data_is_refused():
    settings = on_digits(num_examples=50, batch_size=60)
    with pytest.raises(UserError, match=r"data\.batch_size: expected at most 50"):
        schema.check(settings)
