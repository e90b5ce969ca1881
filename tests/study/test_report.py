"""The report is one file that a browser shows without a network, and says what the library says."""

import html
import re
import shutil
import subprocess

import pytest

from mechlab import InputError, cli, data, mechanism_table
from mechlab.study import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.slow
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt install chromium)")
CURVES = """benchmark,model,method,level,compute,accuracy,tokens
Quiz,A & B,majority_voting,0,1,0.5,100
Quiz,A & B,majority_voting,1,4,0.6,400
Quiz,<i>C,majority_voting,0,1,0.4,100
"""
MARKET = """
margin = 0.25
[value_per_answer]
Quiz = 0.01
[price_per_million_tokens]
"A & B" = 1.0
"<i>C" = 0.5
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "curves.csv").write_text(CURVES)
    (folder / "market.toml").write_text(MARKET)
    results = folder / "results" / "mine"
    results.mkdir(parents=True)
    (results / "mine.csv").write_text("# remade by: python -m experiments mine\na,b\n1,2.5\n")
    out = folder / "page.html"
    arguments = ["--curves", folder / "curves.csv", "--market", folder / "market.toml"]
    arguments += ["--results", folder / "results", "--out", out]
    assert cli.main(["report", *map(str, arguments)]) == 0
    return out


def chromium(*arguments):
    options = "--headless=new --no-sandbox --disable-gpu --virtual-time-budget=20000"
    command = [CHROMIUM, *options.split(), "--enable-logging=stderr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_page_says_what_the_library_says(page):
    text = page.read_text()
    assert "A &amp; B" in text and "<i>C" not in text.split("</script>", 1)[1].split("Plotly")[0]
    named = data.load(str(page.parent / "curves.csv"), str(page.parent / "market.toml")).select()
    for row in mechanism_table(named):
        assert f"{1000 * row['welfare']:.3f}" in text
        assert f"{row['tokens']:,.0f}" in text
    shown = html.unescape(re.search(r"<pre>(mechlab report .*?)</pre>", text, re.S)[1])
    assert str(page.parent / "curves.csv") in shown and shown.endswith(f"--out {page}")
    assert "no provider gains by changing their price bids" in text
    assert "remade by: python -m experiments mine" in text


def made(folder, curves, market=MARKET, *options):
    (folder / "curves.csv").write_text(curves)
    (folder / "market.toml").write_text(market)
    arguments = ["--curves", folder / "curves.csv", "--market", folder / "market.toml"]
    arguments += ["--out", folder / "page.html", *options]
    assert cli.main(["report", *map(str, arguments)]) == 0
    return (folder / "page.html").read_text()


TWINS = """benchmark,model,method,level,compute,accuracy,tokens
A B,x,majority_voting,0,1,0.5,100
A B,y,majority_voting,0,1,0.5,100
A-B,x,majority_voting,0,1,0.5,100
A-B,y,majority_voting,0,1,0.5,100
"""
WORTH = """
margin = 0.25
[value_per_answer]
"A B" = 0.01
A-B = 0.01
[price_per_million_tokens]
x = 1.0
" y " = 1.0
"""


def test_rounding_is_no_gain_and_every_market_has_figures_of_its_own(tmp_path):
    text = made(tmp_path, TWINS, WORTH)
    # equal providers: the winner is paid its cost, and nobody gains
    safe = "Second-price auction: from truthful play, no provider gains by changing"
    for moves in ("their price bids and quality reports", "what they bill and serve"):
        assert text.count(f"{safe} {moves}") == 2
    assert not re.search(r"[>(\n]-0(?:\.0*)?[^\d.]", text), "what rounds to zero has no sign"
    ids = re.findall(r'<div id="([^"]+)"[^>]*plotly-graph-div', text)
    assert len(ids) == len(set(ids)) == 4
    links = re.findall(r'<a href="#([^"]+)"', text)
    assert len(links) == len(set(links)) == 2 and all(f'id="{link}"' in text for link in links)


def test_an_auction_without_trade_is_said(tmp_path):
    text = made(tmp_path, TWINS, "outside_value = 1.0" + WORTH)
    assert text.count("no trade in the") == 2


def test_the_command_shown_makes_the_same_page(tmp_path):
    options = "--rationality 1234567.5 --rationality 1234568 --rationality 1234568".split()
    text = made(tmp_path, CURVES, MARKET, *options)
    shown = html.unescape(re.search(r"<pre>(mechlab report .*?)</pre>", text, re.S)[1])
    assert "--rationality 1234567.5 --rationality 1234568.0 --out" in shown
    assert text.count("<th>β = 1234568 per USD</th>") == 1


def test_results_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "results" / "mine" / "picture.png").mkdir(parents=True)
    with pytest.raises(InputError, match=r"picture\.png: not a readable picture"):
        report.experiments(str(tmp_path / "results"))
    (tmp_path / "results" / "mine" / "picture.png").rmdir()
    (tmp_path / "results" / "mine" / "mine.csv").write_text("a,b\n1,inf\n,-inf\n")
    [found] = report.experiments(str(tmp_path / "results"))
    assert "∞" in found["tables"][0]["html"] and "inf" not in found["tables"][0]["html"]


def test_nothing_is_fetched(page):
    text = page.read_text()
    tags = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", tags)
    assert "default-src 'none'" in text


@browser
def test_figures_render_without_console_errors(page):
    done = chromium("--dump-dom", page.as_uri())
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    # each plot has drawn its axes and its lines
    assert done.stdout.count('class="plotly-graph-div') == 2
    assert done.stdout.count("xaxislayer-above") >= 4 and "scatterlayer" in done.stdout
    assert done.stdout.count('class="trace scatter') >= 6
    assert done.stdout.count('class="point"') >= 12


@browser
def test_it_prints(page, tmp_path):
    paper = tmp_path / "page.pdf"
    chromium(f"--print-to-pdf={paper}", "--no-pdf-header-footer", page.as_uri())
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page[^s]", content))
    assert content.startswith(b"%PDF") and 2 <= pages <= 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "page.txt"], "must end in .html"),
        (["--out", "nowhere/page.html"], "no folder nowhere"),
        (["--out", "/proc/page.html"], "--out /proc/page.html: cannot be written"),
        (["--out", "x" * 300 + ".html"], "x.html: cannot be written"),
        (["--out", "page.html", "--curves", "none.csv"], "none.csv: no such file"),
        (["--out", "page.html", "--results", "nowhere"], "no experiment there"),
    ],
)
def test_bad_input_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_table_of_results_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.csv").write_text("")
    with pytest.raises(InputError, match=r"x\.csv: not a readable table"):
        report.experiments(str(tmp_path))


@pytest.mark.parametrize("numbers", [5, 40])
def test_each_part_of_a_wide_table_of_results_tells_its_rows_apart(numbers, tmp_path):
    rows = [["rule", "beta", *(f"x{j}" for j in range(numbers))]]
    for rule, beta in ("A1", "A2", "B1", "B2"):
        rows.append([rule, beta, *(str(100 * len(rows) + j) for j in range(numbers))])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.csv").write_text("\n".join(map(",".join, rows)))
    text = report.experiments(str(tmp_path))[0]["tables"][0]["html"]
    parts = [
        [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall("<tr.*?</tr>", part, re.S)]
        for part in re.findall("<table.*?</table>", text, re.S)
    ]
    assert len(parts) == (1 if numbers == 5 else 3)
    for number, row in enumerate(rows):
        assert all(part[number][:2] == row[:2] for part in parts)
        assert [x for part in parts for x in part[number][2:]] == row[2:]
