"""The page in a browser: quiet console, working tables and figures, modes, filter, phone width, dark, no network."""

import json
import time
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest

from helpers.synthetic import synthetic_reports
from phonosmith.core.artefacts import default_artefacts
from phonosmith.core.units import THZ_PER_SQRT_EV_PER_A2_AMU
from phonosmith.evaluation.phonons.mesh import sorted_frequencies
from phonosmith.harmonic.model import unpack_force_constants
from phonosmith.report.page.html import write_report
from phonosmith.settings import get_settings

pytestmark = pytest.mark.slow

TITLE = "<script>document.title='taken'</script> & \"quotes\""
CONTRAST = """
const luminance = (colour) => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255);
  const [r, g, b] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (let one = node; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
  }
  return "rgb(255, 255, 255)";
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let count = 0;
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const words = walker.currentNode.textContent.trim().slice(0, 40);
  if (!words || !node.checkVisibility() || node.closest("script,noscript,option,button:disabled")) continue;
  const style = getComputedStyle(node);
  const ink = node.ownerSVGElement ? style.fill : style.color;
  const [high, low] = [luminance(ink), luminance(behind(node))].sort((a, b) => b - a);
  count += 1;
  if ((high + 0.05) / (low + 0.05) < 4.5) poor.push([words, ink, behind(node)]);
}
return [count, poor];
"""
"""Texts seen, and those whose contrast with what lies behind them is below 4.5, by the formula of WCAG 2."""
NAMES = """
const named = (one) => (one.getAttribute("aria-label") || one.textContent || one.labels?.[0]?.textContent || "").trim();
const usable = document.querySelectorAll("button, a, input, select, canvas, svg[role=img], summary");
const parts = [...usable].filter((one) => one.checkVisibility());
return [parts.length, parts.filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 80))];
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PHONOSMITH_HOME", str(folder / "home"))
    get_settings.cache_clear()
    reports = synthetic_reports(4, strategies=("transfer", "delta"), force_constants=True)
    reports[0].material = TITLE
    reports[1].strategies.clear()
    constants = reports[0].reference_result.phonons.force_constants
    (folder / "reference.fc").write_bytes(default_artefacts().get_bytes(constants))
    found = write_report(reports, folder / "report.html", title=TITLE)
    monkeypatch.undo()
    get_settings.cache_clear()
    assert found.problems == []
    return found.path.as_uri()


def opened(driver, address, place=""):
    """Open the page, or one of its materials, and wait for the interactive figure."""
    driver.get(address + place)
    for _ in range(200):
        if driver.execute_script("return document.querySelector('.material.current .bands.ready') !== null"):
            return driver
        time.sleep(0.1)
    raise AssertionError("the figure was not drawn")


def drawn(driver):
    """Wait until the page's script has drawn what is first seen."""
    for _ in range(200):
        if driver.execute_script("return performance.getEntriesByName('drawn').length"):
            return
        time.sleep(0.1)
    raise AssertionError("the page was not drawn")


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
    return [url for url in urls if not url.startswith(("data:", "file:", "blob:"))]


def test_opens_quietly_and_asks_nobody(address, browser):
    with browser(1280) as driver:
        opened(driver, address)
        assert driver.title == TITLE
        assert driver.find_element("css selector", "h1").text == TITLE
        driver.find_element("css selector", ".material.current .open-all").click()
        states = driver.execute_script(
            "return [...document.querySelectorAll('.material.current details.part')].map(part => part.open)"
        )
        assert len(states) > 8
        assert all(states)
        # every chart of what is open is drawn, with something in it
        charts = driver.execute_script(
            "return [...document.querySelectorAll('.material.current [data-chart]')].map(one =>"
            " one.querySelectorAll('.chart-svg .series').length)"
        )
        assert len(charts) >= 4
        assert all(charts)
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
        # nine columns at first, the others on request
        seen = "return [...document.querySelectorAll('#overview thead th')].filter(one => !one.hidden).length"
        assert driver.execute_script(seen) == 9
        driver.execute_script("document.querySelector('.columns').open = true")
        driver.find_element("css selector", ".columns").find_elements("css selector", "input")[-1].click()
        assert driver.execute_script(seen) == 10


