"""Interactive figures in a real browser: marks are drawn, without network. Skipped without one."""

import shutil

import pytest

from dsnn_utils import analysis, plots
from dsnn_utils.paths import project_root
from dsnn_utils.plots import choosing
from dsnn_utils.runs import read_trials

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")  # selenium would otherwise download one
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and chromedriver on the PATH"
)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,900",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

TRIALS = read_trials(project_root() / "figures" / "demo")
FIGURES = {
    "front": (lambda: plots.plot_front(TRIALS), ".scatterlayer .point", len(TRIALS)),
    "tradeoff": (lambda: plots.plot_tradeoff(TRIALS), ".heatmaplayer image", 2),
    "parallel": (
        lambda: plots.plot_parallel(TRIALS),
        ".parcoords .y-axis",
        len(choosing.PARALLEL) + 1,
    ),
    "hypervolume": (
        lambda: plots.plot_hypervolume(analysis.hypervolume_over(TRIALS)),
        ".scatterlayer .js-line",
        1,
    ),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("name", FIGURES)
def test_marks_are_drawn(browser, tmp_path, name):
    from selenium.webdriver.support.ui import WebDriverWait

    make, selector, at_least = FIGURES[name]
    page = tmp_path / f"{name}.html"
    make().interactive.write_html(page, include_plotlyjs=True)
    browser.get(page.as_uri())
    count = f"return document.querySelectorAll({selector!r}).length"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(count) >= at_least)
    resources = "return performance.getEntriesByType('resource').map(e => e.name)"
    loaded = browser.execute_script(resources)
    assert [url for url in loaded if url.startswith("http")] == []
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
