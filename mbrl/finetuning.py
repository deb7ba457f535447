"""The command that goes on improving a registered policy in its true environment, as `mbrl.stages` has the others."""

from __future__ import annotations

import math
from typing import Any

from mbrl.limits import check_seed


def finetune(
    name: str,
    steps: int,
    env: str | None = None,
    version: str | None = None,
    floor: float | None = None,
    episodes: int = 10,
    updates_per_step: int = 1,
    share: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Go on improving a registered policy with steps in the true environment, under a floor, and register the result.

    The old policy is measured first, the new one last, from the same starts. Between, episodes are played with the
    noise of exploration, and updates follow each of them. As soon as the mean of the newest episodes falls below the
    floor, no further step is taken, and the weights are those again that still kept it. No alias but `candidate` moves.

    Args:
        name: NAME of the registered model NAME-policy.
        steps: budget of steps in the true environment, those of both measurements included; never exceeded.
        env: the true environment, by its Gymnasium id (also MODULE:ENV_ID).
        version: of that model; the champion if not given.
        floor: mean return of an episode below which the policy is handed back; the lower end of the 95 % interval of
            the old policy's mean return if not given.
        episodes: of a measurement; the mean of as many newest episodes is compared with the floor.
        updates_per_step: updates of the learner for each step of an episode.
        share: of the logged rows in a batch, those from the true environment.
        seed: seed of everything random, and of the first start.
    """
    if env is None:
        raise ValueError("fine-tuning acts in the true environment, and none is named: --env ENV_ID, or MODULE:ENV_ID")
    for setting, value, least in ("episodes", episodes, 2), ("updates_per_step", updates_per_step, 1):
        if value < least:
            raise ValueError(f"{setting} is {value}, expected at least {least}")
    check_seed(seed)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, expected a number above 0 and below 1")
    if floor is not None and not math.isfinite(floor):
        raise ValueError(f"floor is {floor}, expected a finite mean return")
    from mbrl.practice import Practice

    return Practice(name, version, env, steps, floor, episodes, updates_per_step, share, seed).run()
