"""Execute the notebooks with checked parameters: for `make demo`, the tests and batch jobs.

    python -m dsnn_utils.runner --profile demo --out runs/demo

runs every notebook of `notebooks/` in order and leaves the executed notebooks in
`<out>/notebooks/` and an HTML page of each in `<out>/report/`. papermill does the executing; what
is added here is what it lets pass: unknown parameter names, values of the wrong type (YAML reads
`1e-3` as text), a kernel that starts in the caller's folder, a missing output folder.

A profile is a YAML mapping of parameters. Those at the top level go to every notebook that declares
them, so that plain `papermill <notebook> <output> -f <profile>` understands them too; those under
the name of a notebook (its file name without `.ipynb`) go to that notebook only:

    train_size: 500
    03_search:
      n_trials: 30
"""

import argparse
import ast
import os
import re
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import yaml

# papermill, nbformat and nbconvert take seconds to import, which notebooks that only want
# project_root() should not pay: they are imported where they are used.

_KINDS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "text (quote it in YAML)",
    "list": "a list",
    "dict": "a mapping",
}
# PYTHONHASHSEED: SMAC's local search iterates over sets, so the same seed gives different runs
# without it. The other one silences the debugger's remark on frozen modules.
_KERNEL_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message names the notebook, the cell and the error."""


class Parameter(NamedTuple):
    """One parameter as a notebook declares it: `lr: float = 0.1` in the cell tagged parameters."""

    kind: str | None  # a key of _KINDS, or None: any value
    element: str | None  # the kind of a list's elements, where the annotation says it
    optional: bool  # None is allowed
    default: object


def project_root() -> Path:
    """The project's folder, from which relative paths in parameters start.

    Looked for from the working directory upwards (JupyterLab starts kernels in `notebooks/`, plain
    papermill where it was called), then beside the installed package; else the working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks").is_dir() and (folder / "dsnn_utils").is_dir():
            return folder
    return here


# -------------------------------------------------------------------------------- parameters


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
    parameters = {}
    for statement in ast.parse(tagged[0].source).body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            name, annotation = statement.target.id, ast.unparse(statement.annotation)
        elif isinstance(statement, ast.Assign):
            name, annotation = statement.targets[0].id, None
        else:
            continue
        parameters[name] = _parameter(annotation, ast.literal_eval(statement.value))
    return parameters


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


def _cast(value: object, kind: str) -> object | None:
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
    "int": float,
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


# ---------------------------------------------------------------------------------- profiles


def load_profile(profile: str | Path, notebooks: list[Path]) -> dict[Path, dict]:
    """The checked parameters of each of `notebooks` in a profile.

    `profile` is the name of a file in `notebooks/profiles/` or the path of a YAML file. Raises
    ValueError when it does not exist or names an unknown notebook or parameter.
    """
    folder = project_root() / "notebooks" / "profiles"
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{profile}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none yet"
        raise ValueError(
            f"profile={str(profile)!r}: must be the path of a YAML file or one of: {names}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"profile={str(profile)!r}: must be valid YAML ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"profile={str(profile)!r}: must be a mapping of parameters")
    stems = {file.stem for file in _all_notebooks()} | {file.stem for file in notebooks}
    shared = {name: value for name, value in content.items() if name not in stems}
    result = distribute(shared, notebooks)
    for notebook in notebooks:
        own = content.get(notebook.stem) or {}
        result[notebook] |= check_parameters(notebook, own)
    return result


def distribute(parameters: dict, notebooks: list[Path]) -> dict[Path, dict]:
    """Give each notebook the parameters that it declares; one that nobody declares is an error."""
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks}
    known = list(dict.fromkeys(name for names in declared.values() for name in names))
    everywhere = set(known).union(*(declared_parameters(file) for file in _all_notebooks()))
    for name in parameters:
        if name not in everywhere:
            raise ValueError(f"parameter {name!r}: unknown; the notebooks have {', '.join(known)}")
    return {
        notebook: {
            name: cast(name, value, names[name])
            for name, value in parameters.items()
            if name in names
        }
        for notebook, names in declared.items()
    }


def _all_notebooks() -> list[Path]:
    return sorted((project_root() / "notebooks").glob("*.ipynb"))


# --------------------------------------------------------------------------------- execution


