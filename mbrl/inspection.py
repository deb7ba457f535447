"""The report card of a simulator: made on the episodes that were held out for it, written, and bound to its version."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbrl import __version__, files
from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide, halves
from mbrl.data.history import windowed
from mbrl.registry import cards, models
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.runs import RunLog
from mbrl.report.card import write_page
from mbrl.simulator.card import Card, report_card
from mbrl.simulator.simulator import Simulator

EXPERIMENT = "mbrl"
PACKAGES = ("torch", "gymnasium", "minari", "mujoco")  # whose versions a card names, where they are installed


def about(simulator: Simulator, fitted_on: tuple[str, str], seed: int | None) -> dict[str, Any]:
    """What a reader has to know of a simulator to make it again; `fitted_on` is a log's id and fingerprint."""
    dynamics = simulator.dynamics
    return {
        "model": dynamics.config["class_path"],
        "members": dynamics.members,
        "elites": len(dynamics.elites),
        "recalibration": simulator.method,
        "history": simulator.spec.history,
        "memory": dynamics.memory,
        "fitted_on": fitted_on[0],
        "fitted_on_fingerprint": fitted_on[1],
        "seed": seed,
        "versions": {"offline-mbrl": __version__, **_installed()},
    }


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def keep(card: Card, label: str, record: RunLog, folder: Path, stem: str, own_log: bool) -> Path:
    """Write STEM.html and STEM.json to `folder`, log both to `record`, and bind them to the version `label`.

    Raises:
        OSError: the folder is not writable.
        StoreError: the store did not take it.
    """
    page = folder / f"{stem}.html"
    numbers = _logged(card, label, record, page, "card")
    cards.bind(label, record.run_id, card.numbers, own_log)
    _write(page.with_suffix(".json"), numbers)  # last: its presence says that all of it is done
    return page


def keep_judge(card: Card, name: str, record: RunLog, folder: Path) -> Path:
    """Write judge-card.html and .json to `folder`, and log both to `record`: the second simulator of run `name`.

    It has no version that this could be bound to: it is kept with the run, as a witness.

    Raises:
        OSError: the folder is not writable.
        StoreError: the store did not take it.
    """
    page = folder / "judge-card.html"
    _write(page.with_suffix(".json"), _logged(card, f"the second simulator of {name}", record, page, page.stem))
    return page


def _logged(card: Card, label: str, record: RunLog, page: Path, stem: str) -> str:
    """Write the page, log it as STEM.html and its numbers as STEM.json, and return these."""
    card.numbers["about"]["simulator"] = label
    numbers = json.dumps(card.numbers, indent=2, allow_nan=False) + "\n"
    write_page(page, card)
    record.text(page.read_text(), f"{stem}.html")
    record.text(numbers, f"{stem}.json")
    return numbers


def _write(path: Path, text: str) -> None:
    with files.replacing(path) as beside:
        beside.write_text(text)


def inspect(name: str, version: str | None, data_id: str | None, download: bool, seed: int) -> dict[str, Any]:
    """Make the card of a registered simulator; see `views.card`.

    Raises:
        ValueError: the log is not what the simulator was fitted on, or has no held-out episode to be told apart.
        StoreError: there is no such simulator.
    """
    found = cards.find(name, version)
    simulator = models.load_simulator(found.uri)
    data = windowed(minari.load(data_id or found.data_id, download), simulator.spec.history)
    own_log = data.fingerprint == found.data_fingerprint
    if data_id is None and not own_log:
        raise ValueError(
            f"{data.id} has fingerprint {data.fingerprint[:12]}, and {found.label} was fitted on"
            f" {found.data_fingerprint[:12]}: restore that log, or name another one (--data ID)"
        )
    held = _held(data, found) if own_log else torch.arange(data.episodes)
    fitted = (found.data_id, found.data_fingerprint)
    card = report_card(
        simulator,
        data,
        held,
        calibrated_on=held if own_log else torch.arange(0),
        seed=seed,
        about=about(simulator, fitted, found.seed),
        crossed=halves(data, held, found.seed or 0) if own_log else (),
    )
    stem = found.label.replace("/", "-") + ("" if own_log else f"-on-{data.id.replace('/', '-')}")
    with RunLog.open(EXPERIMENT, f"card of {found.label}") as record:
        record.tags(Lineage.of(data, found.label).tags())
        record.input(LoggedData(data), "validation")
        page = keep(card, found.label, record, files.home() / "cards", stem, own_log)
    return {**card.numbers, "page": str(page)}


def _held(data: TransitionDataset, found: cards.Version) -> Tensor:
    """The episodes that the simulator was not fitted on, and calibrated on."""
    if found.split is None or found.seed is None:
        raise ValueError(
            f"{found.label} was registered by a run that does not say how {data.id} was divided (data.split, seed), so"
            " no episode is known to be held out: name another log (--data ID)"
        )
    return divide(data, found.split, found.seed, needs_terminals=False).held
