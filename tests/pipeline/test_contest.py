"""`mbrl compare`: cells are runs, a table of means over seeds, and what cannot learn from a log is named."""

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any

import pipeline_toys
import pytest
import yaml
from forks import forked
from pipeline_toys import ROOT, spoken

from mbrl import engines
from mbrl.following import Going
from mbrl.registry.rules import PACKAGED

# In the place of `mbrl run`: learners whose learning rate is beyond 1 fall, and take what is learned with them.
FALLING = """
import json, sys
from pathlib import Path
import yaml
path = Path(sys.argv[1])
settings, result = yaml.safe_load(path.read_text()), path.with_suffix("") / "result.json"
result.parent.mkdir(exist_ok=True)
(result.parent / "config.yaml").write_text(path.read_text())
if result.exists():
    sys.exit(print("nothing is repeated"))
if any(one["learner"]["init_args"].get("lr", 0) > 1 for one in settings["candidates"].values()):
    sys.exit("RuntimeError: out of memory")
value = {"value": 3.0, "low": 1.0, "high": 5.0, "effective_n": 2, "diagnostics": {}}
row = {"true_return": value, "verdict": "promote", "rehearsed": False}
seconds = {"baseline": 1.0, **{f"policy-{name}": 1.0 for name in settings["candidates"]}}
answer = {"candidates": dict.fromkeys(settings["candidates"], row), "seconds": seconds, "logged_return": value}
result.write_text(json.dumps(answer | {"true_environment": {"behaviour cloning": value}}))
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of an engine that are forked; how those of a user begin, follow and end is asked in test_sweep.py."""

    one = threading.Lock()  # of the threads that begin and join processes

    def run(_: Going, command: Sequence[str], out: IO[str], told: Mapping[str, str], folder: Path | None = None) -> int:
        assert folder is None  # on this machine
        begun = list(command[len(engines.RUN) - 2 :])
        with one:
            process = forked(pipeline_toys.quick, begun, output=Path(out.name), environ={**os.environ, **told})
        connection.wait([process.sentinel])
        with one:
            process.join()
        assert process.exitcode is not None
        return process.exitcode

    monkeypatch.setattr(Going, "run", run)


def learner(folder: Path, name: str, path: str, **init_args: Any) -> str:
    """A configuration as debug.yaml with another learner; its file."""
    settings = yaml.safe_load((ROOT / "configs" / "debug.yaml").read_text())
    settings["learner"] = {"class_path": path, "init_args": init_args}
    settings["rehearsal"] |= {"updates": 20, "checkpoint_every": 10}
    (folder / "rules.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(PACKAGED.read_text()) | {"kinds": ["model"]})  # the others need more than toys
    )
    settings["trial"]["rules"] = str(folder / "rules.yaml")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / f"{name}.yaml")


@pytest.mark.usefixtures("quick")
def test_learners_share_runs_and_are_averaged_over_seeds(tmp_path: Path) -> None:
    both = learner(tmp_path, "cloning", "policies.BC"), learner(tmp_path, "mopo", "policies.SAC", hidden=[16, 16])
    command = ["compare", "--data", "toy/pendulum-v0", "--env", "Pendulum-v1", "--learners", ",".join(both)]
    command += ["--seeds", "[0,1]", "--episodes", "2", "--folder", str(tmp_path / "out")]
    command += ["--settings", "{trial.starts: 3, rehearsal.precision: 32-true}"]
    status, answer, told = spoken(command)
    assert (status, answer["failed"]) == (0, {"toy-pendulum": {}})
    kept = yaml.safe_load((tmp_path / "out" / "toy-pendulum-0-0.yaml").read_text())
    assert (kept["trial"]["starts"], kept["trial"]["episodes"]) == (3, 2)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        "toy-pendulum-0-0",
        "toy-pendulum-1-0",
        "fits",
    }
    assert len(list((tmp_path / "out" / "fits").glob("*.ckpt"))) == 4  # a simulator and a judge a seed
    scores = answer["scores"]["toy-pendulum"]
    assert set(scores) == {"cloning", "mopo", "behaviour cloning"}
    for seed in (0, 1):
        run = json.loads((tmp_path / "out" / f"toy-pendulum-{seed}-0" / "result.json").read_text())
        cell = scores["mopo"]["seeds"][seed]
        assert cell["seed"] == seed
        assert cell["value"] == run["candidates"]["mopo"]["true_return"]
        assert cell["seconds"] == pytest.approx(run["seconds"]["policy-mopo"] + run["seconds"]["simulator"])
        assert scores["cloning"]["seeds"][seed]["seconds"] == run["seconds"]["policy-cloning"]
    values = [cell["value"]["value"] for cell in scores["mopo"]["seeds"]]
    mean = scores["mopo"]["mean"]
    assert mean["value"] == pytest.approx(sum(values) / 2)
    assert mean["high"] - mean["low"] == pytest.approx(12.706 * abs(values[0] - values[1]), rel=1e-3)  # t of two values
    lines = answer["table"].splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| log", "| behaviour cloning", "| cloning", "| mopo"]
    assert f"| mopo | {mean['value']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}] |" in lines[5]
    assert lines[5] in told
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    status, again, _ = spoken(command)
    assert (status, again["scores"]) == (0, answer["scores"])
    logs = [(tmp_path / "out" / f"toy-pendulum-{seed}-0.log").read_text() for seed in (0, 1)]
    assert all("nothing is repeated" in log for log in logs)