def run_notebook(
    path: str | Path,
    output: str | Path,
    parameters: dict | None = None,
    *,
    cwd: str | Path | None = None,
    kernel: str = "python3",
    timeout: float | None = None,
    progress: bool | str = True,
):
    """Execute the notebook `path` with `parameters` and write it to `output`.

    The kernel starts in `cwd`, by default the notebook's own folder as in JupyterLab. `timeout`
    limits each cell, in seconds. `progress` shows papermill's bar; text becomes its label.
    Returns the executed notebook (nbformat). Raises ValueError for unknown parameters and wrong
    values before anything runs, NotebookFailed when a cell fails (`output` then holds the cells up
    to there).
    """
    path, output = Path(path), Path(output)
    parameters = check_parameters(path, parameters or {})
    _make_folder(output.parent)

    import nbclient.exceptions
    import papermill

    label = progress if isinstance(progress, str) else path.stem
    bar = {"desc": label, "mininterval": 0.5 if sys.stderr.isatty() else 10}
    try:
        with _environment(_KERNEL_ENVIRONMENT):
            return papermill.execute_notebook(
                path,
                output.absolute(),
                parameters,
                kernel_name=kernel,
                cwd=path.parent if cwd is None else cwd,
                progress_bar=bar if progress else False,
                execution_timeout=timeout,
                # ipykernel warns about its TCP ports at every start
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
    except papermill.PapermillExecutionError as error:
        cell, reason = f"cell In [{error.exec_count}]", f"{error.ename}: {error.evalue}"
    except (nbclient.exceptions.DeadKernelError, nbclient.exceptions.CellTimeoutError) as error:
        cell, reason = "a cell", str(error).splitlines()[0]
    raise NotebookFailed(f"{path.name}, {cell}: {reason.strip()}\n(executed so far: {output})")


@contextmanager
def _environment(variables: dict[str, str]):
    """Set environment variables that are not set already, for as long as the kernel starts."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"out={str(folder)!r}: must be a writable folder ({error.strerror})"
        ) from None


class _PeakMemory(threading.Thread):
    """The largest memory that this process's children (the kernel and its workers) held at once."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._done = threading.Event()

    def run(self):
        import psutil

        while not self._done.wait(0.5):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # ended meanwhile
                    pass
            self.peak_mb = max(self.peak_mb, total / 1e6)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


# ------------------------------------------------------------------------ committed notebooks


def normalise(notebook):
    """A copy of an executed notebook fit for committing: its outputs, and nothing of the run.

    Removes times, papermill's and widgets' metadata and injected parameters, keeps the cells' ids,
    numbers the code cells from 1, keeps only the last state of progress bars and replaces paths of
    this machine.
    """
    import nbformat

    result = nbformat.from_dict(_without_paths(notebook))
    result.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    result.nbformat, result.nbformat_minor = 4, 5
    result.cells = [
        cell for cell in result.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    number = 0
    for index, cell in enumerate(result.cells):
        cell.setdefault("id", f"cell-{index:02d}")
        kept = {key: cell.metadata[key] for key in ("tags",) if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return result


def _without_paths(value):
    """`value` (any JSON) without the folders of this machine."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    root, home = str(project_root()), str(Path.home())
    for folder, short in ((root, "."), (sys.prefix, "<environment>"), (home, "~")):
        if len(folder) > 1:
            value = re.sub(re.escape(folder) + r"(?![\w.-])", short, value)
    return re.sub(r"/\S*/ipykernel_\d+/\d+\.py", "<cell>", value)


# ------------------------------------------------------------------------------ command line


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (ValueError, NotebookFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dsnn_utils.runner",
        description="Execute notebooks in order with checked parameters.",
    )
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="notebook files (default: all of notebooks/)"
    )
    parser.add_argument(
        "--profile", help="a name in notebooks/profiles/ or a YAML file with parameters"
    )
    parser.add_argument(
        "--out", type=Path, help="run directory (default: runs/<profile>, else runs/default)"
    )
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="one parameter for every notebook that declares it; goes before the profile's",
    )
    parser.add_argument("--timeout", type=float, help="limit for each cell, in seconds")
    parser.add_argument("--no-html", action="store_true", help="write no HTML pages")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="replace the notebooks with the executed ones, normalised for committing",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    import pandas as pd

    root = project_root()
    notebooks = options.notebooks or _all_notebooks()
    if not notebooks:
        raise ValueError(f"notebooks={str(root / 'notebooks')!r}: must hold notebooks")
    out = (options.out or root / "runs" / Path(options.profile or "default").stem).absolute()
    # Relative to the root where possible: executed notebooks then name no path of this machine.
    run_dir = str(out.relative_to(root)) if out.is_relative_to(root) else str(out)

    # Everything is checked before the first notebook runs.
    plan = load_profile(options.profile, notebooks) if options.profile else {}
    given = distribute(dict(options.parameters), notebooks)
    for notebook in notebooks:
        plan[notebook] = plan.get(notebook, {}) | given[notebook]
        if options.out and "run_dir" in declared_parameters(notebook):
            plan[notebook]["run_dir"] = run_dir
    _make_folder(out)

    rows = []
    for position, notebook in enumerate(notebooks, start=1):
        executed = out / "notebooks" / notebook.name
        label = f"[{position}/{len(notebooks)}] {notebook.stem}"
        started = time.monotonic()
        with _PeakMemory() as memory:
            result = run_notebook(
                notebook, executed, plan[notebook], timeout=options.timeout, progress=label
            )
        duration_s = time.monotonic() - started
        rows.append((notebook.stem, round(duration_s, 1), round(memory.peak_mb)))
        if not options.no_html:
            from dsnn_utils.report import write_html

            write_html(executed, out / "report" / f"{notebook.stem}.html", notebook.parent)
        if options.in_place:
            import nbformat

            nbformat.write(normalise(result), notebook)
    table = pd.DataFrame(rows, columns=["notebook", "duration_s", "peak_memory_mb"])
    print(f"\n{table.to_string(index=False)}")
    front = _front(out / "trials.csv")
    if front is not None:
        print(f"\nPareto front of {out / 'trials.csv'}:\n{front.to_string(index=False, na_rep='')}")
    if not options.no_html:
        from dsnn_utils.report import write_index

        write_index(out / "report" / "index.html", f"Run {out.name}", table, front)
        print(f"\nReport: {out / 'report' / 'index.html'}")


def _front(trials: Path):
    """The Pareto front of a trials table, the columns a reader wants; None without a table."""
    if not trials.is_file():
        return None
    import pandas as pd

    from dsnn_utils.pareto import pareto_front

    columns = ["trial", "origin", "shift_depth", "shift_type", "weight_bits", "optimizer"]
    columns += ["val_accuracy", "loss", "energy_modelled_j_per_image"]
    return pareto_front(pd.read_csv(trials))[columns]


if __name__ == "__main__":
    sys.exit(main())