def test_one_material_at_a_time_and_the_filter_hides_the_others(address, browser):
    with browser(1280) as driver:
        opened(driver, address, "#material-material")

        def visible():
            return driver.execute_script(
                "const all = [...document.querySelectorAll('.material')];"
                "return all.filter(one => one.checkVisibility()).map(one => one.id)"
            )

        links = driver.execute_script(
            "return [...document.querySelectorAll('#overview tbody a')].map(one => one.getAttribute('href').slice(1))"
        )
        assert len(visible()) == 1
        driver.get(address)
        assert visible() == links[:1]  # worst first: the one without a potential
        driver.find_element("id", "next").click()
        assert visible() == links[1:2]
        assert driver.find_element("id", "place").text == "2 of 4"
        assert driver.current_url.endswith(f"#{links[1]}")
        driver.find_element("id", "previous").click()
        assert visible() == links[:1]
        name = driver.find_elements("css selector", "#overview tbody a")[2].text
        driver.find_element("id", "filter").send_keys(name)
        assert driver.find_element("id", "shown").text == "1 of 4 materials"
        assert visible() == links[2:3]
        assert driver.find_element("id", "next").get_attribute("disabled")
        # a point of the scatter opens its material
        driver.find_element("id", "filter").send_keys("\ue003" * len(name))
        driver.execute_script("document.querySelector('[data-chart=improvement] .chart-svg').focus()")
        driver.switch_to.active_element.send_keys("\ue014", "\ue007")  # right, enter
        assert visible()[0] in links


def test_a_band_point_is_read_switched_zoomed_and_moves_the_crystal(address, browser, tmp_path):
    from selenium.webdriver import ActionChains

    with browser(1280) as driver:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        opened(driver, address)
        driver.find_element("id", "next").click()
        opened(driver, driver.current_url)
        section = driver.find_element("css selector", ".material.current")
        bands = section.find_element("css selector", ".bands")
        names = [one.text for one in bands.find_elements("css selector", ".legend button")]
        assert names == ["reference", "before (foundation)", names[2], names[3]]
        states = [one.get_attribute("aria-pressed") for one in bands.find_elements("css selector", ".legend button")]
        assert states.count("false") == 1  # the fourth side can be switched on
        lines = "return document.querySelectorAll('.material.current .bands .series').length"
        before = driver.execute_script(lines)
        bands.find_elements("css selector", ".legend button")[0].click()
        assert driver.execute_script(lines) == before - 2  # its bands and its density of states
        bands.find_elements("css selector", ".legend button")[0].click()
        drawing = bands.find_element("css selector", ".chart-svg")
        # by mouse: the first corner, its highest band
        middle = driver.execute_script(
            "const path = document.querySelector('.material.current .bands .series.reference .line').getAttribute('d');"
            "const [x, y] = path.slice(1).split('L')[0].split(' ').map(Number);"
            "const box = document.querySelector('.material.current .bands .chart-svg');"
            "box.scrollIntoView({block: 'center'}); return [x - box.clientWidth / 2 + 1, y - box.clientHeight / 2]"
        )
        ActionChains(driver).move_to_element_with_offset(drawing, round(middle[0]), round(middle[1])).perform()
        assert "branch 1: reference" in bands.find_element("css selector", ".readout").text
        ActionChains(driver).move_to_element_with_offset(drawing, round(middle[0]) + 150, -60).click().perform()
        words = bands.find_element("css selector", ".readout").text
        assert words.endswith("THz")
        title = section.find_element("css selector", ".viewer-title").text
        assert "of reference" in title
        pixels = (
            "const c = document.querySelector('.material.current canvas');"
            "const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
            "return data.reduce((a, b) => (a * 31 + b) % 1e9, 7)"
        )
        first = driver.execute_script(pixels)
        time.sleep(0.5)
        assert driver.execute_script(pixels) != first, "the atoms move"
        for button in section.find_elements("css selector", ".viewer button"):
            if button.text in ("Save XYZ", "Save for v_sim"):
                button.click()
        for _ in range(50):
            files = sorted(path.suffix for path in tmp_path.iterdir())
            if files == [".ascii", ".xyz"]:
                break
            time.sleep(0.1)
        # zoom by keyboard, and back
        drawing = bands.find_element("css selector", ".chart-svg")
        drawing.send_keys("+")
        reset = bands.find_element("css selector", ".chart-tools button")
        assert reset.text == "Reset zoom"
        reset.click()
        assert not reset.is_displayed()
    from ase.io import read

    (xyz,), (ascii_file,) = tmp_path.glob("*.xyz"), tmp_path.glob("*.ascii")
    frames = read(xyz, ":")
    assert len(frames) == 24
    largest = max(abs(frame.positions - frames[0].positions).max() for frame in frames)
    assert 0.1 < largest < 1.5
    shown = read(ascii_file, format="v-sim")
    assert shown.get_volume() == pytest.approx(frames[0].get_volume() * len(shown) / len(frames[0]), rel=1e-4)
    distances = [atoms.get_all_distances(mic=True).max() for atoms in (shown,)]
    assert distances[0] == pytest.approx(2.35, abs=0.05)  # neighbours in silicon


