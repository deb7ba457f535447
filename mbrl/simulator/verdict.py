"""One sentence on a report card, and its reasons: a pure function of the card's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

LEAST_COVERAGE = 0.85  # of the 90 % band, up to the trusted horizon
MOST_SHARE = 0.5  # of a channel's spread that the error may reach up to there
MOST_RATIO = 1.4  # between the spreads of simulated and logged values of what is a matter of chance,
MOST_BIAS = 0.25  # and, in the latter, between their means
COVERED = (0.88, 0.92)  # of the 90 % intervals of one step
CALIBRATED = 0.03  # mean absolute calibration error
SHORT = 5  # steps: the usual length of an imagined rollout
RANKED = 0.6  # rank correlation of uncertainty and error


def judge(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Grade ("good", "with care", "poor"), sentence and reasons; each reason says whether it speaks for the simulator.

    Args:
        numbers: of `mbrl.simulator.card.report_card`, without the verdict.
    """
    reasons = [*_intervals(numbers["one_step"]["mean"]), _horizon(numbers["trusted_horizon"])]
    reasons += [_chance(name) for name in numbers["trusted_horizon"]["chance"]]
    reasons += [_copy(row) for row in numbers["carried"] if row["agrees"] < 1]
    reasons += [_clock(row) for row in numbers["clocks"] if row["agrees"] < 1]
    reasons += [_structure(row) for row in numbers["computed"] if not row["agrees"]]
    reasons += [_ranking(numbers["uncertainty"]), *_ends(numbers["termination"])]
    if numbers["data"]["measured_on_calibration"]:
        text = "the intervals were measured on the same episodes that they were fitted to, so they look better than"
        reasons.append(_reason(False, f"{text} they are: hold out at least two episodes"))
    steps, doubts = int(numbers["trusted_horizon"]["steps"]), [r for r in reasons if not r["good"]]
    far = "not even for one step" if steps == 0 else f"for {steps} step{'s' * (steps != 1)}"
    if steps == 0:
        grade = "poor"
        weakest = numbers["trusted_horizon"]["weakest"]
        known = any(row["channel"] == weakest for row in numbers["computed"])  # from what is predicted
        or_else = "" if known else "declare that exogenous if nothing in the plant decides it, or "
        sentence = (
            f"The simulator can be followed {far}, for {weakest}: {or_else}use the simulator with short rollouts and a"
            " penalty, or not at all."
        )
    elif doubts:
        grade = "with care"
        plural = "s" * (len(doubts) != 1)
        sentence = f"The simulator can be followed {far}, with {len(doubts)} reservation{plural}."
    else:
        grade, sentence = "good", f"The simulator can be followed {far}, and it knows where it is unsure."
    return {"grade": grade, "sentence": sentence, "reasons": reasons}


def _reason(good: bool, text: str) -> dict[str, Any]:
    return {"good": bool(good), "text": text}


def _intervals(mean: Mapping[str, Any]) -> list[dict[str, Any]]:
    covered, error = float(mean["coverage"]["90%"]), float(mean["calibration_error"])
    low, high = COVERED
    wanted, held = f"expected {low:.0%} to {high:.0%}", low <= covered <= high
    away = math.floor if covered < low else math.ceil if covered > high else round  # never told as one of those wanted
    share = f"{away(1000 * covered) / 1000:.1%}"
    return [
        _reason(held, f"its 90% intervals for the next step hold {share} of the log ({wanted})"),
        _reason(error <= CALIBRATED, f"its calibration error is {error:.3f} (expected at most {CALIBRATED})"),
    ]


def _horizon(trusted: Mapping[str, Any]) -> dict[str, Any]:
    steps, followed = int(trusted["steps"]), trusted["followed"]
    end = "the end of the test" if steps == followed else f"step {steps}; {trusted['weakest']} is the first to fail"
    return _reason(
        steps >= min(SHORT, followed),
        f"its 90% band covers {LEAST_COVERAGE:.0%} and its error stays under {MOST_SHARE:.0%} of each channel's spread"
        f" up to {end}",
    )


def _chance(name: str) -> dict[str, Any]:
    text = f"what {name} is next is a matter of chance, so no error is asked of it: its values are spread as the log's"
    return _reason(True, text)


def _copy(row: Mapping[str, Any]) -> dict[str, Any]:
    share = f"{row['agrees']:.0%} of these rows"
    text = f"it copies {row['source']} into the next {row['channel']}, as its own log does: so do {share}"
    return _reason(False, f"{text}, look for what has changed in the logger")


def _clock(row: Mapping[str, Any]) -> dict[str, Any]:
    text = f"it lets {row['channel']} go on by {row['step']:.6g} a step, as its own log does: so do {row['agrees']:.0%}"
    return _reason(False, f"{text} of these rows, look for what has changed in the logger")


def _structure(row: Mapping[str, Any]) -> dict[str, Any]:
    error, spread = row["mean_absolute_error"], row["spread_of_change"]
    text = (
        f"its known structure is {error:.3g} off the log in {row['channel']} on average, which changes by {spread:.3g}:"
    )
    return _reason(False, f"{text} look at simulator.structure, its units and its time step")


def _ranking(uncertainty: Mapping[str, Any]) -> dict[str, Any]:
    rank = uncertainty["spearman"]
    if rank is None:
        return _reason(False, "its uncertainty is the same everywhere, so it cannot say where it is unsure")
    return _reason(rank >= RANKED, f"its uncertainty ranks its errors with {rank:.2f} (expected at least {RANKED})")


def _ends(termination: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if termination is None:
        return []
    found, guess = float(termination["brier"]), float(torch.as_tensor(termination["brier_of_rate"]))
    text = f"its Brier score for when the world ends is {found:.4f}, against {guess:.4f} of always saying the mean rate"
    return [_reason(found < guess or found == 0, text)]
