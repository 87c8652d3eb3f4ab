"""Tables as LaTeX: what has to be escaped, units in the head, as many cells as columns."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsnn_utils.plots import latex_table, latex_text

COMMAND = re.compile(r"\\(?:text\w+\{\}|[&%$#_{}])|\$[^$]*\$")


def rows_of(text: str) -> list[list[str]]:
    """The cells of a table, split at each & that is not escaped."""
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    return [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20))
def test_no_character_stays_a_command(text):
    assert not re.search(r"[\\&%$#_{}~^]", COMMAND.sub("", latex_text(text)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text("ab_&%$ ", min_size=1), st.floats(0, 1)), min_size=1, max_size=4))
def test_every_row_has_a_cell_for_each_column(rows):
    table = pd.DataFrame(rows, columns=["a_name", "energy (µJ/image)"])
    text = latex_table(table, {"energy (µJ/image)": "{:.2f}"})
    cells = rows_of(text)
    assert len(cells) == 2 + len(rows) and {len(row) for row in cells} == {2}
    assert [float(row[1]) for row in cells[2:]] == [round(value, 2) for _, value in rows]


def test_units_rules_and_what_is_missing():
    table = pd.DataFrame({"lr": [0.1, np.nan], "CO₂ (g ± 1 %)": [1, 2], "type": ["Q", None]})
    lines = latex_table(table).splitlines()
    assert lines[:2] == [r"\begin{tabular}{rrl}", r"\toprule"]
    assert lines[2:4] == [r"lr & CO$_2$ & type \\", r" & (g $\pm$ 1 \%) &  \\"]
    assert lines[4:] == [
        r"\midrule", r"0.1 & 1 & Q \\", r"-- & 2 & -- \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert rows_of(latex_table(table[["lr"]])) == [["lr"], ["0.1"], ["--"]]  # no line of no units


@pytest.mark.parametrize(
    ("table", "formats", "message"),
    [
        (pd.DataFrame({"a": [1]}), {"b": "{:.1f}"}, r"formats=\['b'\]: must be of the columns"),
        (pd.DataFrame({"a": []}), {}, r"table=\['a'\]: must have at least one row"),
    ],
)
def test_what_cannot_be_a_table_is_refused(table, formats, message):
    with pytest.raises(ValueError, match=message):
        latex_table(table, formats)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_table_of_all_characters_compiles(tmp_path):
    text = "".join(map(chr, range(32, 127))) + "µ₂²±−–"
    table = pd.DataFrame({text: [text], "b (µJ/image)": [1.5]})
    (tmp_path / "table.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        f"{latex_table(table)}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
