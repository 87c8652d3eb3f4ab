"""Parameters of notebooks: what a notebook declares, what a profile holds, and what is allowed.

All of it is checked here, whoever executes the notebook: the runner before it starts a kernel, and
the first cell of each notebook (`checked_parameters`) under plain papermill and in JupyterLab. So
this module imports nothing slow. Ranges and choices stand in `dsnn_utils.limits`.

A profile is a YAML mapping of parameters. Those at the top level go to every notebook that declares
them. Those in a section, named `notebook_` and the name of its file, go to that notebook only.
Plain `papermill <notebook> <output> -f <profile>` understands both.

    train_size: 500
    notebook_03_multi_fidelity_search:
      n_trials: 30
"""

import ast
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dsnn_utils.checks import require
from dsnn_utils.limits import (
    CHOICES,
    KNOWN_DATASETS,
    MULTI_FIDELITY,
    RANGES,
    Range,
    check_budgets,
    check_rule,
    choices,
)
from dsnn_utils.paths import project_root
from dsnn_utils.runs.columns import (
    EXPORTED,
    EXPORTED_ENERGY,
    FIDELITIES,
    HYPERPARAMETERS,
    MEASURED,
    check_objectives,
)

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
    path = Path(notebook)
    try:  # as plain JSON: nbformat takes two seconds to import
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"notebook={str(path)!r}: must be a readable notebook ({error})") from None
    if len(tagged) != 1:
        raise ValueError(
            f"notebook={str(path)!r}: must have one cell tagged 'parameters', has {len(tagged)}"
        )
    try:
        body = ast.parse("".join(tagged[0]["source"])).body
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


