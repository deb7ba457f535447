"""Hidden folders in which data sets are made: none vanishes while another process looks for what killed ones left."""

import threading
from pathlib import Path

from mbrl.data import workspace


def test_a_folder_vanishes_under_the_lock_of_its_root(tmp_path: Path) -> None:
    made, leave = threading.Event(), threading.Event()
    folders: list[Path] = []

    def work() -> None:
        with workspace.hidden(tmp_path) as folder:
            folders.append(folder)
            made.set()
            leave.wait()

    worker = threading.Thread(target=work)
    worker.start()
    made.wait()
    with workspace.lock(tmp_path):  # as of one that asks each folder whether its process lives
        leave.set()
        worker.join(0.3)
        assert (folders[0] / "lock").exists()
    worker.join()
    assert not folders[0].exists()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path: Path) -> None:
    left = tmp_path / ".mbrl-import-left"
    left.mkdir()
    (left / "lock").touch()
    with workspace.hidden(tmp_path) as first, workspace.hidden(tmp_path) as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()
    assert list(tmp_path.glob(".mbrl-import-*")) == []
