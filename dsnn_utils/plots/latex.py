"""Tables as LaTeX, for papers."""

import re
from collections.abc import Mapping

import pandas as pd

_COMMANDS: dict[str, str | int | None] = {  # as `maketrans` is typed
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # pdfTeX has no glyphs for these outside mathematics.
    "µ": r"$\mu$",
    "₂": "$_2$",
    "²": "$^2$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
}


def latex_text(text: str) -> str:
    """`text` with what LaTeX would take for commands, and the signs of our units, written out."""
    return text.translate(str.maketrans(_COMMANDS))


def latex_table(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> str:
    """A `tabular` with the rules of the package booktabs, the index left out.

    `formats` has a format such as "{:.2f}" for columns of numbers. A unit that ends the name of a
    column, as in "Duration (s)", goes into a second line of the head. Numbers are set flush right,
    what is missing becomes a dash.

    Raises ValueError for a format whose column there is not, and for a table without rows.
    """
    formats = dict(formats or {})
    unknown = sorted(formats.keys() - set(table.columns))
    if unknown:
        raise ValueError(f"formats={unknown}: must be of the columns {list(table.columns)}")
    if table.empty:
        raise ValueError(f"table={list(table.columns)}: must have at least one row")
    cells = {}
    for name in table:
        form = formats.get(name, "{}")
        cells[_head(name)] = [
            "--" if pd.isna(value) else latex_text(form.format(value)) for value in table[name]
        ]
    heads = pd.MultiIndex.from_tuples(cells)
    if not any(unit for _, unit in heads):
        heads = heads.droplevel(1)
    right = [n in formats or pd.api.types.is_numeric_dtype(table[n]) for n in table]
    return pd.DataFrame(dict(enumerate(cells.values()))).set_axis(heads, axis=1).to_latex(
        index=False,
        multicolumn=False,
        column_format="".join("r" if flush else "l" for flush in right),
    )  # fmt: skip


def _head(name: str) -> tuple[str, str]:
    """The name of a column and its unit, with its brackets, as two texts of LaTeX."""
    text, unit = re.fullmatch(r"(.*?)(?: (\([^()]+\)))?", name).groups("")  # type: ignore[union-attr]  # matches any text
    return latex_text(text), latex_text(unit)
