"""The explorer says what the library says, in a real browser too."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import mechlab
from mechlab import InputError, data
from mechlab.mechanisms.catalogue import named_rule
from mechlab.study.explorer import Provider, State, answers, guard, page, views

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here (apt install chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def dataset():
    return data.load("published")


@pytest.fixture(scope="module")
def state(dataset):
    return State.first(dataset)


@pytest.fixture(scope="module")
def moved(state):
    """Everything is other than the data set has it."""
    first, second, *others = state.providers
    again = dataclasses.replace(first, name="entrant", price=0.05)
    swapped = dataclasses.replace(second, curve="Qwen2-7B", price=0.15, owner="a")
    off = dataclasses.replace(others[0], on=False)
    merged = dataclasses.replace(others[1], owner="a")
    return dataclasses.replace(
        state,
        rationality=700.0,
        margin=0.4,
        worth=0.02,
        outside=0.001,
        noise="taste",
        most=16.0,
        providers=(first, swapped, off, merged, *others[2:], again),
        rules=("pay_per_compute", "second_price", "fixed_price=0.002"),
    )


def by_hand(dataset, state):
    """The market of a state from the curves' rows, without the page's code."""
    table, constants = dataset.curves, dataset.constants
    rows = table[(table["benchmark"] == state.benchmark) & (table["method"] == state.method)]
    rows = rows[rows["compute"] <= state.most]
    found = {}
    for one in state.providers:
        if one.on:
            curve = rows[rows["model"] == one.curve].sort_values("level")
            accuracy, tokens = curve["accuracy"].to_numpy(), curve["tokens"].to_numpy()
            worth = constants.baseline + (1 - constants.baseline) * accuracy
            found[one.name] = (state.worth * worth, tokens * one.price / 1e6)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["state", "moved"])
def test_the_market_is_what_the_table_of_providers_says(dataset, which, request):
    state = request.getfixturevalue(which)
    found = answers.answer(state, dataset)
    expected = by_hand(dataset, state)
    assert sorted(found.names) == sorted(expected)
    for i, name in enumerate(found.names):
        quality, price = expected[name]
        market = found.named.market
        np.testing.assert_allclose(market.quality[i], quality, rtol=1e-12)
        np.testing.assert_allclose(market.price[i], price, rtol=1e-12)
        np.testing.assert_allclose(market.cost[i], price / (1 + state.margin), rtol=1e-12)


@pytest.mark.slow
def test_answers_are_those_of_evaluate_and_compare(dataset, moved):
    found = answers.answer(moved, dataset)
    named = moved.market(dataset)
    users = mechlab.Users.create(moved.rationality, moved.outside, moved.noise)
    rules = {name: named_rule(name) for name in moved.rules}
    expected = mechlab.evaluate(named.market, users, rules)
    for name, ruled in found.rules.items():
        for metric in ("user_cost", "user_value", "welfare", "accuracy"):
            one = getattr(ruled.outcome, metric)
            np.testing.assert_allclose(one, getattr(expected[name], metric), rtol=1e-9)
    compared = mechlab.compare(named, [moved.rationality], noise="taste", owners=moved.owners())
    assert found.merger == compared.merger and found.merger
    row = compared.pay_per_compute[0]
    assert found.here == pytest.approx(row["optimal_welfare"] / row["welfare"] - 1, rel=1e-9)
    # nobody would move: that is what an equilibrium is
    posted = found.rules["pay_per_compute"]
    np.testing.assert_allclose(posted.level_utility.max(-1), posted.outcome.provider_utility)


@pytest.mark.slow
def test_a_name_is_shown_as_it_stands(dataset, state):
    """Plotly takes tags for what they say in HTML."""
    first, *others = state.providers
    named = dataclasses.replace(first, name="<b>A</b> & B")
    answer = answers.answer(dataclasses.replace(state, providers=(named, *others)), dataset)
    assert named.name in answer.names
    figures = str(
        [views.value_curves(answer), views.service(answer), views.deviations(answer, None)]
    )
    assert "&lt;b&gt;A&lt;/b&gt; &amp; B" in figures
    assert "<b>A" not in figures.replace(f"'legendgroup': '{named.name}'", "")


def test_an_address_restores_the_state(state, moved):
    for one in (state, moved):
        assert State.from_address(one.to_address()) == one
    for bad in ("", "x", "%%%", moved.to_address()[:-9], "é", "A" * 5000):
        with pytest.raises(InputError, match="holds no state"):
            State.from_address(bad)


def test_a_market_file_is_the_market(dataset, moved, tmp_path):
    (tmp_path / "market.toml").write_text(moved.market_file(dataset))
    again = data.load("published", str(tmp_path / "market.toml"))
    cut = dataclasses.replace(again, curves=again.curves[again.curves["compute"] <= moved.most])
    mine, theirs = moved.market(dataset), cut.select(moved.benchmark, moved.method)
    assert mine.names == theirs.names
    np.testing.assert_array_equal(mine.market.price, theirs.market.price)
    np.testing.assert_array_equal(mine.market.quality, theirs.market.quality)


@pytest.mark.full
def test_the_script_prints_the_figures_of_the_page(dataset, moved, tmp_path):
    script = moved.script("published")
    assert len(script.strip().splitlines()) <= 10
    (tmp_path / "market.toml").write_text(moved.market_file(dataset))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    found = answers.answer(moved, dataset)
    lines = dict(line.split(maxsplit=1) for line in done.stdout.strip().splitlines())
    assert set(lines) == set(found.rules)
    for name, ruled in found.rules.items():
        out = ruled.outcome
        usd = [1000 * float(x) for x in (out.user_cost, out.user_value, out.welfare)]
        assert list(map(float, lines[name].split())) == pytest.approx(usd, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rationality": -1.0}, "rationality = -1.0; give a number from 0"),
        ({"rationality": float("nan")}, "rationality = nan"),
        ({"margin": 0.0}, "margin = 0"),
        ({"worth": True}, "worth = True"),
        ({"noise": "luck"}, "use error or taste"),
        ({"rules": ()}, "0 rules; compare 1 to 6"),
        ({"rules": ("lottery",)}, "lottery: no such rule"),
        ({"rules": ("fixed_price=x",)}, "give a number"),
        ({"providers": ()}, "0 providers; keep 1 to 50"),
        ({"providers": (Provider("a", "a", 1.0, on=False),)}, "no provider is on"),
        ({"providers": (Provider(" ", "a", 1.0),)}, "has no name"),
        ({"providers": (Provider("a", "a", 0.0),)}, "provider a: price 0.0"),
        ({"providers": (Provider("a", "a", 1.0), Provider("a", "b", 1.0))}, "the name is taken"),
        ({"providers": (Provider("a", "nobody", 1.0),)}, "no curve 'nobody'"),
        ({"most": 0.5}, "has no level of majority_voting on GSM8K at or below 0.5"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(dataset, state, change, says):
    with pytest.raises(InputError) as error:
        answers.answer(dataclasses.replace(state, **change), dataset)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_port_that_is_taken_is_one_line(dataset, state):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: .*; give another"):
            page.serve(dataset, state, "published", port=port, browser=False)


# ----------------------------------------------------------------------------- who asks, and what

HERE = {"Host": "localhost:8050"}
CALLBACKS = "/_dash-update-component"
OWN = HERE | {"Origin": "http://localhost:8050"}
RESTORE = {
    "output": "controls.children",
    "outputs": {"id": "controls", "property": "children"},
    "inputs": [{"id": "address", "property": "search", "value": ""}],
    "changedPropIds": ["address.search"],
}


@pytest.fixture(scope="module")
def client(dataset, state):
    hosts = guard.checked_host("lab.example")
    return page.build(dataset, state, hosts=hosts).server.test_client()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8050", 200),
        ("127.0.0.1:8050", 200),
        ("[::1]:8050", 200),
        ("LOCALHOST:1", 200),
        ("lab.example:8050", 200),
        ("evil.example", 400),
        ("evil.example:8050", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost@evil.example", 400),
        ("127.0.0.2", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_the_page_answers_only_to_names_of_this_machine(client, host, status):
    """A web page elsewhere can point its own name at 127.0.0.1 (DNS rebinding)."""
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert client.get(path, headers={"Host": host}).status_code == status


def test_without_a_name_given_no_other_is_answered(dataset, state):
    client = page.build(dataset, state).server.test_client()
    assert client.get("/", headers={"Host": "lab.example"}).status_code == 400
    for bad in ("lab.example:80", "a b", "http://lab.example", ""):
        with pytest.raises(InputError, match=r"--host .*give one without port"):
            guard.checked_host(bad)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8050", 200),
        ("https://localhost:8050", 200),
        (None, 403),
        ("null", 403),
        ("http://evil.example", 403),
        ("http://localhost:9", 403),
        ("http://localhost:8050.evil.example", 403),
        ("ftp://localhost:8050", 403),
    ],
)
def test_callbacks_are_asked_by_the_page_alone(client, origin, status):
    headers = HERE | ({} if origin is None else {"Origin": origin})
    assert client.post(CALLBACKS, json=RESTORE, headers=headers).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        3,
        "text",
        {"output": "x"},
        RESTORE | {"inputs": 3},
        RESTORE | {"inputs": []},
        RESTORE | {"output": "nobody.children"},
        RESTORE | {"output": ["controls.children"]},
        RESTORE | {"outputs": None},
        RESTORE | {"changedPropIds": None},
        RESTORE | {"inputs": [{"id": "address", "property": "search", "value": 3}]},
        "asked",
    ],
    ids=str,
)
def test_a_malformed_callback_is_a_400_without_a_trace(client, body, capfd):
    if body == "asked":  # well-formed for Dash, and not what the page asks
        rules = json.loads(client.get("/_dash-dependencies", headers=HERE).data)
        output = next(x["output"] for x in rules if "value.figure" in x["output"])
        ids = [name.rpartition(".") for name in output.strip(".").split("...")]
        body = {
            "output": output,
            "outputs": [{"id": name, "property": prop} for name, _, prop in ids],
            "inputs": [{"id": "asked", "property": "data", "value": [1]}],
            "state": [{"id": "like", "property": "data", "value": None}],
            "changedPropIds": ["asked.data"],
        }
    assert client.post(CALLBACKS, json=body, headers=OWN).status_code == 400
    said = capfd.readouterr().err
    assert "Traceback" not in said and len(said.splitlines()) <= 1


def test_a_callback_that_is_no_json_is_a_400_without_a_trace(client, capfd):
    for text in (b"{not", b"\xff", b"[" * 100_000):
        asked = client.post(CALLBACKS, data=text, headers=OWN, content_type="application/json")
        assert asked.status_code == 400
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/a/b",
        "/index.html",
        "/assets/none.css",
        "/_dash-nothing",
        "/_dash-component-suites/nobody/x.js",
        "/_dash-component-suites/dash/none.js",
    ],
)
def test_an_unknown_path_is_a_404_without_a_trace(client, path, capfd):
    assert client.get(path, headers=HERE).status_code == 404
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.full
def test_markets_around_a_state_have_its_providers(dataset, moved):
    seen = []
    found = page.around(moved, dataset, seen.append, markets=300)
    assert seen[-1] == 300 and found.mechanisms == moved.rules
    # the shocks have a median of 1 and everything is drawn around what is set
    here = float(answers.answer(moved, dataset).rules["fixed_price=0.002"].outcome.user_cost)
    middle = found.summaries["fixed_price=0.002.user_cost"].mean
    assert middle == pytest.approx(here, rel=0.5)
    job = page.Job()
    job.start(moved, dataset)
    job.cancel()
    assert not job.running and job.found is None and job.error == "cancelled"


# -------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mechlab.cli", "explore", "--port", str(port), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert f"http://127.0.0.1:{port}/" in server.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.communicate()


@pytest.fixture(scope="module")
def driver(address):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, Service(DRIVER))
    yield found
    found.quit()


def shown(driver):
    """The table of figures: {rule: cells}."""
    rows = driver.find_elements("css selector", "#numbers tbody tr")
    cells = [[cell.text for cell in row.find_elements("css selector", "td")] for row in rows]
    return {row[0]: row[1:] for row in cells}


def wait(until, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # the page is being redrawn
            if found := until():
                return found
        time.sleep(0.1)
    raise AssertionError("the page did not answer")


def write(driver, name, text):
    from selenium.webdriver.common.keys import Keys

    field = driver.find_element("id", name) if isinstance(name, str) else name
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.DELETE, text, Keys.ENTER)


def expected(state, dataset):
    found = answers.answer(state, dataset)
    return {
        name.replace("_", " "): f"{1000 * float(ruled.outcome.user_cost):.4f}"
        for name, ruled in found.rules.items()
    }


def pays(driver):
    return {rule: cells[0] for rule, cells in shown(driver).items()}


def errors(driver):
    return [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.slow
@browser
def test_controls_in_a_browser_show_what_the_library_says(driver, address, dataset, state):
    driver.get(address)
    wait(lambda: shown(driver))
    assert pays(driver) == expected(state, dataset)
    write(driver, "rationality", "200")
    write(driver, "margin", "0.5")
    now = dataclasses.replace(state, rationality=200.0, margin=0.5)
    wait(lambda: pays(driver) == expected(now, dataset))
    # a keyboard moves the slider, and the field follows
    from selenium.webdriver.common.keys import Keys

    slider = driver.find_element("css selector", ".number [role=slider]")
    assert "Rationality" in slider.get_attribute("aria-label")
    slider.send_keys(Keys.ARROW_RIGHT)
    beta = wait(
        lambda: (
            (x := driver.find_element("id", "rationality").get_attribute("value")) != "200" and x
        )
    )
    now = dataclasses.replace(now, rationality=float(beta))
    wait(lambda: pays(driver) == expected(now, dataset))
    # switch a provider off, copy another, give it a price
    driver.find_elements("css selector", "td .on input")[0].click()
    driver.find_elements("css selector", "#lines button")[1].click()
    prices = wait(
        lambda: len(x := driver.find_elements("css selector", "td.price input")) == 10 and x
    )
    write(driver, prices[9], "0.03")
    first, second, *others = now.providers
    copied = dataclasses.replace(second, name=f"{second.name} 2", price=0.03)
    off = dataclasses.replace(first, on=False)
    now = dataclasses.replace(now, providers=(off, second, *others, copied))
    wait(lambda: pays(driver) == expected(now, dataset))
    assert State.from_address(driver.current_url.partition("?s=")[2]) == now
    # the link restores it
    driver.get(driver.current_url)
    wait(lambda: pays(driver) == expected(now, dataset))
    assert not errors(driver)


LOOK = """window.seen = [];
    setInterval(() => window.seen.push([
        document.getElementById("answers").className,
        document.querySelectorAll("td .on input:not(:checked)").length,
        [...document.querySelectorAll("#numbers tbody tr")].map(
            row => [...row.cells].slice(0, 2).map(cell => cell.textContent))]), 50)"""


@pytest.mark.full
@browser
def test_what_is_not_the_answer_to_the_controls_is_pale(driver, address, dataset, state):
    """Changes while others compile: each number of providers is a program of its own."""
    driver.get(address)
    wait(lambda: shown(driver))
    driver.execute_script(LOOK)
    for i, pause in enumerate((0.0, 0.7, 2.5)):
        time.sleep(pause)
        driver.find_elements("css selector", "td .on input")[i].click()
    wait(lambda: driver.execute_script("return window.seen.slice(-20).every(x => !x[0])"), 120)
    seen = driver.execute_script("return window.seen")
    assert seen[-1][1] == 3 and any(pale == "busy" for pale, _, _ in seen)
    known = []
    for off in range(4):
        on = [dataclasses.replace(x, on=i >= off) for i, x in enumerate(state.providers)]
        known.append(expected(dataclasses.replace(state, providers=tuple(on)), dataset))
    for at in range(6, len(seen)):
        _, off, rows = seen[at]
        if all(not earlier[0] and earlier[1] == off for earlier in seen[at - 6 : at + 1]):
            assert dict(rows) == known[off]
    assert not errors(driver)


@pytest.mark.slow
@browser
def test_bad_input_in_every_field_is_said_and_survived(driver, address, dataset, state):
    driver.get(address)
    wait(lambda: shown(driver))
    before = pays(driver)
    fields = ["rationality", "margin", "worth", "outside", "rules"]
    for name in fields:
        good = driver.find_element("id", name).get_attribute("value")
        for bad in ("", "-1e99", "word", "<b>"):
            write(driver, name, bad)
            wait(lambda: driver.find_element("id", "error").text)
            assert pays(driver) == before
        write(driver, name, good)
        wait(lambda: not driver.find_element("id", "error").text)
    for column, bad in (("name", ""), ("curve", "nobody"), ("price", "free")):
        field = driver.find_element("css selector", f"td.{column} input")
        good = field.get_attribute("value")
        write(driver, field, bad)
        wait(lambda: driver.find_element("id", "error").text)
        write(driver, field, good)
        wait(lambda: not driver.find_element("id", "error").text)
    assert pays(driver) == before
    driver.get(address + "?s=nonsense")
    wait(lambda: "no state" in driver.find_element("id", "note").text)
    wait(lambda: pays(driver) == expected(state, dataset))
    assert not errors(driver)


@pytest.mark.slow
@browser
def test_searches_and_markets_on_request(driver, address):
    driver.get(address)
    wait(lambda: shown(driver))
    driver.find_element("id", "search").click()
    wait(lambda: "lower bound" in driver.find_element("id", "searched").text, 240)
    driver.find_element("id", "draw").click()
    wait(lambda: driver.find_element("id", "drawn").text.strip() == "10,000 markets", 300)
    assert driver.find_element("id", "population").is_displayed()
    assert not errors(driver)
    # nothing but this machine is asked
    asked = driver.execute_script("return performance.getEntries().map(one => one.name)")
    assert not [one for one in asked if one.startswith("http") and not one.startswith(address)]


@pytest.mark.slow
@browser
def test_each_page_draws_its_own_markets(driver, address):
    read = "return document.querySelector('#population .js-plotly-plot').data.map(x => [...x.x])"

    def opened(beta):
        driver.get(address)
        wait(lambda: shown(driver))
        write(driver, "rationality", beta)
        wait(lambda: not driver.find_element("id", "draw").get_attribute("disabled"))
        return driver.current_window_handle

    def drawn(page):
        driver.switch_to.window(page)
        wait(lambda: driver.find_element("id", "drawn").text == "10,000 markets", 120)
        return driver.execute_script(read)

    first = opened("900")
    driver.find_element("id", "draw").click()
    alone = drawn(first)
    driver.switch_to.new_window("tab")
    second = opened("300")
    driver.switch_to.window(first)
    driver.find_element("id", "draw").click()
    driver.switch_to.window(second)
    driver.find_element("id", "draw").click()
    assert drawn(second) != alone
    assert drawn(first) == alone
    driver.switch_to.window(second)
    driver.close()
    driver.switch_to.window(first)
    assert not errors(driver)
