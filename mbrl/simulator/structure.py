"""Known structure: channels of the next observation that are computed, and need no model (integrators, balances)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from mbrl.core import Batch, Spec
from mbrl.limits import asked, dotted

Structure = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs [..., O] -> computed channels [..., C]


def channel_numbers(named: Sequence[int | str], channels: Sequence[str]) -> tuple[int, ...]:
    """The numbers of channels that a configuration gives by name or number, in its order.

    Raises:
        ValueError: there is no such channel, or it is named twice.
    """
    numbers: list[int] = []
    for entry in named:
        if isinstance(entry, str) and entry in channels:
            number = list(channels).index(entry)
        elif isinstance(entry, int) and 0 <= entry < len(channels):
            number = entry
        else:
            raise ValueError(
                f"simulator.computed names {entry!r}, expected a channel of the observation, by name or from 0 to"
                f" {len(channels) - 1}: {', '.join(channels)}"
            )
        if number in numbers:
            raise ValueError(f"simulator.computed names {channels[number]!r} twice")
        numbers.append(number)
    return tuple(numbers)


def without(spec: Spec, computed: Sequence[int]) -> Spec:
    """The spec of a model that leaves the `computed` channels to a function.

    Raises:
        ValueError: a channel is exogenous as well, or nothing is left for the model.
    """
    if both := sorted(set(computed) & set(spec.exogenous)):
        raise ValueError(
            f"channels {both} are both exogenous and computed: a channel is one of them, so remove it from the schema's"
            " exogenous or from simulator.computed"
        )
    bare = replace(spec, predicted=tuple(sorted({*spec.predicted, *computed})))  # neither copied nor a clock
    left = tuple(k for k in bare.predicted if k not in computed) or bare.carried[-1:] or bare.clocks[-1:]
    if not left:  # a model has to have one
        raise ValueError(
            f"simulator.computed names all {spec.frame_dim - len(spec.exogenous)} channels that are not exogenous, and"
            " none is left for a model to predict"
        )
    return replace(bare, predicted=left)


def compute(structure: Structure, width: int, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The computed channels [..., C], for obs and next_obs [..., O] and action [..., A]; no value is looked at.

    Raises:
        ValueError: the function gives anything but a tensor [..., C].
    """
    found = asked("simulator.structure", structure, obs, action, next_obs)
    shape = [*obs.shape[:-1], width]
    if not isinstance(found, Tensor) or list(found.shape) != shape:
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"simulator.structure {dotted(structure)} returned {got} for obs {list(obs.shape)}, expected a tensor"
            f" {shape}, one column for each of simulator.computed"
        )
    return found.to(obs.dtype)


def residual(structure: Structure, computed: Tensor, width: int, rows: Batch) -> Tensor:
    """What the function gives minus what was logged, for transitions [N, ...] with the others as logged: [N, C].

    It is given the newest observations, `width` channels, of rows that are windows.

    Raises:
        ValueError: the function gives another shape, or NaN or infinity.
    """
    obs, action, next_obs = rows.obs[..., :width], rows.action, rows.next_obs[..., :width]
    hidden = next_obs.index_copy(-1, computed, obs.index_select(-1, computed))  # it must not copy the answer
    found = compute(structure, len(computed), obs, action, hidden)
    bad = ~found.isfinite()
    if bad.any():
        row, k = bad.nonzero()[0].tolist()
        raise ValueError(
            f"simulator.structure {dotted(structure)} returned {float(found[row, k])} for channel {int(computed[k])} in"
            f" {int(bad.any(-1).sum())} of {len(found)} transitions, the first from obs"
            f" {obs[row].tolist()} with action {action[row].tolist()}: expected finite numbers"
        )
    return found - next_obs.index_select(-1, computed)
