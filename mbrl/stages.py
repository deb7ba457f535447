"""One function per command; its signature is its configuration and its --help.

What a command needs beyond that is imported inside it, so that --help and a misspelt setting answer soon. Those that
decide about registered policies stand in `mbrl.custody`, those that say what they are worth in `mbrl.trials`, and
the one that acts in a true environment in `mbrl.finetuning`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from mbrl.allocator import uncollected
from mbrl.core import Dynamics, Learner, Spec
from mbrl.custody import copy, delete, history, promote, rollback, withdraw
from mbrl.finetuning import finetune
from mbrl.limits import check_seeds
from mbrl.settings import Candidate, Data, Fit, Imitation, OtherLog, Rehearsal, Trial, Uncertainty, World
from mbrl.sizes import Sizes
from mbrl.trials import compare, evaluate, select, sweep

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
    with uncollected():
        from mbrl.data import minari
        from mbrl.pipeline import Pipeline

    _check_device("accelerator", accelerator)
    _check_workers(workers, accelerator)
    _check_seed(seed)
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
    file: list[Path],
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
        on_bad_rows: what a row that cannot be used does: stop the import, or drop its episode, which is reported.
    """
    from mbrl.data import tables
    from mbrl.report import imported
    from mbrl.report.console import tell

    answer = tables.import_log(file, id, env=env, schema=schema, on_bad_rows=on_bad_rows)
    for line in imported.lines(answer):
        tell(*line)
    return answer


def audit(
    id: str,
    strict: bool = False,
    html: Path | None = None,
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> dict[str, Any]:
    """Say what is wrong with a data set, what that will do to learning, and what to change.

    Args:
        id: Minari id of the data set.
        strict: end with exit status 1 if a finding is serious.
        html: the page to write, with pictures; MBRL_HOME/audits/ID.html if not given.
        split: shares of the episodes as in `mbrl run`, to find copies of an episode on different sides.
        seed: seed of the split, and of the rows that are looked at more closely.
    """
    from mbrl import files
    from mbrl.data import minari
    from mbrl.data.audit import audit as look
    from mbrl.data.division import LEAST, divide
    from mbrl.report.audit_page import write_page
    from mbrl.settings import Data

    _check_seed(seed)
    page = (html or files.home() / "audits" / f"{id.replace('/', '-')}.html").absolute()
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"html is {str(html)!r}, expected the name of a page to write, such as audit.html")
    data = minari.load(Data(id, split).id)
    enough = data.episodes >= LEAST
    found = look(data, sides=divide(data, split, seed, needs_terminals=False).sides if enough else (), seed=seed)
    write_page(page, found)
    for finding in found.findings:
        print(f"{finding.line()}\n    what it does: {finding.effect}\n    what to change: {finding.remedy}")
    print(f"{id}: {len(found.findings)} finding(s), {len(found.serious)} serious; {page}")
    refused = f"{id} has {len(found.serious)} serious finding(s): mend them, or audit it without --strict"
    return {**found.to_dict(), "page": str(page), **({"error": refused} if strict and found.serious else {})}


def card(
    name: str,
    version: int | None = None,
    data: OtherLog = OtherLog(),  # noqa: B008
    seed: int = 0,
) -> dict[str, Any]:
    """Say how far a registered simulator can be trusted: a page with pictures, and its numbers as JSON.

    Args:
        name: NAME of the registered model NAME-simulator.
        version: of that model; the newest if not given.
        data: the log to measure it on.
        seed: of start states and of the noise of imagined steps.
    """
    from mbrl import inspection

    answer = inspection.inspect(name, None if version is None else str(version), data.id, data.download, seed)
    verdict = answer["verdict"]
    print(f"{answer['about']['simulator']} on {answer['data']['id']}: {verdict['sentence']}")
    for reason in verdict["reasons"]:
        print(f"  {'+' if reason['good'] else '-'} {reason['text']}")
    print(f"page: {answer['page']}")
    return answer


