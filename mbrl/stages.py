"""One function per command; its signature is its configuration and its --help.

What a command needs beyond that is imported inside it, so that --help and a misspelt setting answer soon. Those that
look at a log, a simulator, this machine or all runs stand in `mbrl.views`, those that decide about registered policies
in `mbrl.custody`, those that say what they are worth in `mbrl.trials`, and the one that acts in a true environment in
`mbrl.finetuning`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mbrl.allocator import uncollected
from mbrl.core import Dynamics, Learner, Spec
from mbrl.custody import copy, delete, history, promote, rollback, withdraw
from mbrl.finetuning import finetune
from mbrl.limits import check_device, check_seed, check_seeds
from mbrl.settings import Candidate, Data, Fit, Imitation, Rehearsal, Trial, World
from mbrl.trials import compare, evaluate, select, sweep
from mbrl.views import audit, bench, card, ui

MENDABLE = (ValueError, OSError, FloatingPointError, RuntimeError)  # told in a line, without a traceback

__all__ = [
    "MENDABLE",
    "RECORDED",
    "audit",
    "bench",
    "card",
    "compare",
    "copy",
    "delete",
    "demo",
    "evaluate",
    "finetune",
    "history",
    "import_",
    "promote",
    "rollback",
    "run",
    "select",
    "sweep",
    "ui",
    "withdraw",
]


def run(
    data: Data,
    dynamics: Callable[[Spec], Dynamics],
    baseline: Callable[[Spec], Learner],
    learner: Callable[[Spec], Learner] | None = None,
    candidates: dict[str, Candidate] | None = None,
    name: str | None = None,
    env: str | None = None,
    seed: int = 0,
    seeds: list[int] | None = None,
    population: Literal["auto", "batched", "processes"] = "auto",
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "cpu",
    workers: int | Literal["auto"] = 1,
    fit: Fit = Fit(),  # noqa: B008 (jsonargparse reads the defaults; nothing writes to them)
    simulator: World = World(),  # noqa: B008
    rehearsal: Rehearsal = Rehearsal(),  # noqa: B008
    imitation: Imitation = Imitation(),  # noqa: B008
    trial: Trial = Trial(),  # noqa: B008
    folder: Path | None = None,
    resolved: dict[str, Any] | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Log -> simulator -> rehearsed policy -> evidence -> registry.

    A refusal by the evidence is a normal end: nothing is promoted, and the reasons are printed and logged.

    Args:
        data: the log.
        dynamics: the model of the world.
        baseline: what a candidate has to beat beside the log itself.
        learner: what improves the policy.
        candidates: several policies by name, each with a learner and a rehearsal of its own, in the place of `learner`
            and `rehearsal`. All are judged, and the one that the evidence speaks for most is promoted, or none.
        name: name of the registered models, NAME-simulator and NAME-policy; made from the data set's id if not given.
        env: true environment (also MODULE:ENV_ID) for a last measurement, which the gate never sees.
        seed: seed of everything random.
        seeds: a policy of each candidate for each of them, all judged side by side; the simulators and everything else
            are of `seed`. Of none but `seed` if not given.
        population: how those are trained: batched, as one learner whose weights have a further axis, or as learners of
            their own, `workers` processes at once; auto is the former on a GPU, and the latter on the CPU.
        accelerator: where to compute.
        workers: models and candidates that are fitted at once, each in a process of its own with its share of the
            cores; auto: one a core, or as many as OMP_NUM_THREADS or the memory allows. A GPU serves one.
        fit: training of the dynamics models.
        simulator: what turns them into simulators.
        rehearsal: improvement of the policy.
        imitation: training of the baseline.
        trial: judging the candidate.
        folder: where the run keeps its files, a new folder under MBRL_HOME/runs if not given; the run that is in it
            already is continued.
        resolved: the whole configuration, kept with the run.
        only: make this stage of the run in the folder alone, beside the process that has begun it.
    """
    with uncollected(freeze=True):
        from mbrl.data import minari
        from mbrl.pipeline import Pipeline

    check_device("accelerator", accelerator)
    _check_workers(workers, accelerator)
    check_seed(seed)
    if seeds is not None:
        check_seeds(seeds)
    minari.check_id(data.id)
    pipeline = Pipeline(
        data=data,
        candidates=_candidates(learner, candidates, rehearsal),
        name=name or data.id.rpartition("-v")[0].replace("/", "-"),
        env=env,
        seed=seed,
        accelerator=accelerator,
        workers=workers,
        fit=fit,
        world=simulator,
        imitation=imitation,
        trial=trial,
        folder=folder,
        resolved=resolved or {},
        seeds=seeds,
        population=population,
    )
    return pipeline.run(dynamics, baseline) if only is None else pipeline.make(only, dynamics)


