import json
import re
from pathlib import Path

import numpy as np
import pytest
from audit_toys import FAULTS, plant

from mbrl.__main__ import main
from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.environments import Box, Episode
from mbrl.report.audit_page import write_page

pytestmark = pytest.mark.usefixtures("coarse")


def test_the_page_needs_no_other_file_and_tells_every_finding(tmp_path: Path) -> None:
    found = audit(FAULTS["wild values"][1](plant()))
    write_page(tmp_path / "audit.html", found)
    text = (tmp_path / "audit.html").read_text()
    assert all(finding.remedy in text.replace("&#39;", "'") for finding in found.findings)
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 2 + sum(bool(f.rows) for f in found.findings)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "Mend this log before anything" in text


@pytest.mark.usefixtures("undrawn")
def test_names_in_the_page_are_text(tmp_path: Path) -> None:
    data = FAULTS["a dead sensor"][1](plant())
    object.__setattr__(data, "channels", ("<script>", "flow", "heat"))
    write_page(tmp_path / "audit.html", audit(data))
    text = (tmp_path / "audit.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt; is 4 in every row" in text


def store(planted: str | None) -> None:
    """A log of the plant as toy/log-v0."""
    data = FAULTS[planted][1](plant()) if planted else plant()
    episodes = []
    for first, length in zip(data.first.tolist(), data.lengths.tolist(), strict=True):
        rows = slice(first, first + length)
        seen = [*data.obs[rows].numpy(), data.next_obs[first + length - 1].numpy()]
        values = (data.action, data.reward, data.terminated, data.truncated)
        episodes.append(Episode(np.array(seen), *(v[rows].numpy() for v in values)))
    minari.write("toy/log-v0", episodes, Box(-1e9, 1e9, (3,)), Box(-2, 2, (2,)))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("planted", "strict", "status"), [(None, 1, 0), ("wild values", 0, 0), ("wild values", 1, 1)])
def test_the_command_and_its_exit_status(
    planted: str | None, strict: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(planted)
    assert main(["audit", "toy/log-v0", "--json", *["--strict"] * strict]) == status
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert Path(answer["page"]) == tmp_path / "home" / "audits" / "toy-log-v0.html"
    assert Path(answer["page"]).read_text().startswith("<!DOCTYPE html>")
    assert ("error" in answer) == bool(status)
    assert answer["counts"]["serious"] == (1 if planted else 0)
    if planted:
        assert answer["findings"][0]["rows"] == [40, 900, 1700]
        assert "what to change: correct or remove them" in captured.err


def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "toy/none-v0"]) == 1
    assert "minari download toy/none-v0" in capsys.readouterr().err
    assert main(["audit"]) == 2
