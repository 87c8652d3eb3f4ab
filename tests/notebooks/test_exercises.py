"""Exercises of the notebooks: each solution runs by itself and gives what its answer says."""

import io
import json
import re
from contextlib import chdir, redirect_stdout

import pytest
import torch

from dsnn_utils.parameters import all_notebooks
from dsnn_utils.paths import project_root

TEACHING = ("01", "02", "03", "04", "05", "06", "09", "10")
FOLDED = re.compile(
    r"^\*\*(\d)\.\*\* .+?\n\n<details><summary>Solution</summary>\n\n"  # the question
    r"```python\n(.+?)```\n\n(.+?)\n\n</details>$",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def exercises(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return FOLDED.findall("\n".join(text for text in texts if text.startswith("## Exercises")))


SOLUTIONS = {
    f"{path.name[:2]}.{number}": (code, answer)
    for path in all_notebooks()
    for number, code, answer in exercises(path)
}


def test_three_exercises_in_each_teaching_notebook():
    assert set(SOLUTIONS) >= {f"{name}.{number}" for name in TEACHING for number in (1, 2, 3)}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solution(name):
    code, answer = SOLUTIONS[name]
    printed = io.StringIO()
    with chdir(project_root()), redirect_stdout(printed), torch.random.fork_rng():
        exec(compile(code, name, "exec"), {})
    # The answer names at least one number that the code prints.
    assert set(NUMBER.findall(printed.getvalue())) & set(NUMBER.findall(answer))
