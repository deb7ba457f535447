"""What a command's parser complains of, in words for who typed it: the value, what was expected, what may be meant."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pydoc
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from mbrl.__main__ import config_file
from mbrl.described import NOT_ON_PATH

_KEY = re.compile(r'^(?:Parser key|Key) "(?P<key>[^"]+)":\s*', re.DOTALL)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes.*?Errors:\n(?P<errors>.*)\n\s*Given value type:.*", re.DOTALL
)
_CALLABLE = re.compile(
    r"Type collections\.abc\.Callable\[(?:\[[\w.]+\]|\.\.\.), [\w.]+\] expects a function or a callable class: "
)
_NO_MODULE = re.compile(r"No module named '(?P<module>[\w.]+)'\. Got value: (?P<path>[\w.]+)")
_CLASSLESS = re.compile(r"Dict must include a class_path and optionally init_args, but got NestedArg\(key='(\w+)'.*")
_FEW = re.compile(r"Expected a tuple with (?P<count>\d+) elements\. Got value: ")
_OPTION = re.compile(
    r"Option '(?P<option>[\w.]+)' is not accepted\. Got value: Namespace\(class_path='(?P<path>[\w.]+)'.*", re.DOTALL
)
_ATTRIBUTE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'.*", re.DOTALL)
_GROUP = re.compile(
    r"Problem with given class_path '[\w.]+':\W*"
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<option>[\w.]+)'.*",
    re.DOTALL,
)
_BROKEN = "Problems parsing config: "
_YAML_PLACE = re.compile(r'in "<unicode string>", (line \d+, column \d+):?')
_NO_FILE = re.compile(r"File does not exist: '(?P<path>[^']+)'")
_UNLOADED = re.compile(r"Unable to load config '(?P<path>[^']+)'")
_UNDOTTED = re.compile(r"Expected a dot import path string: (?P<name>[^\s.]+)")
_KEYLESS = re.compile(r"Option '(?P<option>[\w.]+)' is not accepted")


def complaint(error: Exception, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """What was wrong with an argument or a key of a YAML.

    Args:
        error: argparse.ArgumentError, in jsonargparse's words.
        parser: the one that it is of, whose settings are searched for what was meant.
        arguments: what was typed, which says of which file a broken YAML is.
    """
    text = _YAML_PLACE.sub(r"at \1", str(error))
    if text.startswith(_BROKEN):
        return f"{' or '.join(_files(arguments))} is no YAML: {' '.join(text.removeprefix(_BROKEN).split())}"
    if text.startswith("unrecognized arguments: "):
        return _unrecognised(text, parser)
    missing = re.fullmatch(r"the following arguments are required: (.*)", text)
    if missing:
        named = (name.strip() for name in missing[1].split(","))
        alone = {action.dest: str(action.metavar) for action in parser._actions if not action.option_strings}
        return "missing: " + ", ".join("--data ID" if n == "data.id" else alone.get(n) or f"--{n}" for n in named)
    keyless = _KEYLESS.fullmatch(text)
    if keyless:
        option = keyless["option"]
        known = {part for action in parser._actions for part in (action.dest, action.dest.partition(".")[0])}
        return f"there is no setting {option}{_near(option, known) or _near(option.partition('.')[0], known)}"
    key = _KEY.match(text)
    where, rest = (f"{key['key']}: ", text[key.end() :]) if key else ("", text)
    if key and (undotted := _UNDOTTED.search(rest)):
        return where + _undotted(undotted["name"], parser.get_default(key["key"]))
    rest = _NO_FILE.sub(_no_file, rest)
    if (unloaded := _UNLOADED.match(rest)) and not Path(unloaded["path"]).exists():
        return f"{where}there is no file {unloaded['path']}"
    return where + " ".join(_plain(rest).split())


def _files(arguments: Sequence[str]) -> list[str]:
    """The configurations that a command line names."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return [after if word == "--config" else word[9:] for word, after in pairs if word.partition("=")[0] == "--config"]


