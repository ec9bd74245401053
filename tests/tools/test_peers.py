from tools import peers


def test_a_missing_package_is_named_with_the_reason():
    reasons = peers.unavailable(["numpy", "no_such_package"])
    assert list(reasons) == ["no_such_package"]
    assert "ModuleNotFoundError" in reasons["no_such_package"]
