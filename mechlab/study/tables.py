"""Results as tables for people. A table is never cut or wrapped."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mechlab import data
from mechlab.populations import in_words
from mechlab.simulation import simulate as simulation
from mechlab.study import comparison, survival
from mechlab.study.learning import Learning
from mechlab.study.power import Power
from mechlab.study.routing import Routing
from mechlab.study.survey import Report, merged, words
from mechlab.study.survival import Survival

if TYPE_CHECKING:
    from mechlab.evidence.curves import Curves
    from mechlab.evidence.grading.regrade import Changes


def _milli(usd: float) -> str:
    return f"{1000 * usd:.3f}"


def _heading(named: data.NamedMarket) -> Console:
    """A console that never cuts or wraps, with the market named on its first line."""
    console = Console(highlight=False, width=100_000)
    market, title = named.market, escape(f"{named.benchmark} · {named.method}")
    console.print(
        f"[bold]{title}[/bold]: {market.providers} providers, up to {market.levels} compute levels"
    )
    return console


def _table(first: str, rows: list[dict[str, Any]], last: str) -> Table:
    """A column per rationality, then the auction's."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column(first, no_wrap=True)
    for row in rows:
        table.add_column(f"β = {row['rationality']:g}", justify="right", no_wrap=True)
    table.add_column(last, justify="right", style="green", no_wrap=True)
    return table


def print_comparison(result: comparison.Comparison) -> None:
    rows, auction = result.pay_per_compute, result.auction
    # those who buy nothing hold v0: where it is not 0, rules are compared by what they add to it
    welfare = "net_welfare" if result.named.constants.outside_value else "welfare"
    console = _heading(result.named)
    console.print(
        "Pay-per-compute, by the rationality β of users (1/USD), against the auction; the noise in "
        f"users' choices is {result.noise}\n"
    )
    table = _table("USD per 1,000 queries", rows, "auction")
    for label, name in (
        ("users pay", "user_cost"),
        ("quality", "quality"),
        ("users keep", "user_value"),
        ("providers earn", "provider_utility"),
        ("welfare", "welfare"),
        *([("net of v0", "net_welfare")] if welfare != "welfare" else []),
    ):
        table.add_row(label, *(_milli(row[name]) for row in [*rows, auction]))
        if name != "net_welfare":
            _add_intervals(table, name, [*rows, auction], "{:.3f}", 1000)
    table.add_row("best possible welfare", *(_milli(row["optimal_welfare"]) for row in rows), "")
    _add_intervals(table, "optimal_welfare", rows, "{:.3f}", 1000)
    table.add_row("waste", *(_waste(row) for row in rows), "")
    _add_intervals(table, "inefficiency", rows, "{:.1f}", 100)
    if "intervals" in auction:
        anarchy = [row["price_of_anarchy"] for row in rows]
        table.add_row("price of anarchy", *("–" if x is None else f"{x:.4f}" for x in anarchy), "")
        _add_intervals(table, "price_of_anarchy", rows, "{:.4f}", 1)
    table.add_row("accuracy", *(f"{100 * row['accuracy']:.1f} %" for row in [*rows, auction]))
    _add_intervals(table, "accuracy", [*rows, auction], "{:.1f}", 100)
    table.add_row("tokens per query", *(f"{row['tokens']:,.0f}" for row in [*rows, auction]))
    _add_intervals(table, "tokens", [*rows, auction], "{:,.0f}", 1)
    if "latency" in auction:
        waits = (f"{row['latency']:.1f} s" for row in [*rows, auction])
        table.add_row("users wait", *waits)
    for label, name, form in (
        ("own-price elasticity", "mean_elasticity", "{:.2f}"),
        ("HHI of shares", "hhi", "{:,.0f}"),
    ):
        table.add_row(label, *(form.format(row[name]) for row in rows), "")
    console.print(table)
    if "latency" in auction:
        console.print("Quality, what users keep and welfare are less what waiting costs users")
    if "intervals" in auction:
        console.print("In brackets: 95 % intervals, from the questions that the curves are of")
    console.print()
    console.print(_readings(result))
    console.print()
    if result.owners:
        _print_merger(console, result)
    if result.hosts:
        _print_hosts(console, result)
    table = _table("compute chosen (share)", rows, "auction")
    for name in result.named.names:
        cells = [f"{row['levels'][name]:g} ({100 * row['shares'][name]:.0f} %)" for row in rows]
        wins = name == auction["winner"]
        table.add_row(escape(name), *cells, f"{auction['compute']:g} (100 %)" if wins else "")
    console.print(table)
    console.print()
    for row in rows:
        if not row["converged"]:
            console.print(f"[yellow]β = {row['rationality']:g}: no equilibrium reached.[/yellow]")
    if auction["winner"] is None:
        console.print("No trade in the auction: no offer is worth as much as buying nothing.")
        return
    winner, runner_up = (escape(auction[role] or "") for role in ("winner", "runner_up"))
    rival = f"ahead of {runner_up}" if runner_up else "without a rival"
    console.print(
        f"[bold green]{winner} wins the auction[/bold green] at compute "
        f"{auction['compute']:g}, {rival}. Against pay-per-compute,"
    )
    for row in rows:
        console.print(f"  at β = {row['rationality']:g}: {_change(row, auction, welfare)}")


