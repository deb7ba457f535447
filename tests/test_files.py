"""Files that are whole or absent, whatever happens while they are written, and verified before they are read."""

import errno
import hashlib
import io
import os
import pickle
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl.files import MAGIC, CorruptFileError, home, load, replacing, save, sha256, sweep

CONTENT = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "step": 7,
    "config": {"class_path": "a.B", "init_args": {"x": [1, 2]}},
}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_home_is_an_absolute_path_that_the_user_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("MBRL_HOME", raising=False)
    assert home() == tmp_path / ".mbrl"
    for value, wanted in [("", ".mbrl"), ("state", "state"), ("~/state", "user/state"), ("/var/state", "/var/state")]:
        monkeypatch.setenv("MBRL_HOME", value)
        assert home() == tmp_path / wanted
    assert names(tmp_path) == []  # asking creates nothing


def test_replacing_makes_the_folder_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    for text in ("old", "new"):
        with replacing(path) as beside:
            assert beside.parent == path.parent
            beside.write_text(text)
        assert path.read_text() == text
        assert names(path.parent) == ["file.txt"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("ne")
        assert path.read_text() == "old"
        beside.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_failed_write_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as beside:
            beside.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "old"


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "file.txt"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_the_data_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file.txt", []
    fsync = os.fsync

    def recording(handle: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recording)
    with replacing(path) as beside:
        beside.write_text("text")
    assert seen == [(False, False), (True, True)]  # the file before the rename, its folder after


class FullDisk:
    """A file that takes a few bytes and then has no space left."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if len(data) > self.room:
            self.file.write(data[: self.room])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return int(self.file.write(data))

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *raised: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 90, 500])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, old: bool
) -> None:
    path = tmp_path / "last.ckpt"
    if old:
        save(path, {"step": 6})
    real = Path.open

    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        file = real(self, mode, **options)
        return FullDisk(file, room) if "w" in mode else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left on device: make room there, or write elsewhere") as raised:
            save(path, CONTENT)
    assert raised.value.filename == str(path)
    assert raised.value.errno == errno.ENOSPC
    assert names(tmp_path) == (["last.ckpt"] if old else [])
    if old:
        assert load(path) == {"step": 6}


def test_what_killed_writers_have_left_is_swept_up_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    kept = [".mbrl", ".judge.stage.lock", "policy.ckpt", ".a.0123456789ab", "judge/.b.0123456789ax.ckpt"]
    for name in [*kept[:3], kept[4], ".policy.0123456789ab.ckpt", "judge/.dynamics.fedcba987654.ckpt"]:
        (tmp_path / name).touch()
    (tmp_path / kept[3]).mkdir()  # a folder of somebody's
    (tmp_path / ".policy.aaaaaaaaaaaa.ckpt").touch()  # which somebody may be writing
    for path in tmp_path.rglob("*"):
        if "aaaa" not in path.name:
            os.utime(path, (1e9, 1e9))
    sweep(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} - {"judge"}
    assert left == {*kept, ".policy.aaaaaaaaaaaa.ckpt"}


def test_only_of_a_full_disk_it_is_said_that_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^no such handle$"), replacing(tmp_path / "a.txt"):
        raise OSError("no such handle")


def test_save_then_load(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    digest = save(path, CONTENT)
    found = load(path)
    assert torch.equal(found.pop("weights"), CONTENT["weights"])
    assert found == {k: v for k, v in CONTENT.items() if k != "weights"}
    head, payload = path.read_bytes().split(b"\n", 1)
    assert head == b"mbrl-1 sha256 " + digest.encode()
    assert digest == hashlib.sha256(payload).hexdigest()


def test_loaded_tensors_go_to_the_device_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "a", CONTENT)
    assert load(tmp_path / "a", "meta")["weights"].device.type == "meta"


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:100],
        lambda raw: raw + b"\0",
        lambda raw: flip(raw, len(raw) - 1),
        lambda raw: flip(raw, len(raw) // 2),
        lambda raw: flip(raw, 20),
    ],
    ids=["one byte short", "mostly gone", "one byte more", "last bit", "middle bit", "bit of the digest"],
)
def test_a_damaged_file_is_named_with_both_digests(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "last.ckpt"
    save(path, CONTENT)
    path.write_bytes(damage(path.read_bytes()))
    wanted, payload = path.read_bytes()[14:78].decode(), path.read_bytes()[79:]
    found = hashlib.sha256(payload).hexdigest()
    assert wanted != found
    with pytest.raises(
        CorruptFileError, match=re.escape(f"{path} is truncated or altered: SHA-256 is {found}, ")
    ) as raised:
        load(path)
    assert wanted in str(raised.value)


@pytest.mark.parametrize("raw", [b"", b"mbrl-1 sha", b"PK\x03\x04", b"mbrl-1 sha256 " + b"0" * 65, b"mbrl-2 sha256 "])
def test_a_foreign_file_is_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(raw)
    with pytest.raises(CorruptFileError, match=re.escape(f"{path} does not begin like a file that mbrl wrote")):
        load(path)


def test_a_plain_torch_file_is_foreign(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "a.pt")
    with pytest.raises(CorruptFileError, match="truncated, altered or foreign"):
        load(tmp_path / "a.pt")


def test_a_missing_file_is_missing_not_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        load(tmp_path / "last.ckpt")


class Trap:
    """Runs code when it is unpickled as an object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_no_object_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"trap": Trap()}, buffer)
    payload = buffer.getvalue()
    (tmp_path / "a").write_bytes(MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    save(tmp_path / "a", {"fine": 1})
    for content in ({"trap": Trap()}, {"path": tmp_path}, {"number": np.float64(1.0)}):
        with pytest.raises(ValueError, match="more than tensors and plain values"):
            save(tmp_path / "a", content)
    assert load(tmp_path / "a") == {"fine": 1}
    assert names(tmp_path) == ["a"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.npz") as beside:
        np.savez(beside, x=np.ones(2))
    assert names(tmp_path) == ["a.npz"]
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [1.0, 1.0]


def test_sha256_of_a_file_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def tree(root: Path, content: dict[str, str]) -> str:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return sha256(root)


def test_sha256_of_a_folder_covers_names_and_content(tmp_path: Path) -> None:
    base = {"a.txt": "1", "sub/b.txt": "2"}
    digest = tree(tmp_path / "0", base)
    assert tree(tmp_path / "1", dict(reversed(base.items()))) == digest  # whatever the order of writing
    assert tree(tmp_path / "2", {"a.txt": "1", "sub/b.txt": "3"}) != digest
    assert tree(tmp_path / "3", {"a.txt": "1", "sub/c.txt": "2"}) != digest
    assert tree(tmp_path / "4", {"a.txt": "1", "b.txt": "2"}) != digest
    assert tree(tmp_path / "5", {"a.txt": "2", "sub/b.txt": "1"}) != digest
    assert tree(tmp_path / "6", {**base, "c": ""}) != digest
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    assert digest == hashlib.sha256(f"{one}  a.txt\n{two}  sub/b.txt\n".encode()).hexdigest()  # as sha256sum prints it