def demo(
    data: Data, seed: int = 0, episodes: int = 100, resolved: dict[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """Log Pendulum-v1 with a mediocre controller, then run the whole path on that log.

    Args:
        data: where the log is kept; it is written if it is not there.
        seed: seed of everything random.
        episodes: episodes to log, each of 200 steps.
        resolved: the whole configuration.
        settings: of `run`.
    """
    from mbrl import demonstration

    demonstration.log_pendulum(data.id, episodes, seed)
    kept = {key: value for key, value in (resolved or {}).items() if key != "episodes"}  # so that `mbrl run` reads it
    return run(data=data, seed=seed, resolved=kept, **settings)


def import_(
    file: list[Path] | Path,
    id: str,
    env: str | None = None,
    schema: Path | None = None,
    on_bad_rows: Literal["error", "drop-episode"] = "error",
) -> dict[str, Any]:
    """Turn an npz, CSV or Parquet log into a Minari data set.

    Args:
        file: the log, in a file that ends in .npz, .csv, .csv.gz or .parquet; or several of a kind, such as
            day-*.csv, or a folder of them. An episode goes on into the next file where there is a time that goes on.
        id: id of the new data set, NAMESPACE/NAME-vN, such as plant/run1-v0.
        env: Gymnasium environment that the log is from (also MODULE:ENV_ID), for the spaces and their bounds.
        schema: YAML that names the columns (README, On your own logs); an npz with obs, action, next_obs, reward, done,
            truncated needs none.
        on_bad_rows: what a row that cannot be used does: stop the import, or drop its episode, of a series that
            `cut_every` cuts its steps alone, which is reported.
    """
    from mbrl.data import tables
    from mbrl.report import imported
    from mbrl.report.console import tell

    answer = tables.import_log(file, id, env=env, schema=schema, on_bad_rows=on_bad_rows)
    for line in imported.lines(answer):
        tell(*line)
    return answer


def _candidates(
    learner: Callable[[Spec], Learner] | None, candidates: dict[str, Candidate] | None, rehearsal: Rehearsal
) -> dict[str, Candidate]:
    if learner is None and candidates and rehearsal != Rehearsal():
        raise ValueError(
            f"a rehearsal is given, and the candidates {', '.join(candidates)} have rehearsals of their own: set it"
            f" there, as in candidates.{next(iter(candidates))}.rehearsal"
        )
    if learner is None:
        return candidates or {}
    if candidates:
        raise ValueError(
            f"there are a learner and the candidates {', '.join(candidates)}: set learner to null, or leave candidates"
            " out"
        )
    return {"candidate": Candidate(learner, rehearsal)}


def _check_workers(workers: int | Literal["auto"], accelerator: str) -> None:
    if workers == "auto":
        return
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1, or auto")
    if workers > 1 and accelerator != "cpu":
        raise ValueError(
            f"workers is {workers}, and accelerator is {accelerator}: set workers to 1, or compute on the cpu"
        )


RECORDED = (run, demo)  # they keep their resolved configuration
