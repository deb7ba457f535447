import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari as library
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from mbrl import environments
from mbrl.data import minari
from mbrl.environments import Box, Episode
from mbrl.files import CorruptFileError

ROOT = Path(__file__).resolve().parents[2]
LINE = Box(-np.inf, np.inf, (1,), np.float32)
PUSH = Box(-1, 1, (1,), np.float32)


def episode(*observations: float, terminated: bool = True) -> Episode:
    """A walk along the line: the action is half the step and the reward the observation arrived at."""
    seen = np.array(observations, np.float32)[:, None]
    ended = np.arange(len(seen) - 1) == len(seen) - 2
    return Episode(seen, np.diff(seen, axis=0) / 2, seen[1:, 0], ended & terminated, ended & (not terminated))


TWO = [episode(0, 1, 3), episode(5, 6, terminated=False)]


def folder(id: str) -> Path:
    return Path(os.environ["MINARI_DATASETS_PATH"]) / id


def store(id: str, observation: spaces.Space, action: spaces.Space, *buffers: EpisodeBuffer, **metadata: Any) -> None:
    """Somebody else's data set, written with Minari's own means."""
    path = folder(id) / "data"
    path.mkdir(parents=True)
    storage = MinariStorage.new(path, observation, action)
    storage.update_metadata({"dataset_id": id, "minari_version": library.__version__, **metadata})
    storage.update_episodes(buffers)


def buffer(observations: Any, actions: Any, rewards: Any = (1.0, 2.0), ended: Any = (False, True)) -> EpisodeBuffer:
    return EpisodeBuffer(
        observations=observations,
        actions=np.array(actions),
        rewards=list(rewards),
        terminations=list(ended),
        truncations=[False] * len(rewards),
    )


def test_what_is_written_is_read() -> None:
    path = minari.write("toy/line-v0", iter(TWO), LINE, PUSH)
    data = minari.load("toy/line-v0")
    assert path == folder("toy/line-v0")
    assert data.obs.tolist() == [[0], [1], [5]]
    assert data.next_obs.tolist() == [[1], [3], [6]]  # never the first observation of the next episode
    assert data.action.tolist() == [[0.5], [1], [0.5]]
    assert data.reward.tolist() == [1, 3, 6]
    assert data.terminated.tolist() == [False, True, False]
    assert data.truncated.tolist() == [False, False, True]
    assert data.episode.tolist() == [0, 0, 1]
    assert (data.discrete, data.action_low, data.action_high, data.env_id) == (False, (-1.0,), (1.0,), None)


def test_minari_lists_opens_and_deletes_it() -> None:
    minari.write("toy/nested/line-v3", TWO, LINE, PUSH, description="a line", algorithm="walk")
    minari.load("toy/nested/line-v3")
    (found,) = library.list_local_datasets().values()
    assert (found["dataset_id"], found["description"], found["algorithm_name"]) == (
        "toy/nested/line-v3",
        "a line",
        "walk",
    )
    assert library.namespace.list_local_namespaces() == ["toy", "toy/nested"]
    assert [len(e.rewards) for e in library.load_dataset("toy/nested/line-v3")] == [2, 1]
    library.delete_dataset("toy/nested/line-v3")
    assert not minari.exists("toy/nested/line-v3")


def test_the_environment_is_recorded() -> None:
    played = environments.record("CartPole-v1", lambda obs, rng: rng.integers(2), 2, seed=0)
    minari.write("toy/cart-v0", played, *environments.spaces("CartPole-v1"), env_id="CartPole-v1")
    data = minari.load("toy/cart-v0")
    assert (data.env_id, data.discrete, data.action.shape[1]) == ("CartPole-v1", True, 2)
    assert (data.action_low, data.action_high) == ((0.0, 0.0), (1.0, 1.0))
    assert torch.equal(data.action.sum(1), torch.ones(len(data)))
    assert library.load_dataset("toy/cart-v0").recover_environment().spec.id == "CartPole-v1"


def test_an_environment_from_a_module_is_recorded_by_its_full_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myplant.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "gym.register('MyPlant-v0', PendulumEnv, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    played = list(environments.record("myplant:MyPlant-v0", lambda obs, rng: rng.normal(size=1), 1, seed=0))
    minari.write("toy/mine-v0", played, *environments.spaces("myplant:MyPlant-v0"), env_id="myplant:MyPlant-v0")
    assert minari.load("toy/mine-v0").env_id == "myplant:MyPlant-v0"
    del gym.registry["MyPlant-v0"]


@pytest.mark.parametrize(
    "id",
    [
        *("line", "toy/line", "toy/line-v", "toy/line-v01", "t/line-v0", "toy//line-v0", "/line-v0", "../line-v0", ""),
        *("toy/data/line-v0", "toy/li ne-v0", "toy/line-v0/", "-toy/line-v0", "toy/liné-v0", "hf://x/toy/line-v0"),
    ],
)
def test_an_id_that_minari_would_choke_on_never_reaches_it(id: str) -> None:
    for call in (minari.load, lambda id: minari.write(id, TWO, LINE, PUSH)):
        with pytest.raises(ValueError, match="NAMESPACE/NAME-vN"):
            call(id)
    assert not Path(os.environ["MINARI_DATASETS_PATH"]).exists()


@pytest.mark.parametrize("id", ["line-v0", "D4RL/door/human-v2", "mujoco/hopper/medium-v0", "my_plant/run-1_b-v10"])
def test_good_ids_pass(id: str) -> None:
    assert minari.check_id(id) == id.rpartition("/")[0]


