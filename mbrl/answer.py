"""What a run says at its end, as `mbrl run --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbrl.assessment import Findings, plain
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate
from mbrl.report.console import tell
from mbrl.worlds import Desk, Rehearsed


def answer(
    data: TransitionDataset,
    own: Rehearsed | None,
    found: Findings,
    made: Mapping[str, Mapping[str, Any]],
    lost: Mapping[str, str],
    simulated: Mapping[str, Estimate],
    true: Mapping[str, Estimate],
    champion: str | None,
    desk: Desk,
) -> dict[str, Any]:
    """Plain values of all that a run has found out.

    Args:
        data: the log, with its history.
        own: the simulator that was rehearsed in, if there is one.
        found: what was seen of the candidates.
        made: by candidate: its version, its updates, and whether it was rehearsed.
        lost: the candidates that there are no policies of, and why.
        simulated: values in `own`, undiscounted.
        true: returns in the true environment, where one was named.
        champion: the version that reigns afterwards.
        desk: folder and record of the run.
    """
    best, chosen = found.best, found.chosen
    rows = {
        name: {
            **made[name],
            "verdict": finding.verdict.outcome,
            "reasons": list(finding.verdict.reasons),
            "gain_in_spreads": plain(finding.gain),
            "preference_in_spreads": finding.preference,
            "true_return": plain(true.get(name)),
        }
        for name, finding in found.of.items()
    }
    return {
        "name": desk.folder.facts["name"],
        "run_id": desk.record.run_id,
        "folder": str(desk.folder.path),
        "data": {
            "id": data.id,
            "fingerprint": data.fingerprint,
            "rows": len(data),
            "episodes": data.episodes,
            "history": data.history,
        },
        "logged_return": plain(found.logged),
        "estimates": {kind: plain(view.values) for kind, view in best.evidence.views.items()},
        "own_simulator": plain(simulated),
        "true_environment": plain(true),
        "candidates": rows,
        "left_out": dict(lost),
        "chosen": chosen,
        "updates": rows[chosen]["updates"],
        "seconds": seconds_of(desk),
        "simulator_version": own and own.version,
        "simulator_verdict": own and own.card["verdict"]["sentence"],
        "trusted_horizon": own and own.trusted,
        "policy_version": rows[chosen]["version"],
        "verdict": best.verdict.outcome,
        "promoted": best.verdict.promote and champion == rows[chosen]["version"],  # others than the gate may refuse
        "reasons": list(best.verdict.reasons),
        "champion": champion,
    }


def seconds_of(desk: Desk) -> dict[str, float]:
    """What each stage took, as far as one process did it."""
    return {k.removesuffix("_seconds"): v for k, v in desk.folder.facts.items() if k.endswith("_seconds")}


def tell_time(desk: Desk) -> None:
    """Say what the stages took."""
    seconds = seconds_of(desk)
    total = sum(seconds.values())
    shares = ", ".join(f"{stage} {taken / total:.0%}" for stage, taken in seconds.items())
    tell("time", f"{total:,.0f} s of learning and judging, beside start-up, audit, cards and registry: {shares}")
