"""Runs as tasks of a Ray cluster: what its machines need, where members stand there, and addresses that are none."""

import socket
from pathlib import Path

import pytest
import yaml
from pipeline_toys import spoken

from mbrl import cluster, engines


@pytest.mark.parametrize(
    ("accelerator", "threads", "gpus"),
    [("cpu", 4, 0), ("cuda", 4, 2), ("auto", 4, 2), ("cuda", 5, None), ("auto", 5, None), ("cpu", 9, None)],
)
def test_what_no_machine_of_a_cluster_has_is_refused(
    accelerator: str, threads: int, gpus: int | None, tmp_path: Path
) -> None:
    """Ray would wait for a machine of this kind without an end."""
    member = engines.Member("a", tmp_path / "a.yaml", ())
    member.path.write_text(yaml.safe_dump({"accelerator": accelerator, "fit": {"devices": 2}}))
    machines = [{"CPU": 4.0, "GPU": 2.0, "memory": 1e9}, {"CPU": 8.0}]
    if gpus is not None:
        assert cluster.gpus_of(member, threads, machines) == gpus
        return
    with pytest.raises(ValueError, match=rf"a needs a machine with {threads} core\(s\) and .* at most 8 and 2: lower"):
        cluster.gpus_of(member, threads, machines)


def test_what_chooses_its_accelerator_asks_a_cluster_without_any_for_none(tmp_path: Path) -> None:
    member = engines.Member("a", tmp_path / "a.yaml", ())
    member.path.write_text(yaml.safe_dump({"accelerator": "auto", "fit": {"devices": 2}}))
    assert cluster.gpus_of(member, 4, [{"CPU": 4.0}]) == 0


def test_a_member_elsewhere_stands_where_the_command_was_given(tmp_path: Path) -> None:
    """By the Python that is there, and with what lies in that folder, as a module of one's own."""
    here = tmp_path / "project"
    here.mkdir()
    (here / "mine.py").write_text("ANSWER = 42\n")
    told = "import json, mine, pathlib, sys; path = pathlib.Path(sys.argv[1]).with_suffix(''); path.mkdir();"
    told += "(path / 'result.json').write_text(json.dumps({'answer': mine.ANSWER}))"
    member = engines.Member("a", tmp_path / "a.yaml", ("/nowhere/python", "-c", told))
    assert cluster._run_there(member, {}, here).answer == {"answer": 42}
    with pytest.raises(FileNotFoundError, match=f"does not see {here / 'gone'}, the folder that the command was given"):
        cluster._run_there(member, {}, here / "gone")


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"ray_address is '{address}', and nothing answers there"):
            cluster.on_ray(address)


def test_an_address_where_no_ray_head_listens_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "JOINING", 2.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()  # and never says a word
        address, out = f"127.0.0.1:{other.getsockname()[1]}", tmp_path / "out"
        command = ["sweep", "--data", "toy/pendulum-v0", "--configs", "bc", "--engine", "ray", "--folder", str(out)]
        status, answer, _ = spoken([*command, "--ray_address", address])
    assert status == 1
    assert f"ray_address is '{address}', and what answers there is no Ray head" in answer["error"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("join", "reason"),
    [
        ("raise RuntimeError('another version of Ray')", "RuntimeError: another version of Ray"),
        (
            "import sys; sys.exit('No token: set RAY_AUTH_TOKEN\\nConnectionError: failed')",
            "No token: set RAY_AUTH_TOKEN",
        ),
    ],
)
def test_a_cluster_that_cannot_be_joined_says_why(join: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "JOIN", join)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"cannot be joined \({reason}\): expected HOST"):
            cluster.on_ray(address)