class _Loader(yaml.SafeLoader):
    """YAML as usual, but a key given twice is an error: the first value would be lost."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} for the second time", problem_mark=mark
                )
        return super().construct_mapping(node, deep)


def _load_yaml(text: str):
    return yaml.load(text, Loader=_Loader)


_READ: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text),
    "float": float,
    "list": _load_yaml,
    "dict": _load_yaml,
}


def _exists(path: str, *suffixes: str) -> bool:
    """Whether there is such a folder, or such a file with one of the suffixes."""
    if not path.strip():
        return False
    path = os.path.join(project_root(), path)  # where relative paths of parameters start
    return os.path.isdir(path) or (os.path.isfile(path) and path.lower().endswith(suffixes))


def _is_run(path: str) -> bool:
    return os.path.isfile(os.path.join(project_root(), path, "trials.csv"))


def _are_runs(path: str) -> bool:
    """Whether it is a run directory, or holds those of several seeds."""
    return _is_run(path) or any(Path(project_root(), path.strip() or "-").glob("seed*/trials.csv"))


def _is_grid(grid: Mapping) -> bool:
    names = [name.strip() for key in grid for name in str(key).split(",")]
    levels = all(isinstance(values, list) and values for values in grid.values())
    return levels and len(set(names)) == len(names) and set(names) <= {*HYPERPARAMETERS, "label"}


@cache
def _countries() -> Mapping:
    """The countries of CodeCarbon, from its file: its import takes seconds."""
    package = find_spec("codecarbon")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "data" / "private_infra" / "global_energy_mix.json"
    return json.loads(path.read_text(encoding="utf-8"))


class _Allowed(NamedTuple):
    holds: Callable[[Any], bool]
    text: str  # "must be ..."


def _one_of(names: Iterable[str]) -> _Allowed:
    names = tuple(names)
    return _Allowed(lambda value: value in names, f"one of {', '.join(names)}")


def _within(limits: Range) -> _Allowed:
    def holds(value):  # never true of NaN
        return limits.low <= value <= limits.high and value not in limits.excluded

    return _Allowed(holds, str(limits))


#: What a parameter may be, by its name; of a list, each of its elements.
_ALLOWED = {name: _within(limits) for name, limits in RANGES.items()}
_ALLOWED |= {
    "country": _Allowed(
        lambda value: value in _countries(), "a three-letter code known to CodeCarbon, as DEU"
    ),
    "device": _Allowed(
        lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", value)),
        "auto, cpu, cuda or cuda:0",
    ),
    "fidelity": _one_of(FIDELITIES),
    "grid": _Allowed(
        _is_grid, f"lists of values of different names of {', '.join(HYPERPARAMETERS)}"
    ),
    "scheduler": _Allowed(
        lambda value: bool(re.fullmatch(r"\w+://\S+", value)),
        "the address of a Dask scheduler, as tcp://host:8786",
    ),
}
#: Where one notebook allows less than the others.
_ALLOWED_IN = {
    "04_pareto_analysis": {"measuring_rounds": _within(RANGES["rounds"])},
    "10_from_emulation_to_integers": {
        "weight_bits": _within(Range(2, 5)),
        "activation_bits": _within(Range(2, 8)),
    },
}
_FEWEST = {"depths": 1, "noise_windows_s": 1, "seeds": 1}  # elements of a list

_NEW_FOLDER = _Allowed(
    lambda path: bool(path.strip()) and not os.path.isfile(os.path.join(project_root(), path)),
    "a folder, or the name of a new one",
)
_CONFIGURATIONS = _Allowed(
    lambda path: path == "known_good" or _is_run(path) or _exists(path, ".json", ".csv"),
    "known_good, an existing .json file or a run directory",
)
_NETWORK = _Allowed(
    lambda path: os.path.isfile(os.path.join(project_root(), path)), "the file of a trained network"
)
_RUN = _Allowed(_is_run, "a run directory, with a trials.csv")
#: As `_ALLOWED`, of what has to be there when a notebook starts.
_PATHS = {
    "data_root": _NEW_FOLDER,
    "dataset": _Allowed(
        lambda name: name in KNOWN_DATASETS or _exists(name, ".zip"),
        f"one of {', '.join(KNOWN_DATASETS)}, or an existing folder or .zip file",
    ),
    "more_runs": _Allowed(_are_runs, "a run directory, or a folder with those of several seeds"),
    "network": _NETWORK,
    "plain": _NETWORK,
    "points": _CONFIGURATIONS,
    "run_dir": _NEW_FOLDER,
    "seed_configurations": _CONFIGURATIONS,
    "start_from": _NETWORK,
    "table": _RUN,
    "teacher": _NETWORK,
}


def check_parameters(notebook: str | Path, parameters: Mapping) -> dict:
    """`parameters` cast to what `notebook` declares.

    Raises ValueError naming an unknown parameter and the known ones, a value of a wrong type, or,
    for the project's own notebooks, one that is out of range or none of the choices. What depends
    on other parameters or on files is left to `check_together`.
    """
    path, declared = Path(notebook), declared_parameters(notebook)
    for name in parameters:
        if name not in declared:
            raise ValueError(f"parameter {name!r}: unknown; {path.name} has {', '.join(declared)}")
    values = {name: cast(name, value, declared[name]) for name, value in parameters.items()}
    if _is_ours(path):
        allowed = _ALLOWED | _ALLOWED_IN.get(path.stem, {})
        allowed |= {name: _one_of(choices(name)) for name in CHOICES}
        for name, value in values.items():
            if isinstance(value, list):
                _check_length(path.stem, name, value)
            if name in allowed:
                _check_value(name, value, allowed[name], parameters[name])
    return values


def check_together(notebook: str | Path, values: Mapping) -> None:
    """ValueError for a missing file, or for parameters that do not go together.

    `values` are all parameters of one of the project's notebooks; others pass.
    """
    if not _is_ours(Path(notebook)):
        return
    given = values.get
    for name in [name for name in values if name in _PATHS]:
        value, each = values[name], [values[name]]
        if name in ("start_from", "teacher") and value is not None:  # a file for each seed
            each = [value.replace("{seed}", str(n)) for n in given("seeds") or [values["seed"]]]
        for path in each:
            _check_value(name, path, _PATHS[name], path)
    if "rule" in values:
        limits = ("energy_budget_j_per_image", "accuracy_floor")
        check_rule(values["rule"], **{name: values[name] for name in limits})
    if "budgets" in values:
        check_budgets(values["budgets"], values["epochs"])
    if given("min_epochs") is not None and values["min_epochs"] > values["epochs"]:
        raise ValueError(f"min_epochs={values['min_epochs']}: must be at most {values['epochs']=}")
    if not given("measure_energy", True):
        rounds = given("measuring_rounds", 0)
        require(rounds == 0, f"measuring_rounds={rounds}: must be 0 with measure_energy=False")
        names = [name for name in given("objectives", ()) if name in (*MEASURED, EXPORTED_ENERGY)]
        require(not names, f"objectives={names}: must not be measured with measure_energy=False")
    exported = [name for name in given("objectives", ()) if name in EXPORTED]
    runtimes = ", ".join(CHOICES["exported_to"])
    require(
        not exported or values["exported_to"],
        f"exported_to=None: must be one of {runtimes} to minimise {exported}",
    )
    if "objectives" in values:
        check_objectives(values["objectives"], wue_l_per_kwh=values["wue_l_per_kwh"])
    if given("use_test") and values["n_random"]:
        raise ValueError(f"n_random={values['n_random']}: must be 0 with use_test=True")
    if given("retrain_epochs") is not None and not values["retrain_seeds"]:
        raise ValueError(
            f"retrain_epochs={values['retrain_epochs']}: must be None with retrain_seeds=[]"
        )


def _is_ours(notebook: Path) -> bool:
    return notebook.absolute().parent == project_root() / "notebooks"


def _check_length(notebook: str, name: str, value: list) -> None:
    # Notebook 6 compares depths: one alone shows no trend.
    fewest = 2 if name == "depths" and notebook.startswith("06_") else _FEWEST.get(name, 0)
    require(len(value) >= fewest, f"{name}={value!r}: must have at least {fewest} element(s)")
    different = all(value.count(item) == 1 for item in value)
    require(different, f"{name}={value!r}: must be all different")


def _check_value(name: str, value, allowed: _Allowed, given) -> None:
    several = isinstance(value, list)
    items = value if several else [] if value is None else [value]
    if not all(map(allowed.holds, items)):
        must = "every element must be" if several else "must be"
        raise ValueError(f"{name}={given!r}: {must} {allowed.text}")


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
        content = _load_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, where = getattr(error, "problem_mark", None), " ".join(str(error).split())
        if isinstance(error, yaml.MarkedYAMLError) and mark:
            where = f"line {mark.line + 1}: {error.problem}"
        raise ValueError(f"profile={str(profile)!r}: must be valid YAML ({where})") from None
    if not isinstance(content, dict):
        raise ValueError(f"profile={str(profile)!r}: must be a mapping of parameters")
    return content


def assign(
    profile: Mapping, notebooks: Iterable[Path], others: Iterable[Path] = ()
) -> dict[str, dict]:
    """Sort the content of a profile by notebook: the checked parameters of each, by its stem.

    `others` are notebooks that the profile may name as well and that get nothing now.
    Raises ValueError for a name that is neither the section nor a parameter of one, and what
    `check_parameters` raises.
    """
    notebooks = list(notebooks)
    known = list(dict.fromkeys([*others, *notebooks]))
    declared = {notebook.stem: declared_parameters(notebook) for notebook in known}
    sections = [_section(stem) for stem in declared]
    names = list(dict.fromkeys(name for parameters in declared.values() for name in parameters))
    for name in profile:
        if name not in names and name not in sections:
            raise ValueError(
                f"parameter {name!r}: unknown; must be one of {', '.join(names)}, "
                f"or a section: {', '.join(sections)}"
            )
    own = {notebook: _section_of(profile, notebook.stem) for notebook in known}
    for notebook, parameters in own.items():
        check_parameters(notebook, parameters)
    result = {}
    for notebook in notebooks:
        shared = {name: profile[name] for name in declared[notebook.stem] if name in profile}
        result[notebook.stem] = check_parameters(notebook, shared | own[notebook])
    return result


def _section(stem: str) -> str:
    """The name of a notebook's section: papermill makes a variable of it, hence an identifier."""
    return re.sub(r"\W", "_", f"notebook_{stem}")


