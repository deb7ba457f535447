"""Command lines: a command's parser is made from the signature and the docstring of its function in stages.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from mbrl.__main__ import config_file

POSITIONAL = {  # the one setting of a command that needs no name: its name, what it is on the command line, type, help
    "import_": (
        "file",
        "FILE [FILE ...]",
        list[Path] | Path,
        "the log: .npz, .csv, .csv.gz, .parquet; several, or a folder of them",
    ),
    "audit": ("id", "ID", str, "Minari id of the data set"),
    "card": ("name", "NAME", str, "NAME of the registered model NAME-simulator"),
    "select": ("name", "NAME", str, "NAME of the registered model NAME-policy"),
    **dict.fromkeys(
        ("finetune", "promote", "rollback", "withdraw", "history", "copy", "delete"),
        ("name", "NAME", str, "NAME of the registered model NAME-policy"),
    ),
}
FLAGS = {  # the settings of a command that are set by their name alone, and their help
    "audit": {"strict": "end with exit status 1 if a finding is serious"},
    "evaluate": {"judge": "hold the estimators against the truth in --env: a table of what each was worth"},
    "history": {
        "verify": "prove chain, aliases, verdicts, evidence, files and golden pairs; exit status 1 if any fails",
        "repair": "first finish or take back what was half-done, and put aliases to where the ledger has them",
    },
}
GROUP = "Path to a configuration file."  # what jsonargparse says of a group of settings, and what we say
GROUPS = {"data": "Minari id of the data set, as --data.id; or a YAML file with these settings"}

SEVERAL = re.compile(r"-?[\d.]+(,-?[\d.]+)+")  # numbers with commas between them
ALONE = re.compile(r"-?[\d.]+")
DASHED = re.compile(r"-[\d.]+[eE][-+]?\d+|-,.+")  # what argparse takes for an option: a negative number, no environment


def spelt(function: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Arguments as the command's settings are spelt: underscores for hyphens in names, lists, and the log by its id.

    `--data ID` and `--data.id ID` are both understood, by commands that only name a log and by those that have more to
    say of it. A file (`--data log.yaml`) or a dictionary of these settings stays what it is. `--seeds 0,1` is `--seeds
    [0,1]`, whose brackets some shells take for a pattern of file names. `--floor -1e9` is `--floor=-1e9`. Files that a
    command takes several of are one list.
    """
    settings = signature(function).parameters
    wanted = settings.get("data")
    plain = wanted is not None and str(wanted.annotation).startswith("str")
    found, words = [], list(arguments)
    ahead = next((k for k, word in enumerate(words) if word.startswith("-")), len(words))
    if ahead > 1 and function.__name__ in POSITIONAL and str(POSITIONAL[function.__name__][2]).startswith("list["):
        words[:ahead] = [json.dumps(words[:ahead])]
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = _underscored(name)
        if wanted is not None and name in ("--data", "--data.id"):
            given = value if equals else "".join(words[number + 1 : number + 2])
            whole = given.endswith((".yaml", ".yml", ".json")) or given.startswith("{")
            name = "--data" if plain or (name == "--data" and whole) else "--data.id"
        found.append(f"{name}{equals}{value}")
    lists = {f"--{name}" for name, setting in settings.items() if str(setting.annotation).startswith("list[")}
    return _joined([_bracketed(before, word, lists) for before, word in zip(["", *found], found, strict=False)])


def _underscored(name: str) -> str:
    """The name of a setting, in which only a candidate's own name keeps its hyphens."""
    parts = name[2:].split(".")
    kept = 1 if parts[0] == "candidates" else None
    return "--" + ".".join(part if k == kept else part.replace("-", "_") for k, part in enumerate(parts))


def _bracketed(before: str, word: str, lists: Collection[str]) -> str:
    """A word of a command line; as a list, if it is the value of a setting and has numbers that want brackets."""
    name, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
    if not name.startswith("--") or not (SEVERAL.fullmatch(value) or (name in lists and ALONE.fullmatch(value))):
        return word
    return f"{name}=[{value}]" if equals else f"[{value}]"


def _joined(words: Sequence[str]) -> list[str]:
    """The words, where a setting and a value that begins with a dash are one."""
    found: list[str] = []
    for word in words:
        if DASHED.fullmatch(word) and found and found[-1].startswith("--") and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


class _Formatter(DefaultHelpFormatter):
    def _expand_help(self, action: Any) -> str:
        """Functions and classes by their name; jsonargparse shows some as repr does, with an address."""
        return re.sub(r"<(?:function|class) '?(\w+)'?(?: at 0x[0-9a-f]+)?>", r"\1", super()._expand_help(action))


def parser(function: Callable[..., Any], command: str, default: str | None, arguments: Sequence[str]) -> ArgumentParser:
    """The command's parser: `default` is the configuration it starts from unless `arguments` name another one.

    It raises argparse.ArgumentError where an argument or a key of a YAML is wrong.
    """
    set_parsing_settings(import_path_denylist=[])  # enforces jsonargparse's own: no os.system as an uncertainty
    named = any(a == "--config" or a.startswith("--config=") for a in arguments)
    files: list[str | PathLike[str]] = [config_file(default)] if default and not named else []
    name, shown, kind, text = POSITIONAL.get(function.__name__, ("", "", None, ""))
    flags = FLAGS.get(function.__name__, {})
    made = ArgumentParser(
        prog=f"mbrl {command}",
        usage=f"mbrl {command} {shown + ' ' if shown else ''}[--config FILE.yaml] [--SETTING VALUE ...]",
        description=(function.__doc__ or "").split("\n\n")[0],
        default_config_files=files,
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    made.add_argument("--config", action="config", metavar="FILE.yaml", help="YAML with settings; later arguments win")
    if name:
        made.add_argument(name, metavar=shown, type=kind, help=text)
    for flag, meaning in flags.items():
        made.add_argument(f"--{flag}", action="store_true", help=meaning)
    skipped: set[str | int] = {"resolved", "only", *filter(None, (name, *flags))}
    made.add_function_arguments(function, skip=skipped, as_group=False, sub_configs=False)
    for action in made._actions:
        if action.help == GROUP:
            action.help = GROUPS.get(action.dest, "YAML file with these settings")
    return made
