"""Minari data sets that others have written or that have to be fetched."""

import json

import minari as library
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari_toys import LINE, PUSH, TWO, buffer, folder, store

from mbrl.data import minari


def test_nested_observations_are_flattened_as_gymnasium_does() -> None:
    space = spaces.Dict({"b": spaces.Box(-9, 9, (2,)), "a": spaces.Tuple((spaces.Box(-9, 9, (1, 2), np.float64),))})
    values = {"b": np.arange(6.0).reshape(3, 2), "a": (np.arange(10.0, 16).reshape(3, 1, 2),)}
    store("toy/nested-v0", space, spaces.Box(-1, 1, (1, 2)), buffer(values, [[[0.1, 0.2]], [[0.3, 0.4]]]))
    data = minari.load("toy/nested-v0")
    sample = {"b": values["b"][0].astype(np.float32), "a": (values["a"][0][0],)}
    assert data.obs[0].tolist() == spaces.flatten(space, sample).tolist()
    assert data.next_obs[1].tolist() == [14, 15, 4, 5]
    assert data.action.tolist() == torch.tensor([[0.1, 0.2], [0.3, 0.4]]).tolist()


def test_discrete_actions_become_one_hot_rows_from_their_start() -> None:
    store("toy/choice-v0", LINE, spaces.Discrete(3, start=-1), buffer(np.zeros((3, 1), np.float32), [1, -1]))
    data = minari.load("toy/choice-v0")
    assert data.action.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert data.action_channels == ("action=-1", "action=0", "action=1")


def test_flags_in_the_middle_stay_and_an_unfinished_end_is_a_truncation() -> None:
    store("toy/flags-v0", LINE, PUSH, buffer(np.zeros((3, 1), np.float32), [[0.0], [0.0]], ended=(True, False)))
    data = minari.load("toy/flags-v0")
    assert data.terminated.tolist() == [True, False]
    assert data.truncated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("space", "action_space", "logged", "message"),
    [
        (LINE, spaces.Discrete(2), buffer(np.zeros((3, 1), np.float32), [0, 2]), r"outside of Discrete\(2\)"),
        (LINE, spaces.MultiDiscrete([2, 2]), buffer(np.zeros((3, 1)), [[0, 1], [1, 1]]), "MultiDiscrete"),
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), PUSH, buffer(np.zeros((3, 4, 4, 3)), [[0.0], [0.0]]), "images"),
        (LINE, PUSH, buffer(np.array([[0], [np.nan], [0]]), [[0.0], [0.0]]), "observation of episode 0.*step 1"),
        (LINE, PUSH, buffer(np.zeros((3, 1)), [[0.0], [np.inf]]), "action of episode 0.*step 1"),
        (LINE, PUSH, buffer(np.zeros((3, 1)), [[0.0], [0.0]], rewards=(0.0, np.nan)), "reward of episode 0.*step 1"),
    ],
)
def test_foreign_data_that_cannot_be_learned_from_is_refused(
    space: spaces.Space, action_space: spaces.Space, logged: EpisodeBuffer, message: str
) -> None:
    store("toy/odd-v0", space, action_space, logged)
    with pytest.raises(ValueError, match=message):
        minari.load("toy/odd-v0")


def test_a_missing_data_set_names_the_command() -> None:
    with pytest.raises(FileNotFoundError, match=r"`minari download toy/line-v0` or `mbrl run --data.download true`"):
        minari.load("toy/line-v0")
    assert not minari.exists("toy/line-v0")


@pytest.mark.parametrize("failure", [ImportError("no huggingface_hub"), OSError("offline"), KeyError("gs")])
def test_a_failed_download_is_one_clear_error_and_leaves_nothing(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(id: str) -> None:
        print("downloading")
        (folder(id) / "data").mkdir(parents=True)
        (folder(id) / "data" / "metadata.json").write_text(json.dumps({}))
        raise failure

    monkeypatch.setattr(library, "download_dataset", download)
    with pytest.raises(ConnectionError, match=f"{type(failure).__name__}.*minari download toy/line-v0"):
        minari.load("toy/line-v0", download=True)
    assert not folder("toy/line-v0").exists()
    assert capsys.readouterr().out == ""


def test_a_download_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "download_dataset", lambda id: minari.write(id, TWO, LINE, PUSH))
    assert len(minari.load("toy/line-v0", download=True)) == 3
