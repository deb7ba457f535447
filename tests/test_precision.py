"""Which precision is meant, and what is said where the one that was asked for is the slower one."""

from contextlib import nullcontext

import pytest
import torch

from mbrl import precision


@pytest.mark.parametrize(("fast", "meant"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_what_the_processor_multiplies(
    fast: bool, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert precision.settled("auto", "cpu") == meant
    assert precision.settled("32-true", "cpu") == "32-true"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("fast", "ratio", "told"), [(False, 3.42, "takes 3.4 times as long"), (False, 0.9, ""), (True, 3.42, "")]
)
def test_a_slower_precision_is_used_and_said_to_be_so(
    fast: bool, ratio: float, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(precision, "slowness", lambda: ratio)
    assert precision.settled("bf16-mixed", "cpu") == "bf16-mixed"
    err = capsys.readouterr().err
    assert told in err
    assert bool(err) == bool(told)


def test_slowness_is_measured() -> None:
    assert precision.slowness(size=16, rounds=2) > 0


def test_full_precision_is_that_of_devices_without_autocast_too() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with precision.full_precision(torch.zeros(1)):
            assert not torch.is_autocast_enabled("cpu")
        with precision.full_precision(torch.zeros(1, device="meta")):
            assert torch.is_autocast_enabled("cpu")
    assert isinstance(precision.full_precision(torch.zeros(1)), nullcontext)  # there is nothing to switch off


@pytest.mark.parametrize(
    ("columns", "device", "gradient", "found"),
    [(31, "cpu", False, True), (32, "cpu", False, False), (31, "meta", False, False), (31, "cpu", True, False)],
)
def test_narrow_products_are_few_columns_on_a_cpu_that_nobody_differentiates(
    columns: int, device: str, gradient: bool, found: bool
) -> None:
    x, weight = torch.zeros(4, 8, device=device), torch.zeros(8, columns, device=device)
    with torch.set_grad_enabled(gradient):
        assert precision.narrow(x, weight) == found


@pytest.mark.parametrize("once", [True, False])
def test_weights_are_cast_once_until_the_context_ends(once: bool) -> None:
    x, weight = torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        with precision.cast_once() if once else nullcontext():
            first, second = x @ weight, x @ weight
        assert not torch.is_autocast_cache_enabled()
    casts = [product.grad_fn.next_functions[1][0] for product in (first, second)]
    assert [cast.name() for cast in casts] == ["ToCopyBackward0"] * 2
    assert (casts[0] is casts[1]) == once
    with torch.no_grad():
        weight.add_(1.0)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), precision.cast_once():
        assert (x @ weight).tolist() == [[4.0, 4.0]] * 2  # of the weights as they are now