def _readings(result: comparison.Comparison) -> Table:
    """Welfare of each rule, for either reading of the noise."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("welfare, if noise is error | taste", no_wrap=True)
    for row in result.pay_per_compute:
        table.add_column(f"β = {row['rationality']:g}", justify="right", no_wrap=True)
    for rule, words_ in comparison.READ_RULES.items():
        cells = []
        for row in result.readings:
            if row["rule"] == rule:
                both = (row["welfare_error"], row["welfare_taste"])
                cells.append(" | ".join("–" if x is None else _milli(x) for x in both))
        table.add_row(words_, *cells)
    return table


def _print_merger(console: Console, result: comparison.Comparison) -> None:
    said = "; ".join(" + ".join(map(escape, one)) for one in result.owners)
    console.print(f"[bold]With one owner of {said}[/bold]")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("USD per 1,000 queries (change)", no_wrap=True)
    for row in result.merger:
        beta = row["rationality"]
        title = "auction" if beta is None else f"β = {beta:g}"
        table.add_column(title, justify="right", no_wrap=True)
    _add_changes(table, result.merger)
    posted = [row for row in result.merger if "hhi" in row]
    hhi = (f"{row['hhi']:,.0f} ({row['hhi'] - row['hhi_apart']:+,.0f})" for row in posted)
    table.add_row("HHI of owners", *hhi, "")
    console.print(table)
    for row in posted:
        if not row["converged"]:
            console.print(
                f"[yellow]β = {row['rationality']:g}: owners go on answering each other.[/yellow]"
            )
    console.print()


def _add_changes(table: Table, rows: list[dict[str, Any]]) -> None:
    """What users and providers have in each row, and against the same apart."""
    for label, name in (
        ("users pay", "user_cost"),
        ("users keep", "user_value"),
        ("providers earn", "provider_utility"),
        ("welfare", "welfare"),
    ):
        cells = []
        for row in rows:
            after, before = row[name], row[f"{name}_apart"]
            change = f" ({100 * (after / before - 1):+.1f} %)" if before > 0 else ""
            cells.append(f"{_milli(after)}{change}")
        table.add_row(label, *cells)


def _print_hosts(console: Console, result: comparison.Comparison) -> None:
    console.print(
        "[bold]Pay-per-compute, if users find the hosts of a model alike[/bold] "
        f"(nested logit, ρ = {result.dissimilarity:g})"
    )
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("USD per 1,000 queries (change)", no_wrap=True)
    for row in result.hosts:
        table.add_column(f"β = {row['rationality']:g}", justify="right", no_wrap=True)
    _add_changes(table, result.hosts)
    for label, name, form in (
        ("own-price elasticity", "mean_elasticity", "{:.2f} ({:+.2f})"),
        ("HHI of shares", "hhi", "{:,.0f} ({:+,.0f})"),
    ):
        cells = (form.format(row[name], row[name] - row[f"{name}_apart"]) for row in result.hosts)
        table.add_row(label, *cells)
    console.print(table)
    console.print()


def _add_intervals(
    table: Table, name: str, rows: list[dict[str, Any]], form: str, scale: float
) -> None:
    """A line with the interval of each number above it, where there are any."""
    if "intervals" not in rows[0]:
        return
    ends = [row["intervals"][name] for row in rows]
    cells = ["–" if x is None else " to ".join(form.format(scale * y) for y in x) for x in ends]
    table.add_row("", *(f"({cell})" for cell in cells))


def _waste(row: dict[str, Any]) -> str:
    reached = row["welfare"]
    return f"{100 * (row['optimal_welfare'] / reached - 1):.1f} %" if reached > 0 else "–"


def _change(row: dict[str, Any], auction: dict[str, Any], welfare: str) -> str:
    def relative(name: str, more: str, less: str) -> str:
        if not row[name] > 0:
            return f"{_milli(auction[name])} instead of {_milli(row[name])}"
        change = 100 * (auction[name] / row[name] - 1)
        return f"{abs(change):.1f} % {more if change >= 0 else less}"

    return (
        f"users pay [bold]{relative('user_cost', 'more', 'less')}[/bold], quality is "
        f"{relative('quality', 'higher', 'lower')}, and {welfare.replace('_', ' ')} is "
        f"{relative(welfare, 'higher', 'lower')}"
    )


def print_simulation(result: simulation.Simulation) -> None:
    found = result.to_dict()
    console = Console(highlight=False, width=100_000)
    kind, noise = in_words(found["population"])
    console.print(
        f"[bold]{found['markets']:,} {kind} markets[/bold], seed {found['seed']}; the noise in "
        f"users' choices is {noise}\n\n"
        " mean ± standard error (5th, 50th, 95th percentile), money in USD per 1,000 queries"
    )
    names = list(found["mechanisms"])
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column(no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for metric in simulation.REPORTED:
        scale = 1 if metric == "price_of_anarchy" else 1000

        def cell(rule: str, metric: str = metric, scale: int = scale) -> str:
            summary = found["mechanisms"][rule].get(metric)
            if summary is None or summary["mean"] is None:
                return "–"
            mean, error, *tails = (
                scale * summary[x] for x in ("mean", "standard_error", "p05", "p50", "p95")
            )
            ends = ", ".join(f"{x:.3f}" for x in tails)
            return f"{mean:.4f} ± {error:.5f} ({ends})"

        table.add_row(metric.replace("_", " "), *(cell(rule) for rule in names))
    console.print(table)
    console.print()
    than = found["better_than"].replace("_", " ")
    for rule, sides in found["better_for"].items():
        for side, share in sides.items():
            console.print(
                f"{rule.replace('_', ' ')} is better for {side} than {than} in "
                f"{100 * share['mean']:.2f} % of markets (± {100 * share['standard_error']:.3f})"
            )
    if found["share_unique"] is not None:
        console.print(
            f"The equilibrium is unique in {100 * found['share_unique']:.3f} % of markets; "
            "elsewhere the price of anarchy is a lower bound"
        )
    if found["share_converged"] is not None:
        console.print(f"The dynamics converged in {100 * found['share_converged']:.4f} %")
    if found["markets_per_second"]:
        console.print(f"{found['markets_per_second']:,.0f} markets per second")


def print_power(result: Power) -> None:
    console = _heading(result.named)
    console.print(
        f"In the equilibrium of pay-per-compute at [bold]β = {result.rationality:.6g}[/bold] per "
        f"USD demand has an own-price elasticity of {result.elasticity:.4g} (mean by share) and an "
        f"HHI of {result.hhi:,.0f}\n"
    )
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("USD per 1,000 queries", no_wrap=True)
    for name in ("compute", "share", "price", "elasticity", "cost", "implied cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most go to", no_wrap=True)
    for row in result.providers:
        table.add_row(
            escape(row["model"]),
            f"{row['compute']:g}",
            f"{100 * row['share']:.1f} %",
            _milli(row["price"]),
            f"{row['elasticity']:.2f}",
            _milli(row["cost"]),
            _milli(row["implied_cost"]),
            f"{escape(row['diverted_to'] or 'buying nothing')} ({100 * row['diverted']:.0f} %)",
        )
    console.print(table)
    console.print(
        "\ncost: of the market's margin; implied cost: what prices leave if they are a "
        "Bertrand–Nash equilibrium (below 0: no such prices at this β)"
    )


def print_sweep(result: comparison.Sweep) -> None:
    console = _heading(result.named)
    console.print(
        "Pay-per-compute by the rationality β of users; USD per 1,000 queries; the noise in users' "
        f"choices is {result.noise}\n"
    )
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("β (1/USD)", "waste", "welfare", "best possible", "users pay", "converged"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in result.points:
        lost = point["inefficiency"]
        table.add_row(
            f"{point['rationality']:.4g}",
            "–" if lost is None else f"{100 * lost:.2f} %",
            _milli(point["welfare"]),
            _milli(point["optimal_welfare"]),
            _milli(point["user_cost"]),
            "yes" if point["converged"] else "no",
        )
    console.print(table)
    valid = [point for point in result.points if point["inefficiency"] is not None]
    if valid:
        worst = max(valid, key=lambda point: point["inefficiency"])
        console.print(
            f"\nThe most waste: {100 * worst['inefficiency']:.1f} % of the welfare reached, at "
            f"β = {worst['rationality']:.4g}"
        )


def print_curves(found: "Curves", confidence: float) -> None:
    console = Console(highlight=False, width=100_000)
    for benchmark, rows in found.table.groupby("benchmark", sort=False):
        console.print(f"[bold]{escape(str(benchmark))}[/bold], {100 * confidence:g} % intervals\n")
        table = Table(box=None, padding=(0, 1), header_style="bold")
        for name in ("model", "method"):
            table.add_column(name, no_wrap=True)
        for name in ("compute", "accuracy", "", "tokens", "", "questions", "samples"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows.to_dict("records"):
            first = row["level"] == 0
            table.add_row(
                escape(row["model"]) if first else "",
                row["method"].replace("_", " ") if first else "",
                f"{row['compute']:g}",
                f"{100 * row['accuracy']:.1f} %",
                f"({100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f})",
                f"{row['tokens']:,.0f}",
                f"({row['tokens_low']:,.0f} to {row['tokens_high']:,.0f})",
                f"{row['questions']:,}",
                f"{row['samples']:,}",
            )
        console.print(table)
        drawn = rows["standard_error"].max()
        if drawn > 0:
            console.print(
                f"\nReward-weighted voting is by random subsets, with a standard error of up to "
                f"{100 * drawn:.2f} points; all else is exact in the samples."
            )


def print_grades(found: "Changes", out: str) -> None:
    console = Console(highlight=False, width=100_000)
    graded = max(found.samples, 1)
    before = "the log has no grades"
    if found.graded_before:
        share = 100 * found.correct_before / found.graded_before
        before = f"{share:.1f} % before; {found.changed:,} grades changed"
    console.print(
        f"{found.samples:,} samples graded: {100 * found.correct / graded:.1f} % are right "
        f"({before}), {found.without_answer:,} have no answer"
    )
    console.print(f"wrote {escape(out)}")


def print_incentives(found: Report) -> None:
    """One row for each rule, play and space; plays that are alike share one."""
    console = Console(highlight=False, width=100_000)
    kind, noise = in_words(found.population)
    console.print(
        f"[bold]{found.markets:,} {kind} markets[/bold], seed {found.seed}; the noise in users' "
        f"choices is {noise}"
    )
    console.print("Gains by deviating, relative to the welfare of the market as it is played\n")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("rule", "from", "moving"):
        table.add_column(name, no_wrap=True)
    for name in ("markets", "providers", "mean gain", "99 %", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("by (share of the queries of those who gain)", no_wrap=True)
    for rule, start, row in merged(found.rows):
        table.add_row(rule, start, row["space"], *_gains(row), words(row["direction"]))
    console.print(table)
    console.print(
        "\nmarkets: share in which some gain exceeds rounding; providers: share of them (of pairs) "
        "that gain\nlevel: the grid; compute: between its levels; all: compute, price and report "
        "at once; pair: the prices of two"
    )


def print_learning(found: Learning) -> None:
    """A line for each learner."""
    console = Console(highlight=False, width=100_000)
    kind, _ = in_words(found.population)
    console.print(
        f"[bold]{found.markets:,} {kind} markets, {found.rounds:,} rounds[/bold] of "
        f"{found.queries:,} {'query' if found.queries == 1 else 'queries'}, seed {found.seed}"
    )
    console.print("Second-price auctions by what the platform has learned of accuracies\n")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("learner", no_wrap=True)
    for name in (
        "welfare lost",
        "users get",
        "users pay",
        "providers earn",
        "best serves",
        "regret",
        "grows with",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        power = "–"
        if row["exponent"] is not None:
            power = f"T^{row['exponent']:.2f} ±{row['exponent_error']:.2f}"
        table.add_row(
            escape(row["learner"].replace("_", " ")),
            f"{100 * row['welfare_lost']:.2f} %",
            f"{1000 * row['user_value']:.3f}",
            f"{1000 * row['user_cost']:.3f}",
            f"{1000 * row['provider_utility']:.3f}",
            f"{100 * row['best_share']:.1f} %",
            f"{row['regret']:.3f} ±{row['regret_error']:.3f}",
            power,
        )
    console.print(table)
    console.print(
        "\nusers get, users pay, providers earn: USD per 1,000 queries; regret: USD, the sum over "
        "all queries; best serves: share of the\nrounds that the provider of the largest surplus "
        "gets; grows with: the power of the rounds T, from T/64 to T, each run anew"
    )


def print_routing(found: Routing) -> None:
    """A block for each number of pilots, a line for each rule."""
    console = Console(highlight=False, width=100_000)
    console.print(
        f"[bold]{escape(found.benchmark)}, {found.method.replace('_', ' ')}[/bold], "
        f"{found.questions:,} questions, {len(found.names)} providers; β = {found.rationality:g}"
    )
    console.print("Each half of the questions is served by what the other half taught\n")
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("rule", no_wrap=True)
    timed = any(row["latency"] is not None for row in found.rows)
    for name in (
        "pilots",
        "welfare",
        "",
        "users get",
        "",
        "users pay",
        "accuracy",
        "tokens",
        *(["seconds"] if timed else []),
        "users get, over the router",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in found.rows:
        if last is not None and row["predicted_from"] != last:
            table.add_section()
        last = row["predicted_from"]

        def usd(name: str, row: dict[str, Any] = row) -> str:
            return f"{1000 * row[name]:.3f}"

        def ends(name: str, row: dict[str, Any] = row) -> str:
            return f"({1000 * row[name + '_low']:.3f} to {1000 * row[name + '_high']:.3f})"

        gain = "–"
        if row["user_value_gain"] is not None:
            gain = f"{1000 * row['user_value_gain']:+.3f} {ends('user_value_gain')}"
        reach = " (out of reach)" if row["rule"] == "oracle" else ""
        table.add_row(
            escape(row["rule"].replace("_", " ")) + reach,
            f"{row['pilots']}",
            usd("welfare"),
            ends("welfare"),
            usd("user_value"),
            ends("user_value"),
            usd("user_cost"),
            f"{100 * row['accuracy']:.1f} %",
            f"{row['tokens']:,.0f}",
            *([f"{row['latency']:.2f}"] if timed else []),
            gain,
        )
    console.print(table)
    console.print(
        "\nUSD per 1,000 questions; intervals of 95 % by bootstrap over questions, the same for "
        "all rules\npilots: samples of each provider, bought at posted prices where a rule predicts"
        " from them; tokens: all that were generated, pilots too"
    )


def print_survival(found: Survival) -> None:
    """A line for each rule, a column for each attack."""
    console = Console(highlight=False, width=100_000)
    kind, _ = in_words(found.population)
    console.print(f"[bold]{found.markets:,} {kind} markets[/bold], seed {found.seed}")
    console.print(
        "Markets in which somebody gains by an attack | the gain's 99th percentile, of welfare\n"
    )
    attacks = list(dict.fromkeys(row["attack"] for row in found.rows))
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("rule", no_wrap=True)
    for name in attacks:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for rule in dict.fromkeys(row["rule"] for row in found.rows):
        cells = []
        for name in attacks:
            row = next((x for x in found.rows if (x["rule"], x["attack"]) == (rule, name)), None)
            if row is None or row["share_profitable"] is None:
                cells.append("–")
            elif row["share_profitable"] == 0:
                cells.append("[green]safe[/green]")
            else:
                gain = 100 * (row["p99_relative_gain"] or 0.0)
                cells.append(f"{100 * row['share_profitable']:.1f} % | {gain:.1f} %")
        table.add_row(escape(rule.replace("_", " ")), *cells)
    console.print(table)
    console.print()
    for name in attacks:
        console.print(f"{name.replace('_', ' ')}: {survival.ATTACKS[name].words}")


def _gains(row: dict[str, Any]) -> list[str]:
    def percent(name: str, digits: int) -> str:
        value = row[name]
        return "–" if value is None else f"{100 * value:.{digits}f} %"

    shares = [percent(name, 1) for name in ("share_profitable", "share_of_providers")]
    gains = ("mean_relative_gain", "p99_relative_gain", "max_relative_gain")
    return shares + [percent(name, 2) for name in gains]


@contextlib.contextmanager
def live_design(title: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """A table of the last steps of `mechlab.optimize`, redrawn in place; its `progress`.

    Where stdout is no terminal, the last step is printed at the end.
    """
    rows: list[dict[str, float]] = []

    def draw() -> Table:
        table = Table(title=title, box=None, padding=(0, 1), header_style="bold")
        for name in rows[-1] if rows else ():
            table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
        for row in rows[-12:]:
            table.add_row(*(f"{value:.6g}" for value in row.values()))
        return table

    console = Console(highlight=False)
    if not console.is_terminal:
        yield rows.append
        last = ", ".join(f"{name} {value:.6g}" for name, value in (rows or [{}])[-1].items())
        print(f"{title}: {last}")
        return
    with Live(console=console, refresh_per_second=4) as live:

        def add(row: dict[str, float]) -> None:
            rows.append(row)
            live.update(draw())

        yield add
