"""How long the HTML report of a campaign takes, how large it is, and how fast Chromium opens it.

    python benchmarks/report/campaign_page.py --materials 200 --out benchmarks/report/campaign_page.json

The materials are synthetic: numbers and provenance differ, the force constants (silicon, three kinds) are read and
rebuilt for every potential of every material as those of real materials would be. With --first-page 10000 only the
first page of a very large campaign is written, which leads to the others.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--materials", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="keep the page here")
    parser.add_argument("--first-page", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PHONOSMITH_HOME"] = str(Path(folder) / "home")
        from helpers.synthetic import synthetic_reports
        from phonosmith.report.page.html import write_report

        path = options.page or Path(folder) / "report.html"
        if options.first_page:
            report_found(first_page(options.first_page, path), options.out)
            return
        reports = synthetic_reports(options.materials, sizes=(4, 10), force_constants=True)
        started, cpu = time.perf_counter(), time.process_time()
        written = write_report(reports, path, title=f"{options.materials} synthetic materials")
        found = {
            "materials": options.materials,
            "potentials_per_material": 1 + len(reports[0].strategies),
            "wall_seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "load_average": os.getloadavg()[0],
            "megabytes": round(written.size / 1e6, 2),
            "problems": len(written.problems),
            "opening": opening_times(path),
        }
    report_found(found, options.out)


def report_found(found, out):
    print(json.dumps(found, indent=2))
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n")


def first_page(materials, path):
    """Write the first page of a campaign whose sections are on pages of their own."""
    from helpers.synthetic import synthetic_reports
    from phonosmith.core.artefacts import default_artefacts
    from phonosmith.report.page.html import render
    from phonosmith.report.page.page import Campaign, parts_of

    reports = synthetic_reports(materials, strategies=("delta", "transfer"), elastic=False)
    cpu = time.process_time()
    parts = parts_of(reports, path.name)
    campaign = Campaign(parts, default_artefacts(), path.parent, "Very many", {}, [], None, files=False)
    links = [f"{part.file}#{place}" for part in parts for place in part.places]
    path.write_text(render(campaign.whole(links, [])), encoding="utf-8")
    return {
        "materials": materials,
        "pages_beside": len(parts),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "load_average": os.getloadavg()[0],
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "opening": opening_times(path),
    }


def opening_times(path, repeats=5):
    """Return how long Chromium takes until the first material is drawn, at two widths; None without Chromium.

    ``wall_seconds`` since the page was asked for, ``main_thread_seconds`` of processor time; medians.
    """
    from helpers.browser import open_browser

    times = {}
    for width in (1280, 390):
        walls, threads = [], []
        for _ in range(repeats):
            with open_browser(width) as browser:
                if browser is None:
                    return None
                browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
                browser.get(path.resolve().as_uri())
                for _ in range(600):
                    drawn = browser.execute_script("return performance.getEntriesByName('drawn')[0]?.startTime")
                    if drawn:
                        break
                    time.sleep(0.05)
                metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
                walls.append(drawn / 1000)
                threads.append(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))
        times[str(width)] = {
            "wall_seconds": round(statistics.median(walls), 3),
            "wall_seconds_fastest": round(min(walls), 3),
            "main_thread_seconds": round(statistics.median(threads), 3),
        }
    return times


if __name__ == "__main__":
    main()
