"""Policy or simulator -> one program file (torch.export) with normalisation and action bounds inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbrl import files
from mbrl.core import Policy, Spec, build
from mbrl.simulator import stored
from mbrl.simulator.foresight import expected
from mbrl.simulator.simulator import Simulator
from mbrl.window import Remembering

ROUNDING = 1e-3  # by which a program may differ from its module: planners and disagreement magnify it (2e-5, 3e-5 seen)
FLOAT32 = 1e-5  # the same of a number that is large beside its unit, as a share of it
LEVEL = 0.9  # coverage of the served intervals


class OneStep(nn.Module):
    """The simulator's expected step: mean over elites, without noise, as a function of tensors.

    Where channels are exogenous, their next values are a third input, exogenous [B, X]: whoever asks knows the weather,
    or assumes one. Where the model remembers, the last input is hidden [B, E H], every member's state of each row: that
    of `mbrl.core.Dynamics.initial` (zeros in `dynamics.RecurrentEnsemble`) where an episode begins, and afterwards what
    was returned as hidden for the row before. Nothing is remembered here.

    Returns next_obs [B, O] and reward [B], and the ends of their recalibrated 90 % intervals, NAME_low and NAME_high,
    all clipped to the log's widened range and filled in as in `Simulator.step` (both ends of a channel that is filled
    in are its value); terminated, the probability that the world ends, [B]; uncertainty [B] of all members, 0 for a
    simulator without one; and hidden, where the model remembers.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self.simulator = simulator
        needed = {"exogenous": simulator.spec.exogenous, "hidden": simulator.dynamics.memory}
        self.more = [name for name, value in needed.items() if value]  # inputs beside obs and action

    def forward(self, obs: Tensor, action: Tensor, *more: Tensor) -> dict[str, Tensor]:
        simulator, dynamics = self.simulator, self.simulator.dynamics
        named = dict(zip(self.more, more, strict=False))
        exogenous, hidden = named.get("exogenous"), named.get("hidden")
        if hidden is not None:
            hidden = hidden.unflatten(-1, (dynamics.members, -1)).transpose(0, 1)
        everyone = dynamics.predict(obs, action, None, hidden)
        step = expected(simulator, everyone, obs, action, exogenous, hidden)
        settled = simulator.ends.settled(everyone, obs, action, step.next_obs, None, hidden)
        ends = simulator.recalibration.interval(simulator.forecast(settled), LEVEL)
        low, high = (simulator.clip(x) for x in ends)
        least, most = (simulator.filling.place(step.next_obs, x[..., :-1]) for x in (low, high))
        after = dynamics.remember(obs, action, hidden)
        answer = {
            "next_obs": step.next_obs,
            "next_obs_low": least,
            "next_obs_high": most,
            "reward": step.reward,
            "reward_low": low[..., -1],
            "reward_high": high[..., -1],
            "terminated": step.terminated,
            "uncertainty": step.uncertainty,
        }
        return answer if after is None else answer | {"hidden": after.transpose(0, 1).flatten(1)}


def example(spec: Spec) -> dict[str, Tensor]:
    """Rows [3, ...] that the log vouches for, by name: its mean, its smallest and its largest values.

    The first `spec.frame_dim` channels of obs are what a served policy is given.
    """
    obs = torch.tensor([spec.obs_mean, spec.obs_low, spec.obs_high])
    if spec.discrete:
        choices = torch.tensor([0, spec.action_dim - 1, 0])
        action = nn.functional.one_hot(choices, spec.action_dim).float()
    else:
        action = torch.tensor([spec.action_mean, spec.action_low, spec.action_high])
    rows = {"obs": obs, "action": action}
    return rows | {"exogenous": obs[:, spec.exogenous].clone()} if spec.exogenous else rows


def example_step(simulator: Simulator) -> dict[str, Tensor]:
    """`example` rows, and the states of beginnings where the model remembers, by the inputs of `OneStep`."""
    rows = example(simulator.spec)
    hidden = simulator.dynamics.initial(len(rows["obs"]))
    return rows if hidden is None else rows | {"hidden": hidden.transpose(0, 1).flatten(1)}


def export_policy(policy: Policy, folder: Path) -> None:
    """Write `policy.ckpt` (config, spec, state dict) and `policy.pt2`.

    The program is the mode, [B, O] -> [B, A] or [B], and with a history `mbrl.window.Remembering`. It is made from a
    policy rebuilt out of the checkpoint, so that both are known to be the same.

    Raises:
        ValueError: the policy cannot be rebuilt or exported, or its actions are not finite or out of bounds.
    """
    files.save(folder / "policy.ckpt", policy_state(policy))
    rebuilt = policy_from(folder / "policy.ckpt")
    obs = example(policy.spec)["obs"]
    module, inputs = _served(rebuilt, obs)
    low, high = torch.tensor(policy.spec.action_low), torch.tensor(policy.spec.action_high)
    _export(module, inputs, folder / "policy.pt2", policy.config["class_path"], _units(policy.spec))
    with torch.no_grad():
        action = rebuilt(obs)
    legal = (
        (action >= 0) & (action < policy.spec.action_dim)
        if policy.spec.discrete
        else (action >= low) & (action <= high)
    )
    if not legal.all():  # a comparison with NaN is false
        raise ValueError(f"the policy answers {action.tolist()} to {obs.tolist()}: not finite or outside its bounds")


