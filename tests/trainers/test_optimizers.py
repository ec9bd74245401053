"""The optimizer of a run and its learning rate."""

import pytest

from trainers.optimizers import WarmUp


def test_schedule_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="after='cosine'"):
        WarmUp(1.0, 4, after="cosine")
    assert WarmUp.from_config(WarmUp(1.0, 4).get_config())(3) == 1.0
