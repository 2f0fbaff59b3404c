"""The pictures of the explorer in README and documentation: the demo's store in Chromium."""
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from crp.demo.digits import digit_sweep, held_out_digits
from crp.explorer import Source
from crp.explorer.server import create_app
from crp.explorer.serving import listen
from crp.neurons import rank
from crp.trust import trust_report
from crp.visualization import FeatureVisualization

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CRP_CHROMIUM") or shutil.which("chromium")
SCREENS = {  # name: place, width, height
    "explorer": ("#concept?layer=relu3&concept=24", 1280, 1180),
    "explorer_concepts": ("#concepts?layer=relu3&kind=opaque", 1280, 760),
    "explorer_sample": (
        "#sample?layer=relu3&input=5&explain=6&against=8&concept=20&region=0.2,0.45,0.6,0.95", 1280, 1130,
    ),
    "explorer_patterns": ("#patterns?layer=relu3&quantity=relevance", 1280, 1250),
}


def main() -> None:
    """Write the pictures, with few colours, so that they are small."""
    with tempfile.TemporaryDirectory() as folder:
        fv, composite = FeatureVisualization.from_spec(digit_sweep())
        fv.path = Path(folder) / "digits"
        store = fv.run(composite)
        fv.find_patterns("relu3", "relevance", min_pattern_size=15).save(store)
        rank(store, by="relevance", layers="relu3").save(store)
        trust_report(fv, "relu3", composite=composite, held_out=held_out_digits(), verbose=False)
        listening = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(create_app([Source.of(fv, composite)]), log_level="error"))
        threading.Thread(target=server.run, args=([listening],), daemon=True).start()
        while not server.started:
            time.sleep(.05)
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            for name, (place, width, height) in SCREENS.items():
                if sys.argv[1:] and name not in sys.argv[1:]:
                    continue
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
                page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/{place}")
                page.wait_for_selector("main h1")
                page.wait_for_selector("[aria-busy]", state="detached")
                page.wait_for_timeout(2000)  # until work shows that is under way
                page.wait_for_selector(".jobs progress", state="detached")
                page.wait_for_timeout(1000)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                picture = picture.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
                picture.save(HERE / f"{name}.png", optimize=True)
                page.close()
            browser.close()
        server.should_exit = True


if __name__ == "__main__":
    main()
