"""Package metadata, the conda environment, the Makefile and the tidiness of the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_TO_PYPI = {"pytorch-cpu": "torch"}
TOP_LEVEL = {
    *("notebooks", "dsnn_utils", "tests", "figures", "environment.yml", "README.md"),
    *("pyproject.toml", "Makefile", "LICENSE", "CITATION.cff", ".gitignore", ".ci"),
    *(".pre-commit-config.yaml", ".github", "CONTRIBUTING.md", "CHANGELOG.md"),
}


def requirements():
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    listed = [*PYPROJECT["project"]["dependencies"], *(line for lines in extras for line in lines)]
    return [Requirement(line) for line in listed]


def conda_specs():
    return [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]


def tracked_files():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def make(*arguments, **environment):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "")}
    command = ["make", "-n", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# -------------------------------------------------------------------------- dependencies


def test_every_dependency_is_bounded_on_both_sides_and_listed_once():
    names = [requirement.name.lower() for requirement in requirements()]
    assert len(set(names)) == len(names)
    for requirement in requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, str(requirement)


def test_installed_versions_are_within_the_bounds():
    for requirement in requirements():
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
        assert requirement.specifier.contains(installed, prereleases=True), str(requirement)


def test_third_party_imports_of_the_package_are_declared():
    declared = {requirement.name.lower().replace("-", "_") for requirement in requirements()}
    declared |= {"sklearn", "yaml", "dsnn_utils"}
    # by torchvision, papermill, nbconvert, jupyterlab, smac, codecarbon and botorch, in this order
    brought_along = {"PIL", "traitlets", "jinja2", "IPython", "dask", "cpuinfo", "gpytorch"}
    for path in (ROOT / "dsnn_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in (name.partition(".")[0] for name in names):
                known = name in sys.stdlib_module_names or name in brought_along
                assert known or name.lower() in declared, f"{path.name}: {name}"


def test_environment_installs_the_project_and_lists_nothing_else_of_its_own():
    (pip,) = [line["pip"] for line in ENVIRONMENT["dependencies"] if isinstance(line, dict)]
    assert pip == ["-e .[test]"]
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]


def test_environment_is_in_step_with_pyproject():
    bounds = {requirement.name: requirement.specifier for requirement in requirements()}
    bounds["python"] = SpecifierSet(PYPROJECT["project"]["requires-python"])
    bounds["pip"] = SpecifierSet()
    for spec in conda_specs():
        name, bound = re.fullmatch(r"([\w-]+)(.*)", spec).groups()
        assert bounds[CONDA_TO_PYPI.get(name, name)] == SpecifierSet(bound), spec


def test_environment_specs_are_valid_for_conda():
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed")
    names = [rattler.MatchSpec(spec, strict=True).name for spec in conda_specs()]
    normalized = [getattr(name, "normalized", name) for name in names]
    assert normalized == ["python", "pip", "pytorch-cpu", "torchvision"]


def test_version_is_written_once():
    number = PYPROJECT["project"]["version"]
    holders = [
        path.name
        for path in tracked_files()
        if path.suffix in (".py", ".toml", ".cff", ".yml")
        and re.search(rf"version\W+{re.escape(number)}\b", path.read_text(errors="replace"))
    ]
    assert holders == ["pyproject.toml"]


def test_citation_names_the_three_works():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == PYPROJECT["project"]["license"]
    urls = " ".join(reference["url"] for reference in citation["references"])
    for arxiv in ("2404.01965", "2606.23208", "1905.13298"):
        assert arxiv in urls
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)


# ------------------------------------------------------------------------------ commands


def test_make_without_an_environment_creates_one_here():
    assert f'"{ROOT}/.venv/bin/python" -m dsnn_utils.runner --profile demo' in make("demo")
    assert f'"{ROOT}/.venv/bin/python" -m pytest' in make("test")
    assert "-m venv .venv" in make("test")


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"VIRTUAL_ENV": "/some where/env"}, "/some where/env"),
        ({"CONDA_PREFIX": "/conda/envs/dsnn", "CONDA_DEFAULT_ENV": "dsnn"}, "/conda/envs/dsnn"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "base"}, f"{ROOT}/.venv"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "base", "VIRTUAL_ENV": "/v"}, "/v"),
    ],
)
def test_make_uses_the_active_environment(variables, used):
    commands = make("test", **variables)
    start = f'PYTHONHASHSEED=0 "{used}/bin/python" -m pytest -n auto '
    assert commands.splitlines()[-1].startswith(start)


def test_ci_entry_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("make test")
    subprocess.run(["bash", "-n", script], check=True)


# ---------------------------------------------------------------------------- repository


def test_top_level_holds_nothing_unexpected():
    names = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert names <= TOP_LEVEL


def test_no_tracked_file_names_a_machine():
    """No home folder, no workplace; only the CI entry may look for data beside the checkout."""
    # [x] in place of x, so that the pattern does not find itself
    machine = re.compile(rb"(?<![\w.>*/-])/(?:home/\w|User[s]/|roo[t]/|wor[k]/)|[.][.]/share[d]")
    for path in tracked_files():
        if path.is_file() and path != ROOT / ".ci" / "run":
            found = machine.search(path.read_bytes())
            assert found is None, f"{path.relative_to(ROOT)}: {found}"
