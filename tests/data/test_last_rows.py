"""Logs without next observations: what the last row of an episode is, and what is lost with it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from table_toys import ID, csv, schema

from mbrl.data import minari
from mbrl.data.tables import import_log

SERVICE = "observation: [x, y]\naction: u\nreward: r\nterminal: over\n"
ACTED = SERVICE + "final_action: true\n"


def service(**columns: Any) -> pd.DataFrame:
    """Two episodes of three rows, of which the last one pays."""
    whole = {
        "x": [0.0, 1.0, 3.0, 5.0, 4.0, 2.0],
        "y": [1.0, 1.0, 1.0, 2.0, 2.0, 3.0],
        "u": [0.1, 0.2, 0.3, -0.1, -0.2, -0.3],
        "r": [0.0, 0.0, 7.0, 0.0, 0.0, -9.0],
        "over": [0, 0, 1, 0, 0, 1],
    }
    return pd.DataFrame({**whole, **columns})


def test_a_final_action_counts_and_leads_on_as_the_last_change_did(tmp_path: Path) -> None:
    found = import_log(csv(tmp_path, service()), ID, schema=schema(tmp_path, ACTED))
    assert (found["rows"], found["terminals"], found["rows_without_successor"]) == (6, 2, 0)
    data = minari.load(ID)
    assert data.reward.tolist() == [0, 0, 7, 0, 0, -9]
    assert data.action.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
    assert data.next_obs.tolist() == [[1, 1], [3, 1], [5, 1], [4, 2], [2, 3], [0, 4]]
    assert data.terminated.tolist() == [False, False, True, False, False, True]


def test_what_it_leads_to_is_possible(tmp_path: Path) -> None:
    said = "\nbounds: {x: [0.5, 5.5]}\ncategorical: [mode]\nexogenous: sun\n"
    table = service(mode=["a", "a", "b", "b", "a", "b"], sun=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    table["x"] += [0.5, 0.5, 0.75, 0.5, 0.5, 0.5]
    import_log(csv(tmp_path, table), ID, schema=schema(tmp_path, ACTED.replace("x, y", "x, mode") + said))
    data = minari.load(ID)
    assert data.channels == ("x", "mode=a", "mode=b", "sun")
    assert data.next_obs[[2, 5]].tolist() == [[5.5, 0, 1, 3], [0.5, 0, 1, 6]]  # 3.75 + 2.25 and more


def test_an_episode_may_be_one_action(tmp_path: Path) -> None:
    path = csv(tmp_path, service(over=1))
    assert import_log(path, ID, schema=schema(tmp_path, ACTED))["episodes"] == 6
    assert (minari.load(ID).next_obs == minari.load(ID).obs).all()
    with pytest.raises(ValueError, match=r"row 0 is an episode of one row.*say `final_action: true` if rows"):
        import_log(path, "toy/other-v0", schema=schema(tmp_path, SERVICE))


def test_what_was_only_cut_ends_with_an_observation(tmp_path: Path) -> None:
    cut = ACTED + "episode: run\n"
    table = service(run=[0, 0, 0, 1, 1, 1], over=[0, 0, 1, 0, 0, 0], r=1.0)
    found = import_log(csv(tmp_path, table), ID, schema=schema(tmp_path, cut))
    assert (found["rows"], found["terminals"], found["rows_without_successor"]) == (5, 1, 1)
    assert minari.load(ID).next_obs[-1].tolist() == [2, 3]


def test_its_reward_has_to_be_a_number(tmp_path: Path) -> None:
    path = csv(tmp_path, service(r=[0.0, 0.0, float("nan"), 0.0, 0.0, -9.0]))
    with pytest.raises(ValueError, match="row 2, column 'r' is empty or not a number"):
        import_log(path, ID, schema=schema(tmp_path, ACTED))


def test_all_of_the_reward_is_not_lost_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(tmp_path, service())
    with pytest.raises(ValueError, match=r"only the last rows of episodes hold a reward.*`final_action: true` in the"):
        import_log(path, ID, schema=schema(tmp_path, SERVICE))
    assert import_log(path, ID, schema=schema(tmp_path, SERVICE + "final_action: false\n"))["rows"] == 4
    assert not capsys.readouterr().err
    unmarked = schema(tmp_path, SERVICE.replace("terminal: over", "episode: run"))
    with pytest.raises(ValueError, match=r"say `terminal` and `final_action: true` if"):
        import_log(csv(tmp_path, service(run=[0, 0, 0, 1, 1, 1])), "toy/other-v0", schema=unmarked)


def test_less_of_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_log(csv(tmp_path, service(r=1.0)), ID, schema=schema(tmp_path, SERVICE))["rows"] == 4
    assert "import: 2 rows that end the world" in (told := capsys.readouterr().err)
    assert "(33.3 % of all reward goes with last rows) are dropped: say `final_action: true`" in told


@pytest.mark.parametrize("text", [ACTED + "next_observation: [y, x]\n", ACTED.replace("terminal", "truncated")])
def test_it_is_for_logs_that_have_ends_and_no_successors(tmp_path: Path, text: str) -> None:
    text = text.replace("[y, x]", "[x2, y2]")
    with pytest.raises(ValueError, match="has final_action, which is for a log with `terminal` and without"):
        import_log(csv(tmp_path, service(x2=0.0, y2=0.0)), ID, schema=schema(tmp_path, text))


RESAMPLED = ACTED + "time: t\nresample: last\nperiod: 1.0\n"
SPACED = [0, 1, 2, 10, 11, 12]


def resampled(tmp_path: Path, said: str = "", **columns: Any) -> tuple[Path, Path]:
    text = schema(tmp_path, RESAMPLED + "max_gap: 2\n" + said)
    return csv(tmp_path, service(t=SPACED, **columns)), text


def test_a_final_action_of_what_is_resampled_is_checked_like_any_other(tmp_path: Path) -> None:
    path, text = resampled(tmp_path)
    assert import_log(path, "toy/clean-v0", schema=text)["rows"] == 6
    path, text = resampled(tmp_path, "action_low: 0\naction_high: 1\n", u=[0.1, 0.2, 99.0, 0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"row 2, column 'u' is 99\.0, expected a value within the declared bounds"):
        import_log(path, ID, schema=text)
    path, text = resampled(tmp_path, "action_low: 0\naction_high: 1\nclip_action: true\n", u=[0.1, 0.2, 99.0, 0, 0, 0])
    assert import_log(path, "toy/clipped-v0", schema=text)["clipped_actions"] == 1
    assert minari.load("toy/clipped-v0").action[2].tolist() == [1.0]
    path, text = resampled(tmp_path, "discrete: true\n", u=[0, 1, 0.5, 0, 1, 1])
    with pytest.raises(ValueError, match=r"row 2, column 'u' is 0\.5, expected an integer"):
        import_log(path, ID, schema=text)
    path, text = resampled(tmp_path, r=[0.0, 0.0, float("nan"), 0.0, 0.0, -9.0])
    assert import_log(path, ID, schema=text, on_bad_rows="drop-episode")["dropped_episodes"] == 1


def test_a_reward_that_nobody_reads_need_not_keep_its_bounds(tmp_path: Path) -> None:
    said = SERVICE.replace("terminal", "truncated") + "bounds: {r: [0, 2]}\n"
    path = csv(tmp_path, service(r=[1.0, 1.0, -999.0, 1.0, 1.0, -999.0]))
    assert import_log(path, ID, schema=schema(tmp_path, said))["rows"] == 4
    path = csv(tmp_path, service(r=[1.0, -999.0, 1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"column 'r' leaves its bounds \[0, 2\] in 1 rows, such as row 1"):
        import_log(path, "toy/other-v0", schema=schema(tmp_path, said))
