"""The committed notebooks as files: what a reader on GitHub, JupyterLab and papermill rely on."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from dsnn_utils import pages, parameters

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 1_000_000
MAX_CODE_LINES = 25
MAX_PARAMETERS = 40
WORDS_PER_MINUTE = 220
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COST = re.compile(r"\b(?:cost|takes)\b.*\b(?:s|min|h|seconds?|minutes?|hours?)\b", re.I)
# Home folders, temporary folders and kernel files of whoever executed the notebook.
MACHINE_PATH = re.compile(r"(?<![\w.<~/])/(?:home|root|Users|tmp|work|mnt|private|var)/[\w.-]+")

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_names_give_the_reading_order():
    prefixes = [path.name[:3] for path in NOTEBOOKS]
    assert prefixes == [f"{number:02d}_" for number in range(1, len(NOTEBOOKS) + 1)]


def test_format_and_kernel(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_one_parameters_cell_with_typed_commented_defaults(path, notebook):
    tags = [tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1 and "injected-parameters" not in tags
    for name, parameter in parameters.declared_parameters(path).items():
        assert parameter.kind is not None, f"{name}: the annotation must be a plain type"
        assert parameter.kind != "list" or parameter.element, f"{name}: a list of what?"
        assert parameters.cast(name, parameter.default, parameter) == parameter.default
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    for line in source(tagged[0]).splitlines():
        assert not line.strip() or re.match(r"#|\w+: .+ = .+  # \S", line), line


def test_cells_have_unique_ids(notebook):
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_opening(notebook):
    """Title and what the reader will learn, the cost, the parameters: in this order."""
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown" and source(first).startswith("# ")
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    opening = "\n".join(map(source, notebook["cells"][: kinds.index("code")]))
    assert re.search(r"\blearn\b", opening, re.IGNORECASE)
    assert COST.search(opening), "a line that says what it takes, in units of time"
    first_code = notebook["cells"][kinds.index("code")]
    assert "parameters" in first_code["metadata"].get("tags", [])


def test_code_cells_are_short_and_not_empty(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert source(cell).strip()
            parameters = "parameters" in cell["metadata"].get("tags", [])  # a list, not code
            most = MAX_PARAMETERS if parameters else MAX_CODE_LINES
            # An import over several lines is still one.
            code = re.sub(r"import \(.*?\)", "import", source(cell), flags=re.DOTALL)
            assert len(code.splitlines()) <= most, source(cell)


def test_outputs_are_clean(notebook):
    for output in outputs(notebook):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", "".join(output.get("text", []))[:200]
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    assert all(cell["metadata"].keys() <= {"tags"} for cell in notebook["cells"])


def test_no_paths_of_a_machine(path):
    assert MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_size(path):
    assert path.stat().st_size < MAX_BYTES


def test_every_formula_is_drawn_in_the_html_report(notebook):
    formula = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$", re.DOTALL)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"```.*?```|`[^`]*`", "", source(cell), flags=re.DOTALL)
            for display, inline in formula.findall(text):
                assert pages.to_mathml(display or inline).startswith("<math"), display or inline


def test_map(path, notebook):
    """Below the title: the notebooks before and after, every section, a true reading time."""
    where = source(notebook["cells"][1])
    place = NOTEBOOKS.index(path)
    for label, other in (("Before", place - 1), ("Next", place + 1)):
        link = re.search(rf"\*{label}:\* \[(.+?)\]\((.+?)\)", where)
        if other in range(len(NOTEBOOKS)):
            title = source(json.loads(NOTEBOOKS[other].read_text(encoding="utf-8"))["cells"][0])
            assert title.startswith(f"# {link[1]}\n") and link[2] == NOTEBOOKS[other].name
        else:
            assert link is None
    assert "(glossary.md)" in where and "(../README.md#the-notebooks)" in where
    sections = re.findall(r"^## (.+)$", markdown(notebook), re.MULTILINE)
    listed = re.search(r"\*Contents:\* (.+)", where)[1]
    assert re.findall(r"\[(.+?)\]\(#", listed) == sections
    stated = int(re.search(r"\*Reading time:\* about (\d+) minutes", where)[1])
    minutes = len(markdown(notebook).split()) / WORDS_PER_MINUTE
    assert abs(stated - minutes) <= max(1, 0.2 * minutes), f"{minutes:.1f} minutes to read"


def markdown(notebook):
    """The text of a notebook, without code in it and without what is folded."""
    cells = (source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", "\n".join(cells), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


def anchors(path):
    """The anchors that GitHub and JupyterLab give the headings of a notebook or Markdown file."""
    if path.suffix == ".ipynb":  # as nbconvert's pages have them, too
        text = markdown(json.loads(path.read_text(encoding="utf-8")))
        return {heading.replace(" ", "-") for heading in HEADING.findall(text)}
    text = path.read_text(encoding="utf-8")
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in HEADING.findall(text)}


def test_links_images_and_anchors_exist(path, notebook):
    check_links(
        path, (source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    )


def check_links(path, texts):
    for text in texts:
        for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)", text):
            if not re.match(r"https?:|attachment:|mailto:", target):
                file = path.parent / target if target else path
                assert file.exists(), target
                assert not anchor or unquote(anchor) in anchors(file), f"{target}#{anchor}"


def test_glossary():
    """In order, and of lower case: only then its anchors are the same everywhere."""
    path = ROOT / "notebooks" / "glossary.md"
    text = path.read_text(encoding="utf-8")
    terms = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert terms == sorted(terms) and terms == [re.sub(r"[^a-z -]", "", term) for term in terms]
    for entry in text.split("\n### ")[1:]:
        assert re.search(r"\(\[\d+\]\(\d\d_\w+\.ipynb\).*\)$", entry.strip()), entry
    check_links(path, [text])


def test_profiles_fit_the_notebooks():
    for profile in (ROOT / "notebooks" / "profiles").glob("*.yaml"):
        parameters.assign(parameters.load_profile(profile), NOTEBOOKS)
