import pytest
import tensorflow_datasets as tfds

from tools import prepare_data


def test_prepared_data_set_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda builder: True)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", pytest.fail)
    assert prepare_data.main(["cifar10", "--data-dir", str(tmp_path)]) == 0
    assert f"data.data_dir={tmp_path}" in capsys.readouterr().out


def test_failed_download_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def offline(builder):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    assert prepare_data.main(["cifar10", "--data-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cifar10" in message
    assert "no route to host" in message


def test_unknown_data_set_is_named(tmp_path, capsys):
    assert prepare_data.main(["cifar_ten", "--data-dir", str(tmp_path)]) == 2
    assert "cifar_ten" in capsys.readouterr().err
