import pytest
from mlflow import MlflowClient

from mbrl.registry import cards, store


def test_the_newest_simulator_is_found_and_one_without_versions_is_named(registry):
    assert cards.find("toy", None).label == "toy-simulator/2"
    assert cards.find("toy", "1").label == "toy-simulator/1"
    for version in ("1", "2"):
        MlflowClient(store.connect()).delete_model_version("toy-simulator", version)
    with pytest.raises(store.StoreError, match=r"toy-simulator has no version: all that there were are deleted"):
        cards.find("toy", None)


def test_a_simulator_that_somebody_else_registered_is_told_apart(registry):
    MlflowClient(store.connect()).delete_model_version_tag("toy-simulator", "2", "mbrl.data_id")
    with pytest.raises(ValueError, match=r"toy-simulator/2 has no tag mbrl.data_id"):
        cards.find("toy", "2")