def test_modes_of_both_sides_move_and_go_to_the_phonon_website(address, browser, tmp_path):
    with browser(1280) as driver:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        opened(driver, address)
        driver.find_element("id", "next").click()
        opened(driver, driver.current_url)
        section = driver.find_element("css selector", ".material.current")
        drawing = section.find_element("css selector", ".bands .chart-svg")
        drawing.send_keys("\ue014" * 3 + "\ue007")  # right, enter: a mode of the first curve, the reference
        title = section.find_element("css selector", ".viewer-title")
        first = title.text
        assert "of reference" in first
        other = next(
            one for one in section.find_elements("css selector", ".viewer button") if "Same branch" in one.text
        )
        words = other.text
        assert words.startswith("Same branch of after (")
        other.click()
        assert title.text.split(":")[0] == first.split(":")[0].replace("reference", words[15:])
        assert title.text != first
        next(
            one for one in section.find_elements("css selector", ".viewer button") if "of reference" in one.text
        ).click()
        assert title.text == first
        button = "Save for phonon website"
        next(one for one in section.find_elements("css selector", ".viewer button") if one.text == button).click()
        for _ in range(50):
            if list(tmp_path.glob("*.json")):
                break
            time.sleep(0.1)
        assert driver.get_log("browser") == []
    (file,) = tmp_path.glob("*.json")
    check_website(
        json.loads(file.read_text()), unpack_force_constants((tmp_path_of(address) / "reference.fc").read_bytes())
    )


def tmp_path_of(address):
    return Path(url2pathname(urlparse(address).path)).parent


def check_website(found, model):
    """Against phonopy: the frequencies are its own, the vectors solve its dynamical matrix.

    The website moves atom j of the cell at R by Re[v_j exp(2πi q·R)]: v holds the phase of the atom's place.
    """
    phonon = model.phonon
    cell = phonon.primitive
    assert found["atom_types"] == list(cell.symbols)
    assert found["atom_numbers"] == list(cell.numbers)
    assert np.allclose(found["lattice"], cell.cell, atol=1e-4)
    assert np.allclose(found["atom_pos_car"], cell.positions, atol=1e-4)
    assert found["natoms"] == len(cell)
    q_points, vectors = np.array(found["qpoints"]), np.array(found["vectors"]) @ [1, 1j]
    assert vectors.shape == (len(q_points), 3 * len(cell), len(cell), 3)
    assert found["line_breaks"][0][0] == 0
    assert found["line_breaks"][-1][1] == len(q_points)
    assert [a[1] for a in found["line_breaks"][:-1]] == [b[0] for b in found["line_breaks"][1:]]
    assert {index for index, _ in found["highsym_qpts"]} == {i for a, b in found["line_breaks"] for i in (a, b - 1)}
    assert found["distances"] == sorted(found["distances"])
    for q, frequencies, modes in zip(q_points, np.array(found["eigenvalues"]) / 33.35641, vectors, strict=True):
        expected = sorted_frequencies(model, q[None])[0]
        # the page keeps bands in steps of 0.001 THz
        assert np.abs(frequencies - expected).max() < 2e-3
        phonon.dynamical_matrix.run(q)
        matrix = phonon.dynamical_matrix.dynamical_matrix
        for mode, frequency in zip(modes, expected, strict=True):
            unphased = mode * np.exp(-2j * np.pi * cell.scaled_positions @ q)[:, None]
            polarisation = (unphased * np.sqrt(cell.masses)[:, None]).ravel()
            polarisation /= np.linalg.norm(polarisation)
            value = np.sign(frequency) * (frequency / THZ_PER_SQRT_EV_PER_A2_AMU) ** 2
            # displacements are kept in steps of 1/127 of the largest
            residual = np.linalg.norm(matrix @ polarisation - value * polarisation)
            assert residual < 0.02 * np.linalg.norm(matrix, 2)


