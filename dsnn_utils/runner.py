"""Execute the notebooks with checked parameters: for `make demo`, the tests and batch jobs.

    python -m dsnn_utils.runner --profile demo --out runs/demo

runs every notebook of `notebooks/` in order and leaves the executed notebooks in
`<out>/notebooks/` and an HTML page of each in `<out>/report/`. papermill does the executing; what
is added here is what it lets pass: unknown parameter names, values of the wrong type (YAML reads
`1e-3` as text), a kernel that starts in the caller's folder, a missing output folder.

A profile is a YAML mapping of parameters. Those at the top level go to every notebook that declares
them, and plain `papermill <notebook> <output> -f <profile>` understands them too. Those under the
name of a notebook (its file name without `.ipynb`) go to that notebook only and are for this runner
only: papermill would paste the section into the notebook as code.

    train_size: 500
    03_search:
      n_trials: 30
"""

import argparse
import ast
import logging
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
    annotated = isinstance(line, ast.AnnAssign)
    annotation = ast.unparse(line.annotation) if annotated else None
    name = (line.target if annotated else line.targets[0]).id
    return name, _parameter(annotation, ast.literal_eval(line.value))


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


# ---------------------------------------------------------------------------------- profiles


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
    to there). Not for threads: papermill changes the process's working directory meanwhile.
    """
    path, output = Path(path), Path(output)
    parameters = check_parameters(path, parameters or {})
    _make_folder(output.parent)

    import papermill
    from traitlets.config import Config

    # papermill does not read annotations such as `int | None` and calls such parameters unknown;
    # their names were checked above.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    label = progress if isinstance(progress, str) else path.stem
    bar = {"desc": label, "mininterval": 0.5 if sys.stderr.isatty() else 10}
    with _environment(_KERNEL_ENVIRONMENT), tempfile.TemporaryDirectory() as sockets:
        config = Config()
        if os.name == "posix":
            # TCP ports are chosen before the kernel binds them: several runners at once collide.
            config.KernelManager.transport = "ipc"
            config.KernelManager.ip = f"{sockets}/kernel"
        try:
            return papermill.execute_notebook(
                path,
                output.absolute(),
                parameters,
                kernel_name=kernel,
                language="python",
                cwd=path.parent if cwd is None else cwd,
                progress_bar=bar if progress else False,
                start_timeout=300,
                execution_timeout=timeout,
                config=config,
                # a kernel that is stopped within a cell would print a traceback of its own
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except papermill.PapermillExecutionError as error:
            cell, reason = f"cell In [{error.exec_count}]", f"{error.ename}: {error.evalue}"
        except (RuntimeError, TimeoutError) as error:  # nbclient's: the kernel died, a cell hangs
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
    numbers the code cells from 1, drops progress bars and replaces paths of this machine.
    """
    import nbformat

    result = nbformat.from_dict(notebook)
    result.nbformat, result.nbformat_minor = 4, 5
    result.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    result.cells = [
        cell for cell in result.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for index, cell in enumerate(result.cells):
        cell.setdefault("id", f"cell-{index:02d}")
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    code_cells = [cell for cell in result.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code_cells, start=1):
        cell.execution_count = number
        cell.outputs = [
            _normalise_output(output, number) for output in cell.outputs if not _is_progress(output)
        ]
    return nbformat.from_dict(result)


def _is_progress(output) -> bool:
    """A progress bar, as text that overwrites itself or as a widget."""
    bar = output.get("name") == "stderr" and ("\r" in output.text or not output.text.strip())
    return bar or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _normalise_output(output, number: int):
    result = _without_paths(output)
    if "execution_count" in result:
        result["execution_count"] = number
    if "metadata" in result:
        result["metadata"] = {}
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
            value = re.sub(re.escape(folder) + r"(?![\w-])", short, value)
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
        "notebooks", nargs="*", help="names in notebooks/ or files (default: all of notebooks/)"
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
        help="a parameter for every notebook that declares it; overrides the profile",
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
    import nbformat
    import pandas as pd

    notebooks = [_find(name) for name in options.notebooks] or all_notebooks()
    if not notebooks:
        raise ValueError(f"notebooks={str(project_root() / 'notebooks')!r}: must hold notebooks")
    out = options.out or project_root() / "runs" / Path(options.profile or "default").stem
    out = Path(os.path.abspath(out))
    plan = _plan(options, notebooks, out)  # everything is checked before the first notebook runs
    _make_folder(out)

    rows = []
    for position, notebook in enumerate(notebooks, start=1):
        executed = out / "notebooks" / notebook.name
        label = f"[{position}/{len(notebooks)}] {notebook.stem}"
        started = time.monotonic()
        with _PeakMemory() as memory:
            result = run_notebook(
                notebook, executed, plan[notebook.stem], timeout=options.timeout, progress=label
            )
        rows.append((notebook.stem, time.monotonic() - started, memory.peak_mb))
        if options.in_place:
            nbformat.write(normalise(result), notebook)

    table = pd.DataFrame(rows, columns=["notebook", "duration_s", "peak_memory_mb"]).round()
    table = table.astype({"duration_s": int, "peak_memory_mb": int})
    front = _front(out)
    print(f"\n{table.to_string(index=False)}")
    if front is not None:
        print(f"\nPareto front of {out / 'trials.csv'}:\n{front.to_string(index=False, na_rep='')}")
    if not options.no_html:
        print(f"\nReport: {_write_report(out, notebooks, table, front)}")


def _find(name: str) -> Path:
    """A notebook given as a file or by its name in `notebooks/`."""
    in_project = project_root() / "notebooks" / f"{name}.ipynb"
    return in_project if in_project.is_file() else Path(name).absolute()


def _plan(options: argparse.Namespace, notebooks: list[Path], out: Path) -> dict[str, dict]:
    """The checked parameters of every notebook that is going to run, by its stem."""
    root = project_root()
    profile = load_profile(options.profile) if options.profile else {}
    if "run_dir" in profile or "run_dir" in dict(options.parameters):
        raise ValueError("run_dir: must be left out, the runner takes it from --out")
    plan = assign(profile, list(dict.fromkeys([*all_notebooks(), *notebooks])))
    overrides = assign(dict(options.parameters), notebooks)
    for notebook in notebooks:
        plan[notebook.stem] |= overrides[notebook.stem]
        if "run_dir" in declared_parameters(notebook) and (options.out or options.profile):
            # Relative where possible: an executed notebook then names no path of this machine.
            run_dir = out.relative_to(root) if out.is_relative_to(root) else out
            plan[notebook.stem]["run_dir"] = run_dir.as_posix()
    return plan


def _write_report(out: Path, notebooks: list[Path], table, front) -> Path:
    from dsnn_utils.report import write_html, write_index

    for notebook in notebooks:
        page = out / "report" / f"{notebook.stem}.html"
        write_html(out / "notebooks" / notebook.name, page, images=notebook.parent)
    index = out / "report" / "index.html"
    write_index(index, f"Run {out.name}", table, front)
    return index


def _front(out: Path):
    """The Pareto front of a run, the columns a reader wants; None where no search has run."""
    if not (out / "trials.csv").is_file():
        return None
    from dsnn_utils.pareto import DEFAULT_OBJECTIVES, pareto_front
    from dsnn_utils.trials import read_settings, read_trials

    search, objectives = out / "search.json", DEFAULT_OBJECTIVES
    if search.is_file():
        objectives = read_settings(out).get("objectives", objectives)
    columns = ["trial", "origin", "shift_depth", "shift_type", "weight_bits", "optimizer"]
    front = pareto_front(read_trials(out), objectives)
    return front[list(dict.fromkeys([*columns, "val_accuracy", *objectives]))]


if __name__ == "__main__":
    sys.exit(main())
