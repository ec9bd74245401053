"""Networks and images that don't fit."""

import pytest

from trainers import schema
from trainers.errors import UserError
from trainers.tasks.base import task_of


def test_images_too_small_for_the_network_are_named():
    config = schema.Config(model=schema.CNN(), data=schema.Data(name="digits"))
    with pytest.raises(UserError, match=r"model: .* digits, \(8, 8, 1\)"):
        task_of(config).build_model()
