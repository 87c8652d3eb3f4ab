"""The notebook runner, on throw-away notebooks in a throw-away project."""

import re
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dsnn_utils import pages, paths, runner
from dsnn_utils import parameters as declaring

PARAMETERS = """# a comment
epochs: int = 3  # passes over the data
lr: float = 0.1
augment: bool = True
dataset: str = "digits"
depths: list[int] = [1, 2]
country: str | None = None
run_dir: str = "runs/default"
"""
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def write_notebook(path, *sources, parameters=PARAMETERS):
    cells = [new_markdown_cell("# Title\n\nA formula, $x < 2^{-f}$.")]
    cells += [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that project_root() takes for the project; it has a space in its name."""
    root = tmp_path / "a project"
    (root / "notebooks" / "profiles").mkdir(parents=True)
    (root / "dsnn_utils").mkdir()
    monkeypatch.chdir(root)
    return root


def text_of(notebook):
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


# ------------------------------------------------------------------------------ parameters


def test_project_root_is_found_from_the_root_and_from_the_notebooks_folder(project, monkeypatch):
    assert paths.project_root() == project
    monkeypatch.chdir(project / "notebooks")
    assert paths.project_root() == project


def test_project_root_elsewhere_is_the_installed_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.project_root() == Path(paths.__file__).resolve().parents[1]


def test_declared_parameters(project):
    declared = declaring.declared_parameters(write_notebook(project / "n.ipynb"))
    assert list(declared) == [
        "epochs",
        "lr",
        "augment",
        "dataset",
        "depths",
        "country",
        "run_dir",
    ]
    assert declared["lr"] == declaring.Parameter("float", None, False, 0.1)
    assert declared["depths"] == declaring.Parameter("list", "int", False, [1, 2])
    assert declared["country"] == declaring.Parameter("str", None, True, None)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "12", 12),
        ("epochs", 12.0, 12),
        ("epochs", "-1", -1),
        ("epochs", str(2**63 + 1), 2**63 + 1),
        ("lr", "1e-3", 1e-3),
        ("lr", 1, 1.0),
        ("augment", "false", False),
        ("augment", "True", True),
        ("dataset", "cifar10", "cifar10"),
        ("dataset", Path("images"), "images"),
        ("depths", "[1, 5]", [1, 5]),
        ("depths", (3, "4"), [3, 4]),
        ("depths", "[]", []),
        ("country", None, None),
        ("country", "null", None),
        ("country", "DEU", "DEU"),
    ],
)
def test_values_are_cast_to_the_declared_type(project, name, value, expected):
    path = write_notebook(project / "n.ipynb")
    result = declaring.check_parameters(path, {name: value})[name]
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", "many", "must be an integer"),
        ("epochs", 1.5, "must be an integer"),
        ("epochs", "inf", "must be an integer"),
        ("epochs", True, "must be an integer"),
        ("epochs", None, "must be an integer"),
        ("lr", "fast", "must be a number"),
        ("lr", True, "must be a number"),
        ("augment", "maybe", "must be true or false"),
        ("augment", 1, "must be true or false"),
        ("dataset", 10, "must be text"),
        ("dataset", False, "must be text"),
        ("depths", 3, "must be a list"),
        ("depths", "[1, ", "must be a list"),
        ("depths", ["one"], "every element must be an integer"),
        ("country", 49, "must be text (quote it in YAML) or null"),
    ],
)
def test_values_of_a_wrong_type_are_refused(project, name, value, wanted):
    path = write_notebook(project / "n.ipynb")
    with pytest.raises(ValueError) as error:
        declaring.check_parameters(path, {name: value})
    assert str(error.value).startswith(f"{name}={value!r}: ") and wanted in str(error.value)


def test_unknown_parameter_is_refused_with_the_known_ones(project):
    path = write_notebook(project / "n.ipynb")
    with pytest.raises(ValueError, match="parameter 'ephocs': unknown; n.ipynb has epochs, lr"):
        runner.run_notebook(path, project / "out.ipynb", {"ephocs": 1})
    assert not (project / "out.ipynb").exists()


@pytest.mark.parametrize("parameters", ["%matplotlib inline", "lr = 10 * 2", "a, b = 1, 2", "lr ="])
def test_parameters_cell_that_is_not_plain_assignments_is_refused(project, parameters):
    path = write_notebook(project / "n.ipynb", parameters=parameters)
    with pytest.raises(ValueError, match="must assign literals"):
        declaring.declared_parameters(path)


def test_files_that_are_no_notebooks_are_refused(project):
    (project / "text.ipynb").write_text("hello")
    nbformat.write(new_notebook(), project / "empty.ipynb")
    with pytest.raises(ValueError, match="missing.ipynb.*must be a readable notebook"):
        declaring.declared_parameters(project / "missing.ipynb")
    with pytest.raises(ValueError, match="text.ipynb.*must be a readable notebook"):
        declaring.declared_parameters(project / "text.ipynb")
    with pytest.raises(ValueError, match="must have one cell tagged 'parameters', has 0"):
        declaring.declared_parameters(project / "empty.ipynb")


# -------------------------------------------------------------------------------- profiles


@pytest.fixture
def two_notebooks(project):
    return [
        write_notebook(project / "notebooks" / "01_one.ipynb"),
        write_notebook(project / "notebooks" / "02_two.ipynb", parameters="n_trials: int = 5"),
    ]


def test_profile_is_sorted_by_notebook(project, two_notebooks):
    (project / "notebooks" / "profiles" / "demo.yaml").write_text(
        "epochs: 1  # comment\nlr: 1.0e-3\nnotebook_01_one:\n  epochs: 7\nnotebook_02_two:\n"
    )
    profile = declaring.load_profile("demo")
    assert declaring.assign(profile, two_notebooks) == {
        "01_one": {"epochs": 7, "lr": 1e-3},
        "02_two": {},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ephocs: 1", "parameter 'ephocs': unknown; must be one of epochs, .*n_trials, or a"),
        ("notebook_03: {epochs: 1}", "'notebook_03': unknown; .*section: notebook_01_one, note"),
        ("02_two: {epochs: 1}", "parameter '02_two': unknown; .*, notebook_02_two"),
        ("notebook_02_two: {epochs: 1}", "parameter 'epochs': unknown; 02_two.ipynb has n_trials"),
        ("notebook_02_two: 5", "notebook_02_two=5: must be a mapping"),
        ("epochs: many", "epochs='many': must be an integer"),
        ("- epochs", "must be a mapping of parameters"),
        ("epochs: [", "must be valid YAML"),
    ],
)
def test_wrong_profiles_are_refused(project, two_notebooks, text, message):
    (project / "notebooks" / "profiles" / "demo.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        declaring.assign(declaring.load_profile("demo"), two_notebooks)


def test_missing_profile_is_refused_with_the_existing_ones(project):
    (project / "notebooks" / "profiles" / "test.yaml").touch()
    assert declaring.load_profile("test") == {}
    with pytest.raises(ValueError, match="profile='dmo': must be one of test or a YAML file"):
        declaring.load_profile("dmo")


# ------------------------------------------------------------------------------- execution

SHOW = """import os, sys
print(epochs, lr, augment, depths, country, dataset)
print(os.getcwd(), os.environ["PYTHONHASHSEED"], sys.executable)"""


def test_run_notebook(project, capfd):
    path = write_notebook(project / "notebooks" / "n.ipynb", SHOW)
    values = {"epochs": "4", "lr": "1e-3", "augment": "false", "depths": "[3]", "dataset": 'a"b'}
    (project / 'a"b').mkdir()
    output = project / "deep" / "er" / "out.ipynb"
    result = runner.run_notebook(path, output, values)
    lines = text_of(result).splitlines()
    assert lines[0] == '4 0.001 False [3] None a"b'
    assert lines[1] == f"{path.parent} 0 {sys.executable}"
    assert nbformat.read(output, as_version=4) == result
    assert Path.cwd() == project
    shown = capfd.readouterr().err
    assert "n: 100%" in shown and "Warning" not in shown and "WARNING" not in shown


def test_failing_cell_is_named_and_what_ran_is_kept(project):
    failing = 'raise ValueError(f"epochs={epochs}: must be at least 1")'
    path = write_notebook(project / "n.ipynb", "print('before')", failing, "print('after')")
    with pytest.raises(runner.NotebookFailed) as error:
        runner.run_notebook(path, project / "out.ipynb", {"epochs": 0}, progress=False)
    first_line = str(error.value).splitlines()[0]
    assert first_line == "n.ipynb, cell In [4]: ValueError: epochs=0: must be at least 1"
    assert text_of(nbformat.read(project / "out.ipynb", as_version=4)) == "before\n"


@pytest.mark.parametrize(
    ("source", "timeout", "message"),
    [("import os; os._exit(1)", None, "Kernel died"), ("while True: pass", 1, "timed out")],
)
def test_dead_kernels_and_endless_cells_are_reported(project, source, timeout, message):
    path = write_notebook(project / "n.ipynb", source)
    with pytest.raises(runner.NotebookFailed, match=f"n.ipynb.*{message}"):
        runner.run_notebook(path, project / "out.ipynb", timeout=timeout, progress=False)


def test_unwritable_output_is_refused(project):
    path = write_notebook(project / "n.ipynb")
    (project / "file").touch()
    with pytest.raises(ValueError, match="out=.*must be a writable folder"):
        runner.run_notebook(path, project / "file" / "out.ipynb")


def test_command_line_runs_in_order_and_reports(project, capsys):
    write_notebook(project / "notebooks" / "01_a.ipynb", "print(epochs, lr, run_dir)")
    write_notebook(project / "notebooks" / "02_b.ipynb", "print(epochs)")
    (project / "notebooks" / "profiles" / "demo.yaml").write_text("epochs: 2\nlr: 0.5\n")
    out = project / "runs" / "x"
    shutil.copytree(Path(__file__).parents[2] / "figures" / "demo", out)

    arguments = ["--profile", "demo", "--out", "runs/x", "-p", "epochs", "9"]
    assert runner.main(arguments) == 0

    executed = nbformat.read(out / "notebooks" / "01_a.ipynb", as_version=4)
    assert text_of(executed) == "9 0.5 runs/x\n"
    shown = capsys.readouterr().out
    assert shown.index("01_a") < shown.index("02_b") < shown.index("Pareto front")
    front = shown[shown.index("Pareto front") :]
    assert "model" in front and "default" not in front  # which is dominated
    assert shown.endswith(f"Report: {out / 'report' / 'index.html'}\n")

    index = (out / "report" / "index.html").read_text()
    assert 'href="01_a.html"' in index and 'href="02_b.html"' in index
    for said in ("digits, 1150 training images", "smac 2.4.1", "Chosen network", "99.0 % test"):
        assert said in index
    assert index.count("data:image/svg+xml") == 1 and not re.search(r'src="(?!data:)', index)
    page = (out / "report" / "01_a.html").read_text()
    assert "<math>" in page and "<script" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "ephocs", "1"], "parameter 'ephocs': unknown"),
        (["-p", "epochs", "many"], "epochs='many': must be an integer"),
        (["-p", "run_dir", "runs/mine"], "run_dir: must be left out, the runner takes it"),
        (["--profile", "nope"], "profile='nope': must be one of"),
        (["nope"], "must be a readable notebook"),
        (["--out", "file/x"], "must be a writable folder"),
        (["n"], "n.ipynb, cell In [2]: ZeroDivisionError: division by zero"),
    ],
)
def test_command_line_reports_one_clear_error(project, capsys, arguments, message):
    write_notebook(project / "notebooks" / "n.ipynb", "1 / 0")
    (project / "file").touch()
    assert runner.main(arguments) == 1
    error = capsys.readouterr().err
    assert "error: " in error and message in error
    assert "Traceback" not in error


def test_runs_at_once_do_not_disturb_each_other(project):
    write_notebook(project / "notebooks" / "n.ipynb", "import time; time.sleep(1); print(epochs)")
    command = [sys.executable, "-m", "dsnn_utils.runner", "--no-html"]
    running = [
        subprocess.Popen([*command, "--out", f"runs/{i}", "-p", "epochs", str(i)], stderr=-1)
        for i in (1, 2)
    ]
    for process in running:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    for i in (1, 2):
        executed = nbformat.read(project / "runs" / str(i) / "notebooks" / "n.ipynb", as_version=4)
        assert text_of(executed) == f"{i}\n"


SEEDED = PARAMETERS + "seed: int = 0\n"


def test_several_seeds_by_one_command(project, capsys):
    write_notebook(
        project / "notebooks" / "01_a.ipynb", "print(seed, epochs, run_dir)", parameters=SEEDED
    )
    write_notebook(project / "notebooks" / "02_b.ipynb", "print(lr, run_dir)")
    arguments = ["--seeds", "1,4", "--jobs", "2", "--out", "runs/x", "--no-html"]
    assert runner.main([*arguments, "-p", "epochs", "9", "-p", "lr", "0.5"]) == 0

    folder = project / "runs" / "x"
    for seed in (1, 4):
        executed = folder / f"seed{seed}" / "notebooks" / "01_a.ipynb"
        notebook = nbformat.read(executed, as_version=4)
        assert text_of(notebook) == f"{seed} 9 runs/x/seed{seed}\n"
    together = nbformat.read(folder / "notebooks" / "02_b.ipynb", as_version=4)
    assert text_of(together) == "0.5 runs/x\n"  # once, on the folder of all seeds
    assert not (folder / "notebooks" / "01_a.ipynb").exists()
    shown = capsys.readouterr().out
    assert shown.index("seed 4: started") < shown.index("seed 1: done in") < shown.index("02_b")


def test_a_seed_that_fails_does_not_stop_the_others(project, capsys, monkeypatch):
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 / 0", parameters=SEEDED)
    write_notebook(project / "notebooks" / "02_b.ipynb", "1 / 0")

    def command(options, notebooks, out, seed):  # in place of a kernel
        program = f"print('error: no way'); exit({seed == 1})"
        return [sys.executable, "-c", program]

    monkeypatch.setattr(runner, "_command", command)
    assert runner.main(["--seeds", "0:3", "--out", "runs/x"]) == 1
    shown = capsys.readouterr()
    assert "error: failed under seeds 1; not run: 02_b; the same command goes on" in shown.err
    assert "seed 1: failed after" in shown.out and "s: no way" in shown.out
    assert "seed 2: done in" in shown.out


def test_an_interrupt_ends_all_seeds(tmp_path, monkeypatch):
    program = (
        # Processes of parallel tests ignore it, and so would their children.
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    print('runs', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('interrupted')"
    )
    logs = [tmp_path / f"seed{seed}" / "runner.log" for seed in (0, 5)]
    pause, sent = time.sleep, []

    def sleep(seconds):  # the interrupt comes while the runner waits
        pause(seconds)
        if not sent and all(log.exists() and "runs" in log.read_text() for log in logs):
            sent.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.time, "sleep", sleep)
    monkeypatch.setattr(runner, "_GRACE_S", 0)
    commands = {seed: [sys.executable, "-c", program] for seed in (0, 5, 6)}
    with pytest.raises(KeyboardInterrupt):
        runner._run_commands(commands, tmp_path, jobs=2)
    assert [log.read_text() for log in logs] == ["runs\ninterrupted\n"] * 2
    assert not (tmp_path / "seed6").exists()  # it had to wait


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "3:3"], "seeds='3:3': must be a range such as 0:4"),
        (["--seeds", "0,1,0"], "seeds='0,1,0': must be a range"),
        (["--seeds", "-1"], "seeds='-1': must be a range"),
        (["--seeds", "0:2", "--jobs", "0"], "jobs=0: must be an integer of at least 1"),
        (["--jobs", "2"], "jobs=2: must be 1 without --seeds"),
        (["--seeds", "0:2", "-p", "seed", "1"], "seed: must be left out with --seeds"),
        (["--seeds", "0:2", "--in-place"], "in_place=True: must be left out with --seeds"),
        (["--seeds", "0:2", "-p", "lr", "fast"], "lr='fast': must be a number"),
        (["--seeds", "0:2", "02_b"], "no notebook here has a parameter seed"),
    ],
)
def test_wrong_seeds_are_refused_before_any_runs(project, capsys, arguments, message):
    write_notebook(project / "notebooks" / "01_a.ipynb", "1 / 0", parameters=SEEDED)
    write_notebook(project / "notebooks" / "02_b.ipynb", "1 / 0")
    assert runner.main([*arguments, "--out", "runs/x"]) == 1
    assert message in capsys.readouterr().err
    assert not (project / "runs" / "x").exists()


def test_plain_papermill_understands_a_profile_with_sections(project):
    check = "from dsnn_utils.parameters import checked_parameters"
    check += "\nglobals().update(checked_parameters('01_n', globals()))"
    path = write_notebook(project / "notebooks" / "01_n.ipynb", check, SHOW.splitlines()[1])
    write_notebook(project / "notebooks" / "02_m.ipynb", parameters="n_trials: int = 5")
    (project / "notebooks" / "profiles" / "demo.yaml").write_text(
        "lr: 1.0e-3\nnotebook_01_n:\n  epochs: 2\nnotebook_02_m:\n  n_trials: 3\n"
    )
    command = [sys.executable, "-m", "papermill", path, "out.ipynb", "--no-progress-bar"]
    subprocess.run([*command, "-f", "notebooks/profiles/demo.yaml"], check=True, timeout=60)
    lines = text_of(nbformat.read(project / "out.ipynb", as_version=4))
    assert "2 0.001 True [1, 2] None digits" in lines


# --------------------------------------------------------------------- committed notebooks


def test_in_place_execution_is_repeatable(project):
    source = (
        "import os, sys\nfor i in range(3): print(f'\\r{i}', end='', file=sys.stderr)\n"
        "print(os.getcwd())\n1 + 1"
    )
    path = write_notebook(project / "notebooks" / "n.ipynb", source)
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert runner.main(["--in-place", "--no-html"]) == 0
    first = path.read_text()
    executed = nbformat.read(path, as_version=4)
    assert [cell.id for cell in executed.cells] == ids
    outputs = executed.cells[-1].outputs
    assert [output.get("text") for output in outputs] == ["./notebooks\n", None]
    assert outputs[-1].data["text/plain"] == "2"
    assert set(executed.metadata) == {"kernelspec", "language_info"}
    assert "papermill" not in first and str(project) not in first
    assert runner.main(["--in-place", "--no-html"]) == 0
    assert path.read_text() == first


def test_normalise_drops_widgets_paths_and_injected_parameters(project):
    home, cell = str(Path.home()), "/tmp/ipykernel_12/3.py:1: W"
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}
    notebook = new_notebook(
        metadata={"widgets": {"state": {}}, "papermill": {"duration": 1.0}},
        cells=[
            new_code_cell("x = 1", metadata={"tags": ["injected-parameters"]}),
            new_code_cell(
                "x",
                execution_count=7,
                metadata={"tags": ["parameters"], "papermill": {"status": "completed"}},
                outputs=[
                    new_output("display_data", data=widget),
                    new_output("stream", text=f"{project}/runs {project}-2 {home}/data\n{cell}\n"),
                ],
            ),
        ],
    )
    before = nbformat.from_dict(notebook)
    result = runner.normalise(notebook)
    assert notebook == before
    assert [cell.source for cell in result.cells] == ["x"]
    assert result.cells[0].metadata == {"tags": ["parameters"]}
    assert result.cells[0].execution_count == 1
    (output,) = result.cells[0].outputs
    assert output.text == f"./runs {project}-2 ~/data\n<cell>:1: W\n"
    assert set(result.metadata) == {"kernelspec", "language_info"}
    nbformat.validate(result)


# -------------------------------------------------------------------------------- the pages


def test_pages_show_the_static_figure_and_mathml_without_scripts(tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><circle r="4"/></svg>'
    plotly = {"application/vnd.plotly.v1+json": {"data": [], "layout": {}}}
    figure = plotly | {"image/svg+xml": svg, "text/plain": "Figure"}
    formulas = "Inline $a<b$\n\n\\begin{align*}a&=b\\\\c&=d\\end{align*}\n\nbroken $\\foo$"
    links = "\n\n[next](02_next.ipynb#a) [all](../README.md#the-notebooks) [gone](03_gone.ipynb)"
    folded = "\n\n<details><summary>Solution</summary>\n\n*text*\n\n</details>"
    bar = new_output("stream", name="stderr", text="\r10%\r100%\n")
    cells = [
        new_markdown_cell(formulas + links + folded),
        new_code_cell("figure", outputs=[new_output("display_data", data=figure), bar]),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    beside = {"02_next", "index"}
    pages.write_html(tmp_path / "n.ipynb", tmp_path / "n.html", images=tmp_path, beside=beside)
    page = (tmp_path / "n.html").read_text()
    assert '<img alt="Figure"' in page and b64encode(svg.encode()).decode() in page
    assert "<script" not in page and not re.search(r'src="(?!data:)', page)
    assert 'href="02_next.html#a"' in page and 'href="index.html"' in page
    assert "gone" in page and "03_gone" not in page  # a link that would lead nowhere
    assert re.search(r"<details><summary>Solution</summary>\s*<p><em>text</em></p>\s*</det", page)
    assert "100%" in page and ">10%" not in page
    assert page.count("<math") == 2 and "<code>\\foo</code>" in page


def test_a_text_becomes_a_page_with_anchors(tmp_path):
    (tmp_path / "words.md").write_text("# Words\n\n### shift depth\n\nlayers")
    pages.write_html(tmp_path / "words.md", tmp_path / "words.html", images=tmp_path)
    assert '<h3 id="shift-depth">' in (tmp_path / "words.html").read_text()
