import pytest

from mbrl.data import refit


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refits on a third of the landmarks and of the epochs: plants as simple as these need no more."""
    monkeypatch.setattr(refit, "LANDMARKS", 100)
    monkeypatch.setattr(refit, "EPOCHS", 50)
