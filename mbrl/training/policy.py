"""One Fabric loop for every learner, with checkpoints from which a killed run resumes bit by bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, World, generator
from mbrl.data.source import Source, Whole
from mbrl.precision import Precision, settled
from mbrl.simulator.simulator import Simulator
from mbrl.training.averaging import Average
from mbrl.training.buffer import Ring
from mbrl.training.capture import recorder
from mbrl.training.checkpoint import Checkpoint, read
from mbrl.training.checks import STREAMS, check, check_batch, check_ring, pessimistic
from mbrl.training.drawing import Logged
from mbrl.training.loop import Log, Loop, Pace
from mbrl.training.room import ASKED, check_room, row_bytes, weight_bytes
from mbrl.training.steps import Steps
from mbrl.training.trainer import quiet

PASSING = ("updates", "checkpoint_every", "log_every")  # may be others when a training goes on


class PolicyReport(NamedTuple):
    policy: Policy  # the learner's, or the average of its weights
    updates: int
    imagined_rows: int  # those before a resumption included
    pace: Pace


def fit_policy(
    learner: Learner,
    real: Batch | Source,
    simulator: Simulator | None = None,
    *,
    ends: Tensor | None = None,
    seed: int = 0,
    updates: int = 100_000,
    batch_size: int = 256,
    real_ratio: float = 0.5,
    best: float = 1.0,
    horizon: int = 5,
    penalty: float | None = None,
    halt: float | None = None,
    halt_cost: float | None = None,
    rollout_every: int = 250,
    rollout_starts: int = 2_500,
    keep_rollouts: int = 20,
    average: int | None = None,
    averaged: tuple[Policy, int] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10_000,
    accelerator: str = "cpu",
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true",
    capture: bool = False,
    log: Log | None = None,
    log_every: int = 250,
    label: str = "policy",
) -> PolicyReport:
    """Improve `learner` in place on logged rows and on rows imagined by its own policy in `simulator`.

    Of a population (`mbrl.training.population`) every member gets as many rows as a learner alone would.

    Args:
        learner: built; its weights move to the accelerator's device.
        real: logged transitions [N, ...], training split only, or the source of them.
        simulator: None where the learner imagines nothing. Where a channel is exogenous, it has to replay the log that
            the rows are of: `simulator.replaying(data, episodes)`.
        ends: [N] bool, the last row of each episode, for `best` and for learners that read whole episodes
            (`Learner.study`); a source knows them.
        seed: of row choice, start states, imagination and the learner's own noise, a stream each.
        updates: in all, those before a resumption included.
        batch_size: rows an update, logged and imagined together.
        real_ratio: the logged share of them; 1 means no imagination.
        best: the share of the logged rows that these are drawn from, see `best_rows`; imagination begins at any row.
        horizon, halt, halt_cost: of `imagine`.
        penalty: of `imagine`; None: 1 where the simulator has an uncertainty, and 0 where it has none.
        rollout_every: updates between two batches of imagined rollouts.
        rollout_starts: logged states that each of these begins with.
        keep_rollouts: how many of these batches the ring holds.
        average: updates over which the weights of the reported policy are averaged; None for the last ones.
        averaged: the average that this one goes on from, and the updates before this call; None for one that begins.
            Without `average` it counts for nothing.
        checkpoint: a file, written every `checkpoint_every` updates, at Ctrl-C and at the end; if it exists, the run
            goes on from it.
        accelerator, precision: of Fabric. One device. `auto` is bf16-mixed where its matmuls are in hardware, and what
            a checkpoint was begun with where one goes on from it.
        capture: whether updates and rollouts are CUDA graphs, where the device is a GPU; elsewhere it changes nothing.
        log: called with the learner's metrics (tensors) and the update's number.
        log_every: updates between two such calls.
        label: of the progress bar.

    Raises:
        Interrupted: after Ctrl-C, with the checkpoint written.
        ValueError: an argument out of range, a batch or a ring that does not fit into memory, a learner that imagines
            without a simulator or reads episodes without `ends`, or a simulator that replays another log; a penalty or
            a halt where nothing is imagined, or without an uncertainty to measure with.
        FloatingPointError: a metric became NaN or infinite; the last checkpoint is from before.
    """
    imagines = learner.imagines and real_ratio < 1
    used = simulator if imagines or learner.plans else None
    counts = {
        "updates": updates,
        "batch_size": batch_size,
        "horizon": horizon,
        "rollout_every": rollout_every,
        "rollout_starts": rollout_starts,
        "keep_rollouts": keep_rollouts,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
        "average": 1 if average is None else average,
    }
    worldless = simulator is None and (imagines or learner.plans)
    source = real if isinstance(real, Source) else Whole(real, ends=ends)
    check(learner, worldless, counts, real_ratio, best, precision, source.rows)
    pessimism = pessimistic(simulator if imagines else None, penalty, halt, halt_cost)
    rollout = pessimism | {"horizon": horizon}
    kept = read(checkpoint)
    arithmetic = settled(kept["settings"]["precision"] if kept and precision == "auto" else precision, accelerator)
    fabric = _fabric(accelerator, arithmetic)
    device, crowd = fabric.device, learner.members
    learner.to(device)
    real_rows = round(batch_size * real_ratio) if imagines else batch_size
    begun = rollout_starts / rollout_every if imagines else 0.0
    logged = _logged(learner, source, used, best, real_rows, begun, device)
    world = _entered(learner, used, logged)
    row = row_bytes(logged.real) if imagines else 0.0
    _check_crowd(crowd, learner, row, counts, device)
    if crowd * batch_size > ASKED:
        check_batch(learner, world, logged, batch_size, real_rows, fabric.autocast, rollout)
    ring = Ring(learner.spec, check_ring(crowd, counts, row, device) if imagines else crowd, device, crowd)
    rngs = {name: generator(seed, f"{label}/{name}", device) for name in STREAMS}
    mean = None if average is None else _average(average, *(averaged or (learner.policy, 0)), device)
    settings: dict[str, Any] = {k: v for k, v in counts.items() if k not in PASSING}
    settings |= {"seed": seed, "real_ratio": real_ratio, "best": best, **pessimism, "precision": arithmetic}
    settings |= {"average": average, "label": label, "rows": source.rows, "groups": logged.groups}
    state = Checkpoint(checkpoint, settings | {"device": device.type}, learner, ring, rngs, mean)
    first = state.restore(kept, updates)
    del kept  # as large as the ring
    graphs = recorder(device, rngs.values(), learner.optimizers.values()) if capture else None
    loop = Loop(
        learner,
        logged,
        ring,
        Steps(learner, world, rngs, fabric.autocast, graphs, **rollout),
        rngs,
        mean,
        state,
        dreamt_rows=crowd * (batch_size - real_rows),
        rollout_every=rollout_every,
        rollout_starts=crowd * rollout_starts,
        checkpoint_every=checkpoint_every,
        log=log,
        log_every=log_every,
        label=label,
    )
    learner.train()
    try:
        pace = loop.run(first, updates)
    finally:
        learner.eval()
        if used is not None:
            used.cpu()
    return PolicyReport(learner.policy if mean is None else mean.module, updates, ring.written, pace)


def check_memory(
    learner: Learner, few: Source, simulator: Simulator | None, accelerator: str, settings: Mapping[str, Any]
) -> None:
    """Refuse a batch or a ring that `fit_policy` would refuse with these settings, before there is a simulator.

    Args:
        learner: as there.
        few: some of the logged rows.
        simulator: one that nothing was fitted to yet, over these rows; None where the learner needs none.
        accelerator: as there.
        settings: of `fit_policy`.

    Raises:
        ValueError: one of them does not fit into memory, or the batch has no room for an imagined or a logged row, or
            such a learner cannot take the best rows alone.
    """
    size, ratio, precision = settings["batch_size"], settings["real_ratio"], settings.get("precision", "32-true")
    best = settings.get("best", 1.0)
    check(learner, False, {"batch_size": size}, ratio, best, precision, few.rows)
    fabric = _fabric(accelerator, settled(precision, accelerator))
    imagining = simulator if learner.imagines and ratio < 1 else None
    if imagining is not None:
        check_ring(learner.members, settings, row_bytes(few.whole().rows), fabric.device)
    if learner.members * size <= ASKED:
        return
    learner, simulator, imagining = copy.deepcopy((learner, simulator, imagining))
    learner.to(fabric.device)
    logged = Logged(few, learner, best, 1, 0.0, True, fabric.device)
    logged.reach(0)
    world = _entered(learner, simulator, logged)
    rollout = pessimistic(imagining, *(settings.get(name) for name in ("penalty", "halt", "halt_cost")))
    real_rows = size if imagining is None else round(size * ratio)
    check_batch(learner, world, logged, size, real_rows, fabric.autocast, rollout | {"horizon": 1})


def _fabric(accelerator: str, precision: Precision) -> Fabric:
    with quiet():
        return Fabric(accelerator=accelerator, devices=1, precision=precision)


def _logged(
    learner: Learner,
    source: Source,
    used: Simulator | None,
    best: float,
    real_rows: int,
    begun: float,
    device: torch.device,
) -> Logged:
    """The logged rows as they are first drawn from, for all members; `begun` rollouts an update begin from them."""
    replayed = used is not None and bool(used.spec.exogenous or used.dynamics.memory)
    logged = Logged(source, learner, best, learner.members * real_rows, learner.members * begun, replayed, device)
    logged.reach(0)
    return logged


def _check_crowd(crowd: int, learner: Learner, row: float, counts: Mapping[str, int], device: torch.device) -> None:
    """Refuse members of a population, and rings of `counts` rows for them, that do not fit into memory."""
    if crowd > 1:
        ahead = math.prod(counts[name] for name in ("rollout_starts", "horizon", "keep_rollouts")) * row
        check_room("seeds", crowd, weight_bytes(learner) / crowd + ahead, device, "one of them")


def _average(updates: int, begins: Policy, past: int, device: torch.device) -> Average:
    mean = Average(begins, updates, past)
    mean.module.to(device)
    return mean


def _entered(learner: Learner, used: Simulator | None, logged: Logged) -> World | None:
    """The world as the learner enters it, on the device of the rows; None without one."""
    if used is None:
        return None
    used.to(logged.real.obs.device).check_replays(logged.real.obs)
    return learner.enter(used)
