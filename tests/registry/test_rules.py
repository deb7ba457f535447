"""Rules are data with a version, and a slip in them is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mbrl.registry.rules import PACKAGED, Rules, read


def changed(tmp_path: Path, **values: Any) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(PACKAGED.read_text()) | values))
    return path


def test_the_packaged_rules_are_whole_and_go_to_plain_values_and_back() -> None:
    rules = read()
    assert rules.version
    assert rules.coverage == pytest.approx(2 * rules.level - 1)
    assert Rules.of(rules.to_dict()) == rules


def test_a_file_of_ones_own_replaces_them(tmp_path: Path) -> None:
    rules = read(
        changed(tmp_path, version="mine", least_gain_over_log=0.5, most_doubt=None, kinds=["fqe"], choice="fqe")
    )
    assert (rules.version, rules.least_gain_over_log, rules.most_doubt) == ("mine", 0.5, None)
    assert rules.kinds == ("fqe",)


def test_changed_rules_are_not_recorded_as_the_packaged_ones(tmp_path: Path) -> None:
    assert read(changed(tmp_path)).version == read().version
    assert read(changed(tmp_path, level=0.55, tie=0.2)).version == f"{read().version}, changed: tie, level"
    assert read(changed(tmp_path, level=0.55, version="lax")).version == "lax"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"least_gain": 0.1}, "there is no rule called least_gain: the rules are version, kinds"),
        ({"least_gain_over_log": -0.1}, "the rule least_gain_over_log is -0.1, expected a finite number, 0 or more"),
        ({"least_gain_over_champion": float("nan")}, "least_gain_over_champion is nan"),
        ({"least_effective_n": float("inf")}, "least_effective_n is inf"),
        ({"least_effective_n": None}, "least_effective_n is None"),
        ({"most_cost": -1}, "most_cost is -1"),
        ({"most_doubt": 1.5}, "most_doubt is 1.5, expected a share, at most 1"),
        ({"least_agreement": "most"}, "least_agreement is most"),
        ({"harmful_loss": True}, "harmful_loss is True"),
        ({"level": 0.5}, "level is 0.5, expected a one-sided level"),
        ({"combination": "mean"}, "combination is mean, expected one of median, lowest"),
        ({"ranking": 1}, "ranking is 1, expected one of median, lowest"),
        ({"choice": "magic"}, "choice is magic, expected one of the kinds ['model', 'model+fqe', 'fqe']"),
        ({"tie": -0.1}, "the rule tie is -0.1, expected a finite number, 0 or more"),
        ({"kinds": []}, "the rule kinds is []"),
        ({"kinds": ["fqe", "fqe"]}, "none of them twice"),
        ({"kinds": "fqe"}, "the rule kinds is fqe"),
        ({"kinds": ["model", "fqee"]}, "rules.yaml: there is no estimator called fqee: the estimators are model, "),
        ({"grades": ["excellent"]}, "the rule grades is ['excellent']"),
        ({"version": 2}, "the rule version is 2, expected a text"),
    ],
)
def test_a_slip_names_the_file_the_rule_and_what_was_expected(
    change: dict[str, Any], part: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, **change)
    with pytest.raises(ValueError, match=r"rules\.yaml") as error:
        read(path)
    assert part in str(error.value)


def test_a_missing_rule_is_named(tmp_path: Path) -> None:
    content = yaml.safe_load(PACKAGED.read_text())
    del content["level"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="the rules lack level"):
        read(path)


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "\x00"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"the rules .*rules\.yaml"):
        read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "none.yaml")
