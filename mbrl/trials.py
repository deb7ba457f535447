"""The commands that say what policies and learners are worth: one function each, as in `mbrl.stages`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mbrl.limits import check_seed, check_seeds
from mbrl.settings import Trial


def evaluate(
    policy: str,
    env: str | None = None,
    data: str | None = None,
    estimators: str | None = None,
    judge: bool = False,
    episodes: int = 20,
    seed: int = 1000,
    level: float = 0.95,
    trial: Trial = Trial(),  # noqa: B008
) -> dict[str, Any]:
    """Say what registered policies are worth on a log, in a true environment, or both.

    Args:
        policy: URI of the policy, such as models:/NAME-policy@champion or models:/NAME-policy/3; several with commas
            between them, and models:/NAME-policy for all its versions.
        env: Gymnasium environment (also MODULE:ENV_ID), for the true return.
        data: Minari id of the log that the estimators work on, without touching any environment.
        estimators: some of model, model+fqe, fqe, is, wis, pdis, pdwis, dr, wdr, dice and magic, with commas between
            them; those of the gate's rules if not given.
        judge: hold the estimators against the truth in env; on the log that the policies are from if data is not given.
        episodes: to play in env.
        seed: seed of the first episode's start; the next one's is larger by one.
        level: coverage of the interval of true returns.
        trial: how estimates are made.
    """
    from mbrl import comparison

    check_seed(seed)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a coverage between 0 and 1, such as 0.95")
    if env is None and (judge or data is None):
        wanted = "--judge needs the truth" if judge else "there is neither a log nor an environment to evaluate on"
        raise ValueError(f"{wanted}: name one (--env Pendulum-v1{'' if judge else ', or --data ID'})")
    if estimators is not None and data is None and not judge:
        raise ValueError(f"estimators is {estimators!r}, and there is no log for them to work on: name one (--data ID)")
    _check_own(trial, "--episodes")
    _check_read(env, data is not None or judge, {"episodes": episodes, "seed": seed, "level": level}, trial)
    played = comparison.TrueEpisodes(env, episodes, seed, level)
    if data is None and not judge:
        return comparison.measure(policy, played)
    return comparison.compare(policy, played, data, estimators, judge, trial)


def select(
    name: str,
    versions: list[int] | None = None,
    data: str | None = None,
    trial: Trial = Trial(),  # noqa: B008
) -> dict[str, Any]:
    """Say which version of a policy the evidence carries; where it carries none, what there is stays.

    No alias is moved.

    Args:
        name: NAME of the registered model NAME-policy.
        versions: candidates, such as [1,3]; all versions if not given.
        data: Minari id of the log, the one that each version was trained on if not given. On a log of other content
            none is selected, as the gate takes evidence of one log only.
        trial: how they are judged.
    """
    from mbrl import comparison

    _check_own(trial, "no true environment")
    return comparison.select(name, versions, data, trial)


def compare(
    data: str,
    learners: str = "td3bc,iql,mopo,combo",
    env: str | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    updates: int | None = None,
    episodes: int | None = None,
    settings: dict[str, Any] | None = None,
    engine: Literal["processes", "ray"] = "processes",
    workers: int = 2,
    threads: int = 1,
    ray_address: str | None = None,
    together: int | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Put learners side by side on logs: what each is worth by true return, or by the evidence where there is no truth.

    Every cell is an `mbrl run` in a process of its own, whose evidence, curves and models are kept; learners whose
    other settings are equal share one. Simulators are fitted once for all that ask for the same. One that fails leaves
    the others alone; the same command goes on with it, and repeats nothing that is done.

    Args:
        data: Minari ids of the logs, with commas between them.
        learners: names of the configurations that come with mbrl, or YAML files, with commas between them.
        env: a true environment for each log, with commas between them, and - for a log without one.
        seeds: such as [0,1,2]; a number is the mean over them.
        updates: of every learner; what its configuration says if not given. Candidates keep their own.
        episodes: to play in the true environment, for each policy; what its configuration says if not given.
        settings: others of `mbrl run` that hold for all, such as {fit.precision: auto, trial.starts: 64}.
        engine: processes of this machine, or Ray (`pip install 'offline-mbrl[ray]'`).
        workers: how many runs at once on this machine; a cluster has as many as its cores and GPUs are enough for.
        threads: of each run, and the cores that it takes of a cluster.
        ray_address: HOST:PORT of a Ray cluster; this machine if not given.
        together: learners that share a run, at most; all whose other settings are equal if not given. Fewer can learn
            on more cores.
        folder: where the table, the picture and the runs are kept, MBRL_HOME/comparisons/LOGS if not given.
    """
    from mbrl import contest
    from mbrl.engines import Engine

    if odd := sorted({"data.id", "seed", "seeds", "env", "name", "folder"} & set(settings or {})):
        raise ValueError(f"settings has {', '.join(odd)}, which each run has its own of: leave it out")
    own = {"trial.episodes": episodes, "rehearsal.updates": updates}
    said = ({key: value for key, value in own.items() if value is not None} | (settings or {})).items()
    more = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in said]
    asked = contest.contest(data, env, learners, seeds, more, together, folder)
    return contest.hold(asked, Engine.of(engine, workers, threads, ray_address))


