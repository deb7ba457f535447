"""The page of `mbrl audit`: every finding, what it does to learning and what to change, with pictures, in one file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

import mbrl
from mbrl import files
from mbrl.data.audit import Audit
from mbrl.data.findings import SEVERITIES
from mbrl.report.audit_plots import plot_episodes, plot_freedom, plot_rows
from mbrl.report.style import data_uri

_PAGE = "audit.html.j2"


def write_page(path: Path, audit: Audit) -> None:
    """Write the audit as one HTML file that needs no other, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is untouched.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mbrl.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    free = audit.freedom
    pictures = {
        "episodes": _picture(plot_episodes, audit.data),
        "freedom": None if free is None else _picture(plot_freedom, free),
    }
    findings = [
        (finding, _picture(plot_rows, audit.data, finding) if finding.rows and finding.kind != "not finite" else None)
        for finding in audit.findings
    ]
    text = environment.get_template(_PAGE).render(
        data=audit.data,
        version=mbrl.__version__,
        verdict=_verdict(audit),
        counts=audit.to_dict()["counts"],
        severities=SEVERITIES,
        findings=findings,
        pictures=pictures,
    )
    with files.replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _verdict(audit: Audit) -> str:
    if audit.serious:
        return "Mend this log before anything is learned from it."
    return "Nothing serious: this log can be learned from." if audit.findings else "Nothing was found."


def _picture(plot: Callable[..., None], *what: Any) -> str:
    """A plot as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        plot(path, *what)
        return data_uri(path)
