"""NePS, asked and told over a pipe: its pins want an environment without this project.

    python3.11 -m venv neps && neps/bin/pip install neural-pipeline-search==0.17.0 "pandas<3"
    python tests/benchmarks/bench_search.py --neps-python neps/bin/python \\
        --strategies neps_primo neps_moasha --trials 30

`neps_client.py` starts this script by that Python, a process per search. It reads a line of JSON
that says what to search, then lines of points with their costs and "ask", which it answers with a
point and the CPU seconds it has taken.
"""

import json
import logging
import random
import sys
import time

import neps
import numpy as np
import torch
from neps.space.parameters import HPOCategorical, HPOFloat, HPOInteger
from neps.space.search_space import SearchSpace

CONFIDENCE = 0.5  # in each value of a prior: what NePS calls "medium"


def parameter(kind: str, values: list, log: bool = False, is_fidelity: bool = False):
    """A hyperparameter of NePS: choices, or lower and upper bound."""
    if kind == "choices":
        return HPOCategorical(values)
    number = HPOInteger if kind == "integer" else HPOFloat
    return number(*values, log=log, is_fidelity=is_fidelity)


def optimizer(task: dict):
    """The algorithm, as NePS has it by default but for eta, which is that of all strategies."""
    space = SearchSpace({name: parameter(**own) for name, own in task["space"].items()})
    if task["algorithm"] == "moasha":
        return neps.algorithms.moasha(space, eta=task["eta"])
    sure = {o: dict.fromkeys(prior, CONFIDENCE) for o, prior in task["priors"].items()}
    return neps.algorithms.primo(
        space, eta=task["eta"], prior_centers=task["priors"], prior_confidences=sure
    )


def main() -> None:
    logging.disable(logging.WARNING)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    task = json.loads(sys.stdin.readline())
    random.seed(task["seed"])
    np.random.seed(task["seed"])
    torch.manual_seed(task["seed"])
    torch.set_num_threads(1)
    search = neps.AskAndTell(optimizer(task))
    known, waiting = [], None
    for line in sys.stdin:
        message = json.loads(line)
        if message == "ask":
            # At once, or it keeps one fidelity per configuration. What lies on no rung it ignores.
            # And only once: PriMO's own trials it could not read.
            imported = search.optimizer.import_trials(known, search.trials) if known else []
            for one in imported:
                search.tell_custom(config_id=one.id, config=one.config, result=one.result)
            known, waiting = [], search.ask()
            answer = {"point": waiting.config, "cpu_s": time.process_time()}
            print(json.dumps(answer, default=lambda v: v.item()), file=answers, flush=True)
            continue
        result = {"objective_to_minimize": message["costs"]}
        if waiting is None:
            known.append((message["point"], result))
        else:
            search.tell(waiting, result)
            waiting = None


if __name__ == "__main__":
    main()
