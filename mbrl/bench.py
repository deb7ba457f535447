"""How fast the inner loops are on this machine, at Hopper's sizes."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch.optim import Adam

from mbrl.core import Batch, Dynamics, Learner, Prediction, Spec, generator, rows_at, seeded
from mbrl.simulator.envs import SimulatorVectorEnv
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator

OBS, ACTION, BATCH, STARTS, HORIZON = 11, 3, 256, 50_000, 5
ENVS = 4096


def hopper_sized(rows: int, seed: int) -> tuple[Spec, Batch]:
    """A spec and standard-normal transitions [rows, ...] of Hopper's dimensions."""

    def same(value: float, count: int) -> tuple[float, ...]:
        return (value,) * count

    zeros, ones = same(0.0, OBS), same(1.0, OBS)
    spec = Spec(
        obs_dim=OBS,
        action_dim=ACTION,
        discrete=False,
        action_low=same(-1.0, ACTION),
        action_high=same(1.0, ACTION),
        action_mean=same(0.0, ACTION),
        action_std=same(1.0, ACTION),
        obs_mean=zeros,
        obs_std=ones,
        obs_low=same(-5.0, OBS),
        obs_high=same(5.0, OBS),
        delta_mean=zeros,
        delta_std=ones,
        reward_mean=0.0,
        reward_std=1.0,
        reward_low=-5.0,
        reward_high=5.0,
        terminals=True,
        max_episode_steps=1000,
    )
    rng = generator(seed, "bench")
    obs, next_obs = torch.randn(rows, OBS, generator=rng), torch.randn(rows, OBS, generator=rng)
    action, reward = torch.rand(rows, ACTION, generator=rng) * 2 - 1, torch.randn(rows, generator=rng)
    return spec, Batch(obs, action, reward, next_obs, torch.rand(rows, generator=rng) < 0.01)


def measure(
    dynamics: Callable[[Spec], Dynamics],
    yardstick: Callable[[Spec], Dynamics],
    learner: Callable[[Spec], Learner],
    uncertainty: Callable[[Prediction], torch.Tensor],
    *,
    device: str,
    repeats: int,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Median, smallest and largest rate of each loop over `repeats` timings of about `seconds` each.

    `yardstick` is what other libraries train, and so what to compare with theirs.
    """
    spec, rows = hopper_sized(STARTS, seed)
    rows = Batch(*(column.to(device) for column in rows))
    with seeded(seed, "bench"):
        model, agent = dynamics(spec).to(device), learner(spec).to(device)
        plain = yardstick(spec).to(device)
    if model.memory:
        name = type(model).__name__
        raise ValueError(
            f"dynamics is {name}, which remembers, and the rows of the bench are of no episode: name another"
        )
    honest, doubting = Simulator(model, spec).to(device), Simulator(model, spec, uncertainty).to(device)
    doubting.calibrate(Batch(*(column[:4096] for column in rows)))
    honest.starts = rows.obs
    rng = generator(seed, "bench/noise", device)

    def fit(model: Dynamics) -> Callable[[], int]:
        optimizer = Adam(model.parameter_groups(), 1e-3, fused=True)

        def update_ensemble() -> int:
            index = torch.randint(STARTS, (model.members, BATCH), generator=rng, device=device)
            optimizer.zero_grad(set_to_none=True)
            model.loss(rows_at(rows, index)).sum().backward()
            optimizer.step()
            return 1

        return update_ensemble

    def update_policy() -> int:
        index = torch.randint(STARTS, (BATCH,), generator=rng, device=device)
        agent.update(rows_at(rows, index), None, rng)
        return 1

    def rollout(simulator: Simulator, penalty: float) -> Callable[[], int]:
        def imagined() -> int:
            return imagine(agent.policy, simulator, rows.obs, HORIZON, penalty, rng).reward.numel()

        return imagined

    envs = SimulatorVectorEnv(honest, ENVS)
    envs.action_space.seed(seed)
    envs.reset(seed=seed)
    actions = envs.action_space.sample()

    def environment() -> int:
        envs.step(actions)
        return ENVS

    loops = {
        "ensemble_updates_per_s": fit(plain),
        "ensemble_updates_per_s_with_heads": fit(model),
        "imagined_transitions_per_s_with_disagreement": rollout(doubting, 1.0),
        "imagined_transitions_per_s": rollout(honest, 0.0),
        "vector_environment_steps_per_s": environment,
        "policy_updates_per_s": update_policy,
        "matmul_flop_per_s": _matmul(device),
    }
    return {name: _rates(loop, device, repeats, seconds) for name, loop in loops.items()}


def _matmul(device: str, size: int = 1024) -> Callable[[], int]:
    left = torch.ones(size, size, device=device)

    def multiply() -> int:
        torch.mm(left, left)
        return 2 * size**3

    return multiply


def _rates(loop: Callable[[], int], device: str, repeats: int, seconds: float) -> dict[str, float]:
    def timed(calls: int) -> float:
        begun, units = time.perf_counter(), 0
        for _ in range(calls):
            units += loop()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return units / (time.perf_counter() - begun)

    timed(2)  # the first calls allocate
    begun = time.perf_counter()
    timed(2)
    calls = max(1, round(2 * seconds / (time.perf_counter() - begun)))
    timed(calls)
    rates = [timed(calls) for _ in range(repeats)]
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


def versions(device: str) -> dict[str, Any]:
    """What the figures were measured with."""
    chip = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    packages = {name: version(name) for name in ("torch", "lightning", "numpy")}
    return {
        "device": device,
        "chip": chip,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **packages,
    }
