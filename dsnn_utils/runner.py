"""Execute the notebooks with checked parameters: for `make demo`, the tests and batch jobs.

    python -m dsnn_utils.runner --profile demo --out runs/demo

runs every notebook of `notebooks/` in order and leaves the executed notebooks in
`<out>/notebooks/` and an HTML page of each in `<out>/report/`. papermill does the executing; what
is added here is what it lets pass: unknown parameter names, values of the wrong type (YAML reads
`1e-3` as text), a kernel that starts in the caller's folder, a missing output folder.

    python -m dsnn_utils.runner 03_multi_fidelity_search 04_pareto_analysis --seeds 0:4 --out runs/x

runs every notebook that has a parameter `seed` under each seed, in `<out>/seed0` and so on, and the
others once, on all seeds together.
"""

import argparse
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from dsnn_utils.checks import check_integer, require
from dsnn_utils.parameters import (
    all_notebooks,
    assign,
    check_parameters,
    declared_parameters,
    load_profile,
)
from dsnn_utils.paths import project_root
from dsnn_utils.runs.directory import seed_dir

# papermill, nbformat and nbconvert take seconds to import: they are imported where they are used.

# PYTHONHASHSEED: SMAC's local search iterates over sets, so the same seed gives different runs
# without it. The other one silences the debugger's remark on frozen modules.
_KERNEL_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}

_GRACE_S = 5.0  # for an interrupted kernel to end


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message names the notebook, the cell and the error."""


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


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.seeds is None:
            require(options.jobs == 1, f"jobs={options.jobs}: must be 1 without --seeds")
            _run(options, _notebooks(options))
        else:
            _run_seeds(options)
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
    parser.add_argument(
        "--seeds", help="run under several seeds: 0:4 (0, 1, 2, 3) or 0,1,7; each in OUT/seedN"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="seeds at once, which share the cores; sums in another order may change last digits",
    )
    return parser


def _notebooks(options: argparse.Namespace) -> list[Path]:
    notebooks = [_find(name) for name in options.notebooks] or all_notebooks()
    if not notebooks:
        raise ValueError(f"notebooks={str(project_root() / 'notebooks')!r}: must hold notebooks")
    return notebooks


def _out(options: argparse.Namespace) -> Path:
    out = options.out or project_root() / "runs" / Path(options.profile or "default").stem
    return Path(os.path.abspath(out))


def _run_seeds(options: argparse.Namespace) -> None:
    """Run the notebooks with a parameter `seed` once per seed, the others once, on all of them.

    A seed that fails does not stop the others; NotebookFailed at the end names it. Runs go on where
    they were when the command is given again.
    """
    seeds, notebooks, out = _read_seeds(options.seeds), _notebooks(options), _out(options)
    check_integer("jobs", options.jobs, 1)
    require(not options.in_place, "in_place=True: must be left out with --seeds")
    require("seed" not in dict(options.parameters), "seed: must be left out with --seeds")
    _plan(options, notebooks, out)  # everything is checked before the first seed runs
    single = [path for path in notebooks if "seed" in declared_parameters(path)]
    joint = [path for path in notebooks if path not in single]
    require(
        single, f"seeds={options.seeds!r}: must be left out, no notebook here has a parameter seed"
    )
    _make_folder(out)
    commands = {seed: _command(options, single, seed_dir(out, seed), seed) for seed in seeds}
    failed = _run_commands(commands, out, options.jobs)
    if failed:
        left = f"; not run: {', '.join(path.stem for path in joint)}" if joint else ""
        raise NotebookFailed(
            f"failed under seeds {', '.join(map(str, failed))}{left}; the same command goes on"
        )
    if joint:
        options.out, options.parameters = out, _declared(options, joint)
        _run(options, joint)


def _read_seeds(text: str) -> list[int]:
    """The seeds that "0:4" (without the 4, as in Python) or "0,1,7" names."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found:
        seeds = list(range(int(found[1]), int(found[2])))
    else:
        seeds = [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else []
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds={text!r}: must be a range such as 0:4 (0, 1, 2, 3) or different integers such "
            "as 0,1,7"
        )
    return seeds


