"""What a reader in MLflow sees of a version and of its run, as Markdown: pure text from facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mbrl.registry.decisions import Decision

PAGES = {  # stage of a run: what its page has to show
    "audit": "what is wrong with the log (audit.html)",
    "simulator": "the fit of the simulator",
    "card": "the simulator's report card (card.html)",
    "baseline": "the fit of behaviour cloning",
    "policy": "the rehearsal",
    "finetuning": "the true episodes, and what the old and the new policy returned (true_returns.json)",
    "judge": "the fit of the second simulator",
    "evidence": "the evidence, its pictures and rollouts (evidence.json, returns.png, rollouts.png)",
}


class Facts(NamedTuple):
    """What is known of one version of `NAME-policy`."""

    name: str
    version: str
    decision: Decision
    tags: Mapping[str, str]  # of the version: its data and its simulator
    simulator: Mapping[str, str]  # tags of the simulator's version: its report card
    params: Mapping[str, str]  # of the run
    run: tuple[str, str]  # ids of its experiment and of itself
    stages: Mapping[str, str]  # name: run id


def model_card(facts: Facts) -> str:
    """The description of the version."""
    policy, tags, card = f"{facts.name}-policy", facts.tags, facts.simulator
    learner = tags.get("mbrl.learner", "unknown")
    data, fingerprint = tags.get("mbrl.data_id", "unknown"), tags.get("mbrl.data_fingerprint", "unknown")
    rehearsed = tags.get("mbrl.simulator")
    lines = [
        f"# {policy}, version {facts.version}",
        "",
        f"A policy learned by `{learner}` from logs{_tried(tags)}.",
        "",
        "## Verdict",
        "",
        *_verdict(facts.decision, tags),
        "",
        "## Where it comes from",
        "",
        f"- Log: `{data}`, SHA-256 of its content `{fingerprint}`",
        f"- Rehearsed in: {_version(rehearsed)}" if rehearsed else "- Rehearsed in no simulator",
        f"- Made by: [the run]({_run(*facts.run)}), seed {facts.params.get('seed', 'unknown')}",
        *([f"- Fine-tuned from: {_version(tags['mbrl.finetuned_from'])}"] if "mbrl.finetuned_from" in tags else []),
        *([f"- Copied from: {tags['mbrl.copied_from']}"] if "mbrl.copied_from" in tags else []),
    ]
    if "mbrl.trusted_horizon" in card:
        lines += [
            "",
            "## How far its simulator can be trusted",
            "",
            f"- Grade: {card.get('mbrl.card_grade', 'unknown')}",
            f"- Trusted horizon, in steps: {card['mbrl.trusted_horizon']}",
            f"- Coverage of the 90 % interval: {_share(card.get('mbrl.coverage_90'))}",
        ]
    lines += [
        "",
        "## Use and limits",
        "",
        f'`mlflow.pyfunc.load_model("models:/{policy}/{facts.version}")` takes observations in the units of the log;'
        " normalisation and action bounds are inside, and every file is verified when it is loaded.",
        "",
        f"- Each row of an observation is, in this order: {tags.get('mbrl.observation', 'as in the log')}",
        f"- Each row of the answer is, in this order: {tags.get('mbrl.action', 'as in the log')}",
        "",
        "Meant for the plant that the log is from, in the states that the log covers. The verdict is evidence, not"
        " proof: its first steps on a real plant deserve a supervisor.",
        "",
        f"Every decision about it: `mbrl history {facts.name}`.",
    ]
    return "\n".join(lines) + "\n"


def run_page(facts: Facts) -> str:
    """The note on the page of the run: the verdict, and the way to everything else."""
    policy = f"{facts.name}-policy/{facts.version}"
    simulator = facts.tags.get("mbrl.simulator")
    lines = [
        f"# {facts.name}: {facts.decision.outcome}",
        "",
        *_verdict(facts.decision, facts.tags),
        "",
        "## What it made",
        "",
        f"- The policy: {_version(policy)}",
        *([f"- The simulator that it was rehearsed in: {_version(simulator)}"] if simulator else []),
        "",
        "## What it is made of",
        "",
        f"- The log: `{facts.tags.get('mbrl.data_id', 'unknown')}`",
        *(
            f"- [{stage}]({_run(facts.run[0], facts.stages[stage])}): {text}"
            for stage, text in PAGES.items()
            if stage in facts.stages
        ),
    ]
    return "\n".join(lines) + "\n"


def _tried(tags: Mapping[str, str]) -> str:
    if "mbrl.true_steps" not in tags:
        return " alone. It was never tried on the plant"
    return f" and from {tags['mbrl.true_steps']} steps in the true environment `{tags.get('mbrl.true_env')}`"


def _verdict(decision: Decision, tags: Mapping[str, str]) -> list[str]:
    unit = "Gains and losses are in standard deviations of the logged returns."
    if "mbrl.true_steps" in tags:
        unit = "Gains are of true returns, in their own unit."
    told = [f"**{decision.outcome}** by the rules {decision.rules_version}.", "", unit, ""]
    told += [f"- {reason}" for reason in decision.reasons]
    where = f"`{decision.evidence}`, " if decision.evidence else ""
    return [*told, f"- Evidence: {where}SHA-256 `{decision.evidence_hash}`"]


def _share(value: str | None) -> str:
    return "unknown" if value in (None, "None") else f"{float(value):.1%}"  # a tag is text, also where JSON had null


def _version(label: str) -> str:
    model, _, number = label.partition("/")
    return f"[{label}](#/models/{model}/versions/{number})"


def _run(experiment: str, run: str) -> str:
    return f"#/experiments/{experiment}/runs/{run}"
