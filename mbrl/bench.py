"""How fast the inner loops are on this machine, at Hopper's sizes."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from mbrl.core import Batch, Dynamics, Learner, Prediction, Spec, generator, rows_at, seeded
from mbrl.simulator.envs import SimulatorVectorEnv
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator
from mbrl.training.capture import WARM, Captured, recorder
from mbrl.training.population import Population

OBS, ACTION, BATCH, STARTS, HORIZON = 11, 3, 256, 50_000, 5
ENVS = 4096
TRACED = 3  # calls of a loop in a trace
TOGETHER = 4  # learners of a population
MATRIX, LARGER = 1024, 8  # rows of the square matrices whose product is the peak; so many times as many on a GPU
DEAREST = 10  # operations in the table of a profile
TYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}  # what the hidden layers multiply
Loop = Callable[[], int]  # goes round once, and says how many units that was


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
    precisions: Sequence[str],
    repeats: int,
    seconds: float,
    seed: int,
    traces: Path | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Rates of each loop in each precision: median, smallest and largest over `repeats` timings of `seconds` each.

    `share_of_peak` is that of the machine's own rate in a product of two square matrices, measured in the same run and
    in the same precision, which the matrix products of the loop reach at its median rate.

    `yardstick` is what other libraries train and roll out, and so what to compare with theirs. Into `traces`, a folder,
    goes a trace of each loop, for a browser's trace viewer, and a table of its dearest operations.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for precision in precisions:
        peak = _rates(_matmul(device, precision), device, repeats, seconds)
        found[precision] = {"matmul_flop_per_s": peak}
        for name, loop in _loops(dynamics, yardstick, learner, uncertainty, device, seed).items():
            cast = _within(loop, device, precision)
            flop = _flop(cast)  # of a call as it is written: one that is replayed shows none
            rates = _rates(cast, device, repeats, seconds)
            share = flop * rates["median"] / peak["median"]
            found[precision][name] = rates | {"share_of_peak": share}
            if traces is not None:
                _trace(cast, traces / f"{name}-{precision}")
    return found


def _loops(
    dynamics: Callable[[Spec], Dynamics],
    yardstick: Callable[[Spec], Dynamics],
    learner: Callable[[Spec], Learner],
    uncertainty: Callable[[Prediction], torch.Tensor],
    device: str,
    seed: int,
) -> dict[str, Loop]:
    """What is timed; every call begins with the same weights and rows. On a GPU updates and rollouts are captured."""
    spec, rows = hopper_sized(STARTS, seed)
    rows = Batch(*(column.to(device) for column in rows))
    with seeded(seed, "bench"):
        model, agent = dynamics(spec).to(device), learner(spec).to(device)
        plain = yardstick(spec).to(device)
    crowd = Population(spec, agent.config, list(range(TOGETHER))).to(device)
    if model.memory:
        name = type(model).__name__
        raise ValueError(
            f"dynamics is {name}, which remembers, and the rows of the bench are of no episode: name another"
        )
    honest = Simulator(model, spec).to(device)
    honest.starts = rows.obs
    rng = generator(seed, "bench/noise", device)
    graphs = recorder(torch.device(device), [rng], [*agent.optimizers.values(), *crowd.optimizers.values()])

    def improvement(one: Learner) -> Loop:
        improve = Captured(lambda *columns: one.update(Batch(*columns), None, rng), graphs)

        def improved() -> int:
            improve(*rows_at(rows, torch.randint(STARTS, (BATCH * one.members,), generator=rng, device=device)))
            return one.members

        return improved

    def rollout(ensemble: Dynamics, doubt: Callable[[Prediction], torch.Tensor] | None) -> Loop:
        simulator = Simulator(ensemble, spec, doubt).to(device)
        if doubt is not None:
            simulator.calibrate(Batch(*(column[:4096] for column in rows)))
        penalty = 0.0 if doubt is None else 1.0
        dream = Captured(lambda obs: imagine(agent.policy, simulator, obs, HORIZON, penalty, rng), graphs)

        def imagined() -> int:
            return dream(rows.obs).reward.numel()

        return imagined

    return {
        "ensemble_updates_per_s": _fit(plain, rows, rng),
        "ensemble_updates_per_s_with_heads": _fit(model, rows, rng),
        "imagined_transitions_per_s": rollout(plain, None),
        "imagined_transitions_per_s_with_heads": rollout(model, None),
        "imagined_transitions_per_s_with_disagreement": rollout(plain, uncertainty),
        "imagined_transitions_per_s_with_disagreement_and_heads": rollout(model, uncertainty),
        "vector_environment_steps_per_s": _environment(honest, seed),
        "policy_updates_per_s": improvement(agent),
        f"policy_updates_per_s_of_{TOGETHER}_together": improvement(crowd),
    }


def _fit(model: Dynamics, rows: Batch, rng: torch.Generator) -> Loop:
    optimizer = Adam(model.parameter_groups(), 1e-3, fused=True)

    def update_ensemble() -> int:
        index = torch.randint(len(rows.obs), (model.members, BATCH), generator=rng, device=rng.device)
        optimizer.zero_grad(set_to_none=True)
        model.loss(rows_at(rows, index)).sum().backward()
        optimizer.step()
        return 1

    return update_ensemble


def _environment(simulator: Simulator, seed: int) -> Loop:
    envs = SimulatorVectorEnv(simulator, ENVS)
    envs.action_space.seed(seed)
    envs.reset(seed=seed)
    actions = envs.action_space.sample()

    def environment() -> int:
        envs.step(actions)
        return ENVS

    return environment


def _matmul(device: str, precision: str) -> Loop:
    rows = MATRIX if device == "cpu" else MATRIX * LARGER  # of a small one a GPU would show how fast it is asked
    left = torch.ones(rows, rows, device=device, dtype=TYPES[precision])

    def multiply() -> int:
        torch.mm(left, left)
        return 2 * rows**3

    return multiply


def _within(loop: Loop, device: str, precision: str) -> Loop:
    """The loop in this precision, as a run has it: a context a round, as its casts of weights outlive no update."""

    def cast() -> int:
        with torch.autocast(device.split(":")[0], TYPES[precision], enabled=TYPES[precision] != torch.float32):
            return loop()

    return cast


def _flop(loop: Loop) -> float:
    """Of the matrix products, a unit."""
    with FlopCounterMode(display=False) as counter:
        units = loop()
    return counter.get_total_flops() / units


def _trace(loop: Loop, path: Path) -> None:
    """`path`.json, what the loop does in time, and `path`.txt, its dearest operations."""
    with profile() as seen:
        for _ in range(TRACED):
            loop()
    path.parent.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(f"{path}.json")
    table = seen.key_averages().table("self_cpu_time_total", row_limit=DEAREST)
    path.with_name(f"{path.name}.txt").write_text(table)


def _rates(loop: Loop, device: str, repeats: int, seconds: float) -> dict[str, float]:
    def timed(calls: int) -> float:
        begun, units = time.perf_counter(), 0
        for _ in range(calls):
            units += loop()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return units / (time.perf_counter() - begun)

    timed(WARM + 1)  # the first calls allocate, and record
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
