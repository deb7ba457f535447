"""What a run leaves for a reader: pictures and a table, drawn from its tensors and stored with its MLflow run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.opinions import Opinion
from mbrl.evaluation.panel import KINDS
from mbrl.registry.gates import CHAMPION, CLONING, LOG
from mbrl.report.forest import Stand, plot_forest
from mbrl.report.plots import Fan, Interval, plot_returns, plot_rollouts
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator

FANS, ROLLOUTS, STEPS = 3, 8, 25  # pictures: logged states, rollouts from each, steps at least
PARTIES = (LOG, CLONING, CHAMPION)  # rows with a colour of their own
TABLE_STARTS = 200  # rollouts in the table


class Record(Protocol):
    """The part of a run's record that a dossier writes to."""

    def file(self, source: Path, folder: str | None = None) -> None: ...

    def table(self, columns: Mapping[str, np.ndarray], path: str) -> None: ...


def draw_returns(
    record: Record,
    logged: Tensor,
    simulated: Mapping[str, Estimate],
    true: Mapping[str, Estimate],
    title: str,
    coverage: float,
) -> None:
    """Store `returns.png`: logged returns [n], and each policy's value in the second simulator and in truth.

    Nothing is drawn where there is no value of either.
    """
    if not simulated and not true:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "returns.png"
        plot_returns(path, logged.cpu().numpy(), intervals(simulated), intervals(true) or None, title, coverage)
        record.file(path)


def draw_evidence(record: Record, opinions: Mapping[str, Opinion], true: Mapping[str, Estimate], title: str) -> None:
    """Store `evidence.png`: what each kind of estimator says of everybody, and the truth where it was measured.

    Nothing is drawn where nobody said anything.
    """
    panels = stands(opinions, true)
    if not panels:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evidence.png"
        plot_forest(path, panels, title, PARTIES)
        record.file(path)


def stands(opinions: Mapping[str, Opinion], true: Mapping[str, Estimate]) -> list[Stand]:
    """The panels of a forest plot: one a kind, and one of true returns if there are any."""
    panels = []
    for kind, opinion in opinions.items():
        named = {LOG: opinion.log, **opinion.answers}
        rows = intervals({name: answer.estimate for name, answer in named.items()})
        discount = "undiscounted" if opinion.gamma == 1 else f"discount {opinion.gamma:g}"
        title = f"{kind}: {KINDS[kind].about} ({2 * opinion.level - 1:.0%} intervals)"
        earned, about = opinion.log.estimate.value, opinion.log.estimate.diagnostics
        unit, reference = f"return, {discount}", about.get("recited", earned)
        if "recited" in about:
            unit += "; dashed: what it makes of the log's own actions"
        panels.append(Stand(title, unit, rows, reference, opinion.refused))
    if true:
        panels.append(Stand("in the true environment", "return, undiscounted", intervals(true)))
    return panels


def intervals(values: Mapping[str, Estimate]) -> dict[str, Interval]:
    """Estimates as pictures have them."""
    return {name: Interval(e.value, e.low, e.high) for name, e in values.items()}


def sample_rollouts(
    record: Record,
    policy: Policy,
    simulator: Simulator,
    log: TransitionDataset,
    episodes: Tensor,
    horizon: int,
    seed: int,
) -> None:
    """Store `rollouts.parquet`, as the learner saw them but unpenalised, and `rollouts.png` beside logged episodes.

    Both start from states of `episodes`, which the simulator was not fitted on; the picture looks further ahead. Of a
    log with a history both show the newest observations alone.
    """
    rng = generator(seed, "dossier")
    rows = log.rows(episodes)
    simulator, chosen = simulator.replaying(log), rows[torch.randint(len(rows), (TABLE_STARTS,), generator=rng)]
    dreamt = imagine(policy, simulator, log.obs[chosen], horizon, 0.0, rng, chosen)
    seen = dreamt._replace(**{name: getattr(dreamt, name)[..., : log.frame_dim] for name in ("obs", "next_obs")})
    columns = {name: column.flatten(0, 1).numpy() for name, column in seen._asdict().items()}
    steps = {"step": np.repeat(np.arange(horizon), TABLE_STARTS), "rollout": np.tile(np.arange(TABLE_STARTS), horizon)}
    record.table({**steps, **columns}, "rollouts.parquet")
    longest = episodes[log.lengths[episodes].argsort(descending=True)[:FANS]]
    fans = [_fan(policy, simulator, log, int(episode), max(horizon, STEPS), rng) for episode in longest]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.png"
        plot_rollouts(path, fans, log.labels[: log.frame_dim])
        record.file(path)


def _fan(
    policy: Policy, simulator: Simulator, log: TransitionDataset, episode: int, steps: int, rng: torch.Generator
) -> Fan:
    """Rollouts from a third of the way into one episode; a row that terminates, or whose replay ends, ends there."""
    rows = log.rows(torch.tensor([episode]))
    logged = torch.cat([log.obs[rows], log.next_obs[rows[-1:]]])
    start = len(rows) // 3
    steps = min(steps, len(rows) - start) if log.exogenous else steps
    begun = logged[start].expand(ROLLOUTS, -1)
    dreamt = imagine(policy, simulator, begun, steps, 0.0, rng, rows[start].expand(ROLLOUTS))
    ends = [int(column.nonzero()[0]) + 1 if column.any() else steps for column in dreamt.terminated.T]
    width = log.frame_dim
    paths = [dreamt.next_obs[:end, k, :width].numpy() for k, end in enumerate(ends)]
    return Fan(episode, logged[:, :width].numpy(), start, paths)
