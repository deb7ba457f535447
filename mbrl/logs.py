"""The log of a run: read, divided, and looked at before anything is learned from it."""

from __future__ import annotations

from mbrl.assessment import figure
from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.data.division import divide
from mbrl.data.sight import seen
from mbrl.report.audit_page import write_page
from mbrl.report.console import tell
from mbrl.settings import Data
from mbrl.worlds import Desk, Log


def read(data: Data, seed: int, needs_terminals: bool) -> Log:
    """The data set that the settings name, with its history, and its episodes by purpose.

    Raises:
        ValueError: there is none, or it cannot be divided so; see `mbrl.data.minari.load`, `seen`, `divide`.
    """
    plain = minari.load(data.id, data.download)
    rows = seen(plain, data.history, seed)
    return Log(plain, rows, divide(rows, data.split, seed, needs_terminals=needs_terminals))


def told(log: Log, asked: bool) -> None:
    """Say what was read; `asked`, that its history is the one that the log asks for."""
    data = log.data
    said = f"{len(data):,} rows, {data.episodes:,} episodes, mean return {figure(float(data.returns().mean()))}"
    if data.history > 1:
        said += f", windows of {data.history} observations{', as the log asks for' if asked else ''}"
    elif asked:
        said += ", one observation at a time, as older ones are not seen to say more"
    tell("log", f"{data.id}: {said}")


def audited(log: Log, desk: Desk, seed: int, strict: bool) -> None:
    """Tell and keep what is wrong with the log, once in a run.

    Raises:
        ValueError: something serious is, and `strict`.
    """
    if desk.folder.facts.get("audited"):
        return
    with desk.record.stage("audit") as stage:
        found = audit(log.plain, sides=log.episodes.sides, seed=seed, history=log.data.history)
        page = desk.folder.path / "audit.html"
        write_page(page, found)
        stage.dict(found.to_dict(), "audit.json")
        stage.file(page)
        for finding in found.findings:
            tell("audit", finding.line())
        tell("audit", f"{len(found.serious)} serious of {len(found.findings)} finding(s); {page}")
        if strict and found.serious:
            raise ValueError(
                f"the audit of {log.data.id} has {len(found.serious)} serious finding(s), see {page}: mend the log,"
                " or set data.strict to false"
            )
    desk.folder.remember(audited=True)
