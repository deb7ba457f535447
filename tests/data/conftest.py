import pipeline_toys
import pytest


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline_toys.coarse(monkeypatch)
