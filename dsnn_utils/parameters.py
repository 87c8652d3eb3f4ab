"""Parameters of notebooks: what a notebook declares, what a profile holds, and their types.

A profile is a YAML mapping of parameters. Those at the top level go to every notebook that declares
them, and plain `papermill <notebook> <output> -f <profile>` understands them too. Those under the
name of a notebook (its file name without `.ipynb`) go to that notebook only and are for this runner
only: papermill would paste the section into the notebook as code.

    train_size: 500
    03_search:
      n_trials: 30
"""

import ast
import os
import re
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dsnn_utils.paths import project_root

_KINDS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "text (quote it in YAML)",
    "list": "a list",
    "dict": "a mapping",
}


class Parameter(NamedTuple):
    """One parameter as a notebook declares it: `lr: float = 0.1` in the cell tagged parameters."""

    kind: str | None  # a key of _KINDS, or None: any value
    element: str | None  # the kind of a list's elements, where the annotation says it
    optional: bool  # None is allowed
    default: object


def declared_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares in its cell tagged `parameters`, by name.

    Raises ValueError when the file is no notebook, has no such cell or more than one.
    """
    import nbformat

    path = Path(notebook)
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise ValueError(f"notebook={str(path)!r}: must be a readable notebook ({error})") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"notebook={str(path)!r}: must have one cell tagged 'parameters', has {len(tagged)}"
        )
    try:
        body = ast.parse(tagged[0].source).body
        assigned = [line for line in body if isinstance(line, ast.Assign | ast.AnnAssign)]
        return dict(map(_declaration, assigned))
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(
            f"notebook={str(path)!r}: the cell tagged 'parameters' must assign literals, "
            "such as `lr: float = 0.1`"
        ) from None


def _declaration(line: ast.Assign | ast.AnnAssign) -> tuple[str, Parameter]:
    annotation = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else None
    target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
    if not isinstance(target, ast.Name) or line.value is None:
        raise ValueError("must give one name a value")
    return target.id, _parameter(annotation, ast.literal_eval(line.value))


def _parameter(annotation: str | None, default: object) -> Parameter:
    written = annotation or type(default).__name__
    types = [part.strip() for part in written.split("|")]
    kinds = [part for part in types if part != "None"]
    kind, _, inside = kinds[0].partition("[") if len(kinds) == 1 else ("", "", "")
    element = inside.rstrip("]") if kind == "list" and inside.rstrip("]") in _KINDS else None
    optional = default is None or "None" in types
    return Parameter(kind if kind in _KINDS else None, element, optional, default)


def cast(name: str, value: object, parameter: Parameter) -> object:
    """`value` as the type that the notebook declares for `name`.

    Text is read as YAML or a command line delivers it: `'1e-3'` for a float, `'false'` for a bool,
    `'[1, 2]'` for a list. Raises ValueError, `epochs='many': must be an integer`.
    """
    kind, element, optional, _ = parameter
    if kind is None or (optional and value in (None, "None", "null")):
        return None if optional and value in ("None", "null") else value
    result = _cast(value, kind)
    if result is not None and element is not None:
        result = [_cast(item, element) for item in result]
        if None in result:
            raise ValueError(f"{name}={value!r}: every element must be {_KINDS[element]}")
    if result is None:
        raise ValueError(
            f"{name}={value!r}: must be {_KINDS[kind]}" + (" or null" if optional else "")
        )
    return result


def _cast(value: Any, kind: str) -> Any:
    """`value` as `kind`, None where it is not one."""
    if kind == "str":
        return os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(value, str):
        try:
            value = _READ[kind](value)
        except (KeyError, ValueError, yaml.YAMLError):
            return None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if kind == "int":
        whole = isinstance(value, Integral) or (isinstance(value, Real) and value == value // 1)
        return int(value) if whole and not isinstance(value, bool) else None
    if kind == "float":
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    if kind == "list":
        return list(value) if isinstance(value, list | tuple) else None
    return value if isinstance(value, dict) else None


_READ = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text),
    "float": float,
    "list": yaml.safe_load,
    "dict": yaml.safe_load,
}


def check_parameters(notebook: str | Path, parameters: dict) -> dict:
    """`parameters` cast to what `notebook` declares.

    Raises ValueError naming an unknown parameter and the known ones, or a value of a wrong type.
    """
    declared = declared_parameters(notebook)
    for name in parameters:
        if name not in declared:
            raise ValueError(
                f"parameter {name!r}: unknown; {Path(notebook).name} has {', '.join(declared)}"
            )
    return {name: cast(name, value, declared[name]) for name, value in parameters.items()}


def all_notebooks() -> list[Path]:
    """The project's notebooks in reading order."""
    return sorted((project_root() / "notebooks").glob("*.ipynb"))


def load_profile(profile: str | Path) -> dict:
    """The content of a profile: a name in `notebooks/profiles/`, or the path of a YAML file.

    Raises ValueError when there is no such file or it is not a mapping.
    """
    folder = project_root() / "notebooks" / "profiles"
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{profile}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "(none)"
        raise ValueError(f"profile={str(profile)!r}: must be one of {names} or a YAML file's path")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"profile={str(profile)!r}: must be valid YAML ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"profile={str(profile)!r}: must be a mapping of parameters")
    return content


def assign(profile: dict, notebooks: list[Path]) -> dict[str, dict]:
    """Sort the content of a profile by notebook: the checked parameters of each, by its stem.

    Raises ValueError for a name that is neither one of `notebooks` nor a parameter of one, and
    for values of a wrong type.
    """
    declared = {notebook.stem: declared_parameters(notebook) for notebook in notebooks}
    names = list(dict.fromkeys(name for parameters in declared.values() for name in parameters))
    for name in profile:
        if name not in names and name not in declared:
            raise ValueError(
                f"parameter {name!r}: unknown; must be one of {', '.join(names)}, "
                f"or a notebook: {', '.join(declared)}"
            )
    result = {}
    for notebook in notebooks:
        own = profile.get(notebook.stem) or {}
        if not isinstance(own, dict):
            raise ValueError(f"{notebook.stem}={own!r}: must be a mapping of parameters")
        shared = {name: profile[name] for name in declared[notebook.stem] if name in profile}
        result[notebook.stem] = check_parameters(notebook, shared | own)
    return result
