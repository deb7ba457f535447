"""The flat cache beside a Minari data set: true of its source, or made anew; and sources that are damaged."""

import os
import subprocess
import sys
from pathlib import Path

import minari as library
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from minari_toys import LINE, PUSH, TWO, episode, folder

from mbrl.data import minari
from mbrl.files import CorruptFileError

ROOT = Path(__file__).resolve().parents[2]


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
