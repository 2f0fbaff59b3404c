"""The explorer on a store of 50,000 samples x 13,416 concepts in 16 layers: how long one waits, and what it takes.

Needs Chromium, and 8 GB of disk for a while. ``python benchmarks/explorer.py [FOLDER]`` keeps the store in a folder.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from large_store import SAMPLES, make_store
from pages import write_table
from playwright.sync_api import sync_playwright
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.explorer.pictures import Pictures
from crp.explorer.source import Source
from crp.store import ReferenceStore
from crp.visualization import FeatureVisualization

CHROMIUM = os.environ.get("CRP_CHROMIUM") or shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-webgl", "--disable-background-networking"]
GRID = "#concepts?layer=layer12"
VIEWS = {
    "model": "#model", "concepts": GRID, "concept page": "#concept?layer=layer12&concept=7",
    "samples, with the map": "#samples?layer=layer12&quantity=activation", "sample": "#sample?layer=layer12&input=77",
    "patterns": "#patterns?layer=layer12", "neurons": "#neurons?layer=layer12",
    "concepts of the widest layer": "#concepts?layer=layer14",
}
CLIENTS, REQUESTS = 8, 400


class Images:
    """Pictures of 28 x 28: a blob each, somewhere."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        y, x = np.random.default_rng(index).integers(6, 22, 2)
        grid = torch.arange(28.)
        blob = torch.exp(-((grid[:, None] - y) ** 2 + (grid - x) ** 2) / 20)
        return blob[None], index % 10