def _unrecognised(text: str, parser: ArgumentParser) -> str:
    """The first argument that is none, and those that it may have been meant for."""
    typed = text.removeprefix("unrecognized arguments: ").split()
    option = next((word for word in typed if word.startswith("--")), None)
    name = (option or typed[0]).partition("=")[0]
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    if option is None:
        meant = f": did you mean --data {name}?" if "--data" in known and "/" in name else ""
        return f"{name} is left over, expected {parser.usage}{meant}"
    return f"there is no setting {name}{_near(name, known)}"


def _no_file(found: re.Match[str]) -> str:
    """A configuration that is not there; the name of one that comes with mbrl may be meant."""
    known = {path.stem: path for path in config_file("mopo.yaml").parent.glob("*.yaml")}
    near = difflib.get_close_matches(Path(found["path"]).stem, known, n=1)
    return f"there is no file {found['path']}" + (f": did you mean {known[near[0]]}?" if near else "")


def _undotted(name: str, default: Any) -> str:
    """A name without its module; one of the module that the default is of may be meant."""
    path = getattr(default, "class_path", "") or f"{getattr(default, '__module__', '')}."
    module = path.rpartition(".")[0]
    known = {one.lower(): f"{module}.{one}" for one in _public(module)} if module else {}
    near = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f": did you mean {known[near[0]]}?" if near else ""
    return f"expected a dotted path, MODULE.NAME, got {name}{meant}"


def _plain(text: str) -> str:
    """One complaint of a value, without the parser's own types."""
    union = _UNION.search(text)
    if union:
        given = re.search(r"Given value: (.*)", text)
        errors = (line.strip(" -") for line in union["errors"].splitlines())
        kept = [line for line in errors if line and "NoneType" not in line]
        told = "; ".join(kept)
        value = given[1] if given and "NestedArg" not in given[1] else None
        text = (
            told
            if value is None or re.search(rf"(?<!\w){re.escape(value)}(?!\w)", told)
            else f"{told}. Got value: {value}"
        )
    text = _CALLABLE.sub("", text)
    text = _NO_MODULE.sub(
        lambda found: f"there is no module {found['module']} for {found['path']}: {NOT_ON_PATH}", text
    )
    text = _CLASSLESS.sub(
        r"there is no class that \1 could be a setting of: name one; where a configuration has candidates, set it"
        r" there, in candidates.NAME",
        text,
    )
    text = _FEW.sub(lambda found: f"expected {found['count']} values, got ", text)
    text = _OPTION.sub(_foreign, text)
    text = _ATTRIBUTE.sub(_absent, text)
    text = _GROUP.sub(lambda found: f"{found['group']} has no setting {found['option']!r}", text)
    text = re.sub(r"Expected an? typing\.Literal\[([^\]]*)\]", lambda found: f"expected one of {found[1]}", text)
    text = re.sub(r"Expected (?:an? )?<class '([\w.]+)'>", lambda found: f"expected {found[1]}", text)
    text = re.sub(r'Parser key "([\w.]+)":\W*', r"\1: ", text)
    text = re.sub(r"<class '([\w.]+)'>", lambda found: found[1], text)
    text = re.sub(r"\.*\s*Got value: Namespace\(.*", "", text, flags=re.DOTALL)
    return re.sub(r"(expected [^.]*)\. Got value: ", r"\1, got ", text)


def _absent(found: re.Match[str]) -> str:
    """A module that has no such class."""
    name, module = found["name"], found["module"]
    return f"there is no {name} in {module}{_near(name, _public(module)) or ': it has ' + ', '.join(_public(module))}"


def _foreign(found: re.Match[str]) -> str:
    """A class that has no such argument."""
    path, option = found["path"], found["option"]
    return f"{path} has no setting {option!r}{_near(option, _arguments(path))}"


def _arguments(path: str) -> set[str]:
    """The names of the arguments of a class, by its dotted path, and of those that it is made of."""
    bases: tuple[Any, ...] = getattr(pydoc.locate(path), "__mro__", ())
    return {argument for base in bases for argument in inspect.signature(base.__init__).parameters} - {"self"}


def _public(module: str) -> list[str]:
    """What a module offers: `__all__` where it says so."""
    found = importlib.import_module(module)
    own = [name for name, value in vars(found).items() if getattr(value, "__module__", None) == module]
    return list(getattr(found, "__all__", [name for name in own if not name.startswith("_")]))


def _near(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    found = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f": did you mean {' or '.join(found)}?" if found else ""
