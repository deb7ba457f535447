"""What a user hands to an environment, checked: a simulator by its name, actions, start states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl import files
from mbrl.core import Spec
from mbrl.simulator import stored
from mbrl.simulator.simulator import Simulator

Source: TypeAlias = Simulator | str | Path


def open_simulator(source: Source) -> Simulator:
    """The simulator itself, or the one that a registered model or a file holds.

    Args:
        source: a Simulator, `models:/NAME-simulator@ALIAS`, `models:/NAME-simulator/VERSION`, or the path of a file
            that `mbrl.files.save` wrote from `mbrl.simulator.stored.state`, such as a run's `simulator.ckpt`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: a file is truncated or altered; the message names it.
        StoreError: there is no such model, alias or version; the message lists what there is.
        ValueError: the URI is malformed, or what it leads to is not a simulator.
    """
    if isinstance(source, Simulator):
        return source
    if str(source).startswith("models:"):
        from mbrl.registry.models import load_simulator  # MLflow takes a second to import

        return load_simulator(str(source))
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"simulator is {str(source)!r}, and there is no such file: expected a file, models:/NAME-simulator@ALIAS or"
            " models:/NAME-simulator/VERSION"
        )
    content = files.load(Path(source))
    if "dynamics" not in content:
        raise ValueError(f"{source} holds no simulator but {sorted(content)}: give a simulator.ckpt")
    return stored.load(content)


def action_rows(given: Any, spec: Spec, lead: tuple[int, ...]) -> Tensor:
    """Actions as the simulator takes them, [N, A] float32, a Discrete one as its one-hot row; N is 1 if lead is ().

    Args:
        given: [*lead, A] numbers within the bounds, or (Discrete) [*lead] integers from 0.
        spec: the problem.
        lead: () for one action, (N,) for a batch.

    Raises:
        ValueError: another shape or kind of number, or a value that is out of bounds or not finite.
    """
    if spec.discrete:
        chosen = np.asarray(given)
        if chosen.shape != lead or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"action is {_kind(chosen)}, expected integers of shape {lead}")
        if not ((chosen >= 0) & (chosen < spec.action_dim)).all():
            raise ValueError(f"action is {chosen.tolist()}, expected integers from 0 to {spec.action_dim - 1}")
        rows = torch.tensor(chosen.reshape(-1), dtype=torch.long)
        return torch.nn.functional.one_hot(rows, spec.action_dim).float()
    action = _within("action", given, spec.action_low, spec.action_high, lead, "clip or rescale the action")
    return torch.tensor(action.reshape(-1, spec.action_dim))


def start_rows(options: dict[str, Any] | None, simulator: Simulator, lead: tuple[int, ...]) -> Tensor | None:
    """The start states [N, F] in `options={"obs": [*lead, F]}` of a reset, or None where none are given.

    They are plain observations, F channels, also of a simulator that was learned with a history.

    Raises:
        ValueError: another option, another shape, or a value beyond what the simulator can predict.
    """
    if unknown := sorted(set(options or ()) - {"obs"}):
        raise ValueError(f"options has {unknown}, expected nothing but 'obs', start states of your own")
    if not options:
        return None
    width = simulator.spec.frame_dim
    low, high = (bound[:width].cpu().numpy() for bound in (simulator.low, simulator.high))
    advice = "the log says nothing of states so far away"
    return torch.tensor(_within('options["obs"]', options["obs"], low, high, lead, advice).reshape(-1, len(low)))


def _within(name: str, given: Any, low: Any, high: Any, lead: tuple[int, ...], advice: str) -> NDArray[np.float32]:
    """`given` as float32 [*lead, width] between the bounds [width]; what `room_for` adds to them is taken off."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    values = np.asarray(given)
    if values.shape != (*lead, *low.shape) or values.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {_kind(values)}, expected numbers of shape {(*lead, *low.shape)}")
    values = values.astype(np.float32)
    inside = (low <= values) & (values <= room_for(low, high))  # false of NaN
    if not inside.all():
        where = tuple(int(i) for i in np.argwhere(~inside)[0])
        channel = where[-1]
        raise ValueError(
            f"{name}{list(where)} is {values[where]}, expected {low[channel]} to {high[channel]}: {advice}"
        )
    return np.minimum(values, high)


def room_for(low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upper bounds of a space [width], above its lower ones where a channel never changes.

    Gymnasium warns of a Box whose bounds are equal.
    """
    return np.where(low < high, high, np.nextafter(low, np.float32(np.inf)))


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype} of shape {values.shape}"
