"""Wrong values for every parameter of every notebook, generated from what the notebooks declare.

Each has to end in one ValueError that says which parameter, which value and what is allowed, from
the check that the runner makes before it starts a kernel.
"""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from dsnn_utils import parameters as declaring
from dsnn_utils.limits import CHOICES, RANGES

NOTEBOOKS = declaring.all_notebooks()
DECLARED = {path.stem: declaring.declared_parameters(path) for path in NOTEBOOKS}

#: Wrong for a parameter of the kind, whatever its range and choices are.
WRONG = {
    "int": ["many", "", 1.5, "1.5", math.nan, math.inf, "-inf", True, [1], {}, -1, -(10**30), 1e30],
    "float": ["fast", "", math.nan, "nan", math.inf, False, [0.5], {}, -1.0, -1e30, 1e30],
    "bool": ["maybe", "", 0, 1, "yes", 0.5, [True], None],
    "str": [7, 0.5, True, ["text"], {}, "", "  ", "no/such/path", "a\0b", "x" * 5000],
    "list": [3, "[1, ", "text", {}, {"a": 1}, [[1]], [None], None],
    "dict": [3, "text", "{a: ", [1], {"nonsense": [1]}, {"shift_depth": 3}, {"shift_depth": []},
             {"shift_depth": [1], "shift_depth, weight_bits": [[1, 2]]}],
}  # fmt: skip
WRONG_IN_LIST = {
    "int": ["one", 1.5, math.nan, -1, 10**30],
    "float": ["one", math.nan, math.inf, -1.0, 1e30],
    "str": [7, "", "no such thing"],
}
#: Folders that need not be there: a name that is none, and a file in their place.
NEW_FOLDERS = {"run_dir", "data_root"}


def wrong_values(name: str, parameter: declaring.Parameter):
    """What the parameter must refuse: by its kind, and beside its range or choices."""
    kind, element, optional, default = parameter
    values = list(WRONG[kind])
    if kind == "list":
        values += [[wrong] for wrong in WRONG_IN_LIST[element]]
        if default:
            values += [[default[0], default[0]], [*default, WRONG_IN_LIST[element][0]]]
    if optional:
        values = [value for value in values if value is not None]
    elif kind != "bool":
        values.append(None)
    if name in NEW_FOLDERS:
        values = [7, True, ["text"], "", "  ", "README.md", None]
    if kind in ("int", "float"):
        low, high, excluded = RANGES[name]
        step = 1 if kind == "int" else 1e-6
        values += [low - step, high + step, *excluded, str(low - step)]
    if name in CHOICES:
        first = CHOICES[name][0]
        values += [first[:-1], first.upper(), f"{first} "]
    return values


