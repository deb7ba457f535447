"""Command table -> jsonargparse over the functions of stages.py; nothing else."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mbrl

COMMANDS = {  # name: (function of stages.py, configuration it starts from, one line of help)
    "demo": ("demo", "demo.yaml", "log Pendulum with a mediocre controller, then run the whole path on that log"),
    "import": ("import_", None, "turn an npz, CSV or Parquet log into a Minari data set"),
    "audit": ("audit", None, "what is wrong with a data set, and what it cannot teach"),
    "run": ("run", "mopo.yaml", "log -> simulator -> rehearsed policy -> evidence -> registry"),
    "card": ("card", None, "say how far a registered simulator can be trusted"),
    "evaluate": ("evaluate", None, "what registered policies are worth on a log, or in a true environment"),
    "select": ("select", None, "which version of a policy the evidence carries, if any"),
    "compare": ("compare", None, "learners side by side on logs, over seeds: a table, and a run behind every cell"),
    "sweep": ("sweep", None, "runs of several configurations and seeds on a log, several at once, or on a Ray cluster"),
    "finetune": ("finetune", None, "go on improving a policy in the true environment, under a floor"),
    "promote": ("promote", None, "move shadow, canary or champion to a version that the evidence supports"),
    "rollback": ("rollback", None, "go back to the last champion that still holds"),
    "withdraw": ("withdraw", None, "take an alias away: a shadow or canary ends, a champion stops to act"),
    "history": (
        "history",
        None,
        "every decision about a policy; --verify proves it, --repair mends what was half-done",
    ),
    "copy": ("copy", None, "copy a policy and its lineage to another store or name"),
    "delete": ("delete", None, "delete a version that no alias points to"),
    "bench": ("bench", "bench.yaml", "time the inner loops on this machine"),
    "ui": ("ui", None, "open the MLflow pages of all runs, on loopback"),
}

EPILOG = """\
mbrl COMMAND --help lists a command's settings; each is also a key of its --config FILE.yaml.
Every command takes --json: the result as one JSON object on stdout, everything else on stderr.
State is kept under MBRL_HOME (./.mbrl); MBRL_TRACEBACK=1 shows where an error came from."""

STDOUT = 1  # the file's number
UNREAD = 141  # what a shell reports of a command that was stopped by SIGPIPE
UNHEARD = os.strerror(errno.EPIPE)  # all that is wrong where nobody reads


def config_file(name: str) -> Path:
    """A configuration that comes with mbrl: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs" / name
    return inside if inside.exists() else package.parent / "configs" / name


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 refused input or failure, 2 wrong usage, 130 Ctrl-C, 141 unread."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    usage = argparse.ArgumentParser(
        prog="mbrl",
        description=mbrl.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usage.add_argument("--version", action="version", version=f"offline-mbrl {mbrl.__version__}")
    table = usage.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, _, text) in COMMANDS.items():
        table.add_parser(name, help=text, add_help=False)
    command = usage.parse_args(arguments[:1]).command
    as_json = "--json" in arguments
    rest = [a for a in arguments[1:] if a != "--json"]
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            status, answer = run_command(command, rest)
        except KeyboardInterrupt as stop:
            status, answer = 130, {"error": str(stop) or "stopped by Ctrl-C"}
        except SystemExit:  # of --help
            _left()
            raise
        error = answer.get("error", UNHEARD)
        if not as_json and _left() and UNHEARD in error:
            return UNREAD
        if "error" in answer:
            print(f"mbrl {command}: {answer['error']}", file=sys.stderr)
    if as_json:
        plain = json.loads(json.dumps(answer, default=str), parse_constant=str)  # JSON has no NaN and no infinity
        try:
            print(json.dumps(plain, indent=2), flush=True)
        except BrokenPipeError:
            _drop()
            status = status or UNREAD
        except OSError as reason:  # a disc is full
            _drop()
            print(f"mbrl {command}: standard output cannot be written: {reason}", file=sys.stderr)
            return 1
    return status


def _drop() -> None:
    """Let what is still to be written to standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def _left() -> bool:
    """Whether whoever read standard output has seen enough, as `head` has; what is still to be written goes nowhere."""
    watch = select.poll()
    watch.register(STDOUT, select.POLLERR)
    if gone := any(event & select.POLLERR for _, event in watch.poll(0)):  # not where there is no such file
        _drop()
    return gone


def run_command(command: str, arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Parse, call, and turn the errors that a user can mend into one message: (exit status, answer)."""
    from mbrl.allocator import keep_freed_memory, uncollected

    with uncollected(freeze=True):
        import yaml

        from mbrl import parsing, stages, wording  # torch is imported here, so that `mbrl --help` answers at once
    keep_freed_memory()
    function = getattr(stages, COMMANDS[command][0])
    arguments = parsing.spelt(function, arguments)
    parser = parsing.parser(function, command, COMMANDS[command][1], arguments)
    try:
        config = parser.parse_args(arguments)
        resolved = yaml.safe_load(parser.dump(config, skip_unset=False, skip_default=False))
        values = parser.instantiate(config).as_dict()
        values.pop("config", None)
        if function in stages.RECORDED:
            values["resolved"] = resolved
        answer = function(**values)
        return (1 if "error" in answer else 0), answer
    except argparse.ArgumentError as error:
        return 2, {
            "error": f"{wording.complaint(error, parser, arguments)}\n(mbrl {command} --help lists the settings)"
        }
    except stages.MENDABLE as error:
        if os.environ.get("MBRL_TRACEBACK"):
            raise
        return 1, {"error": _told(error)}


def _told(error: Exception) -> str:
    """What went wrong, and for an error of torch's allocator what can be done."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    if "allocate memory" in str(error) or "out of memory" in str(error):
        first = str(error).splitlines()[0]
        return f"{kind}{first}\nMake smaller what grows with it: members, hidden, batch_size, rollout_starts, history"
    return f"{kind}{error}"


if __name__ == "__main__":
    sys.exit(main())
