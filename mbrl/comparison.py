"""`mbrl evaluate` and `mbrl select`: what was found, told, drawn and handed back as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mbrl import appraisal, environments, playing, selection
from mbrl.appraisal import COMBINED, Case, Truth
from mbrl.assessment import plain, recited, shown, small
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.evaluation.evidence import acting
from mbrl.evaluation.judging import Score
from mbrl.registry import models, rules
from mbrl.registry.gates import LOG
from mbrl.registry.rules import Rules
from mbrl.report.dossier import PARTIES, intervals, stands
from mbrl.report.forest import Cloud, Stand, plot_forest, plot_judges
from mbrl.settings import Trial


class TrueEpisodes(NamedTuple):
    """True episodes that are to be played."""

    env: str | None
    episodes: int
    seed: int
    level: float  # coverage of the intervals of true returns


def measure(policy: str, played: TrueEpisodes) -> dict[str, Any]:
    """Policies in a true environment, from the same starts: the mean return of each, with its interval."""
    uris = appraisal.named(policy)
    found = {uri: _measured(uri, played) for uri in uris}
    answer = {"policy": policy, "env": played.env}
    return answer | (found[uris[0]] if len(uris) == 1 else {"policies": found})


def _measured(uri: str, played: TrueEpisodes) -> dict[str, Any]:
    env, episodes, seed, level = played
    assert env is not None
    actor = models.load_policy(uri)
    environments.check_spaces(env, actor.spec, uri)
    returns = playing.true_returns(acting(actor), env, episodes, seed)
    estimate = bootstrap(returns, level, seed)
    print(f"{uri} in {env}: {shown(estimate)} (mean and {level:.0%} interval of {episodes} undiscounted returns)")
    return {**estimate.to_dict(), "returns": returns.tolist()}


def compare(
    policy: str, played: TrueEpisodes, data: str | None, estimators: str | None, judge: bool, trial: Trial
) -> dict[str, Any]:
    """Policies on a log beside the log itself, behaviour cloning and champions; with the truth if asked for."""
    said = rules.read(trial.rules)
    kinds = tuple(part.strip() for part in estimators.split(",")) if estimators else said.kinds
    found = appraisal.cases(appraisal.named(policy), data, kinds, trial, said)
    answer = {"policy": policy, **appraisal.table(found, said)}
    true = Truth({}, {})
    if played.env is not None:
        true = appraisal.truth(found, played.env, played.episodes, played.seed, played.level)
        answer |= {"env": played.env, "true": {str(gamma): plain(values) for gamma, values in true.values.items()}}
    _tell(answer, true.values)
    for kind, gamma in true.cut(appraisal.discounts(found)).items():
        print(
            f"{kind}: {played.env} cuts episodes, and {true.beyond[gamma]:.0%} of the weight at discount {gamma:g} lies"
            " beyond: its values count those steps, the true ones do not"
            + (", so that neither error nor coverage is told" if judge else "")
        )
    labels, log = [origin.label for case in found for origin in case.origins], answer["data"]["id"]
    path = appraisal.picture_path(labels, log, "judges" if judge else "estimates")
    path.unlink(missing_ok=True)  # of an earlier evaluation
    if judge:
        worth = appraisal.scores(found, true, said)
        if clouds := _clouds(found, true, said):
            plot_judges(path, clouds, f"Estimates over true values, {log}")
        answer["scores"] = {kind: row._asdict() for kind, row in worth.items()}
        _tell_scores(worth)
    elif panels := _stands(found, true.values.get(1.0, {})):
        plot_forest(path, panels, f"Policies on {log}", PARTIES)
    drawn = path.exists()
    print(f"picture: {path}" if drawn else "no picture: no estimator answered")
    return {**answer, "picture": str(path) if drawn else None}


def select(name: str, versions: list[int] | None, data: str | None, trial: Trial) -> dict[str, Any]:
    """The version that the evidence carries, or what stays; see `stages.select`."""
    said = rules.read(trial.rules)
    wanted = ",".join(f"models:/{name}-policy/{number}" for number in versions or ()) or f"models:/{name}-policy"
    uris = appraisal.named(wanted)
    found = appraisal.cases(uris if versions else appraisal.judgeable(uris), data, said.kinds, trial, said)
    chosen = selection.select(found, said, trial)
    for label, verdict in chosen.verdicts.items():
        gain = chosen.gains[label]
        told = "not every kind has an estimate" if gain is None else f"gain over the log {small(gain)} spreads"
        liking = chosen.preferences[label]
        liked = "" if liking is None else f"; to choose by: {liking:.2f}"
        print(f"{label}: {verdict.outcome}; {told}{liked}")
        for reason in () if verdict.promote else verdict.reasons:
            print(f"    {reason}")
    if chosen.selected is None:
        print(f"none is selected; what stays: {chosen.kept}")
    else:
        print(f"selected: {chosen.selected}")
    if chosen.refused_champion is not None:
        away = f"mbrl withdraw {name} --alias champion"
        print(
            f"{chosen.refused_champion} reigns, and these rules would not promote it: `{away}` puts nobody in its place"
        )
    return {
        "name": name,
        "selected": chosen.selected,
        "kept": None if chosen.selected else chosen.kept,
        "refused_champion": chosen.refused_champion,
        "verdicts": {label: verdict.to_dict() for label, verdict in chosen.verdicts.items()},
        "combined_gain_in_spreads": {k: None if gain is None else plain(gain) for k, gain in chosen.gains.items()},
        "preference_in_spreads": dict(chosen.preferences),
    }


def _tell(answer: Mapping[str, Any], true: Mapping[float, Mapping[str, Estimate]]) -> None:
    """A line for each kind and policy."""
    for kind, rows in answer["estimates"].items():
        refused = answer["refused"].get(kind, {})
        if LOG in refused:
            print(f"{kind}: no estimate: {refused[LOG]}")
            continue
        gamma = answer["discount"][kind]
        print(f"{kind}, {'undiscounted' if gamma == 1 else f'discount {gamma:g}'}:")
        for name, row in rows.items():
            value = Estimate(row["value"], row["low"], row["high"], row["effective_n"])
            truth = f"   true {shown(true[gamma][name])}" if name in true.get(gamma, {}) else ""
            print(f"  {name:<28} {shown(value)}{truth}{recited(row['diagnostics'])}")
        for name, reason in refused.items():
            print(f"  {name:<28} no estimate: {reason}")
    for kind, other in answer["repeats"].items():
        if kind not in answer["estimates"]:
            print(f"{kind}: not counted: no step is trusted, so it would repeat {other}")


def _tell_scores(worth: Mapping[str, Score]) -> None:
    print(f"{'':<12}" + "".join(f"{head.replace('_', ' '):>18}" for head in Score._fields))
    for kind, row in worth.items():
        cells = ["-" if cell is None else f"{cell:.3g}" for cell in row]
        print(f"{kind:<12}" + "".join(f"{cell:>18}" for cell in cells))


def _stands(found: Sequence[Case], true: Mapping[str, Estimate]) -> list[Stand]:
    """The panels of all cases: of several runs, each kind has a panel for each of them."""
    panels = [panel for case in found for panel in stands(case.heard.opinions, {})]
    return [*panels, *stands({}, true)]


def _clouds(found: Sequence[Case], true: Truth, rules: Rules) -> list[Cloud]:
    clouds = []
    for kind, gamma in appraisal.discounts(found).items():
        if said := appraisal.said(found, kind):
            discount = "undiscounted" if gamma == 1 else f"discount {gamma:g}"
            truth = [true.values[gamma][label].value for label in said]
            clouds.append(Cloud(kind, f"return, {discount}", truth, list(intervals(said).values())))
    gains, gained = appraisal.combined(found, true, rules)
    if gains:
        truth = [gained[label] for label in gains]
        clouds.append(Cloud(COMBINED, "gain over the log, in spreads", truth, list(intervals(gains).values())))
    return clouds
