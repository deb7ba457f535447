"""Golden pairs: observations that a policy was shown when it was registered, and what it answered.

They are sealed with the model. Whoever is about to trust that model again, on this machine or on another one, asks it
the same and compares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mbrl.core import Policy, generator
from mbrl.serving import artifact, export
from mbrl.window import Remembering

GOLDEN = "golden.npz"
ROWS = 32  # observations in each step
TOLERANCE = 1e-3  # of each action's range: machines round differently (MPPI's by 7e-5), other weights differ by more


def write(policy: Policy, folder: Path, seed: int = 0) -> None:
    """Write `golden.npz`: obs [T, 32, F] and action [T, 32, A], or [T, 32] integers.

    The first rows are the mean, smallest and largest values of the log, the others are drawn from the range between
    these. Without a history T is 1; else it is one more than the history, so that what is remembered fills up.
    """
    spec, frame = policy.spec, policy.spec.frame_dim
    steps = 1 if spec.history == 1 else spec.history + 1
    known = export.example(spec)["obs"][:, :frame]
    low, high = known[1], known[2]
    drawn = torch.rand(steps, ROWS - len(known), frame, generator=generator(seed, "golden"))
    obs = torch.cat([known.expand(steps, -1, -1), low + (high - low) * drawn], 1)
    module, answers = Remembering(policy), []
    past, began = torch.zeros(ROWS, spec.obs_dim - frame), torch.ones(ROWS, dtype=torch.bool)
    with torch.no_grad():
        for rows in obs:
            answered = module(rows, past, began)
            answers.append(answered["action"])
            past, began = answered["past"], torch.zeros_like(began)
    np.savez(folder / GOLDEN, obs=obs.numpy(), action=torch.stack(answers).numpy())


def check(folder: Path, label: str) -> float:
    """Ask the program in `folder` for its golden pairs again; the largest difference, as a share of an action's range.

    `label` is what a message calls the program, whose folder may be a temporary one.

    Raises:
        ValueError: a file is missing, truncated or altered, or an answer differs by more than `TOLERANCE`.
    """
    program = artifact.Program(folder)
    spec = program.manifest["spec"]
    with np.load(folder / "artifacts" / GOLDEN, allow_pickle=False) as kept:
        obs, wanted = kept["obs"], kept["action"]
    if program.manifest["past"]:
        streams = artifact.Streams(program)
        found = np.stack([streams(rows, {"reset": [True]} if step == 0 else None) for step, rows in enumerate(obs)])
    else:
        found = np.stack([np.asarray(program(rows)) for rows in obs])
    if spec["discrete"]:
        difference = np.asarray(found != wanted, float)
    else:
        width = np.array(spec["action_high"]) - np.array(spec["action_low"])
        difference = np.abs(found - wanted) / np.where(width > 0, width, 1.0)  # a channel that cannot move has no range
    difference = np.where(np.isnan(difference), np.inf, difference)  # no answer differs more than one that is no number
    worst = float(difference.max())
    if worst > TOLERANCE:
        step, row = np.unravel_index(int(difference.argmax()), difference.shape)[:2]
        raise ValueError(
            f"{label}: {GOLDEN} is not reproduced: to observation {row} of step {step} the policy answers"
            f" {found[step, row].tolist()}, and answered {wanted[step, row].tolist()} when it was registered"
        )
    return worst
