"""The commands that look at a log, a simulator, this machine or all runs: one function each, as in `mbrl.stages`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from mbrl.core import Dynamics, Learner, Spec
from mbrl.limits import check_device, check_seed
from mbrl.settings import OtherLog, Uncertainty
from mbrl.sizes import Sizes


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

    check_seed(seed)
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

    check_device("device", device)
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
