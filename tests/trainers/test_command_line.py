import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_aeos.callbacks.quantities import DEFAULT, QUANTITIES
from trainers import command_line
from trainers.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def error_of(*arguments):
    with pytest.raises(UserError) as error:
        command_line.jobs(command_line.parse(arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


def written(directory, text, defaults="fully_connected"):
    (directory / "mine.yaml").write_text(f"defaults:\n  - {defaults}\n  - _self_\n{text}\n")
    return ("-cn", "mine", "-cd", str(directory))


QUICKSTART = ("-cn", "quickstart")
# Together longer than 255 bytes.
LONG = [name for name in QUANTITIES if name.startswith("preconditioned_")] + list(DEFAULT)
MISTAKES = {
    "misspelt key in a section": (
        (*QUICKSTART, "optimizer.learning_rat=1"),
        ["'learning_rat'", "section 'optimizer'", "command line", "'learning_rate'?"],
    ),
    "misspelt key": ((*QUICKSTART, "stps=1"), ["'stps'", "command line", "'steps'?"]),
    "misspelt section": ((*QUICKSTART, "optimzer.beta_1=0"), ["'optimzer'", "'optimizer'?"]),
    "key without its section": ((*QUICKSTART, "beta_1=0"), ["'optimizer.beta_1'?"]),
    "key of another optimizer": (
        (*QUICKSTART, "optimizer=rmsprop", "optimizer.beta_1=0"),
        ["'beta_1'", "section 'optimizer'", "beta_2"],
    ),
    "added key": ((*QUICKSTART, "+optimizer.momentum=0"), ["'momentum'", "section 'optimizer'"]),
    "removed key": ((*QUICKSTART, "~steps"), ["steps: a value is missing"]),
    "wrong type": ((*QUICKSTART, "steps=many"), ["steps:", "'many'", "Integer", "command line"]),
    "null": ((*QUICKSTART, "steps=null"), ["steps", "not Optional"]),
    "mapping for a number": ((*QUICKSTART, "steps={a:1}"), ["steps:", "Integer"]),
    "unknown configuration": (("-cn", "quickstrt"), ["'quickstrt'", "'quickstart'?", "fig01"]),
    "no configuration": (("steps=1",), ["--config-name"]),
    "no such directory": (("-cn", "a", "-cd", "/no/such"), ["--config-dir", "/no/such"]),
    "unknown group option": ((*QUICKSTART, "optimizer=adm"), ["'adm'", "'optimizer'", "'adam'?"]),
    "unknown panel": (("-cn", "fig01", "panel=d"), ["'d'", "'panel'", "a, b, c"]),
    "group of other figures": ((*QUICKSTART, "scale=paper"), ["no group 'scale'"]),
    "unknown flag": ((*QUICKSTART, "--fast"), ["--fast"]),
    "no value": ((*QUICKSTART, "steps"), ["key=value", "steps"]),
    "unbalanced bracket": ((*QUICKSTART, "steps=[1"), ["key=value", "steps=[1"]),
    "sweep without --multirun": ((*QUICKSTART, "steps=1,2"), ["--multirun", "steps=1,2"]),
    "last job of a sweep": ((*QUICKSTART, "-m", "steps=10,20,x"), ["steps:", "'x'"]),
    "value in a figure's sweep": (
        ("-cn", "fig01", "optimizer.beta_1=0.9,1.9"),
        ["optimizer.beta_1: expected a number in [0, 1)", "optimizer.beta_1=1.9"],
    ),
    "unknown loss": (
        (*QUICKSTART, "loss=crossentropy"),
        ["loss:", "'cross_entropy'?", "loss=crossentropy"],
    ),
    "unknown activation": ((*QUICKSTART, "model.activation=tan"), ["model.activation", "'tanh'?"]),
    "optimizer by its name alone": (
        (*QUICKSTART, "optimizer.name=rmsprop"),
        ["optimizer.name", "one of adam"],
    ),
    "no steps": ((*QUICKSTART, "steps=0"), ["steps: expected 1 or more", "steps=0"]),
    "negative learning rate": (
        (*QUICKSTART, "optimizer.learning_rate=-1e-3"),
        ["optimizer.learning_rate: expected a finite number above 0", "-0.001"],
    ),
    "NaN": ((*QUICKSTART, "optimizer.learning_rate=nan"), ["optimizer.learning_rate", "nan"]),
    "infinity": ((*QUICKSTART, "stop.loss_threshold=inf"), ["stop.loss_threshold", "inf"]),
    "negative seed": ((*QUICKSTART, "seed=-1"), ["seed: expected 0 or more"]),
    "more examples than there are": (
        (*QUICKSTART, "data.num_examples=5000"),
        ["data.num_examples", "1797", "5000"],
    ),
    "misspelt quantity": (
        (*QUICKSTART, "monitor.quantities=[sharpness,alignmnt]"),
        ["monitor.quantities", "trace", "'alignment'?", "['sharpness', 'alignmnt']"],
    ),
    "quantity given twice": (
        (*QUICKSTART, "monitor.quantities=[trace,trace]"),
        ["monitor.quantities", "distinct", "['trace', 'trace']"],
    ),
    "quantity that is no list": (
        (*QUICKSTART, "monitor.quantities=trace"),
        ["monitor.quantities", "list"],
    ),
    "window of one step": (
        (*QUICKSTART, "monitor.every_step=[600]"),
        ["monitor.every_step: expected null or two steps", "[600]"],
    ),
    "window that ends before it begins": (
        (*QUICKSTART, "monitor.every_step=[800,600]"),
        ["monitor.every_step", "begin <= end", "[800, 600]"],
    ),
    "window that is no list": (
        (*QUICKSTART, "monitor.every_step=600"),
        ["monitor.every_step", "list"],
    ),
    "examples that do not divide": (
        (*QUICKSTART, "data.num_examples=1789", "data.micro_batch_size=500"),
        ["data.num_examples", "1788 or 1790"],
    ),
    "more measured examples than there are": (
        (*QUICKSTART, "monitor.num_examples=5000"),
        ["monitor.num_examples", "expected at most", "5000"],
    ),
    "settings too long for the name of a directory": (
        (*QUICKSTART, "-m", f"monitor.quantities=[{','.join(LONG)}]"),
        ["exclude_keys=[output_dir,data.data_dir,", ",KEY]", "255", "sharpness"],
    ),
    "settings of a single run too long": (
        (*QUICKSTART, f"monitor.quantities=[{','.join(LONG)}]"),
        ["exclude_keys=[", "255", "runs/quickstart__monitor.quantities"],
    ),
    "unequal measured micro-batches": (
        (
            *(*QUICKSTART, "data.num_examples=1500", "data.micro_batch_size=500"),
            "monitor.num_examples=1499",
        ),
        ["monitor.num_examples", "1499"],
    ),
}


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_on_the_command_line_is_named_in_one_line(arguments, parts):
    message = error_of(*arguments)
    assert [part for part in parts if part not in message] == []


def test_settings_can_be_left_out_of_the_name_of_the_directory():
    too_long = (*QUICKSTART, "-m", "steps=10,20", f"monitor.quantities=[{','.join(LONG)}]")
    _, offered, _ = error_of(*too_long).split("'", 2)
    fixed = (*too_long, offered.replace("KEY", "monitor.quantities"), "output_dir=mine")
    command_line.jobs(command_line.parse(fixed))


def test_sweep_may_name_no_setting_at_all():
    found = command_line.jobs(command_line.parse((*QUICKSTART, "-m", "output_dir=here")))
    assert found.in_sweep
    assert [job.directory for job in found.jobs] == [Path.cwd() / "here"]


FILES = {
    "misspelt key": ("stps: 1", ["'stps'", "mine.yaml", "'steps'?"]),
    "misspelt key in a section": (
        "optimizer:\n  learning_rat: 1",
        ["'learning_rat'", "section 'optimizer'", "mine.yaml", "'learning_rate'?"],
    ),
    "wrong type": ("steps: many", ["steps:", "'many'", "mine.yaml"]),
    "null": ("steps: null", ["steps:", "None", "mine.yaml"]),
    "number for a section": ("optimizer: 3", ["mine"]),
    "syntax": ("steps: [", ["YAML", "mine.yaml", "line"]),
    "unknown reference": ("output_dir: ${nowhere}", ["output_dir", "nowhere"]),
    "Hydra's own section": ("hydra:\n  swep: 1", ["'swep'", "section 'hydra'", "mine.yaml"]),
}


@pytest.mark.parametrize(("text", "parts"), FILES.values(), ids=FILES)
def test_mistake_in_a_file_is_named_in_one_line(tmp_path, text, parts):
    message = error_of(*written(tmp_path, text))
    assert [part for part in parts if part not in message] == []


def test_unknown_file_in_a_defaults_list_is_named(tmp_path):
    assert "'fully_conected'" in error_of(*written(tmp_path, "", defaults="fully_conected"))


def test_file_without_the_schema_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    assert "schema/config" in error_of("-cn", "mine", "-cd", str(tmp_path))


CODE = {
    "model": "model:\n  _target_: os.getcwd",
    "top level": "_target_: os.getcwd",
    "callback": "hydra:\n  callbacks:\n    mine:\n      _target_: os.getcwd",
    "callback made by a resolver": (
        "hydra:\n  callbacks: ${oc.create:'{mine:{_target_:os.getcwd}}'}"
    ),
    "launcher": "hydra:\n  launcher:\n    _target_: os.getcwd",
    "sweeper": "hydra:\n  sweeper:\n    _target_: os.getcwd",
    "log handler": "hydra:\n  job_logging:\n    handlers:\n      mine:\n        (): os.getcwd",
    "swept callback": "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
    "      +hydra.callbacks.mine._target_: os.getcwd",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_file_that_names_code_is_refused(tmp_path, text):
    assert error_of(*written(tmp_path, text))


def test_file_cannot_make_hydra_look_into_a_package(tmp_path):
    arguments = written(tmp_path, "hydra:\n  searchpath: [pkg://antigravity]")
    assert "hydra.searchpath" in error_of(*arguments)
    assert "antigravity" not in sys.modules


PINNED = {
    "environment": "hydra:\n  job:\n    env_set:\n      PATH: /x",
    "copied environment": "hydra:\n  job:\n    env_copy: [HOME]",
    "directory": "hydra:\n  run:\n    dir: /x",
    "sweep's directory": "hydra:\n  sweep:\n    dir: /x",
    "working directory": "hydra:\n  job:\n    chdir: true",
    "name": "hydra:\n  job:\n    name: x",
    "separator": "hydra:\n  job:\n    config:\n      override_dirname:\n        item_sep: /",
    "copy of the configuration": "hydra:\n  output_subdir: x",
    "verbosity": "hydra:\n  verbose: true",
    "nothing at all": "hydra: null",
}


@pytest.mark.parametrize("text", PINNED.values(), ids=PINNED)
def test_file_leaves_the_section_of_hydra_alone(tmp_path, text):
    assert "hydra" in error_of(*written(tmp_path, text)).lower()


@pytest.mark.parametrize(
    "override",
    [
        "hydra.run.dir=/x",
        "+hydra.job.env_set.PATH=/x",
        "hydra/launcher=basic",
        "hydra.sweeper.params={steps:'1,2'}",
        "~hydra",
        "hydra=null",
    ],
)
def test_command_line_leaves_the_section_of_hydra_alone(override):
    assert error_of(*QUICKSTART, override).startswith("hydra")


SECTIONS = {
    "optimizer: adam": ["optimizer=NAME", "override optimizer", "Received: optimizer=adam"],
    "data: digits": ["data.name=NAME", "Received: data=digits"],
    "model: cnn": ["--config-name", "Received: model=cnn"],
    "monitor: [1]": ["monitor.", "Received: monitor=a list"],
}


@pytest.mark.parametrize(("text", "parts"), SECTIONS.items(), ids=SECTIONS)
def test_value_in_place_of_a_section_is_answered_with_the_remedy(tmp_path, text, parts):
    message = error_of(*written(tmp_path, text))
    assert [part for part in (*parts, "mine.yaml") if part not in message] == []


def test_section_on_the_command_line_is_answered_with_the_remedy():
    assert "data.name=NAME" in error_of(*QUICKSTART, "data=digits")


def test_hint_never_offers_the_key_that_was_refused():
    message = error_of(*QUICKSTART, "optimizer=gradient_descent", "optimizer.beta_1=0")
    assert "Did you mean 'optimizer.beta_1'" not in message
    assert "It is a key of adafactor, adam" in message


def test_home_directory_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    [job] = command_line.jobs(command_line.parse([*QUICKSTART, "output_dir=~/x"])).jobs
    assert job.directory == tmp_path / "x"


WITHOUT_EFFECT = {
    "monitor.update_freq": ["steps=4"],
    "freeze_step": ["freeze_step=201"],
    "schedule.after": ["schedule.after=inverse_square_root"],
    "monitor.every_step": ["monitor.every_step=[300,400]"],
    "monitor.loss_threshold": ["monitor.loss_threshold=0.1", "stop.loss_threshold=0.2"],
    "data.data_dir": ["data.data_dir=x"],
}


@pytest.mark.parametrize(("key", "overrides"), WITHOUT_EFFECT.items(), ids=WITHOUT_EFFECT)
def test_setting_without_effect_is_refused(key, overrides):
    assert error_of(*QUICKSTART, *overrides).startswith(f"{key}: without effect, because ")


def test_preconditioner_that_is_constant_is_not_frozen():
    refused = error_of(*QUICKSTART, "optimizer=gradient_descent", "freeze_step=5")
    assert refused.startswith("freeze_step: without effect, because gradient_descent")


def test_jobs_of_one_directory_are_refused():
    exclude = "hydra.job.config.override_dirname.exclude_keys=[seed]"
    assert "two jobs" in error_of(*QUICKSTART, "-m", "seed=0,1", exclude)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-cn", "quickstart", "optimizer.learning_rat=1"], ["'learning_rat'", "'learning_rate'?"]),
        (["-cn", "quickstart", "-m", "steps=10,x"], ["steps", "'x'"]),
        (
            ["-cn", "fully_connected", "data.data_dir={empty}"],
            ["cifar10", "{empty}", "prepare_data"],
        ),
    ],
    ids=["misspelt key", "sweep", "missing data set"],
)
def test_process_ends_with_one_line_and_status_2(tmp_path, arguments, parts):
    empty = str(tmp_path / "none")
    arguments = [argument.format(empty=empty) for argument in arguments]
    result = subprocess.run(
        [sys.executable, "-m", "trainers", *arguments, f"output_dir={tmp_path / 'out'}"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    # TensorFlow's C++ libraries write lines of their own before any message can be silenced.
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    assert [part for part in parts if part.format(empty=empty) not in lines[0]] == []
    assert not list(tmp_path.glob("out/**/*.csv"))


def test_missing_extra_is_named_in_one_line():
    program = (
        "import runpy, sys; sys.modules['omegaconf'] = None; "
        "runpy.run_module('trainers', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert re.fullmatch(r"error: .* omegaconf; .*'\.\[experiments\]'.*\n", result.stderr)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_shows_every_configuration_in_a_group_with_an_example(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        command_line.parse(arguments)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for path in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs/optimizer").glob("*.yaml")]:
        assert re.search(rf"\b{path.stem}\b", text), path.stem
    groups = re.findall(r"^(\w.*):\n  example: (python -m trainers .*)$", text, re.MULTILINE)
    assert len(groups) == 3
    for _, example in groups:
        options = command_line.parse(example.split()[3:])
        assert command_line.jobs(options).jobs
