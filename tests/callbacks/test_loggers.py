"""Weights & Biases and MLflow log the monitor's values, without a network."""

import pytest

from keras_aeos import AEoSMonitor
from keras_aeos.callbacks.latest import NAMES
from tests.cases import build

pytestmark = [
    pytest.mark.slow,
    # Both libraries warn about themselves.
    pytest.mark.filterwarnings("default"),
]


def train(directory, logger):
    """Three epochs of one update each; the monitor's rows."""
    model, x, y = build("dense", "adam")
    monitor = AEoSMonitor((x, y), update_freq=1, quantities=["sharpness"], log_dir=directory)
    model.fit(x, y, batch_size=len(x), epochs=3, verbose=0, callbacks=[monitor, logger])
    return monitor.history


def test_weights_and_biases_has_the_values(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    keras_integration = pytest.importorskip("wandb.integration.keras")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="keras_aeos", dir=str(tmp_path))
    seen: list[dict] = []
    log = run.log

    def note(data, **_):
        seen.append(dict(data))
        log(data)

    monkeypatch.setattr(run, "log", note)
    monkeypatch.setattr(wandb, "log", note)
    history = train(tmp_path / "logs", keras_integration.WandbMetricsLogger())
    run.finish()
    for name in NAMES:
        key = f"epoch/{name}"
        assert [d[key] for d in seen if key in d] == pytest.approx(history[name].tolist())
    [stored] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"epoch/edge_ratio" in stored.read_bytes()


def test_mlflow_has_the_values(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    keras_integration = pytest.importorskip("mlflow.keras")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with mlflow.start_run() as run:
        history = train(tmp_path / "logs", keras_integration.MlflowCallback(run))
    client = mlflow.MlflowClient()
    for name in NAMES:
        values = [m.value for m in client.get_metric_history(run.info.run_id, name)]
        assert values == pytest.approx(history[name].tolist())
