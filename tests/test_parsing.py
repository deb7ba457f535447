"""How the words of a command line are understood."""

from pathlib import Path
from typing import Any

import pytest

from mbrl import parsing, stages
from mbrl.data import minari
from mbrl.data.sight import HISTORIES
from mbrl.evaluation.panel import KINDS
from mbrl.settings import Trial


@pytest.mark.parametrize(
    ("command", "typed", "understood"),
    [
        ("run", ["--data", "acme/mill-v0"], ["--data.id", "acme/mill-v0"]),
        ("run", ["--data=acme/mill-v0", "--seed", "1"], ["--data.id=acme/mill-v0", "--seed", "1"]),
        ("run", ["--data.id", "acme/mill-v0"], ["--data.id", "acme/mill-v0"]),
        ("run", ["--data", "log.yaml"], ["--data", "log.yaml"]),
        ("run", ["--data={id: acme/mill-v0}"], ["--data={id: acme/mill-v0}"]),
        ("run", ["--data"], ["--data.id"]),
        ("card", ["mill", "--data", "acme/mill-v0"], ["mill", "--data.id", "acme/mill-v0"]),
        ("evaluate", ["--data.id", "acme/mill-v0"], ["--data", "acme/mill-v0"]),
        ("compare", ["--data.id=acme/mill-v0,acme/tank-v0"], ["--data=acme/mill-v0,acme/tank-v0"]),
        ("import_", ["mill.csv", "--on-bad-rows=drop-row"], ["mill.csv", "--on_bad_rows=drop-row"]),
        (
            "run",
            ["--candidates.best-tenth.rehearsal.batch-size=9", "--fit.max-epochs", "2"],
            ["--candidates.best-tenth.rehearsal.batch_size=9", "--fit.max_epochs", "2"],
        ),
        ("promote", ["mill", "--data.id", "x"], ["mill", "--data.id", "x"]),  # which has no log
    ],
)
def test_a_log_is_named_the_same_way_to_every_command(command: str, typed: list[str], understood: list[str]) -> None:
    assert parsing.spelt(getattr(stages, command), typed) == understood


@pytest.mark.parametrize(
    ("command", "typed", "understood"),
    [
        ("run", ["--seeds", "0,1,2"], ["--seeds", "[0,1,2]"]),
        ("sweep", ["--seeds=0,1"], ["--seeds=[0,1]"]),
        ("compare", ["--seeds", "3"], ["--seeds", "[3]"]),
        ("compare", ["--seeds=3", "--together", "2"], ["--seeds=[3]", "--together", "2"]),
        ("run", ["--data.split=.6,.2,.2", "--seed", "1"], ["--data.split=[.6,.2,.2]", "--seed", "1"]),
        ("run", ["--seeds", "[0,1]"], ["--seeds", "[0,1]"]),
        ("run", ["--seeds", "0,x"], ["--seeds", "0,x"]),
        ("evaluate", ["--estimators", "model,fqe", "1,2"], ["--estimators", "model,fqe", "1,2"]),
    ],
)
def test_numbers_with_commas_are_a_list(command: str, typed: list[str], understood: list[str]) -> None:
    assert parsing.spelt(getattr(stages, command), typed) == understood


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        (["mill", "--floor", "-1e9"], ["mill", "--floor=-1e9"]),
        (["mill", "--floor", "-1.5E-3", "--steps", "10"], ["mill", "--floor=-1.5E-3", "--steps", "10"]),
        (["mill", "--floor", "-.5e+2"], ["mill", "--floor=-.5e+2"]),
        (["mill", "--floor=-1e9", "-1e9"], ["mill", "--floor=-1e9", "-1e9"]),
        (["mill", "--floor", "-10"], ["mill", "--floor", "-10"]),
        (["mill", "--floor", "1e9"], ["mill", "--floor", "1e9"]),
        (["--env", "-,Pendulum-v1"], ["--env=-,Pendulum-v1"]),
    ],
)
def test_what_begins_with_a_dash_and_is_no_option_is_a_value(typed: list[str], understood: list[str]) -> None:
    assert parsing.spelt(stages.finetune, typed) == understood


def test_a_floor_with_an_exponent_reaches_the_setting() -> None:
    arguments = parsing.spelt(stages.finetune, ["mill", "--env", "Pendulum-v1", "--steps", "9", "--floor", "-1e9"])
    config = parsing.parser(stages.finetune, "finetune", None, arguments).parse_args(arguments)
    assert config.floor == -1e9


@pytest.mark.parametrize("spelling", ["--data", "--data.id"])
def test_both_spellings_reach_the_setting(spelling: str) -> None:
    arguments = parsing.spelt(stages.run, [spelling, "acme/mill-v0", "--data.history", "2"])
    config = parsing.parser(stages.run, "run", "mopo.yaml", arguments).parse_args(arguments)
    assert (config.data.id, config.data.history) == ("acme/mill-v0", 2)


def test_the_help_says_that_a_log_is_named_by_its_id() -> None:
    told = " ".join(parsing.parser(stages.run, "run", "mopo.yaml", []).format_help().split())
    assert "--data CONFIG Minari id of the data set, as --data.id; or a YAML file" in told
    assert parsing.GROUP not in told


def test_the_help_names_every_estimator_and_kind_of_file() -> None:
    told = " ".join(parsing.parser(stages.evaluate, "evaluate", None, []).format_help().split())
    named = told.partition("--estimators ESTIMATORS some of ")[2].partition(", with commas")[0]
    assert set(named.replace(" and ", ", ").split(", ")) == set(KINDS)
    told = " ".join(parsing.parser(stages.import_, "import", None, []).format_help().split())
    assert all(suffix in told for suffix in (".npz", ".csv", ".csv.gz", ".parquet"))


def test_the_help_says_how_far_back_a_log_may_ask_to_look() -> None:
    told = " ".join(parsing.parser(stages.run, "run", "mopo.yaml", []).format_help().split())
    assert f"asks for, {HISTORIES[0]} to {HISTORIES[-1]}." in told


def test_true_episodes_of_a_run_are_refused_where_they_would_be_ignored() -> None:
    with pytest.raises(ValueError, match=r"trial\.episodes is 3, which is of `mbrl run`: leave it out, here is --epi"):
        stages.evaluate("models:/mill-policy", env="Pendulum-v1", trial=Trial(episodes=3))
    with pytest.raises(ValueError, match=r"trial\.episodes is 3.*here is no true environment"):
        stages.select("mill", trial=Trial(episodes=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "a/b-v0", "episodes": 7}, r"episodes is 7, which is of episodes in a true environment: name one"),
        ({"data": "a/b-v0", "level": 0.5}, r"level is 0\.5, which is of episodes in a true"),
        ({"env": "Pendulum-v1", "trial": Trial(starts=8)}, r"trial\.starts is 8, which is of estimates on a log: name"),
        ({"env": "Pendulum-v1", "trial": Trial(rules=Path("no.yaml"))}, r"trial\.rules is no\.yaml, which is of est"),
    ],
)
def test_settings_of_what_an_evaluation_does_not_do_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages.evaluate("models:/mill-policy", **given)


def test_a_file_in_the_place_of_an_id_is_to_be_imported(tmp_path: Path) -> None:
    (tmp_path / "mill.csv").touch()
    with pytest.raises(ValueError, match=r"not a data set id.*becomes one by `mbrl import .*mill\.csv --id NAMESPACE"):
        minari.check_id(str(tmp_path / "mill.csv"))
    with pytest.raises(ValueError, match=r"not a data set id.*is 'data'$"):
        minari.check_id(str(tmp_path / "mine.csv"))
