"""How a policy is put to the test in a true environment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy
from mbrl.window import Remembering


def acting(policy: Policy) -> Callable[[np.ndarray, Sequence[int]], np.ndarray]:
    """The policy's mode as `mbrl.playing.true_returns` plays it; a policy with a history remembers each episode.

    (plain observations [B, F] float32, episode of each row) -> [B, A] float32 or, for Discrete, [B] int64. An episode
    begins with the first row that names it, so make a new actor for each measurement.
    """
    held = next(itertools.chain(policy.parameters(), policy.buffers()), None)  # a rule may hold neither
    device = torch.device("cpu") if held is None else held.device
    remembering = Remembering(policy)
    blank = torch.zeros(policy.spec.obs_dim - policy.spec.frame_dim, device=device)
    memory: dict[int, Tensor] = {}

    def act(obs: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
        began = torch.tensor([k not in memory for k in episodes], device=device)
        past = torch.stack([memory.get(k, blank) for k in episodes])
        with torch.no_grad():
            answer = remembering(torch.from_numpy(obs).to(device), past, began)
        memory.update(zip(episodes, answer["past"], strict=True))
        return np.asarray(answer["action"].cpu())

    return act
