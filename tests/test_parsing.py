"""How the words of a command line are understood."""

import pytest

from mbrl import parsing, stages


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
    ],
)
def test_a_negative_number_with_an_exponent_is_a_value(typed: list[str], understood: list[str]) -> None:
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
