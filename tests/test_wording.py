"""What is said of a wrong argument or key: the value, what was expected, and what may have been meant."""

from pathlib import Path

import pytest

from mbrl.__main__ import config_file, main


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("run", "missing: --data ID"),
        ("import x.csv", "missing: --id"),
        (
            "run --data a/b-v0 --rehearsal.horzion 3",
            "there is no setting --rehearsal.horzion: did you mean --rehearsal.ho",
        ),
        ("run --data a/b-v0 --rehearsal.updates lots", "rehearsal.updates: expected int, got lots"),
        ("run --data a/b-v0 --learner policies.TD3BCC", "learner: there is no TD3BCC in policies: did you mean TD3BC?"),
        (
            "run --data a/b-v0 --learner.init_args.critcs 3",
            "learner: policies.SAC has no setting 'critcs': did you mean critics or critic_lr?",
        ),
        (
            "run --data a/b-v0 --dynamics.init_args.membres 3",
            "dynamics: dynamics.ProbabilisticEnsemble has no setting 'membres': did you mean members?",
        ),
        ("promote x --to champoin", "to: expected one of 'shadow', 'canary', 'champion', got champoin"),
        ("card x --version one", "version: expected int, got one"),
        ("run --config nowhere.yaml", "config: there is no file /"),
        (
            "run --data a/b-v0 --learner td3bc",
            "learner: expected a dotted path, MODULE.NAME, got td3bc: did you mean po",
        ),
        (
            "run --data a/b-v0 --simulator.uncertainty ensemble_std",
            "simulator.uncertainty: expected a dotted path, MODULE.NAME, got ensemble_std: did you mean dynamics.unce",
        ),
        (
            "run --data a/b-v0 --simulator.structure mine.balance",
            "simulator.structure: there is no module mine for mine.balance: if that is a file of yours, set PYTHON",
        ),
        (
            f"run --data a/b-v0 --config {config_file('auto.yaml')} --learner.init_args.critics 20",
            "learner: there is no class that critics could be a setting of: name one; where a configuration has",
        ),
        ("run --data a/b-v0 --data.split 0.8,0.2", "data.split: expected 3 values, got [0.8, 0.2]"),
        ("run --data mop.yaml", "data: there is no file mop.yaml\n"),
        ("run --data a/b-v0 --seeds a", "seeds: expected list, got a"),
        (
            "run a/b-v0",
            "a/b-v0 is left over, expected mbrl run [--config FILE.yaml] [--SETTING VALUE ...]: did you mean",
        ),
        ("import --id a/b-v0 x.csv y.csv", "y.csv is left over, expected mbrl import FILE [FILE ...] [--config FILE"),
    ],
)
def test_wrong_words_are_told_as_they_were_typed(typed: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = typed.split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mbrl {words[0]}: {told}"), error
    assert not any(word in error for word in ("Union", "Namespace", "<class", "Callable", "NoneType")), error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rehersal: {updates: 3}", "there is no setting rehersal.updates: did you mean rehearsal"),
        ("learner: {class_path: policies.SAK}", "learner: there is no SAK in policies: did you mean SAC"),
        (
            "candidates: {a: {learner: policies.SAC, rehearsal: {updatess: 3}}}",
            "candidates: rehearsal has no setting 'up",
        ),
    ],
)
def test_wrong_keys_of_a_yaml(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert main(["run", "--config", str(path), "--data", "a/b-v0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mbrl run: {told}"), error
    assert not any(word in error for word in ("Union", "Namespace", "<class", "Callable", "NoneType")), error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n  b: 2", "mapping values are not allowed in this context at line 2, column 4"),
        ("a: [1\nb: 2", "while parsing a flow sequence at line 1, column 4 did not find expected"),
        ("\ta: 1", "while scanning for the next token found character that cannot start any token at line 1, column 1"),
    ],
)
@pytest.mark.parametrize("joint", [" ", "="])
def test_a_file_that_is_no_yaml_is_named(
    text: str, told: str, joint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert main(["run", *f"--config{joint}{path}".split(), "--data", "a/b-v0"]) == 2
    assert capsys.readouterr().err.startswith(f"mbrl run: {path} is no YAML: {told}")


@pytest.mark.parametrize(("typed", "meant"), [("combo", "combo"), ("config/mpoo.yaml", "mopo")])
def test_a_configuration_that_comes_with_mbrl_is_found_by_its_name(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", typed, "--data", "a/b-v0"]) == 2
    assert f"did you mean {config_file(f'{meant}.yaml')}?" in capsys.readouterr().err
