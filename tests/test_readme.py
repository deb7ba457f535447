"""What README.md and the results tell a reader to type can be typed, and what they point at is there."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from mbrl import parsing, stages
from mbrl.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {page: page.read_text() for page in (ROOT / "README.md", ROOT / "examples" / "RESULTS.md")}
BLOCKS = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", "".join(PAGES.values()), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The words of every command in the fenced blocks; assignments before one, such as PYTHONPATH=., are left out."""
    text = "".join(BLOCKS).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    bare = [words[next((i for i, w in enumerate(words) if "=" not in w), len(words)) :] for words in lines]
    return [words for words in bare if words]


def of(program: str) -> list[list[str]]:
    return [words for words in commands() if words[0] == program]


@pytest.mark.parametrize("words", of("mbrl"), ids=" ".join)
def test_every_mbrl_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, default, _ = COMMANDS[words[1]]
    function = getattr(stages, name)
    arguments = parsing.spelt(function, [word for word in words[2:] if word != "--json"])
    parser = parsing.parser(function, words[1], default, arguments)
    with contextlib.suppress(SystemExit):  # of --help and --print_config; an error is an ArgumentError
        parser.parse_args(arguments)


def test_there_are_commands_to_check() -> None:
    assert {"import", "run", "ui"} <= {words[1] for words in of("mbrl")}


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for words in of("make") for word in words[1:]}
    assert named
    assert named <= targets


def test_every_script_that_is_run_exists() -> None:
    scripts = [words[1] for words in of("python") + of("python3") if words[1] != "-m"]
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page])
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert local
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_and_example_that_is_named_exists(page: Path) -> None:
    pattern = r"(?<![\w./:])(?:configs|examples|tests|mbrl|dynamics|policies)/[\w./-]*\w"
    named = set(re.findall(pattern, PAGES[page]))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
