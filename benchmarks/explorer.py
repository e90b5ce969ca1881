"""How long the explorer's page takes to answer a moved slider, in a real browser.

    python -m benchmarks.explorer > benchmarks/results/VERSION/explorer.json

From the key that moves the slider to the new figures in the page, by the browser's own clock: the
published market, and one with 50 providers. Needs chromium and chromedriver.
"""

import dataclasses
import json
import shutil
import statistics
import sys
import threading
import time

import jax
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from werkzeug.serving import make_server

from mechlab import data
from mechlab.study.explorer import Provider, State, answers, page

MOVES = 30
WATCH = """
window.seen = []; window.moved = null;
const table = document.getElementById("numbers");
document.addEventListener("keydown", () => { window.moved = performance.now(); }, true);
new MutationObserver(() => {
  if (window.moved !== null) {
    const since = window.moved; window.moved = null;
    requestAnimationFrame(() => window.seen.push(performance.now() - since));
  }
}).observe(table, {childList: true, subtree: true, characterData: true});
"""


def milliseconds(driver, address: str) -> dict:
    driver.get(address)
    end = time.monotonic() + 120
    while not driver.find_elements("css selector", "#numbers td"):
        assert time.monotonic() < end, "the page did not answer"
        time.sleep(0.2)
    time.sleep(2)
    driver.execute_script(WATCH)
    slider = driver.find_element("css selector", ".number [role=slider]")
    for move in range(MOVES + 3):
        slider.send_keys(Keys.ARROW_RIGHT if move % 2 else Keys.ARROW_LEFT)
        end = time.monotonic() + 30
        while driver.execute_script("return window.seen.length") <= move:
            assert time.monotonic() < end, "the page did not answer"
            time.sleep(0.05)
    seen = driver.execute_script("return window.seen")[3:]
    return {"median": round(statistics.median(seen), 1), "p95": round(sorted(seen)[-2], 1)}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    dataset = data.load("published")
    state = State.first(dataset)
    more = [
        Provider(f"entrant {i}", one.curve, one.price * (1 + 0.01 * i), like=one.like)
        for i, one in enumerate((state.providers * 5)[:41])
    ]
    states = {
        "published, 9 providers": state,
        "50 providers": dataclasses.replace(state, providers=(*state.providers, *more)),
    }
    app = page.build(dataset, state)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"):
        options.add_argument(one)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    found = {}
    for name, one in states.items():
        answers.answer(one, dataset)
        address = f"http://127.0.0.1:{server.port}/?s={one.to_address()}"
        found[name] = {"milliseconds": milliseconds(driver, address)}
        began = time.perf_counter()
        for beta in range(100, 120):
            answers.answer(dataclasses.replace(one, rationality=float(beta)), dataset)
        found[name]["library_alone"] = round(50 * (time.perf_counter() - began), 1)
    driver.quit()
    json.dump(found | {"moves": MOVES, "jax": jax.__version__}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