CASES = {
    (path.stem, name): wrong_values(name, parameter)
    for path in NOTEBOOKS
    for name, parameter in DECLARED[path.stem].items()
}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Reading a notebook takes longer than checking a hundred values."""
    monkeypatch.setattr(declaring, "declared_parameters", lambda path: DECLARED[Path(path).stem])


def test_there_are_several_cases_for_every_parameter():
    assert sum(map(len, CASES.values())) > 1000 and min(map(len, CASES.values())) >= 6
    assert len(CASES) == sum(map(len, DECLARED.values()))


@pytest.mark.parametrize(("stem", "name"), CASES)
def test_wrong_values_are_refused_by_name_and_with_what_is_allowed(stem, name):
    path = next(path for path in NOTEBOOKS if path.stem == stem)
    for value in CASES[stem, name]:
        with pytest.raises(ValueError) as error:
            print("refused?", repr(value)[:80])  # shown where it is not
            declaring.check_notebook(path, {name: value})
        message = str(error.value)
        start = f"{name}={value!r}: "
        assert message.startswith(start) and "\n" not in message.removeprefix(start)
        allowed = ("must be ", "must have ", "every element must be ")
        assert message.removeprefix(start).startswith(allowed), message


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_defaults_and_both_ends_of_each_range_are_allowed(path):
    declared = DECLARED[path.stem]
    declaring.check_notebook(path, {name: p.default for name, p in declared.items()})
    elsewhere = declaring._ALLOWED_IN.get(path.stem, {})  # a smaller range
    for name in declared.keys() & RANGES.keys() - elsewhere.keys():
        low, high, excluded = RANGES[name]
        for end in {low, high} - set(excluded):
            value = [end, low + (high - low) // 2] if declared[name].kind == "list" else end
            assert declaring.check_parameters(path, {name: value})[name] == value


@pytest.mark.parametrize(
    ("stem", "values", "message"),
    [
        ("02_search_space", {"epochs": 5, "min_epochs": 6}, "min_epochs=6: must be at most"),
        ("03_multi_fidelity_search", {"budgets": [1, 4]}, "budgets=[1, 4]: must be at least two"),
        ("03_multi_fidelity_search", {"budgets": [5, 1]}, "budgets=[5, 1]: must be at least two"),
        (
            "03_multi_fidelity_search",
            {"objectives": ["loss", "energy_measured_kwh"], "measure_energy": False},
            "objectives=['energy_measured_kwh']: must not be measured with measure_energy=False",
        ),
        (
            "03_multi_fidelity_search",
            {"objectives": ["loss", "water_l"]},
            "wue_l_per_kwh=0.0: must",
        ),
        (
            "03_multi_fidelity_search",
            {"teacher": "of-{seed}.x", "seed": 7},
            "teacher='of-7.x': must",
        ),
        (
            "04_pareto_analysis",
            {"energy_budget_j_per_image": 1e-6},
            "energy_budget_j_per_image=1e-06: must be None for rule='knee'",
        ),
        ("04_pareto_analysis", {"rule": "accuracy_floor"}, "accuracy_floor=None: must be a number"),
        (
            "04_pareto_analysis",
            {"retrain_seeds": [], "retrain_epochs": 3},
            "retrain_epochs=3: must be None with retrain_seeds=[]",
        ),
        ("06_measured_and_modelled_energy", {"depths": [5]}, "depths=[5]: must have at least 2"),
        (
            "07_training_given_networks",
            {"measuring_rounds": 2, "measure_energy": False},
            "measuring_rounds=2: must be 0 with measure_energy=False",
        ),
        (
            "07_training_given_networks",
            {"use_test": True, "n_random": 3},
            "n_random=3: must be 0 with use_test=True",
        ),
        ("07_training_given_networks", {"start_from": "x-{seed}"}, "start_from='x-0': must be the"),
        ("10_from_emulation_to_integers", {"weight_bits": 6}, "weight_bits=6: must be from 2 to 5"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(stem, values, message):
    path = next(path for path in NOTEBOOKS if path.stem == stem)
    with pytest.raises(ValueError) as error:
        declaring.check_notebook(path, values)
    assert str(error.value).startswith(message)


# ------------------------------------------------------- within a notebook, whoever executes it

SEARCH = "03_multi_fidelity_search"


def in_kernel(**injected):
    """A kernel's names after the cell of parameters and the one that papermill puts behind it."""
    defaults = {name: parameter.default for name, parameter in DECLARED[SEARCH].items()}
    cell = "".join(f"{name} = {value!r}\n" for name, value in injected.items())
    return defaults | injected | {"In": ["", "n_trials: int = 30", f"# Parameters\n{cell}"]}


def test_notebook_takes_what_papermill_gives_it():
    section = f"notebook_{SEARCH}"
    namespace = in_kernel(seed=3, label_smoothing="5e-2", **{section: {"n_trials": 12}})
    values = declaring.checked_parameters(SEARCH, namespace)
    assert (values["seed"], values["label_smoothing"], values["n_trials"]) == (3, 0.05, 12)
    assert values.keys() == DECLARED[SEARCH].keys()


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ({"n_trials": "many"}, "n_trials='many': must be an integer"),
        ({"n_trails": 5}, "parameter 'n_trails': unknown; must be one of dataset, "),
        ({f"notebook_{SEARCH}": {"eta": 1}}, "eta=1: must be from 2 to 1000"),
        ({"notebook_02_search_space": {"eta": 1}}, "eta=1: must be from 2 to 1000"),
        ({"notebook_03": {"eta": 3}}, "parameter 'notebook_03': unknown"),
        (
            {"n_trials": 12, f"notebook_{SEARCH}": {"n_trials": 30}},
            f"n_trials=12: must not differ from notebook_{SEARCH}, which has 30",
        ),
        ({"budgets": [1, 3]}, "budgets=[1, 3]: must be at least two numbers of epochs"),
    ],
)
def test_notebook_refuses_what_the_runner_refuses(injected, message):
    with pytest.raises(ValueError) as error:
        declaring.checked_parameters(SEARCH, in_kernel(**injected))
    assert str(error.value).startswith(message)


def test_notebook_says_what_has_no_effect(capsys):
    declaring.checked_parameters(SEARCH, in_kernel(depths=[0, 3], distillation=0.7, strategy="tpe"))
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "not for this notebook, left out: depths",
        "distillation=0.7 has no effect here",
    ]
    declaring.checked_parameters(SEARCH, in_kernel(eta=2, strategy="tpe"))
    assert capsys.readouterr().out == "eta=2 has no effect here\n"
    declaring.checked_parameters(SEARCH, in_kernel())
    assert capsys.readouterr().out == ""


def test_countries_are_those_of_codecarbon():
    from codecarbon.input import DataSource

    assert declaring._countries() == DataSource().get_global_energy_mix_data()


def test_runner_refuses_before_anything_slow_is_imported(tmp_path):
    out = str(tmp_path / "out")
    code = (
        "import sys; from dsnn_utils import runner\n"
        f"runner.main(['03_multi_fidelity_search', '--out', {out!r}, '-p', 'eta', '1'])\n"
        "assert not {'torch', 'papermill', 'nbformat'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "error: eta='1': must be from 2 to 1000\n")
    assert not (tmp_path / "out").exists()
