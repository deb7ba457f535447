"""Minari data sets that are written here: whole or not at all, and read again as they were."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari as library
import pytest
import torch
from forks import forked
from minari_toys import LINE, PUSH, TWO, episode, folder

from mbrl import environments, playing
from mbrl.data import minari
from mbrl.environments import Box, Episode


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
    played = playing.record("CartPole-v1", lambda obs, rng: rng.integers(2), 2, seed=0)
    minari.write("toy/cart-v0", played, *environments.spaces("CartPole-v1"), env_id="CartPole-v1")
    data = minari.load("toy/cart-v0")
    assert (data.env_id, data.time_limit, data.discrete, data.action.shape[1]) == ("CartPole-v1", 500, True, 2)
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
    played = list(playing.record("myplant:MyPlant-v0", lambda obs, rng: rng.normal(size=1), 1, seed=0))
    minari.write("toy/mine-v0", played, *environments.spaces("myplant:MyPlant-v0"), env_id="myplant:MyPlant-v0")
    data = minari.load("toy/mine-v0")
    assert (data.env_id, data.time_limit) == ("myplant:MyPlant-v0", 5)
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


def write_slowly() -> None:
    def slow() -> Iterator[Episode]:
        yield TWO[0]
        print("going", flush=True)
        time.sleep(60)

    minari.write("toy/line-v0", slow(), LINE, PUSH)


def test_a_killed_import_is_invisible_and_swept_by_the_next(tmp_path: Path) -> None:
    child, told = forked(write_slowly, output=tmp_path / "told"), tmp_path / "told"
    deadline = time.monotonic() + 120
    try:
        while "going" not in told.read_text():
            assert child.is_alive(), told.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        minari.write("toy/other-v0", TWO, LINE, PUSH)
        assert len(list(folder("").glob(".mbrl-import-*"))) == 1  # of the living process: not swept
    finally:
        child.kill()
        child.join()
    assert set(library.list_local_datasets()) == {"toy/other-v0"}
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    assert not list(folder("").glob(".mbrl-import-*"))
    assert len(minari.load("toy/line-v0")) == 3
