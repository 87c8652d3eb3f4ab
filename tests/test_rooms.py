"""The floor plan of the package: arrows point one way, no circles, nothing left out of a wheel."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]


def test_imports_keep_the_contracts_in_pyproject(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


def test_every_folder_with_code_is_a_package_that_is_installed():
    folders = {path.parent for path in (ROOT / "dsnn_utils").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    setuptools = pytest.importorskip("setuptools")  # not in every environment from 3.12 on
    assert names == set(setuptools.find_packages(ROOT, include=["dsnn_utils*"]))
