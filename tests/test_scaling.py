"""How costs grow: which cases are measured, in processes of their own, and what is told of them."""

import json
from pathlib import Path

import pytest

from mbrl import scaling
from mbrl.__main__ import main
from mbrl.scaledcase import Case, Cost
from mbrl.sizes import Sizes


def test_one_size_is_changed_at_a_time() -> None:
    found = scaling.cases(Sizes([1000, 5000], [7, 1], [256, 64], [1, 3], resident=3))
    assert found == [
        Case(1000, 7, 256, None),
        Case(1000, 7, 256, 3),
        Case(5000, 7, 256, None),
        Case(5000, 7, 256, 3),
        Case(1000, 1, 256, None),
        Case(1000, 7, 64, None),
        Case(1000, 7, 256, None, 3),
        Case(1000, 7, 256, None, 3, batched=True),
    ]


def test_a_log_in_files_is_trained_on_a_group_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sizes.rows", "[20000]", "--sizes.members", "[2]", "--sizes.batches", "[16]"]
    sizes += ["--sizes.populations", "[1,2]"]
    short = ["--sizes.resident", "1", "--sizes.updates", "2", "--threads", "1"]
    assert main(["bench", "--scaling", str(tmp_path), *sizes, *short, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    whole, streamed, two, together = answer["scaling"]
    assert (whole["resident"], whole["group_s"], whole["turn"]) == (None, 0.0, 1250)
    assert (streamed["resident"], streamed["turn"]) == (1, 417)  # 20,000 rows of 113 bytes are three groups
    assert streamed["group_s"] > 0
    assert two["population"] == 2
    assert two["peak_mib"] > 1.5 * whole["peak_mib"]
    assert (together["population"], together["batched"]) == (2, True)
    assert together["peak_mib"] < 1.5 * whole["peak_mib"]
    for row in whole, streamed, two, together:
        assert row["dynamics_ms"] > 0
        assert row["policy_ms"] > 0
        assert 100 < row["peak_mib"] < 2000
    assert (tmp_path / "scaling.md").read_text() == answer["table"]
    assert "| 20,000 | 2 | 16 | 1 | 1 MiB at once, 0." in answer["table"]
    assert "| 20,000 | 2 | 16 | 2, processes | all | " in answer["table"]
    assert "| 20,000 | 2 | 16 | 2, batched | all | " in answer["table"]
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_what_is_drawn_are_updates_and_memory_over_each_size() -> None:
    cost = Cost(dynamics_ms=2.0, policy_ms=3.0, group_s=0.0, turn=1, peak_mib=100.0)
    cases = scaling.cases(Sizes([1000, 5000], [7, 1], [256, 64], [1, 3]))
    times, memory = scaling.growths([(case, cost._replace(peak_mib=case.rows / 10)) for case in cases])
    of = ["rows of the log", "members of the ensemble", "rows of a batch", "trainings at once"]
    assert [panel.size for panel in times] == of
    assert times[3].lines["ensemble"] == [(1, 2.0), (3, 2.0)]
    assert times[3].lines["policies, batched"] == [(1, 3.0), (3, 3.0)]
    assert list(memory[3].lines) == ["all rows in memory", "batched"]
    assert times[0].lines["ensemble"] == [(1000, 2.0), (5000, 2.0)]
    assert times[1].lines["policy"] == [(1, 3.0), (7, 3.0)]
    assert memory[0].lines["from the disk"] == [(1000, 100.0), (5000, 500.0)]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--sizes.rows", "[10]"], "sizes.rows is [10], expected 1,000 or more"),
        (["--sizes.members", "[]"], "sizes.members is [], expected numbers of at least 1"),
        (["--sizes.updates", "0"], "sizes.updates is 0, expected at least 1"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--scaling", str(tmp_path / "out"), *arguments]) in (1, 2)
    assert part in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_case_that_fails_is_named() -> None:
    learner = {"class_path": "policies.SAC", "init_args": {"hidden": [4]}}
    wrong = {"class_path": "dynamics.NoSuchModel", "init_args": {}}
    with pytest.raises(RuntimeError, match=r"Case\(rows=1000.*could not be measured: .*NoSuchModel"):
        list(scaling.measure(wrong, learner, [Case(1000, 1, 8, None)], updates=1, threads=1, seed=0))