def test_learners_that_are_not_together_have_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "RUN", (sys.executable, "-c", "raise SystemExit(3)"))  # files are made, no run is
    three = [learner(tmp_path, name, "policies.BC") for name in ("one", "two", "three")]
    command = ["compare", "--data", "toy/pendulum-v0", "--learners", ",".join(three), "--seeds", "[0]"]
    status, answer, _ = spoken([*command, "--together", "2", "--folder", str(tmp_path / "out")])
    assert (status, set(answer["failed"]["toy-pendulum"])) == (1, {"one", "two", "three"})
    held = [yaml.safe_load((tmp_path / "out" / f"toy-pendulum-0-{k}.yaml").read_text())["candidates"] for k in (0, 1)]
    assert [set(candidates) for candidates in held] == [{"one", "two"}, {"three"}]
    assert not (tmp_path / "out" / "toy-pendulum-0-2.yaml").exists()


def test_a_learner_that_falls_leaves_those_of_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "RUN", (sys.executable, "-c", FALLING))
    good = learner(tmp_path, "good", "policies.BC")
    command = ["compare", "--data", "toy/pendulum-v0", "--env", "Pendulum-v1", "--seeds", "[0]", "--episodes", "2"]
    command += ["--learners", f"{learner(tmp_path, 'wild', 'policies.BC', lr=1e300)},{good}"]
    out = tmp_path / "out"
    status, answer, told = spoken([*command, "--folder", str(out)])
    assert (status, list(answer["failed"]["toy-pendulum"])) == (1, ["wild"])
    assert answer["failed"]["toy-pendulum"]["wild"].startswith("toy-pendulum-0-0-wild ended with status 1; its log")
    assert "out of memory" in answer["failed"]["toy-pendulum"]["wild"]
    assert answer["error"].startswith("1 of 2 runs failed; ")
    assert "its learners have runs of their own: toy-pendulum-0-0-wild, toy-pendulum-0-0-good" in told
    scores = answer["scores"]["toy-pendulum"]
    assert {name: len(score["seeds"]) for name, score in scores.items()} == {"good": 1, "behaviour cloning": 1}
    shared = (out / "toy-pendulum-0-0.log").read_text()
    learner(tmp_path, "wild", "policies.BC", lr=1e-3)
    status, again, told = spoken([*command, "--folder", str(out)])
    assert (status, again["failed"]) == (0, {"toy-pendulum": {}})
    assert "candidates.wild.learner.init_args.lr was 1e+300, is 0.001. What there was is" in told
    assert (out / "toy-pendulum-0-0-wild.old-1" / "config.yaml").exists()
    assert "nothing is repeated" in (out / "toy-pendulum-0-0-good.log").read_text()
    assert (out / "toy-pendulum-0-0.log").read_text() == shared  # the run of both was not tried again
    assert set(again["scores"]["toy-pendulum"]) == {"wild", "good", "behaviour cloning"}


@pytest.mark.usefixtures("quick")
def test_a_learner_that_diverges_has_no_row_and_is_named(tmp_path: Path) -> None:
    both = learner(tmp_path, "wild", "policies.BC", lr=1e30), learner(tmp_path, "good", "policies.BC")
    command = ["compare", "--data", "toy/pendulum-v0", "--learners", ",".join(both), "--seeds", "[0]"]
    status, answer, told = spoken([*command, "--folder", str(tmp_path / "out")])
    assert (status, "error" in answer, set(answer["scores"]["toy-pendulum"])) == (0, False, {"good"})
    why = answer["failed"]["toy-pendulum"]["wild"]
    assert why.startswith("toy-pendulum-0-0: ")
    assert "the learning diverged" in why
    assert f"wild on toy-pendulum: {why}" in told


