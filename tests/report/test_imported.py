"""What a reader is told of an import: what there is to say, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from mbrl.__main__ import main
from mbrl.report.imported import lines

PLAIN = {
    "id": "acme/mill-v0",
    "path": "/data/acme/mill-v0",
    "files": [{"path": "mill.csv", "first_row": 0}],
    "episodes": 1200,
    "series": 1200,
    "rows": 98_765,
    "terminals": 7,
    "mean_return": 12.3456789,
    "rows_without_successor": 0,
    "dropped_episodes": 0,
    "dropped": [],
    "gaps": 0,
    "filled_cells": {},
    "unknown_rows": 0,
    "lone_terminals": 0,
    "clipped_actions": 0,
    "period": None,
    "outside_bounds": {},
    "constant": {},
    "exogenous": [],
    "fingerprint": "0123456789abcdef",
    "seconds": 1.26,
}


def told(**changes: Any) -> list[tuple[str, str]]:
    return list(lines({**PLAIN, **changes}))


def test_a_sound_log_is_told_in_three_lines() -> None:
    assert told() == [
        ("log", "acme/mill-v0: 98,765 rows, 1,200 episodes (7 with a terminal end), mean return 12.3457"),
        ("folder", "/data/acme/mill-v0   (fingerprint 0123456789ab, 1.3 s)"),
        (
            "next",
            "mbrl audit acme/mill-v0   says what the log can teach; mbrl run --data acme/mill-v0   learns from it",
        ),
    ]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {"rows_without_successor": 1200},
            [("left out", "rows that are final observations and no steps, as none of their episode follows: 1,200")],
        ),
        (
            {"series": 3},
            [
                (
                    "pieces",
                    "of 3 series: neither flag nor id parts them, and a pause is no news, so neighbours may be alike",
                )
            ],
        ),
        ({"gaps": 2}, [("gaps", "pauses longer than max_gap, which end an episode: 2")]),
        (
            {"filled_cells": {"level": 2, "mode": 1000}, "unknown_rows": 3},
            [
                ("filled", "empty cells, from the rows around them, by the rule of resample: level 2, mode 1,000"),
                ("left out", "rows with an empty cell and no value within max_gap, which end an episode: 3"),
            ],
        ),
        ({"period": 0.5}, [("period", "0.5 a step")]),
        (
            {"clipped_actions": 3},
            [("clipped", "rows with an action beyond its bounds, which was brought to them: 3")],
        ),
        (
            {"outside_bounds": {"level": {"count": 4, "rows": [7, 9]}}},
            [("outside", "rows with 'level' beyond its physical bounds: 4; the first: 7, 9")],
        ),
        ({"exogenous": ["rain", "demand"]}, [("exogenous", "rain, demand")]),
        (
            {"dropped_episodes": 5, "dropped": [{"episode": k, "row": 10 * k, "reason": "why"} for k in range(5)]},
            [
                *[("left out", f"episode {k}, from row {10 * k} on, both from 0: why") for k in range(3)],
                ("left out", "more episodes, which --json names: 2"),
            ],
        ),
    ],
)
def test_what_an_import_did_has_a_line(changes: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    assert told(**changes)[1:-2] == wanted


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{number},{step / 7},0.5,1\n" for number in range(2) for step in range(4))
    (tmp_path / "mill.csv").write_text(f"batch,speed,valve,profit\n{rows}")
    (tmp_path / "mill.yaml").write_text("observation: [speed]\naction: [valve]\nreward: profit\nepisode: batch\n")
    assert main(["import", "mill.csv", "--id", "acme/mill-v0", "--schema", "mill.yaml"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "log                acme/mill-v0: 6 rows, 2 episodes (0 with a terminal end), mean return 3"
    assert [line.split()[0] for line in printed[1:]] == ["left", "folder", "next"]
