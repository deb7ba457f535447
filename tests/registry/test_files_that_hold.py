"""A version acts with the files that were judged, and only where they can be loaded."""

import hashlib
import json

import pytest
import torch
from promotion_toys import files_of
from registry_toys import crown

from mbrl.registry import promotion, proof
from mbrl.registry.promotion import RefusedError
from mbrl.serving import artifact


def flipped(raw):
    raw[len(raw) // 2] ^= 4
    return bytes(raw)


def test_the_whole_folder_of_another_version_is_not_what_was_judged(damaged):
    other = files_of("toy-policy", "2")
    for path in [path for path in other.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        damaged(str(path.relative_to(other)), lambda raw, content=content: content)
    with pytest.raises(RefusedError, match="toy-policy/1 holds other files than were registered: SHA-256 of its mani"):
        promotion.promote("toy", "1")
    assert any("holds other files" in told for told in proof.verify("toy"))


def test_rollback_passes_over_a_program_that_torch_cannot_load(registry, monkeypatch):
    for version in ("1", "2", "3"):
        promotion.promote("toy", version)
    load, failures = torch.export.load, iter([RuntimeError("Serialized version 99.0 does not match"), None])

    def once(path):
        if (error := next(failures, None)) is not None:
            raise error
        return load(path)

    monkeypatch.setattr(torch.export, "load", once)
    assert promotion.rollback("toy").after == "1"


@pytest.mark.parametrize("name", ["artifacts/policy.ckpt", "artifacts/manifest.json", "MLmodel"])
def test_a_flipped_byte_is_named_and_bars_the_way_back(damaged, name):
    crown("toy", "1")
    crown("toy", "2")
    damaged(name, flipped)
    lines = proof.verify("toy")
    assert [line.split(":")[0] for line in lines] == ["toy-policy/1", "toy-policy/3"]  # which share their files
    assert all(f"{name} is " in line and "altered" in line for line in lines)
    with pytest.raises(RefusedError, match=rf"{name} is .*altered"):
        promotion.rollback("toy")
    assert promotion.champion("toy") == "2"


def test_answers_that_are_not_reproduced_bar_the_way_back(damaged):
    crown("toy", "1")
    crown("toy", "2")
    other = (files_of("toy-policy", "2") / "artifacts" / "golden.npz").read_bytes()
    damaged("artifacts/golden.npz", lambda raw: other)
    content = json.loads((files_of("toy-policy", "1") / "artifacts" / "manifest.json").read_text())
    content["files"]["artifacts/golden.npz"] = hashlib.sha256(other).hexdigest()
    del content["sha256"]
    damaged("artifacts/manifest.json", lambda raw: json.dumps(artifact.seal(content)).encode())
    with pytest.raises(RefusedError, match=r"golden.npz is not reproduced: to observation \d+ of step 0 the policy"):
        promotion.rollback("toy")