@pytest.mark.usefixtures("quick")
def test_without_truth_there_are_gains_and_what_cannot_learn_or_dies_is_named(tmp_path: Path) -> None:
    both = learner(tmp_path, "cloning", "policies.BC"), learner(tmp_path, "bcq", "policies.BCQ")
    command = ["compare", "--data", "toy/cartpole-v0", "--learners", ",".join(both), "--seeds", "[0,1]"]
    (tmp_path / "out" / "toy-cartpole-1-0").mkdir(parents=True)
    (tmp_path / "out" / "toy-cartpole-1-0" / "run.json").write_text("{")
    status, answer, told = spoken([*command, "--folder", str(tmp_path / "out")])
    assert status == 1
    assert (
        "1 of 2 runs failed; mend what they say, and the same command goes on with them:\n  toy-cartpole-1-0 ended with"
        in answer["error"]
    )
    assert "run.json is damaged" in answer["failed"]["toy-cartpole"]["cloning"]
    assert "spreads) | min |" in (tmp_path / "out" / "table.md").read_text()
    assert "(1 of 2 seeds) |" in answer["table"]
    assert set(answer["scores"]["toy-cartpole"]) == {"cloning"}
    assert len(answer["scores"]["toy-cartpole"]["cloning"]["seeds"]) == 1
    assert "DiscreteBCQ" in answer["failed"]["toy-cartpole"]["bcq"]
    assert "bcq on toy-cartpole: " in told
    assert "| | toy/cartpole-v0 (gain in spreads) | min |" in answer["table"]
    assert "| bcq | - | |" in answer["table"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--learners", "mobo"], "learners has 'mobo', and there is no"),
        (
            ["--learners", "mcts", "--settings", "{data.history: auto}"],
            "there is nothing to compare: mcts on toy-pendulum",
        ),
        (["--learners", "bc,bc"], "learners names bc twice"),
        (["--learners", "discrete_bcq,mcts"], "there is nothing to compare: discrete_bcq on toy-pendulum: "),
        (["--env", "Pendulum-v1,-"], "env names 2 environments for 1 logs"),
        (["--seeds", "[0,0]"], "seeds are [0, 0], expected different numbers"),
        (["--seeds", "[-1]"], "seeds are [-1], expected different numbers, at least one, each from 0 to 4294967295"),
        (["--data", "toy/pendulum"], "expected NAMESPACE/NAME-vN"),
        (["--data", "toy/pendulum-v9"], "the data set 'toy/pendulum-v9' is not in"),
        (["--learners", "bc", "--updates", "0"], "rehearsal.updates is 0, expected at least 1"),
        (["--workers", "0"], "workers is 0, expected at least 1"),
        (["--together", "0"], "together is 0, expected at least 1 learner a run"),
        (["--data", "toy/pendulum-v0,toy/pendulum-v1"], "several logs whose runs would be called toy-pendulum:"),
        (
            ["--settings", "{seed: 3, seeds: [1], data.id: toy/cartpole-v0}"],
            "settings has data.id, seed, seeds, which each",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(arguments: list[str], part: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    status, answer, _ = spoken(["compare", "--data", "toy/pendulum-v0", *arguments, "--folder", str(folder)])
    assert status == 1
    assert part in answer["error"]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "{path} is no YAML: "),
        ("- 1\n- 2\n", "a run of {path}: "),
        ("seeed: 1\n", "a run of {path}: there is no setting seeed: did you mean seed or seeds?"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    command = ["compare", "--data", "toy/pendulum-v0", "--learners", str(path), "--folder", str(tmp_path / "out")]
    status, answer, _ = spoken(command)
    assert status == 1
    assert answer["error"].startswith(part.format(path=path)), answer


def test_a_file_whose_name_no_candidate_can_have_is_refused(tmp_path: Path) -> None:
    path = learner(tmp_path, "my cloning", "policies.BC")
    status, answer, _ = spoken(
        ["compare", "--data", "toy/pendulum-v0", "--learners", path, "--folder", str(tmp_path / "out")]
    )
    assert status == 1
    assert f"learners has {path}, whose name is to be that of a candidate" in answer["error"]
    assert "called 'my cloning', expected up to 32 of a-z, 0-9, _ and -" in answer["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            "seeds: [0, 1]",
            "has seeds [0, 1], which every run is given here: take it out of the configuration, and give",
        ),
        ("env: Pendulum-v1", "has env Pendulum-v1, which every run is given here: take it out of the configuration"),
        ("learner: null", "has neither a learner nor candidates: give it one of them"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_what_a_configuration_says_of_every_run_is_not_overruled_in_silence(
    command: str, more: str, told: str, tmp_path: Path
) -> None:
    path = Path(learner(tmp_path, "several", "policies.BC"))
    kept = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != more.partition(":")[0]}
    path.write_text(yaml.safe_dump(kept) + more + "\n")
    folder, named = tmp_path / "out", {"compare": "--learners", "sweep": "--configs"}[command]
    status, answer, _ = spoken([command, "--data", "toy/pendulum-v0", named, str(path), "--folder", str(folder)])
    assert status == 1
    assert f"{path} {told}" in answer["error"]
    assert not folder.exists()


def test_a_setting_that_candidates_have_their_own_of_is_refused(tmp_path: Path) -> None:
    command = ["compare", "--data", "toy/pendulum-v0", "--learners", "ladder,bc", "--folder", str(tmp_path / "out")]
    status, answer, _ = spoken([*command, "--settings", "{rehearsal.batch_size: 33}"])
    assert status == 1
    assert answer["error"].startswith("settings has rehearsal.batch_size=33, and ")
    assert "ladder.yaml has candidates with rehearsals of their own: set it there, in a copy" in answer["error"]
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_run_is_not_that_of_a_comparison(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    command = ["compare", "--data", "toy/pendulum-v0", "--learners", "bc", "--folder", str(tmp_path)]
    status, answer, _ = spoken(command)
    assert status == 1
    assert f"folder is {tmp_path}, which holds a run: give a new one" in answer["error"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["config.yaml"]
