"""HTML pages that open offline: executed notebooks, the glossary, and an index that links them.

A page carries no script and loads nothing: of a figure's two faces it takes the static SVG, and
formulas are written as MathML, which browsers draw themselves.
"""

import html
import re
from collections.abc import Collection
from pathlib import Path

import math_core
import nbformat
import pandas as pd
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

# nbconvert's own page without the scripts that it would load from the web, and with a figure's
# text as its description for those who cannot see it
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block data_svg scoped -%}
<div class="jp-RenderedSVG jp-OutputArea-output" data-mime-type="image/svg+xml">
<img alt="{{ output.data['text/plain'] | default('figure', true) | escape_html }}"
src="data:image/svg+xml;base64,{{ output.data['image/svg+xml'] | text_base64 }}"></div>
{%- endblock -%}"""
_INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc }}
th:first-child, td:first-child, :is(th, td):nth-child(2) {{ text-align: left }}
img {{ max-width: 100% }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def to_mathml(latex: str, display: bool = False) -> str:
    """MathML for one formula; a formula beyond the converter stays readable as its source."""
    try:
        converter = math_core.LatexToMathML()
        return converter.convert_with_local_state(latex.strip(), displaystyle=display)
    except math_core.LatexError:
        return f"<code>{html.escape(latex)}</code>"


class _MathMLRenderer(IPythonRenderer):
    def inline_math(self, body):
        return to_mathml(body)

    def block_math(self, body):
        return to_mathml(body, display=True)

    def block_html(self, html):
        # The parser that embeds images would close a <details> in front of its content.
        return super().block_html(html) if "<img" in html else html

    def latex_environment(self, name, body):
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display=True)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source):
        cell = context.get("cell", {})
        renderer = _MathMLRenderer(
            escape=False,
            attachments=cell.get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def write_html(
    notebook: Path,
    page: Path,
    images: Path,
    title: str | None = None,
    beside: Collection[str] = (),
    summary: str = "",
) -> None:
    """Write `notebook`, or a Markdown file, as one self-contained HTML page.

    Local images are looked up in `images`. `beside` are the names (stems) of the pages in the same
    folder, and `index`, if there is one: links to these are kept, other local links become text.
    With a `title` the page is a report: that title and the `summary` (HTML) stand in place of the
    opening cell, and code, prompts and the cells tagged `notebook-only` are left out.
    """
    if notebook.suffix == ".md":
        text = notebook.read_text(encoding="utf-8")
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    else:
        content = nbformat.read(notebook, as_version=4)
    report = title is not None
    if title is not None:
        shown = [c for c in content.cells[1:] if "notebook-only" not in c.metadata.get("tags", [])]
        content.cells = [
            nbformat.v4.new_markdown_cell(f"# {html.escape(title)}\n\n{summary}"),
            *shown,
        ]
    resources = {"metadata": {"name": title or notebook.stem, "path": str(images)}}
    exporter = _Exporter(
        raw_template=_PAGE,
        exclude_input=report,
        exclude_input_prompt=report,
        exclude_output_prompt=report,
    )
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # last state of bars
    text, _ = exporter.from_notebook_node(content, resources)
    text = _link_pages(text, beside)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def _link_pages(page: str, beside: Collection[str]) -> str:
    """Links between the notebooks as links between their pages, those that lead nowhere as text."""

    def link(match: re.Match) -> str:
        target, shown = match.groups()
        target = target.replace("../README.md#the-notebooks", "index.md")
        name = re.fullmatch(r"(\w+)\.(?:ipynb|md)(#.*)?", target)
        if name is None or name[1] not in beside:
            return shown
        return f'<a href="{name[1]}.html{name[2] or ""}">{shown}</a>'

    return re.sub(r'<a href="(?!#|\w+:)([^"]*)">(.*?)</a>', link, page, flags=re.DOTALL)


def write_page(page: Path, title: str, body: str) -> None:
    """Write a page of its own: `body` is HTML, `title` is text."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_INDEX.format(title=html.escape(title), body=body), encoding="utf-8")


def write_index(
    page: Path,
    title: str,
    sources: Collection[Path],
    durations: pd.DataFrame,
    summary: str = "",
) -> None:
    """Write the start page: a summary of the run, and what each page says.

    `sources` are the notebooks and texts whose pages stand beside it; `durations` is the runner's
    table, whose column `notebook` holds their stems; `summary` is HTML.
    """
    answers = pd.DataFrame([_opening(path) for path in sources], columns=["page", "what it says"])
    stems = [path.stem for path in sources]
    of_stem = durations.set_index("notebook").reindex(stems).astype("Int64").reset_index(drop=True)
    table = pd.concat([answers, of_stem], axis=1)
    pages = table.to_html(index=False, border=0, na_rep="", escape=False)
    body = f"{summary}\n<h2>Pages</h2>\n{pages}"
    write_page(page, title, body)


def _opening(source: Path) -> tuple[str, str]:
    """A link to the page of a notebook or text, with its title, and the sentence below the title.

    In the notebooks that is the one in bold.
    """
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        text = next(iter(nbformat.reads(text, as_version=4).cells), {"source": ""})["source"]
    title, _, below = text.partition("\n")
    shown = title.removeprefix("# ") if title.startswith("# ") else source.stem
    sentence = below.strip().partition("\n\n")[0].strip("*")
    link = f'<a href="{html.escape(source.stem)}.html">{html.escape(shown)}</a>'
    return link, html.escape(sentence)