def prepared_store(path: Path) -> ReferenceStore:
    """The store with small pictures of its samples, and nothing else that was kept."""
    store = ReferenceStore(path) if path.exists() else make_store(path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    fv = FeatureVisualization(CondAttribution(model), Images(), ["1"], path=path)
    shutil.rmtree(path / "explorer", ignore_errors=True)
    Pictures(Source(store, fv, EpsilonPlus())).keep()
    return store


def started(path: Path, *arguments: str) -> tuple[subprocess.Popen, str]:
    """A server of the store in a process of its own, and its address."""
    command = [sys.executable, "-m", "crp", "explore", str(path), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise RuntimeError("the server did not start")


def settled(page) -> None:
    """Wait until nothing is being loaded, and the first pictures are there."""
    page.wait_for_selector("main h1")
    page.wait_for_selector("[aria-busy]", state="detached")


def picture_of_grid(page) -> None:
    """Wait until the first row of the grid has its pictures."""
    page.wait_for_selector('.strip-pictures a[style*="blob:"]')


def stop(process: subprocess.Popen) -> None:
    """End a server."""
    process.terminate()
    process.wait()


def memory_of(process: subprocess.Popen) -> float:
    """Largest resident memory of a process so far, in GB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2 ** 20


def rested(process: subprocess.Popen) -> float:
    """Seconds until a server has nothing to do."""
    begin = time.perf_counter()
    while True:
        before = seconds_of_work(process)
        time.sleep(2)
        if seconds_of_work(process) - before < .05:
            return time.perf_counter() - begin - 2


def seconds_of_work(process: subprocess.Popen) -> float:
    """Processor time that a process has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cold_start(browser, path: Path) -> tuple[subprocess.Popen, str, float]:
    """Seconds from the start of the command to a grid of concepts with pictures."""
    begin = time.perf_counter()
    process, address = started(path)
    page = browser.new_page()
    page.goto(address + GRID)
    picture_of_grid(page)
    seconds = time.perf_counter() - begin
    page.close()
    return process, address, seconds


def times_of_views(browser, address: str) -> dict[str, float]:
    """Milliseconds from choosing a view to its first useful paint: its heading and all that comes with it."""
    found = {}
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    settled(page)
    for name, place in VIEWS.items():
        page.evaluate("window.location.hash = '#model'")
        settled(page)
        title = page.locator("main h1").inner_text()
        begin = time.perf_counter()
        page.evaluate(f"window.location.hash = '{place}'")
        while name != "model" and page.locator("main h1").inner_text() == title:
            pass
        found[name] = 1000 * (time.perf_counter() - begin)
        settled(page)
    page.close()
    return found


def requests_of_api(address: str, key: str) -> np.ndarray:
    """[times, requests], milliseconds of what eight clients ask at once, three times: pages, columns, pictures."""
    random = np.random.default_rng(0)
    layers = random.integers(0, 13, REQUESTS)
    base = f"{address}api/{key}"
    paths = []
    for i, layer in enumerate(layers.tolist()):
        concept = int(random.integers(0, 64))
        chosen = ",".join(map(str, random.choice(64, 8, replace=False)))
        paths.append([
            f"{base}/layers/{layer}/concepts/{concept}", f"{base}/layers/{layer}/concepts/{concept}/values",
            f"{base}/layers/{layer}/references?concepts={chosen}", f"{base}/layers/{layer}/sprite?concepts={chosen}",
            f"{base}/samples/{int(random.integers(0, SAMPLES))}?layer={layer}",
            f"{base}/layers/{layer}?quantity=relevance", f"{base}/layers/{layer}/columns",
        ][i % 7])

    def ask(path: str) -> float:
        begin = time.perf_counter()
        with urllib.request.urlopen(path) as answer:
            answer.read()
        return 1000 * (time.perf_counter() - begin)

    with ThreadPoolExecutor(CLIENTS) as clients:
        return np.array([list(clients.map(ask, paths)) for _ in range(3)])


def frames_while_panning(browser, address: str) -> float:
    """Frames a second of the map of 50,000 samples while it is dragged."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}#samples?layer=layer0&quantity=activation")
    settled(page)
    if page.get_by_role("button", name="Lay out all samples").count():
        page.get_by_role("button", name="Lay out all samples").click()
        page.wait_for_selector("canvas", timeout=300_000)
    box = page.locator("canvas").bounding_box()
    page.evaluate("""() => {
        window.frames_ = 0;
        const tick = () => { window.frames_ += 1; requestAnimationFrame(tick); };
        requestAnimationFrame(tick);
    }""")
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    before, begin = page.evaluate("window.frames_"), time.perf_counter()
    while time.perf_counter() - begin < 4:
        shift = 150 * np.sin(3 * (time.perf_counter() - begin))
        page.mouse.move(box["x"] + 300 + shift, box["y"] + 200 + shift / 2)
    frames = page.evaluate("window.frames_") - before
    page.mouse.up()
    page.close()
    return frames / (time.perf_counter() - begin)


def size_of_copy(path: Path) -> tuple[float, float]:
    """Megabytes and seconds of a copy of 1,000 concepts with 8 references."""
    with tempfile.TemporaryDirectory() as parent:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "crp", "explore", str(path), "--export", f"{parent}/copy", "--concepts", "1000"],
            check=True, capture_output=True,
        )
        seconds = time.perf_counter() - begin
        return sum(file.stat().st_size for file in Path(parent).rglob("*") if file.is_file()) / 2 ** 20, seconds


def percentiles(milliseconds: np.ndarray) -> str:
    """The 95th, and the median."""
    return f"{np.quantile(milliseconds, .95):.0f} ms ({np.median(milliseconds):.0f} ms)"


def extra() -> tuple[int, float]:
    """Packages that the extra brings beside torch's and those of the library, and their megabytes."""
    from importlib.metadata import distribution

    def needed(name: str, found: dict[str, int]) -> dict[str, int]:
        if name not in found:
            own = distribution(name)
            found[name] = sum(file.size or 0 for file in own.files or [])
            for text in own.requires or []:
                if "extra ==" not in text and "python_version <" not in text and "platform_system" not in text:
                    needed(re.match(r"[\w.-]+", text)[0].lower(), found)
        return found

    others = needed("pydantic", {})
    found = needed("uvicorn", needed("fastapi", {}))
    sizes = [size for name, size in found.items() if name not in others]
    return len(sizes), sum(sizes) / 1e6


def main() -> None:
    """Measure all, and print a table."""
    given = sys.argv[1:]
    path = Path(given[0] if given else tempfile.mkdtemp()) / "store"
    path.parent.mkdir(parents=True, exist_ok=True)
    key = prepared_store(path).identity()[:16]
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        process, address, first = cold_start(browser, path)
        reading = rested(process)
        starts = []
        for _ in range(3):
            stop(process)
            process, address, seconds = cold_start(browser, path)
            starts.append(seconds)
        rested(process)
        views = times_of_views(browser, address)
        asked = requests_of_api(address, key)
        frames = frames_while_panning(browser, address)
        memory = memory_of(process)
        stop(process)
        browser.close()
    megabytes, seconds = size_of_copy(path)
    packages, size = extra()
    slowest = max(views, key=views.get)
    lines = [
        "| what | measured | to reach |", "| --- | --- | --- |",
        f"| start to first complete picture, of a store that was served before | {np.median(starts):.1f} s | <= 3 s |",
        f"| the same, of a store that is served for the first time | {first:.1f} s | |",
        f"| reading it through in the background, that first time | {reading:.0f} s | |",
        f"| any view after that: median of {len(views)} views | {np.median(list(views.values())):.0f} ms | <= 300 ms |",
        f"| the slowest of them: {slowest} | {views[slowest]:.0f} ms | <= 300 ms |",
        f"| answers to 8 clients at once: 95th percentile (median) | {percentiles(asked[1:])} | <= 100 ms |",
        f"| the same, the first time | {percentiles(asked[0])} | |",
        f"| memory of the server at most, with what it has mapped | {memory:.2f} GB | <= 1 GB |",
        f"| map of 50,000 samples while it is dragged | {frames:.0f} frames a second | >= 30 |",
        f"| the extra beside torch's packages | {packages} packages, {size:.1f} MB | <= 12, <= 15 MB |",
        f"| copy of 1,000 concepts with 8 references | {megabytes:.0f} MB, {seconds:.0f} s | <= 50 MB, <= 60 s |",
    ]
    print("\n".join([*(f"{name}: {milliseconds:.0f} ms" for name, milliseconds in views.items()), *lines]))
    write_table("explorer.md", "numbers", "\n".join(lines))
    if not given:
        shutil.rmtree(path.parent)


if __name__ == "__main__":
    main()
