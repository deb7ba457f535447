"""One function per command; its signature is its configuration and its --help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from mbrl import bench as benchmark
from mbrl import demonstration, environments
from mbrl.__main__ import config_file
from mbrl.core import Dynamics, Learner, Prediction, Spec
from mbrl.data import tables
from mbrl.evaluation.estimates import bootstrap
from mbrl.evaluation.evidence import acting
from mbrl.files import home
from mbrl.pipeline import Pipeline
from mbrl.registry import models, store
from mbrl.registry.ui import serve
from mbrl.settings import Data, Fit, Imitation, Rehearsal, Trial, World
from mbrl.training.policy import Interrupted

# what a user can mend: told in a line, without a traceback
MENDABLE = (ValueError, OSError, FloatingPointError, store.StoreError, RuntimeError)

__all__ = ["MENDABLE", "RECORDED", "Interrupted", "bench", "demo", "evaluate", "import_", "parser", "run", "ui"]


def run(
    data: Data,
    dynamics: Callable[[Spec], Dynamics],
    learner: Callable[[Spec], Learner],
    baseline: Callable[[Spec], Learner],
    name: str | None = None,
    env: str | None = None,
    seed: int = 0,
    accelerator: str = "cpu",
    fit: Fit = Fit(),  # noqa: B008 (jsonargparse reads the defaults; nothing writes to them)
    simulator: World = World(),  # noqa: B008
    rehearsal: Rehearsal = Rehearsal(),  # noqa: B008
    imitation: Imitation = Imitation(),  # noqa: B008
    trial: Trial = Trial(),  # noqa: B008
    folder: Path | None = None,
    resolved: str = "",
) -> dict[str, Any]:
    """Log -> simulator -> rehearsed policy -> evidence -> registry.

    A refusal by the evidence is a normal end: nothing is promoted, and the reasons are printed and logged.

    Args:
        data: the log.
        dynamics: the model of the world.
        learner: what improves the policy.
        baseline: what the candidate has to beat beside the log itself.
        name: of the registered models, NAME-simulator and NAME-policy; by default from the data set's id.
        env: a true environment (also module:EnvId) for a final measurement, which the gate never sees.
        seed: of everything random.
        accelerator: cpu, cuda, ...
        fit: training of the dynamics models.
        simulator: what turns them into simulators.
        rehearsal: improvement of the policy.
        imitation: training of the baseline.
        trial: judging the candidate.
        folder: where the run keeps its files; one that exists is resumed. By default a new one under MBRL_HOME/runs.
        resolved: the whole configuration as YAML, kept with the run.
    """
    pipeline = Pipeline(
        data=data,
        name=name or data.id.rpartition("-v")[0].replace("/", "-"),
        env=env,
        seed=seed,
        accelerator=accelerator,
        fit=fit,
        world=simulator,
        rehearsal=rehearsal,
        imitation=imitation,
        trial=trial,
        folder=folder,
        resolved=resolved,
    )
    return pipeline.run(dynamics, learner, baseline)


def demo(data: Data, seed: int = 0, episodes: int = 100, **settings: Any) -> dict[str, Any]:
    """Log Pendulum-v1 with a mediocre controller, then run the whole path on that log.

    Args:
        data: where the log is kept; it is written if it is not there.
        seed: of everything random.
        episodes: to log, each of 200 steps.
        settings: of `run`.
    """
    demonstration.log_pendulum(data.id, episodes, seed)
    return run(data=data, seed=seed, **settings)


def import_(
    file: Path,
    id: str,
    env: str | None = None,
    schema: Path | None = None,
    on_bad_rows: Literal["error", "drop-episode"] = "error",
) -> dict[str, Any]:
    """Turn an npz, CSV or Parquet log into a Minari data set.

    Args:
        file: the log.
        id: of the new data set, NAMESPACE/NAME-vN.
        env: Gymnasium environment it is from (also module:EnvId), for spaces and bounds.
        schema: YAML that names the columns; an npz with obs, action, next_obs, reward, done, truncated needs none.
        on_bad_rows: what a NaN or infinity does: stop with an error, or drop its episode and report it.
    """
    answer = tables.import_log(file, id, env=env, schema=schema, on_bad_rows=on_bad_rows)
    for key, value in answer.items():
        print(f"{key:>12}: {value}")
    return answer


def evaluate(policy: str, env: str, episodes: int = 20, seed: int = 1000, level: float = 0.95) -> dict[str, Any]:
    """Measure a registered policy in a true environment.

    Args:
        policy: URI such as models:/NAME-policy@champion.
        env: Gymnasium environment (also module:EnvId).
        episodes: to play.
        seed: of the first episode's start; the next one's is larger by one.
        level: of the interval.
    """
    store.connect()
    returns = environments.true_returns(acting(models.load_policy(policy)), env, episodes, seed)
    estimate = bootstrap(returns, level, seed)
    print(
        f"{policy} in {env}: {estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
        f" (mean and {level:.0%} interval of {episodes} undiscounted returns)"
    )
    return {"policy": policy, "env": env, **estimate._asdict(), "returns": returns.tolist()}


def bench(
    dynamics: Callable[[Spec], Dynamics],
    learner: Callable[[Spec], Learner],
    uncertainty: Callable[[Prediction], Tensor],
    device: str = "cpu",
    threads: int | None = None,
    repeats: int = 5,
    seconds: float = 2.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Time the inner loops on this machine, at Hopper's sizes.

    Args:
        dynamics: the ensemble.
        learner: whose updates are counted.
        uncertainty: of the rollouts with disagreement.
        device: cpu or cuda.
        threads: of torch; by default torch's own choice.
        repeats: timings, of which the median is told.
        seconds: of one timing, about.
        seed: of weights and rows.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, and torch {torch.__version__} sees no GPU: use --device cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    about = benchmark.versions(device)
    print(", ".join(f"{k} {v}" for k, v in about.items()), file=sys.stderr)
    rates = benchmark.measure(
        dynamics, learner, uncertainty, device=device, repeats=repeats, seconds=seconds, seed=seed
    )
    for loop, rate in rates.items():
        print(f"{loop:>46}: {rate['median']:>12,.4g}   [{rate['min']:,.4g}, {rate['max']:,.4g}]")
    return {**about, "repeats": repeats, "rates": rates}


def ui(port: int = 5000) -> dict[str, Any]:
    """Open the MLflow pages of all runs, on loopback, until Ctrl-C.

    Args:
        port: to listen on.
    """
    uri = store.connect()
    print(f"MLflow shows {uri} at http://127.0.0.1:{port} until Ctrl-C (all state is under {home()})")
    return {"status": serve(uri, port)}


RECORDED = (run, demo)  # they keep their resolved configuration


def parser(function: Callable[..., Any], command: str, default: str | None, arguments: Sequence[str]) -> ArgumentParser:
    """The command's parser: `default` is the configuration it starts from unless `arguments` name another one."""
    named = any(a == "--config" or a.startswith("--config=") for a in arguments)
    files: list[str | PathLike[str]] = [config_file(default)] if default and not named else []
    about = (function.__doc__ or "").split("\n\n")[0]
    made = ArgumentParser(prog=f"mbrl {command}", default_config_files=files, description=about)
    made.add_argument("--config", action="config", help="YAML file with settings; those given after it win")
    made.add_function_arguments(function, skip={"resolved"}, as_group=False, sub_configs=False)
    return made