def _units(spec: Spec) -> dict[str, Tensor]:
    """What a policy answers is compared in these; a choice is the same one or another."""
    if spec.discrete:
        return {}
    half = (torch.tensor(spec.action_high) - torch.tensor(spec.action_low)) / 2
    found = {"action": half, "past": torch.tensor(spec.obs_std[spec.frame_dim :])}
    return _usable(found)


def _units_of_step(spec: Spec) -> dict[str, Tensor]:
    """The same of `OneStep`: spreads of the log. What is not here is of the size of 1."""
    spreads = {"next_obs": torch.tensor(spec.obs_std), "reward": torch.tensor(spec.reward_std)}
    return _usable({f"{name}{end}": unit for name, unit in spreads.items() for end in ("", "_low", "_high")})


def _usable(units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.where(unit > 0, unit, 1.0) for name, unit in units.items()}


def _served(policy: Policy, obs: Tensor) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What is exported of a policy, and its inputs for the windows `obs` [B, O]."""
    frame = policy.spec.frame_dim
    if policy.spec.history == 1:
        return policy, (obs,)
    began = torch.arange(len(obs)) == 0
    return Remembering(policy), (obs[:, :frame].clone(), obs[:, frame:].clone(), began)


def policy_from(path: Path) -> Policy:
    """The policy of a `policy.ckpt`, on the CPU and ready to act.

    Raises:
        CorruptFileError: the file is truncated or altered.
        ValueError: its class is not importable here, or is not a Policy.
    """
    return policy_of(files.load(path))


def policy_state(policy: Policy) -> dict[str, Any]:
    """Plain values and tensors from which `policy_of` rebuilds this policy."""
    return {"config": policy.config, "spec": policy.spec.to_dict(), "state_dict": policy.state_dict()}


def policy_of(content: Mapping[str, Any]) -> Policy:
    """The inverse of `policy_state`, on the CPU and ready to act.

    Raises:
        ValueError: its class is not importable here, or is not a Policy.
    """
    with torch.random.fork_rng(devices=()):  # the random weights of a new policy are about to be overwritten
        policy: Policy = build(content["config"], Policy, Spec.from_dict(content["spec"]))
    policy.load_state_dict(content["state_dict"])
    return policy.eval()


def export_simulator(simulator: Simulator, folder: Path) -> None:
    """Write `simulator.ckpt` and `simulator.pt2` (`OneStep`).

    Raises:
        ValueError: the simulator cannot be rebuilt or exported.
    """
    files.save(folder / "simulator.ckpt", stored.state(simulator))
    rebuilt = simulator_from(folder / "simulator.ckpt")
    rows = tuple(example_step(rebuilt).values())
    name, units = simulator.dynamics.config["class_path"], _units_of_step(rebuilt.spec)
    _export(OneStep(rebuilt), rows, folder / "simulator.pt2", name, units)


def simulator_from(path: Path) -> Simulator:
    """The simulator of a `simulator.ckpt`, on the CPU.

    Raises:
        CorruptFileError: the file is truncated or altered.
        ValueError: its dynamics class, uncertainty or termination is not importable here.
    """
    return stored.load(files.load(path))


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, name: str, units: Mapping[str, Tensor]) -> None:
    """Export with any number of rows, write atomically, and compare what was written with the module.

    `units`: of what it answers, by name (`action` where that is all), within `ROUNDING` of which program and module
    have to agree; 1 of what is not among them.

    Raises:
        ValueError: it cannot be exported, or the program says something else than the module.
    """
    rows, shapes = torch.export.Dim("rows", min=1), torch.export.ShapesCollection()
    for tensor in inputs:
        shapes[tensor] = {0: rows}
    module.requires_grad_(False)
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=shapes.dynamic_shapes(module, inputs))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # what torch.export raises, user errors too
        raise ValueError(f"{name} cannot be exported by torch.export, which serving needs: {error}") from error
    with files.replacing(path) as beside, beside.open("wb") as file:
        torch.export.save(program, file)
    reloaded = torch.export.load(path).module()
    for batch in (inputs, tuple(x[:1] for x in inputs)):
        with torch.no_grad():
            said, meant = (_in_units(one(*batch), units) for one in (reloaded, module))
        try:
            torch.testing.assert_close(said, meant, rtol=FLOAT32, atol=ROUNDING, equal_nan=True)
        except AssertionError as error:
            raise ValueError(f"the exported program of {name} does not say what the module says: {error}") from error


def _in_units(answer: Any, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = answer if isinstance(answer, dict) else {"action": answer}
    return {name: value / units[name] if name in units else value for name, value in named.items()}
