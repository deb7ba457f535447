"""The flat cache beside a Minari data set: true of its source, or made anew; and sources that are damaged."""

import copy
import errno
import os
import shutil
from pathlib import Path

import minari as library
import numpy as np
import pytest
import torch
from forks import forked
from minari.data_collector import EpisodeBuffer
from minari_toys import LINE, PUSH, TWO, episode, folder

from mbrl.data import minari
from mbrl.data.mapped import new_array
from mbrl.files import CorruptFileError


def cache(id: str = "toy/line-v0") -> Path:
    (path,) = (folder(id) / ".mbrl").glob("flat*")
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


@pytest.mark.parametrize("file", ["obs.npy", "about.pt"])
@pytest.mark.parametrize("damage", ["cut", "flip", "lose"])
def test_a_damaged_cache_is_named_and_safe_to_delete(damage: str, file: str) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    first = minari.load("toy/line-v0")
    path = cache() / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw if damage == "flip" else raw[:-10])
    if damage == "lose":
        path.unlink()
    with pytest.raises(CorruptFileError, match=f"{file}.*{cache().name} is only a cache: delete it, and it is rebuilt"):
        minari.load("toy/line-v0")
    shutil.rmtree(cache())
    assert minari.load("toy/line-v0").fingerprint == first.fingerprint


def test_a_cached_log_lies_in_files_whose_pages_come_and_go() -> None:
    minari.write("toy/line-v0", [episode(*range(1000))] * 40, LINE, PUSH)
    data = minari.load("toy/line-v0")
    held = copy.deepcopy(data)
    assert data.mapped is not None
    assert held.mapped is not None
    assert held.mapped.maps == ()  # a copy is in memory
    assert len(data.mapped.maps) == len(data.tensors)
    assert torch.equal(data.obs, held.obs)
    before = resident(cache() / "obs.npy")
    data.mapped.let_go()
    assert before >= 40_000 * 4
    assert resident(cache() / "obs.npy") == 0
    taken = data.batch(torch.arange(len(data)))
    assert resident(cache() / "obs.npy") == 0
    assert torch.equal(taken.obs, held.obs)
    assert data.spec(torch.arange(data.episodes)) == held.spec(torch.arange(data.episodes))


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    rss = [next(line for line in lines if line.startswith("Rss:")) for head in lines if head.endswith(str(path))]
    return sum(int(line.split()[1]) * 1024 for line in rss)


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


def say() -> None:
    print(minari.load("toy/line-v0").fingerprint, flush=True)


def test_two_processes_may_load_at_once(tmp_path: Path) -> None:
    minari.write("toy/line-v0", [episode(*range(50))] * 40, LINE, PUSH)
    said = [tmp_path / "one", tmp_path / "two"]
    children = [forked(say, output=path) for path in said]
    for child in children:
        child.join()
    assert {path.read_text().strip() for path in said} == {minari.load("toy/line-v0").fingerprint}
    assert sorted(file.name for file in cache().iterdir())[:2] == ["about.pt", "action.npy"]


def test_a_cache_for_which_the_disk_is_too_small_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, _: np.ndarray) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    minari.write("toy/line-v0", TWO, LINE, PUSH)
    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="could not be written.*No space left"):
        assert len(minari.load("toy/line-v0")) == 3
    assert [file.name for file in (folder("toy/line-v0") / ".mbrl").iterdir()] == [".mbrl.lock"]


def test_a_process_that_was_slower_takes_the_cache_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    minari.load("toy/line-v0")
    with monkeypatch.context() as later:
        later.setattr(minari.cache, "read", lambda *_: None)
        assert len(minari.load("toy/line-v0")) == 3
    assert (cache() / "obs.npy").exists()


def test_the_cache_of_a_data_set_that_lies_elsewhere_is_made_there(tmp_path: Path) -> None:
    minari.write("toy/line-v0", TWO, LINE, PUSH)
    folder("toy/line-v0").rename(tmp_path / "elsewhere")
    folder("toy/line-v0").symlink_to(tmp_path / "elsewhere")
    minari.load("toy/line-v0")
    assert len(list((tmp_path / "elsewhere" / ".mbrl").glob("flat*/obs.npy"))) == 1


def test_columns_are_made_in_files_that_have_their_room_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = new_array(tmp_path, "obs", (1000, 3), np.float32)
    array[:] = 2
    assert isinstance(array, np.memmap)
    assert (tmp_path / "obs.npy").stat().st_blocks * 512 >= 12_000
    assert np.load(tmp_path / "obs.npy").sum() == 6000

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    held = new_array(tmp_path, "action", (2,), np.float32)
    assert (held.tolist(), isinstance(held, np.memmap)) == ([0, 0], False)
    assert not (tmp_path / "action.npy").exists()
    assert new_array(None, "action", (2,), np.int64).tolist() == [0, 0]
