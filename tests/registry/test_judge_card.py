"""The report card of a run's second simulator: a page with the run, bound to no version."""

import json
from pathlib import Path

import pytest
from card_toys import mill_card
from mlflow import MlflowClient

from mbrl import inspection
from mbrl.registry import store
from mbrl.registry.runs import RunLog


def test_the_page_is_in_the_folder_and_with_the_run(log: RunLog, tmp_path):
    card = mill_card()
    with log:
        page = inspection.keep_judge(card, "mill", log, tmp_path)
    assert page == tmp_path / "judge-card.html"
    assert "the second simulator of mill" in page.read_text()
    client = MlflowClient(store.connect())
    (tmp_path / "fetched").mkdir()
    stored, numbers = (
        Path(client.download_artifacts(log.run_id, name, str(tmp_path / "fetched"))).read_text()
        for name in ("judge-card.html", "judge-card.json")
    )
    assert stored == page.read_text()
    assert json.loads(numbers) == json.loads(json.dumps(card.numbers))
    assert page.with_suffix(".json").read_text() == numbers
    assert "beside it in the JSON file of its name" in stored
    assert client.search_registered_models() == []


def test_a_folder_that_cannot_be_written_is_an_error(log: RunLog, tmp_path):
    (tmp_path / "file").write_text("")
    with log, pytest.raises(OSError, match="file"):
        inspection.keep_judge(mill_card(), "mill", log, tmp_path / "file")
