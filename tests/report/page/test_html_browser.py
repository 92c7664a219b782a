"""The page in a browser: quiet console, working tables, pictures, phone width, no network."""

import json

import pytest

from helpers.synthetic import synthetic_reports
from phonosmith.report.page.html import write_report
from phonosmith.settings import get_settings

pytestmark = pytest.mark.slow

TITLE = "<script>document.title='taken'</script> & \"quotes\""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PHONOSMITH_HOME", str(folder / "home"))
    get_settings.cache_clear()
    reports = synthetic_reports(4, strategies=("transfer", "delta"), force_constants=True)
    reports[0].material = TITLE
    reports[1].strategies.clear()
    found = write_report(reports, folder / "report.html", title=TITLE)
    monkeypatch.undo()
    get_settings.cache_clear()
    assert found.problems == []
    return found.path.as_uri()


def column(driver, index):
    cells = driver.execute_script(
        "return [...document.querySelectorAll('#overview tbody tr')].map(row => row.cells[arguments[0]].textContent)",
        index,
    )
    return [cell.strip() for cell in cells]


def requests(driver):
    """Return what the page itself asked for; the browser's own first tab is none of its business."""
    entries = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
    urls = [item["request"]["url"] for item in sent if item["documentURL"].startswith("file:")]
    assert urls, "the log holds at least the page"
    return [url for url in urls if not url.startswith(("data:", "file:"))]


def test_opens_quietly_and_asks_nobody(address, browser):
    with browser(1280) as driver:
        driver.get(address)
        assert driver.title == TITLE
        assert driver.find_element("css selector", "h1").text == TITLE
        driver.find_element("id", "open-all").click()
        states = driver.execute_script("return [...document.querySelectorAll('details')].map(part => part.open)")
        assert len(states) > 20
        assert all(states)
        assert driver.get_log("browser") == []
        assert requests(driver) == []


def test_tables_sort_by_click_and_by_keyboard(address, browser):
    from selenium.webdriver.common.keys import Keys

    with browser(1280) as driver:
        driver.get(address)
        heads = driver.find_elements("css selector", "#overview thead th")
        place = next(i for i, head in enumerate(heads) if head.text.startswith("phonon MAE"))
        button = heads[place].find_element("css selector", "button")
        button.click()
        assert heads[place].get_attribute("aria-sort") == "ascending"
        shown = column(driver, place)
        numbers = [float(text) for text in shown if text != "–"]
        assert numbers == sorted(numbers)
        assert shown[-1] == "–"
        button.send_keys(Keys.ENTER)
        assert heads[place].get_attribute("aria-sort") == "descending"
        shown = column(driver, place)
        assert [float(text) for text in shown[:-1]] == sorted(numbers, reverse=True)
        # what is not known stays last
        assert shown[-1] == "–"
        heads[0].find_element("css selector", "button").send_keys(Keys.SPACE)
        assert [head.get_attribute("aria-sort") for head in heads].count("ascending") == 1
        names = column(driver, 0)
        assert names == sorted(names, key=str.lower)
        box = driver.find_element("id", "filter")
        box.send_keys(names[-1])
        assert driver.find_element("id", "shown").text == "1 of 4 materials"


@pytest.mark.parametrize("width", [1280, 390])
def test_every_picture_is_drawn_and_the_page_is_no_wider_than_the_window(address, browser, width):
    with browser(width) as driver:
        driver.get(address)
        driver.find_element("id", "open-all").click()
        sizes = driver.execute_async_script(
            "const done = arguments[0]; const all = [...document.images];"
            "all.forEach(image => { image.loading = 'eager'; });"
            "document.querySelectorAll('.material').forEach(part => { part.style.contentVisibility = 'visible'; });"
            "Promise.all(all.map(image => image.decode())).then("
            "() => done(all.map(image => [image.naturalWidth, image.getBoundingClientRect().width])),"
            "problem => done(String(problem)));"
        )
        assert len(sizes) > 20
        assert all(natural > 300 and 0 < shown <= width for natural, shown in sizes), sizes
        wide = driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1]


def test_a_figure_can_be_enlarged_and_left_with_the_keyboard(address, browser):
    from selenium.webdriver.common.keys import Keys

    with browser(390) as driver:
        driver.get(address)
        button = driver.find_element("css selector", "#campaign ~ .pictures .enlarge")
        button.send_keys(Keys.ENTER)
        dialog = driver.find_element("id", "zoom")
        assert dialog.get_attribute("open")
        large = dialog.find_element("css selector", "img")
        assert large.size["width"] > 390
        assert large.get_attribute("alt")
        driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert not dialog.get_attribute("open")