def _declared(options: argparse.Namespace, notebooks: list[Path]) -> list[tuple[str, str]]:
    """Of the parameters of the command line those that one of the notebooks has."""
    names = {name for path in notebooks for name in declared_parameters(path)}
    return [(name, value) for name, value in options.parameters if name in names]


def _command(options: argparse.Namespace, notebooks: list[Path], out: Path, seed: int) -> list[str]:
    """The command that runs the notebooks under one seed."""
    command = [sys.executable, "-m", "dsnn_utils.runner", *map(str, notebooks), "--out", str(out)]
    if options.profile:
        command += ["--profile", options.profile]
    if options.timeout is not None:
        command += ["--timeout", str(options.timeout)]
    if options.no_html:
        command += ["--no-html"]
    for name, value in [*_declared(options, notebooks), ("seed", str(seed))]:
        command += ["-p", name, value]
    return command


def _run_commands(commands: dict[int, list[str]], out: Path, jobs: int) -> list[int]:
    """Run the command of each seed, so many at once; returns the seeds whose command failed.

    What a command prints goes to `runner.log` of its run. An interrupt ends all of them.
    """
    environment = dict(os.environ)
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    waiting, failed = list(commands), []
    running: dict[int, tuple[float, subprocess.Popen]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = waiting.pop(0)
                log = seed_dir(out, seed) / "runner.log"
                _make_folder(log.parent)
                print(f"seed {seed}: started, prints to {log}", flush=True)
                with open(log, "w", encoding="utf-8") as file:
                    started = (
                        time.monotonic(),
                        subprocess.Popen(
                            commands[seed], stdout=file, stderr=subprocess.STDOUT, env=environment
                        ),
                    )
                running[seed] = started
            time.sleep(0.2)
            for seed in [s for s, (_, process) in running.items() if process.poll() is not None]:
                begun, process = running.pop(seed)
                duration_s = time.monotonic() - begun
                if process.returncode:
                    failed.append(seed)
                    reason = _last_error(seed_dir(out, seed) / "runner.log")
                    print(f"seed {seed}: failed after {duration_s:.0f} s: {reason}", flush=True)
                else:
                    print(f"seed {seed}: done in {duration_s:.0f} s", flush=True)
    finally:
        _end([process for _, process in running.values()])
    return failed


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")


def _end(processes: list[subprocess.Popen]) -> None:
    """Interrupt what still runs: a terminal has done so already, another sender has not."""
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(p.poll() is None for p in processes):
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait()


def _run(options: argparse.Namespace, notebooks: list[Path]) -> None:
    import nbformat
    import pandas as pd

    out = _out(options)
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
        print(f"\nReport: {_write_report(out, notebooks, table)}")


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


def _write_report(out: Path, notebooks: list[Path], table) -> Path:
    from dsnn_utils.pages import write_html, write_index
    from dsnn_utils.summary import summarise_run

    texts = sorted((project_root() / "notebooks").glob("*.md"))
    sources = [*(out / "notebooks" / path.name for path in notebooks), *texts]
    beside = {"index", *(path.stem for path in sources)}
    for path, source in zip([*notebooks, *texts], sources, strict=True):
        page = out / "report" / f"{path.stem}.html"
        write_html(source, page, images=path.parent, beside=beside)
    index = out / "report" / "index.html"
    summary = summarise_run(out) if (out / "trials.csv").is_file() else ""
    write_index(index, f"Run {out.name}", sources, table, summary)
    return index


def _front(out: Path):
    """The Pareto front of a run, the columns a reader wants; None where no search has run."""
    if not (out / "trials.csv").is_file():
        return None
    from dsnn_utils.analysis import pareto_front
    from dsnn_utils.runs import DEFAULT_OBJECTIVES, read_settings, read_trials

    settings = read_settings(out) if (out / "search.json").is_file() else {}
    objectives = settings.get("objectives", DEFAULT_OBJECTIVES)
    columns = ["trial", "origin", "shift_depth", "shift_type", "weight_bits", "optimizer"]
    front = pareto_front(read_trials(out), objectives)
    return front[list(dict.fromkeys([*columns, "val_accuracy", *objectives]))]


if __name__ == "__main__":
    sys.exit(main())
