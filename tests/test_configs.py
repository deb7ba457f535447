"""The configurations that come with mbrl: short, literal, complete, with plug-ins that keep their contracts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mbrl import parsing, stages
from mbrl.__main__ import COMMANDS, config_file, main
from mbrl.bench import hopper_sized
from mbrl.core import Batch, Spec, generator
from mbrl.settings import Candidate
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_dynamics, check_learner

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
COMMAND_OF = {"demo.yaml": "demo", "bench.yaml": "bench"}  # the others are for `run`
RUNS = [name for name in CONFIGS if name != "bench.yaml"]
DISCRETE = ("discrete_bcq.yaml", "mcts.yaml")  # the others are for Box actions, most of them for both


def settings(name: str) -> dict[str, Any]:
    """A configuration as its command gets it, plug-ins as callables of a spec."""
    command = COMMAND_OF.get(name, "run")
    arguments = ["--config", str(config_file(name))]
    if command == "run":
        arguments += ["--data.id", "toy/log-v0"]
    function, default, _ = COMMANDS[command]
    parser = parsing.parser(getattr(stages, function), command, default, arguments)
    return dict(parser.instantiate(parser.parse_args(arguments)).as_dict())


def problem(name: str) -> tuple[Spec, Batch]:
    """A spec and rows of the kind of actions that a configuration is for."""
    spec, rows = hopper_sized(8, 0)
    if name not in DISCRETE:
        return spec, rows
    choices = spec.action_dim
    spec = replace(spec, discrete=True, action_low=(0.0,) * choices, action_high=(1.0,) * choices)
    return spec, rows._replace(action=torch.eye(choices)[torch.arange(8) % choices])


def world(chosen: dict[str, Any], spec: Spec, rows: Batch) -> Simulator:
    """The simulator that a configuration describes, its model not fitted."""
    simulator = Simulator(chosen["dynamics"](spec), spec, **vars(chosen["simulator"]))
    simulator.calibrate(rows, torch.arange(8))
    return simulator


def test_the_configurations_that_are_promised_exist() -> None:
    assert {default for _, default, _ in COMMANDS.values() if default} <= set(CONFIGS)
    assert {"demo.yaml", "mopo.yaml", "combo.yaml", "bc.yaml", "debug.yaml", "recurrent.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_short_and_literal(name: str) -> None:
    text = config_file(name).read_text()
    assert len(text.splitlines()) <= 45
    assert "${" not in text
    assert text.startswith("# ")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_parses_and_is_printed_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([COMMAND_OF.get(name, "run"), "--config", str(config_file(name)), "--print_config"])
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)

    def kept(part: object, whole: object) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(key in whole and kept(value, whole[key]) for key, value in part.items())
        return part == whole

    assert kept(yaml.safe_load(config_file(name).read_text()), printed)
    assert printed["seed"] == 0


def rehearsed(chosen: dict[str, Any]) -> list[Candidate]:
    """The candidates of a run; a single learner is one."""
    several = chosen["candidates"] or {}
    return list(several.values()) or [Candidate(chosen["learner"], chosen["rehearsal"])]


@pytest.mark.parametrize("name", RUNS)
def test_every_learner_that_a_configuration_names_keeps_its_contract(name: str) -> None:
    spec, rows = problem(name)
    chosen, written = settings(name), yaml.safe_load(config_file(name).read_text())
    several = [one["learner"] for one in (written.get("candidates") or {"one": written}).values()]
    simulator = world(chosen, spec, rows)
    for number, candidate in enumerate(rehearsed(chosen)):
        if several.index(several[number]) == number:  # the others have its learner, and another rehearsal
            check_learner(candidate.learner, spec, simulator)
    check_learner(chosen["baseline"], spec)


@pytest.mark.parametrize("name", RUNS)
def test_every_simulator_that_a_configuration_describes_can_be_built(name: str) -> None:
    spec, rows = problem(name)
    chosen = settings(name)
    check_dynamics(chosen["dynamics"], spec)
    simulator = world(chosen, spec, rows)
    rng = generator(0, "test")
    step = simulator.step(rows.obs, rows.action, rng, simulator.begin(rows.obs, rng))
    assert step.next_obs.shape == (8, 11)
    assert bool(step.uncertainty.any()) == (chosen["simulator"].uncertainty is not None)
    uncertain = chosen["simulator"].uncertainty is not None
    for candidate in rehearsed(chosen):
        learner = candidate.learner(spec)
        candidate.rehearsal.check(type(learner).__name__, learner.imagines, uncertain)
