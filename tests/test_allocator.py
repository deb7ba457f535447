import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mbrl.allocator import give_back, keep_freed_memory, uncollected

ROOT = Path(__file__).parent.parent
CHURN = """
import resource
import sys
from mbrl.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def churn():
    for _ in range(40):
        blocks = [bytearray(1 << 20) for _ in range(16)]
        del blocks
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

SPREAD = """
from mbrl.allocator import give_back, keep_freed_memory
def pages():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory()
begun = pages()
blocks = [bytearray(100_000) for _ in range(4000)]
for block in blocks:
    block[::4096] = bytes(len(block[::4096]))
kept = blocks[::20]
del blocks, block
print(pages() - begun)
assert give_back()
print(pages() - begun)
"""


def page_faults(mode: str) -> int:
    command, env = [sys.executable, "-c", CHURN, mode], {**os.environ, "PYTHONPATH": str(ROOT)}
    return int(subprocess.run(command, capture_output=True, check=True, text=True, env=env).stdout)


def test_freed_memory_is_not_mapped_anew() -> None:
    assert page_faults("default") > 40 * 1000 > 100 * page_faults("keep")


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        pass

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    assert not keep_freed_memory()
    assert not give_back()


def test_what_is_free_between_what_is_kept_goes_back() -> None:
    """Of 4,000 blocks of 100 kB, 98,000 pages, every twentieth is kept."""
    command, env = [sys.executable, "-c", SPREAD], {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, capture_output=True, check=True, text=True, env=env).stdout
    before, after = map(int, told.split())
    assert before > 80_000
    assert after < 20_000


def test_what_a_command_has_imported_is_never_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_freeze_count()
    with uncollected(freeze=True):
        some = [[] for _ in range(1000)]
    assert gc.get_freeze_count() == before
    with uncollected():
        monkeypatch.setitem(sys.modules, "mbrl_test_library", ModuleType("mbrl_test_library"))
    assert gc.get_freeze_count() == before
    with uncollected(freeze=True):
        monkeypatch.setitem(sys.modules, "mbrl_test_imported", ModuleType("mbrl_test_imported"))
    assert gc.get_freeze_count() >= before + len(some)


def test_garbage_is_left_alone_for_as_long_as_that_is_asked() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError, match="nothing"), uncollected():
        raise ImportError("nothing")
    assert gc.isenabled()