def _section_of(profile: Mapping, stem: str) -> dict:
    own = profile.get(_section(stem)) or {}
    if not isinstance(own, dict):
        raise ValueError(f"{_section(stem)}={own!r}: must be a mapping of parameters")
    return own


def check_notebook(notebook: str | Path, parameters: Mapping) -> dict:
    """`check_parameters`, then `check_together` with the notebook's defaults for all others."""
    given = check_parameters(notebook, parameters)
    declared = declared_parameters(notebook)
    check_together(notebook, {name: p.default for name, p in declared.items()} | given)
    return given


def checked_parameters(notebook: str, namespace: Mapping) -> dict:
    """The parameters of one of the project's notebooks, checked, from within that notebook.

    Its first cell takes them from here, so that plain papermill and JupyterLab refuse what the
    runner refuses. `notebook` is the name of the file without `.ipynb`, `namespace` the kernel's
    `globals()`. Of what papermill injected, the section of this notebook is applied, and a name
    that no notebook knows is refused. Prints what is given and has no effect.

    Raises ValueError as `check_parameters` and `check_together` do.
    """
    path = project_root() / "notebooks" / f"{notebook}.ipynb"
    declared = declared_parameters(path)
    injected = _injected(namespace)
    given = assign(injected, [path], all_notebooks())[notebook]
    own = _section_of(injected, notebook)
    for name in own.keys() & injected.keys():
        if own[name] != injected[name]:
            raise ValueError(
                f"{name}={injected[name]!r}: must not differ from {_section(notebook)}, which has "
                f"{own[name]!r}"
            )
    values = check_parameters(path, {name: namespace[name] for name in declared} | given)
    check_together(path, values)
    elsewhere = [name for name in injected if name not in declared and name != _section(notebook)]
    if elsewhere:
        print(f"not for this notebook, left out: {', '.join(elsewhere)}")
    for name in _without_effect(values):
        if values[name] != declared[name].default:
            print(f"{name}={values[name]!r} has no effect here")
    return values


def _injected(namespace: Mapping) -> dict:
    """What papermill wrote into its cell, by name: IPython keeps the sources of all cells."""
    sources = [source for source in namespace.get("In", ()) if source.startswith("# Parameters\n")]
    body = ast.parse(sources[-1]).body if sources else []
    names = [ast.unparse(line.targets[0]) for line in body if isinstance(line, ast.Assign)]
    return {name: namespace[name] for name in names}


def _without_effect(values: Mapping) -> list[str]:
    """Parameters that others make useless."""
    names = []
    if values.get("strategy", "smac_mf") not in MULTI_FIDELITY:
        names += ["eta", "min_fidelity"]
    if not values.get("measure_energy", True):
        names += ["tracking_mode", "country", "wue_l_per_kwh"]
    if values.get("measuring_rounds") == 0:
        names += ["window_s"]
    if "teacher" in values and values["teacher"] is None:
        names += ["distillation"]
    if values.get("network") is not None:
        names += ["weight_bits", "activation_bits"]
    return [name for name in names if name in values]
