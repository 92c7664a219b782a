"""How long the HTML report of a campaign takes, how large it is, and how fast Chromium opens it.

    python benchmarks/report/campaign_page.py --materials 200 --out benchmarks/report/campaign_page.json

The materials are synthetic: numbers and provenance differ, the force constants (silicon, three kinds) are read and
rebuilt for every potential of every material as those of real materials would be.
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PHONOSMITH_HOME"] = str(Path(folder) / "home")
        from helpers.synthetic import synthetic_reports
        from phonosmith.report.page.html import write_report

        reports = synthetic_reports(options.materials, sizes=(4, 10), force_constants=True)
        path = options.page or Path(folder) / "report.html"
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
            "open_seconds": opening_times(path),
        }
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def opening_times(path, repeats=5):
    """Return the median time until Chromium had drawn the first material, s, at two widths; None without Chromium."""
    from helpers.browser import open_browser

    times = {}
    for width in (1280, 390):
        runs = []
        for _ in range(repeats):
            with open_browser(width) as browser:
                if browser is None:
                    return None
                browser.get(path.resolve().as_uri())
                for _ in range(600):
                    drawn = browser.execute_script("return performance.getEntriesByName('drawn')[0]?.startTime")
                    if drawn:
                        break
                    time.sleep(0.05)
                runs.append(drawn / 1000)
        times[str(width)] = round(statistics.median(runs), 3)
    return times


if __name__ == "__main__":
    main()
