import zipfile

from tests.tools.plotting import made_up
from tools import pack_runs


def test_program_packs_runs(tmp_path, capsys):
    for rate in (3e-5, 1e-4):
        made_up.write_training(tmp_path / "fig01", learning_rate=rate)
    archive = tmp_path / "new" / "fig01.zip"
    assert pack_runs.main([str(tmp_path / "fig01"), str(archive)]) == 0
    assert capsys.readouterr().out == f"runs in {archive}: 2\n"
    assert len(zipfile.ZipFile(archive).namelist()) == 6


def test_place_without_runs(tmp_path, capsys):
    assert pack_runs.main([str(tmp_path), str(tmp_path / "none.zip")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: no runs below")
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