def sweep(
    data: str,
    configs: str,
    env: str | None = None,
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    name: str | None = None,
    engine: Literal["processes", "ray"] = "processes",
    workers: int = 2,
    threads: int = 1,
    ray_address: str | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Make the runs of several configurations and seeds on a log, several at once.

    Each is an `mbrl run` in a process of its own, and a child of one MLflow run. One that fails leaves the others
    alone; the same command goes on with it, and repeats nothing that is done.

    Args:
        data: Minari id of the log.
        configs: names of the configurations that come with mbrl, or YAML files, with commas between them.
        env: true environment, if there is one.
        seeds: such as [0,1,2].
        name: of the sweep and the beginning of the names of what it registers; the log's if not given.
        engine: processes of this machine, or Ray (`pip install 'offline-mbrl[ray]'`).
        workers: how many at once on this machine; a cluster has as many as its cores and GPUs are enough for.
        threads: of each run, and the cores that it takes of a cluster.
        ray_address: HOST:PORT of a Ray cluster; this machine if not given.
        folder: where the runs are kept, MBRL_HOME/sweeps/NAME if not given.
    """
    from mbrl import files
    from mbrl import sweep as sweeping
    from mbrl.contest import configurations, run_settings, unfit
    from mbrl.data import minari
    from mbrl.engines import Engine
    from mbrl.registry import models
    from mbrl.standings import Arena

    minari.check_id(data)
    check_seeds(seeds)
    runner = Engine.of(engine, workers, threads, ray_address)
    arena, found = Arena(data, env), configurations("configs", configs)
    minari.load(data)  # which makes the cache that all runs share
    name = arena.name if name is None else name
    models.check_name(name)
    for label, path in found.items():
        if not models.NAME.fullmatch(f"{name}-{label}-{max(seeds)}"):
            raise ValueError(
                f"configs has {path}, whose name is to be part of a model's, {name}-{label}-{max(seeds)}: 100 letters,"
                " digits, _ or - at most. Rename the file"
            )
        if (reason := unfit(run_settings(path, arena, ()), arena)) is not None:
            raise ValueError(f"configs has {label}, which cannot learn from {data}: {reason}")
    place = (folder or files.home() / "sweeps" / name).absolute()
    return sweeping.sweep(name, arena, found, seeds, place, runner)


def _check_read(env: str | None, logged: bool, played: Mapping[str, float], trial: Trial) -> None:
    """Refuse settings of `evaluate` that are of episodes which nobody plays, or of a log that there is not."""
    defaults = {name: default.default for name, default in inspect.signature(evaluate).parameters.items()}
    changed = [f"{name} is {value}" for name, value in played.items() if value != defaults[name]]
    if env is None and changed:
        raise ValueError(f"{changed[0]}, which is of episodes in a true environment: name one (--env), or leave it out")
    for field in dataclasses.fields(trial):
        if not logged and (value := getattr(trial, field.name)) != getattr(Trial, field.name):
            raise ValueError(
                f"trial.{field.name} is {value}, which is of estimates on a log: name one (--data ID), or leave it out"
            )


def _check_own(trial: Trial, instead: str) -> None:
    """Refuse the true episodes of a run where the command has something else in their place."""
    if trial.episodes != Trial.episodes:
        raise ValueError(f"trial.episodes is {trial.episodes}, which is of `mbrl run`: leave it out, here is {instead}")
