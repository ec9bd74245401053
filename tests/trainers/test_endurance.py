"""A run that is killed at any moment goes on as if it had not been."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers import endurance
from tests.trainers.endurance import results
from tests.trainers.prepared import write_cifar

ROOT = Path(__file__).resolve().parents[2]
NUM_KILLS = 20
SMALL = ["monitor.rtol=1e-2", "checkpoint.freq=3"]
CIFAR = [*SMALL, "data.name=cifar10", "data.num_examples=40", "data.micro_batch_size=20"]
RUNS = {
    "fully_connected": [
        *("-cn", "fully_connected", *CIFAR, "model.hidden_layers=2", "model.width=8"),
        *("steps=1000", "monitor.update_freq=4", "evaluation.freq=5"),
    ],
    "cnn with batch norm": [
        *("-cn", "wide_resnet", *CIFAR, "model.blocks_per_group=1", "model.multiplier=1"),
        *("model.filters=2", "model.stem_stride=4", "stop.loss_threshold=null", "steps=300"),
        *("monitor.update_freq=4", "evaluation.freq=5"),
    ],
    "transformer": [
        *("-cn", "transformer_quickstart", *SMALL, "model.num_layers=1", "model.dim=8"),
        *("model.heads=2", "model.hidden=8", "model.dropout=0.1", "data.num_examples=64"),
        *("data.micro_batch_size=16", "monitor.num_examples=32", "steps=300"),
        *("evaluation.freq=20", "evaluation.num_examples=8", "schedule.warmup_steps=10"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("mini", [False, True], ids=["full", "mini"])
@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_like_one_that_was_not(tmp_path, name, mini):
    arguments = [*RUNS[name], f"data.batch_size={'20' if mini else 'null'}"]
    if name == "transformer":
        arguments[-1] = f"data.batch_size={'32' if mini else 'null'}"
        arguments += ["data.vocabulary_dir=" + str(tmp_path / "vocabularies")]
    else:
        arguments += [f"data.data_dir={write_cifar(tmp_path / 'tfds')}"]
    command = [sys.executable, "-m", "tests.trainers.endurance", "0", str(NUM_KILLS)]
    done = subprocess.run(
        [*command, str(tmp_path), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    resumed = json.loads((killed / "run.json").read_text())["resumed_at"]
    # Starts that come to no new checkpoint would prove nothing.
    assert len(set(resumed)) > 3
    assert endurance.results(killed) == results(whole)