def test_a_taken_id_is_an_error_and_stays_as_it_is() -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    before = minari.load("toy/line-v0").fingerprint
    with pytest.raises(FileExistsError, match=r"toy/line-v0.*minari delete"):
        minari.write("toy/line-v0", TWO[:1], LINE, PUSH)
    with pytest.raises(FileExistsError, match="inside the data set"):
        minari.write("toy/line-v0/deeper/line-v0", TWO, LINE, PUSH)
    assert minari.load("toy/line-v0").fingerprint == before


def test_two_writers_of_one_id_leave_one_whole_data_set() -> None:
    def late() -> Any:
        yield TWO[0]
        minari.write("toy/line-v0", TWO, LINE, PUSH)
        yield TWO[1]

    with pytest.raises(FileExistsError, match="exists"):
        minari.write("toy/line-v0", late(), LINE, PUSH)
    assert len(minari.load("toy/line-v0")) == 3
    assert not list(folder("").glob(".mbrl-import-*"))


def test_a_failed_import_leaves_nothing() -> None:
    def broken() -> Any:
        yield TWO[0]
        raise RuntimeError("the log ends here")

    with pytest.raises(RuntimeError, match="ends here"):
        minari.write("toy/line-v0", broken(), LINE, PUSH)
    with pytest.raises(ValueError, match="no episode"):
        minari.write("toy/line-v0", [], LINE, PUSH)
    with pytest.raises(ValueError, match=r"observations of episode 0 are \[3, 1\], expected \[3, 2\]"):
        minari.write("toy/line-v0", TWO, Box(-1, 1, (2,)), PUSH)
    with pytest.raises(ValueError, match="at least one step"):
        minari.write("toy/line-v0", [episode(1)], LINE, PUSH)
    assert [p.name for p in folder("").iterdir()] == [".mbrl.lock"]
    assert library.list_local_datasets() == {}


def test_a_killed_import_is_invisible_and_swept_by_the_next() -> None:
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_minari_sets import LINE, PUSH, TWO, minari
def slow():
    yield TWO[0]
    print("going", flush=True)
    time.sleep(60)
minari.write("toy/line-v0", slow(), LINE, PUSH)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "going\n"
        minari.write("toy/other-v0", TWO, LINE, PUSH)
        assert len(list(folder("").glob(".mbrl-import-*"))) == 1  # of the living process: not swept
        child.send_signal(signal.SIGKILL)
    assert set(library.list_local_datasets()) == {"toy/other-v0"}
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    assert not list(folder("").glob(".mbrl-import-*"))
    assert len(minari.load("toy/line-v0")) == 3


def cache(id: str = "toy/line-v0") -> Path:
    (path,) = (folder(id) / ".mbrl").iterdir()
    return path


def test_the_second_load_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    first = minari.load("toy/line-v0")
    assert first.fingerprint[:16] in cache().name
    monkeypatch.setattr(library, "load_dataset", None)  # would be a TypeError if it were called
    second = minari.load("toy/line-v0")
    assert second.fingerprint == first.fingerprint
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())
    assert (second.action_low, second.action_high, second.env_id) == (first.action_low, first.action_high, None)


def test_a_changed_source_is_noticed_and_the_old_cache_removed() -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    first, old = minari.load("toy/line-v0"), cache()
    more = TWO[1]
    library.load_dataset("toy/line-v0").update_dataset_from_buffer(
        [
            EpisodeBuffer(
                observations=more[0], actions=more[1], rewards=more[2], terminations=more[3], truncations=more[4]
            )
        ]
    )
    second = minari.load("toy/line-v0")
    assert (len(first), len(second)) == (3, 4)
    assert second.fingerprint != first.fingerprint
    assert cache() != old


def test_a_cache_of_another_version_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    with monkeypatch.context() as other:
        other.setattr(minari.cache, "_FIELDS", "0" * 8)
        minari.load("toy/line-v0")
        old = cache()
    minari.load("toy/line-v0")
    assert old.name.startswith("flat-00000000-")
    assert cache() != old


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_cache_is_named_and_safe_to_delete(damage: str) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    first = minari.load("toy/line-v0")
    raw = bytearray(cache().read_bytes())
    raw[len(raw) // 2] ^= 1
    cache().write_bytes(raw if damage == "flip" else raw[:-10])
    with pytest.raises(CorruptFileError, match=f"{cache().name}.*delete it, and it is rebuilt"):
        minari.load("toy/line-v0")
    cache().unlink()
    assert minari.load("toy/line-v0").fingerprint == first.fingerprint


def test_a_damaged_data_set_is_named() -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    (folder("toy/line-v0") / "data" / "main_data.hdf5").write_bytes(b"not hdf5")
    with pytest.raises(CorruptFileError, match=r"toy/line-v0/data cannot be read.*import or download"):
        minari.load("toy/line-v0")
    (folder("toy/line-v0") / "data" / "main_data.hdf5").unlink()
    with pytest.raises(CorruptFileError, match="No data found"):
        minari.load("toy/line-v0")


def test_a_cache_that_cannot_be_written_only_warns() -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    (folder("toy/line-v0") / ".mbrl").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be written"):
        assert len(minari.load("toy/line-v0")) == 3


def test_two_processes_may_load_at_once() -> None:
    minari.write("toy/line-v0", [episode(*range(50))] * 40, LINE, PUSH)
    code = "from mbrl.data import minari; print(minari.load('toy/line-v0').fingerprint)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    said = {child.communicate()[0].strip() for child in children}
    assert said == {minari.load("toy/line-v0").fingerprint}
    assert cache().suffix == ".pt"


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
    assert minari.load("toy/choice-v0").action.tolist() == [[0, 0, 1], [1, 0, 0]]


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
    with pytest.raises(FileNotFoundError, match=r"`minari download toy/line-v0` or `--data.download true`"):
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