def test_very_many_materials_are_on_several_pages(browser, tmp_path, monkeypatch):
    from phonosmith.report.page import page

    monkeypatch.setattr(page, "MOST_ON_A_PAGE", 4)
    monkeypatch.setattr(page, "PART", 3)
    stale = tmp_path / "r-part-009.html"
    stale.write_text("of a larger campaign")
    reports = synthetic_reports(7, strategies=("delta",))
    found = write_report(reports, tmp_path / "r.html", title="Seven")
    files = sorted(path.name for path in tmp_path.glob("*.html"))
    assert files == ["r-part-001.html", "r-part-002.html", "r-part-003.html", "r.html"]
    assert found.parts == 3
    assert found.size == sum((tmp_path / name).stat().st_size for name in files)
    with browser(1280) as driver:
        driver.get(found.path.as_uri())
        drawn(driver)
        links = driver.execute_script("return [...document.querySelectorAll('#overview tbody a')].map(one => one.href)")
        assert len(links) == 7
        assert [link.split("/")[-1].split("#")[0] for link in links] == [files[0]] * 2 + [files[1]] * 3 + [files[2]] * 2
        assert not driver.find_elements("css selector", ".material")
        assert (
            driver.execute_script("return document.querySelectorAll('[data-chart=improvement] .chart-svg .dot').length")
            == 7
        )
        driver.find_element("id", "filter").send_keys("zzz")
        assert driver.find_element("id", "shown").text == "0 of 7 materials"
        driver.find_element("id", "filter").send_keys("\ue003" * 3)
        assert driver.get_log("browser") == []
        # a line leads to the material on its page, and from there back and on
        driver.find_elements("css selector", "#overview tbody a")[3].click()
        drawn(driver)
        assert driver.title == "Seven, part 2 of 3"
        assert driver.current_url == links[3]
        shown = driver.find_element("css selector", ".material.current").get_attribute("id")
        assert shown == links[3].split("#")[1]
        ways = [one.text for one in driver.find_elements("css selector", "nav a")][:3]
        assert ways == ["All materials", "Previous part", "Next part"]
        assert driver.get_log("browser") == []


@pytest.mark.parametrize(("width", "mode"), [(1280, "light"), (768, "dark"), (390, "light"), (320, "dark")])
def test_every_width_and_mode_can_be_read(address, browser, width, mode):
    """No wider than the window, contrast of every text at least 4.5, a name for everything that can be used."""
    with browser(width) as driver:
        scheme = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        opened(driver, address)
        driver.find_element("css selector", ".material.current .open-all").click()
        time.sleep(0.3)
        wide = driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1]
        count, poor = driver.execute_script(CONTRAST)
        assert count > 300
        assert poor == []
        count, nameless = driver.execute_script(NAMES)
        assert count > 50
        assert nameless == []


def test_without_scripts_there_are_pictures_and_every_material(address, browser):
    with browser(1280) as driver:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.get(address)
        materials = driver.find_elements("css selector", ".material")
        assert len(materials) == 4
        assert all(one.is_displayed() for one in materials)
        pictures = driver.find_elements("css selector", ".main-chart img")
        assert len(pictures) == 4
        assert all(one.get_attribute("alt").startswith("Phonon bands") for one in pictures)