def bench(
    dynamics: Callable[[Spec], Dynamics],
    yardstick: Callable[[Spec], Dynamics],
    learner: Callable[[Spec], Learner],
    uncertainty: Uncertainty,
    device: Literal["cpu", "cuda"] = "cpu",
    precisions: list[Literal["32-true", "bf16-mixed"]] | None = None,
    threads: int | None = None,
    repeats: int = 5,
    seconds: float = 2.0,
    seed: int = 0,
    profile: Path | None = None,
    scaling: Path | None = None,
    sizes: Sizes = Sizes(),  # noqa: B008
) -> dict[str, Any]:
    """Time the inner loops on this machine, at Hopper's sizes.

    Beside each rate stands what share of the machine's own rate in a product of two matrices, measured in the same run,
    the matrix products of the loop reach with it.

    Args:
        dynamics: the ensemble that is trained (with heads for reward and end) and rolled out.
        yardstick: an ensemble that is trained and rolled out beside it, to compare with other libraries.
        learner: the learner whose updates are counted.
        uncertainty: dotted path of the disagreement in the rollouts that have one.
        device: where to compute.
        precisions: of the arithmetic; if not given, 32-true, and bf16-mixed where the device multiplies bfloat16.
        threads: torch's threads; torch's own choice if not given.
        repeats: timings of each loop, whose median is reported.
        seconds: length of one timing, about.
        seed: seed of weights and rows.
        profile: folder for a trace of each loop (LOOP-PRECISION.json, for a browser's trace viewer) and a table of its
            ten dearest operations (LOOP-PRECISION.txt).
        scaling: folder for a table and a picture of how an update's time and a training's memory grow with the log, the
            ensemble and the batch, which are measured instead, in 32-true.
        sizes: of these.
    """
    from mbrl import bench as benchmark
    from mbrl import scaling as growing
    from mbrl.precision import multiplies_bfloat16

    _check_device("device", device)
    for setting, value in ("threads", threads), ("repeats", repeats):
        if value is not None and value < 1:
            raise ValueError(f"{setting} is {value}, expected at least 1")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, expected a number above 0")
    if threads is not None:
        torch.set_num_threads(threads)
    about = benchmark.versions(device)
    print(", ".join(f"{k} {v}" for k, v in about.items()), file=sys.stderr)
    if scaling is not None:
        if device != "cpu":
            raise ValueError(f"device is {device}, and scaling is measured on the cpu: leave one of them out")
        return {**about, **growing.told(dynamics, learner, sizes, scaling, seed)}
    if precisions is None:
        precisions = ["32-true", "bf16-mixed"] if multiplies_bfloat16(device) else ["32-true"]
    rates = benchmark.measure(
        dynamics,
        yardstick,
        learner,
        uncertainty,
        device=device,
        precisions=precisions,
        repeats=repeats,
        seconds=seconds,
        seed=seed,
        traces=profile,
    )
    for precision, loops in rates.items():
        print(precision)
        for loop, rate in loops.items():
            share = f"   {rate['share_of_peak']:.0%} of the peak" if "share_of_peak" in rate else ""
            print(f"{loop:>54}: {rate['median']:>12,.4g}   [{rate['min']:,.4g}, {rate['max']:,.4g}]{share}")
    if profile is not None:
        print(f"traces and the dearest operations of each loop: {profile}")
    return {**about, "repeats": repeats, "rates": rates}


def ui(port: int = 5000) -> dict[str, Any]:
    """Open the MLflow pages of all runs, on loopback, until Ctrl-C.

    Args:
        port: port to listen on.
    """
    from mbrl.registry.ui import serve

    return {"uri": serve(port), "port": port}


def _candidates(
    learner: Callable[[Spec], Learner] | None, candidates: dict[str, Candidate] | None, rehearsal: Rehearsal
) -> dict[str, Candidate]:
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


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")


def _check_device(setting: str, device: str) -> None:
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(device, True):
        raise ValueError(f"{setting} is {device!r}, and torch {torch.__version__} sees no such device: use cpu")


RECORDED = (run, demo)  # they keep their resolved configuration
