"""`mbrl bench`: every loop, in every precision, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from mbrl import bench as benchmark
from mbrl.__main__ import main


def test_the_bench_measures_every_loop_in_every_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for size in "STARTS", "ENVS", "MATRIX", "BATCH":  # bfloat16 is slow where the chip has none
        monkeypatch.setattr(benchmark, size, 64)
    for size in "HORIZON", "TRACED":  # reading a trace takes a second for some thousand operations
        monkeypatch.setattr(benchmark, size, 1)
    small = ["--learner.init_args.hidden", "[8]"]
    for model in "dynamics", "yardstick":
        small += [f"--{model}.init_args.hidden", "8", f"--{model}.init_args.layers", "1"]
    short = ["--repeats", "1", "--seconds", "0.01", "--threads", "1", "--precisions", "[32-true,bf16-mixed]"]
    assert main(["bench", *short, *small, "--profile", str(tmp_path / "traces"), "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["threads"] == 1
    assert {"device", "chip", "torch", "lightning", "numpy", "python"} <= set(answer)
    loops = {
        "ensemble_updates_per_s",
        "ensemble_updates_per_s_with_heads",
        "imagined_transitions_per_s",
        "imagined_transitions_per_s_with_heads",
        "imagined_transitions_per_s_with_disagreement",
        "imagined_transitions_per_s_with_disagreement_and_heads",
        "vector_environment_steps_per_s",
        "policy_updates_per_s",
        "policy_updates_per_s_of_4_together",
    }
    assert list(answer["rates"]) == ["32-true", "bf16-mixed"]
    for precision, rates in answer["rates"].items():
        assert set(rates) == loops | {"matmul_flop_per_s"}
        assert all(0 < rate["min"] <= rate["median"] <= rate["max"] for rate in rates.values())
        assert all(rates[loop]["share_of_peak"] > 0 for loop in loops)
        for loop in loops:
            assert "aten::" in (tmp_path / "traces" / f"{loop}-{precision}.txt").read_text()
            assert json.loads((tmp_path / "traces" / f"{loop}-{precision}.json").read_text())["traceEvents"]
    assert all(loop in err for loop in loops)


def test_the_bench_counts_what_a_loop_multiplies() -> None:
    left, right = torch.ones(4, 8, requires_grad=True), torch.ones(8, 3, requires_grad=True)

    def loop() -> int:
        (left @ right).sum().backward()
        return 2

    assert benchmark._flop(loop) == 3 * (2 * 4 * 8 * 3) / 2  # the product, and the gradient of either side


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["--device", "cuda"], 1, "device is 'cuda'"),
        (["--device", "tpu"], 2, "device: "),
        (["--repeats", "0"], 1, "repeats is 0, expected at least 1"),
        (["--threads", "0"], 1, "threads is 0, expected at least 1"),
        (["--seconds", "0"], 1, "seconds is 0.0, expected"),
    ],
)
def test_the_bench_says_what_it_cannot_do(
    arguments: list[str],
    status: int,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert part in err
