"""Which hyperparameters matter: fANOVA, ablation paths and partial dependence.

Of losses and of what was measured they are estimated, by trees fitted to the trials. The modelled
energy is a formula of depth and number format, so it is calculated.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from dsnn_utils.checks import require_columns
from dsnn_utils.runs.columns import ACTIVATION_BITS, FORMAT, LOG_SCALED, MODELLED_ENERGIES, OWN
from dsnn_utils.runs.rows import configuration_columns, successful
from dsnn_utils.runs.table import json_value
from dsnn_utils.search.trial import energy_of_trials
from dsnn_utils.shift.models import MODELS

EnergyOf = Callable[[Mapping], float]  # from a point to its modelled energy in J per image
MORE_TRIALS = "run more trials (a larger n_trials continues a search)"


def importance(
    trials: pd.DataFrame,
    objective: str = "loss",
    seed: int = 0,
    by: str = "seed",
    max_trials: int = 400,
    energy_of: EnergyOf | None = None,
) -> pd.DataFrame:
    """Hyperparameter importance by fANOVA (Hutter et al., ICML 2014), one analysis per run.

    Columns `hyperparameter`, `importance` (mean over the runs told apart by `by`), `lowest`,
    `highest`, `runs`; sorted, importances of one run sum to 1. Shift depth counts as a
    hyperparameter; columns that never vary are left out; a missing momentum (optimizers without
    one) counts as 0. Runs longer than `max_trials` are sampled down to it.

    A modelled energy is not estimated from the trials: the variances are those of the formula
    itself, each hyperparameter taking all values from the lowest to the highest tried, and no run
    differs from another. `energy_of` gives the energy of a point, by default that of the network
    and data which the table names (`search.energy_of_trials`, and its errors). Of networks or
    hyperparameters of one's own it is estimated, too, unless `energy_of` is given.
    """
    require_columns(trials, [by])
    names = [n for n in ("shift_depth", *configuration_columns(trials)) if n in trials.columns]
    rows = successful(trials, [objective])
    names = [n for n in names if rows[n].nunique(dropna=False) > 1]
    if not names:
        raise ValueError("trials: must vary at least one hyperparameter for an importance")
    if _is_calculated(trials, objective, energy_of):
        found = _importance_for_energy(_Formula(trials, objective, energy_of), names)
        return _importance_table(pd.DataFrame([found] * rows[by].nunique(dropna=False)))
    with warnings.catch_warnings(action="ignore"):  # of its progress bars, on notebook widgets
        import optuna

    results = []
    for _, run in rows.groupby(by, dropna=False):
        if len(run) < 4 or run[objective].nunique() < 2:
            continue
        if len(run) > max_trials:  # twice the trials take three times as long
            run = run.sample(max_trials, random_state=seed)
        try:
            results.append(_fanova(run, names, objective, seed, optuna))
        except RuntimeError as error:  # no tree found anything to split
            if "zero total variance" not in str(error):
                raise
    if not results:
        raise ValueError(
            f"trials: must have at least 4 successful rows that differ in {objective} in one run "
            f"(rows with the same {by}); {MORE_TRIALS}"
        )
    return _importance_table(pd.DataFrame(results).fillna(0.0))


def _importance_table(wide: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(
        {"importance": wide.mean(), "lowest": wide.min(), "highest": wide.max(), "runs": len(wide)}
    )
    table = table.sort_values("importance", ascending=False, kind="stable")
    return table.rename_axis("hyperparameter").reset_index()


def _importance_for_energy(formula: "_Formula", names: list[str]) -> dict[str, float]:
    """Shares of the variances that the hyperparameters cause one by one, on the grid of all."""
    rows, levels = formula.rows, {}
    for name in ("shift_depth", "arithmetic", *FORMAT, "activation_format"):
        if name not in rows:
            continue
        column = rows[name].dropna()
        if name not in names or column.empty:
            levels[name] = rows[name].iloc[:1].tolist()
        elif _is_number(column):
            levels[name] = list(range(int(column.min()), int(column.max()) + 1))
        else:
            levels[name] = sorted(column.unique())
    grid = pd.MultiIndex.from_product(levels.values(), names=list(levels)).to_frame(index=False)
    if "activation_format" in grid:  # a fitted one has no fraction bits
        fitted = grid["activation_format"] == "fitted"
        grid["activation_fraction_bits"] = grid["activation_fraction_bits"].mask(fitted)
    energy = formula.predict(grid)[0].reshape([len(values) for values in levels.values()])
    variances = {}
    for axis, name in enumerate(levels):
        others = tuple(other for other in range(energy.ndim) if other != axis)
        variances[name] = float(energy.mean(axis=others).var())
    # Relative to the energy: rounding errors of a sum are no variance.
    if sum(variances.values()) <= (1e-12 * energy.mean()) ** 2:
        raise ValueError("trials: must vary shift_depth or bits, the modelled energy hangs on them")
    return {name: variances.get(name, 0.0) / sum(variances.values()) for name in names}


def _fanova(run: pd.DataFrame, names: list[str], objective: str, seed: int, optuna) -> dict:
    distributions, columns = {}, {}
    for name in names:
        column = run[name].fillna(0.0) if name == "momentum" else run[name]
        if column.isna().any():  # inactive: a category of its own
            column = column.astype(object).where(column.notna(), "inactive").astype(str)
        low, high = column.min(), column.max()
        if not pd.api.types.is_numeric_dtype(column):
            choices = sorted(column.astype(str).unique())
            column = column.astype(str)
            distributions[name] = optuna.distributions.CategoricalDistribution(choices)
        elif (column % 1 == 0).all():
            column = column.astype(int)
            distributions[name] = optuna.distributions.IntDistribution(int(low), int(high))
        else:
            log = name in LOG_SCALED and low > 0
            distributions[name] = optuna.distributions.FloatDistribution(
                float(low), float(high), log=log
            )
        columns[name] = column.tolist()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: columns[name][i] for name in names},
                    distributions=distributions,
                    value=value,
                )
                for i, value in enumerate(run[objective].tolist())
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Surrogate:
    """Extra trees fitted to the successful trials, to predict an objective of any configuration.

    `r2` is the share of the variance explained in trials that a tree has not seen (out of bag): 1
    is perfect, 0 no better than the mean, less is worse. Categories are encoded one-hot, learning
    rate and weight decay as logarithms; a missing number (such as the momentum of an optimizer that
    has none) is a value of its own to the trees.
    """

    def __init__(self, trials: pd.DataFrame, objective: str, seed: int):
        from sklearn.ensemble import ExtraTreesRegressor

        require_columns(trials, ["shift_depth"])
        self.rows = successful(trials, [objective])
        self.names = ["shift_depth", *configuration_columns(trials)]
        if len(self.rows) < 4 or self.rows[objective].nunique() < 2:
            raise ValueError(
                f"trials: must have at least 4 successful rows that differ in {objective}; "
                f"{MORE_TRIALS}"
            )
        self.numbers = [n for n in self.names if _is_number(self.rows[n])]
        features = self._encode(self.rows)
        self._columns = features.columns
        # Each tree learns from at most 2000 trials: more only take time. Extra trees need no
        # bootstrap, but without it no trial is out of bag and nothing tells how good they are.
        self._forest = ExtraTreesRegressor(
            100, bootstrap=True, max_samples=min(len(features), 2000), oob_score=True,
            random_state=seed,
        )  # fmt: skip
        self._forest.fit(features.to_numpy(), self.rows[objective])
        self.r2 = float(self._forest.oob_score_)

    def _encode(self, rows: pd.DataFrame) -> pd.DataFrame:
        numbers = rows[self.numbers].apply(pd.to_numeric).astype(float)
        # Extra trees draw their splits uniformly between lowest and highest value: on a linear
        # scale nine in ten would fall into the topmost decade.
        for name in set(LOG_SCALED) & set(numbers):
            numbers[name] = np.log10(numbers[name].clip(lower=1e-12))
        if set(ACTIVATION_BITS) <= set(numbers):  # shifts and adds work at their sum
            numbers["activation_bits"] = numbers[list(ACTIVATION_BITS)].sum(axis=1, min_count=2)
        texts = rows[[n for n in self.names if n not in self.numbers]].astype(str)
        return numbers.join(pd.get_dummies(texts, dtype=float)) if len(texts.columns) else numbers

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """What each tree predicts for each row, (trees, rows)."""
        # Rows to predict need not hold every category, nor only those of the fit.
        features = self._encode(rows).reindex(columns=self._columns, fill_value=0.0)
        features = features.to_numpy(np.float32)
        return np.array([tree.predict(features) for tree in self._forest.estimators_])


class _Formula:
    """The modelled energy of any configuration, with the face of a `_Surrogate`; nothing is fitted.

    Its `r2` is NaN: there is nothing to explain.
    """

    r2 = float("nan")

    def __init__(self, trials: pd.DataFrame, objective: str, energy_of: EnergyOf | None):
        require_columns(trials, ["shift_depth"])
        self.rows = successful(trials, [objective])
        self.names = ["shift_depth", *configuration_columns(trials)]
        self.numbers = [n for n in self.names if _is_number(self.rows[n])]
        self._energy_of = energy_of or energy_of_trials(trials, objective)

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """The energy of each row in J per image, (1, rows)."""
        # Only the sum of the activation bits counts: split in one way, there are far fewer points.
        one, other = ACTIVATION_BITS
        total = rows[[one, other]].sum(axis=1, min_count=1)
        rows = rows.assign(**{one: total.clip(upper=32), other: (total - 32).clip(lower=0)})
        names = [n for n in ("shift_depth", "arithmetic", *FORMAT) if n in rows]
        table = rows[names].astype(object)
        points = list(table.where(table.notna(), None).itertuples(index=False, name=None))
        energies = {p: self._energy_of(dict(zip(names, p, strict=True))) for p in set(points)}
        return np.array([[energies[point] for point in points]])


def _is_calculated(trials: pd.DataFrame, objective: str, energy_of: EnergyOf | None) -> bool:
    """Whether the objective is a formula of what the table holds.

    It is none known here where networks, or hyperparameters, are somebody's own.
    """
    own = any(name.startswith(OWN) for name in trials.columns)
    known = "model" in trials and trials["model"].dropna().isin(MODELS).all()
    return objective in MODELLED_ENERGIES and (energy_of is not None or (known and not own))


def _predictor(
    trials: pd.DataFrame, objective: str, seed: int, energy_of: EnergyOf | None
) -> _Surrogate | _Formula:
    if _is_calculated(trials, objective, energy_of):
        return _Formula(trials, objective, energy_of)
    return _Surrogate(trials, objective, seed)


def _is_number(column: pd.Series) -> bool:
    return pd.to_numeric(column, errors="coerce").notna().equals(column.notna())


def ablation_path(
    trials: pd.DataFrame,
    start: pd.Series,
    target: pd.Series,
    objective: str = "loss",
    seed: int = 0,
    energy_of: EnergyOf | None = None,
) -> pd.DataFrame:
    """From `start` to `target`, one hyperparameter at a time, always the one that helps most.

    Ablation (Fawcett & Hoos, J. Heuristics 2016) on a surrogate (Biedenkapp et al., AAAI 2017):
    nothing is trained, the values are predictions of extra trees fitted to the trials. A modelled
    energy is calculated instead; for `energy_of` see `importance`. If the optimizer changes,
    momentum goes with it.

    One row per step, the first being `start`: `step`, `hyperparameter`, `from`, `to`, `predicted`
    (the objective after the step), `spread` (standard deviation over the trees), `observed` (the
    trial's own value; first and last row only) and `r2`, the share of the variance that the trees
    explain in trials they have not seen. With `r2` near 0 or below, the path says nothing. Of a
    modelled energy `spread` is 0 and `r2` NaN.
    """
    surrogate = _predictor(trials, objective, seed, energy_of)
    for label, row in (("start", start), ("target", target)):
        missing = [name for name in surrogate.names if name not in row.index]
        if missing:
            raise ValueError(f"{label}={list(row.index)}: must have the hyperparameters {missing}")
    point, goal = start[surrogate.names].to_dict(), target[surrogate.names].to_dict()
    # Compared as JSON values: NaN, a missing momentum, would differ from itself.
    changes = {n: {n: goal[n]} for n in goal if json_value(point[n]) != json_value(goal[n])}
    if "optimizer" in changes and "momentum" in goal:
        changes.pop("momentum", None)
        changes["optimizer"]["momentum"] = goal["momentum"]
    predicted = surrogate.predict(pd.DataFrame([point]))[:, 0]
    path = [(0, "", None, None, predicted.mean(), predicted.std())]
    while changes:
        candidates = surrogate.predict(pd.DataFrame([point | c for c in changes.values()]))
        best = int(candidates.mean(axis=0).argmin())
        name, predicted = list(changes)[best], candidates[:, best]
        step = (len(path), name, point[name], goal[name], predicted.mean(), predicted.std())
        path.append(step)
        point |= changes.pop(name)
    columns = ["step", "hyperparameter", "from", "to", "predicted", "spread"]
    table = pd.DataFrame(path, columns=columns).assign(observed=np.nan, r2=surrogate.r2)
    table.loc[table.index[[0, -1]], "observed"] = [
        pd.to_numeric(row.get(objective), errors="coerce") for row in (start, target)
    ]
    return table


def partial_dependence(
    trials: pd.DataFrame,
    hyperparameters: Sequence[str] = ("shift_depth", "weight_bits"),
    objective: str = "loss",
    seed: int = 0,
    at_most: int = 20,
    max_trials: int = 200,
    energy_of: EnergyOf | None = None,
) -> pd.DataFrame:
    """The objective over two hyperparameters, averaged over how all others were set in the trials.

    Partial dependence (Friedman, Annals of Statistics 2001) of extra trees fitted to the trials,
    or of a modelled energy itself (`energy_of` as in `importance`): the mean over all (at most
    `max_trials`, sampled) successful trials with the two values put in their place.
    "activation_bits" means integer plus fraction bits, shared out as in each trial as far as both
    stay in the range tried. The grid has at most `at_most` values of each, from the lowest to the
    highest tried.

    Columns: the two names, `predicted`, `spread` (standard deviation over the trees) and `r2` (see
    `ablation_path`). Where nothing was tried, trees continue the nearest trials.
    """
    surrogate = _predictor(trials, objective, seed, energy_of)
    rows = surrogate.rows
    if len(set(hyperparameters)) != 2:
        raise ValueError(f"hyperparameters={hyperparameters!r}: must be two different names")
    if {"activation_bits"} & set(hyperparameters):
        require_columns(rows, ACTIVATION_BITS)
        rows = rows.assign(activation_bits=rows[list(ACTIVATION_BITS)].sum(axis=1, min_count=1))
    possible = [n for n in [*surrogate.numbers, "activation_bits"] if n in rows]
    for name in hyperparameters:
        if name not in possible or rows[name].isna().all():
            raise ValueError(f"hyperparameters={name!r}: must be one of {', '.join(possible)}")
    one, two = hyperparameters
    grid = pd.MultiIndex.from_product([_grid(rows[n], at_most) for n in hyperparameters])
    sample = rows.sample(min(len(rows), max_trials), random_state=seed)
    predictions = []
    for values in grid:
        filled = sample.copy()
        for name, value in zip(hyperparameters, values, strict=True):
            _put(filled, name, value)
        predictions.append(filled)
    every = surrogate.predict(pd.concat(predictions, ignore_index=True))
    means = every.reshape(len(every), len(grid), len(sample)).mean(axis=2)
    table = grid.to_frame(index=False, name=[one, two])
    return table.assign(predicted=means.mean(axis=0), spread=means.std(axis=0), r2=surrogate.r2)


def _grid(values: pd.Series, at_most: int) -> np.ndarray:
    """From the lowest to the highest value; integers stay integers."""
    values = pd.to_numeric(values).dropna()
    low, high = values.min(), values.max()
    if (values % 1 == 0).all():
        number = int(min(at_most, high - low + 1))
        return np.unique(np.linspace(low, high, number).round().astype(int))
    return (np.geomspace if values.name in LOG_SCALED else np.linspace)(low, high, at_most)


def _put(rows: pd.DataFrame, name: str, value: float) -> None:
    if name != "activation_bits":
        rows[name] = value
        return
    # In each row's proportion, as far as both parts stay within what was tried.
    one, other = ACTIVATION_BITS
    lowest, highest = rows[one].min(), rows[one].max()
    low = max(lowest, value - rows[other].max())
    high = max(low, min(highest, value - rows[other].min()))
    shares = (rows[one] / rows["activation_bits"] * value).round().clip(low, high)
    # A fitted format has integer bits alone, as far as they were tried.
    alone = rows[other].isna()
    rows[one] = shares.mask(alone, min(max(value, lowest), highest))
    rows[other] = (value - rows[one]).mask(alone)
