"""A simulator as plain values and tensors, for `mbrl.files.save`, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mbrl.core import Dynamics, Spec, build, locate, seeded
from mbrl.simulator.replay import Replay
from mbrl.simulator.simulator import Simulator


def state(simulator: Simulator) -> dict[str, Any]:
    """Plain values and tensors from which `load` rebuilds this simulator.

    Raises:
        ValueError: the uncertainty, the termination or the structure is not reachable by a dotted path (a lambda, a
            closure).
    """
    replay = simulator.filling.replay
    return {
        **described(simulator),
        "starts": simulator.starts,
        "replay": None if replay is None else replay.state(),
        "state_dict": simulator.state_dict(),
    }


def described(simulator: Simulator) -> dict[str, Any]:
    """What `blank` rebuilds this simulator from, but for its tensors: plain values alone; raises as `state`."""
    return {
        "dynamics": simulator.dynamics.config,
        "spec": simulator.spec.to_dict(),
        "uncertainty": _path(simulator.uncertainty),
        "termination": _path(simulator.termination),
        "margin": simulator.margin,
        "quantile": simulator.quantile,
        "recalibration": simulator.method,
        "calibrated": simulator.calibrated,
        "trusted_horizon": simulator.trusted_horizon,
        "structure": _path(simulator.filling.structure),
        "computed": simulator.filling.computed.tolist(),
    }


def load(content: Mapping[str, Any]) -> Simulator:
    """The inverse of `state`, ready to be stepped: a model with dropout does without it, as after its fit.

    Raises:
        ValueError: a dotted path leads nowhere, or the spec is of another version.
        RuntimeError: the state dict does not fit the model that the configuration builds.
    """
    replay = None if content["replay"] is None else Replay(**content["replay"])
    simulator = blank(content, content["starts"], replay)
    simulator.load_state_dict(content["state_dict"])
    return simulator.eval()


def blank(content: Mapping[str, Any], starts: Tensor | None = None, replay: Replay | None = None) -> Simulator:
    """The simulator that `described` is of, with random weights; raises as `load`."""
    spec = Spec.from_dict(content["spec"])
    functions = ("uncertainty", "termination", "structure")
    uncertainty, termination, structure = (locate(content[k]) if content[k] else None for k in functions)
    with seeded(0, "load"):  # the random weights of a new model are about to be overwritten
        dynamics = build(content["dynamics"], Dynamics, spec)
    simulator = Simulator(
        dynamics,
        spec,
        uncertainty,
        termination,
        content["margin"],
        content["quantile"],
        content["recalibration"],
        starts,
        content["trusted_horizon"],
        replay,
        structure,
        content["computed"],
    )
    simulator.calibrated = content["calibrated"]
    return simulator


def _path(function: Callable[..., Tensor] | None) -> str | None:
    if function is None:
        return None
    path = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
    try:
        found = locate(path)
    except ValueError:
        found = None
    if found is not function:
        raise ValueError(f"{function!r} cannot be saved: {path!r} does not lead to it. Give a function of a module")
    return path
