"""Figures. Matplotlib is imported only when a figure is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mechlab.core.errors import InputError
from mechlab.core.files import check_out
from mechlab.populations import in_words

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mechlab.data import NamedMarket
    from mechlab.simulation.simulate import Simulation
    from mechlab.study.comparison import Comparison, Sweep
    from mechlab.study.learning import Learning
    from mechlab.study.routing import Routing
    from mechlab.study.survey import Report
    from mechlab.study.survival import Survival

# Paul Tol's muted, high-contrast and bright sets: safe for colour-blind readers. A provider of a
# data set that ships has the same colour and marker in every figure.
_MUTED = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
)
_CONTRAST = ("#004488", "#DDAA33", "#BB5566")
_MARKERS = "osD^vP<>X"
_PUBLISHED = (
    "Llama-3-8B",
    "Llama-3.1-8B",
    "Llama-3.2-1B",
    "Llama-3.2-3B",
    "Qwen2-0.5B",
    "Qwen2-1.5B",
    "Qwen2-7B",
    "Qwen2.5-3B",
    "Qwen2.5-7B",
)
_REASONING = ("R1-D-Llama-8B", "R1-D-Qwen-1.5B", "R1-D-Qwen-7B")
_LAB = ("Lab-0.3M", "Lab-0.7M", "Lab-0.8M", "Lab-0.9M", "Lab-1.8M")
_BRIGHT = ("#4477AA", "#66CCEE", "#228833", "#CCBB44", "#EE6677")
_FORMATS = (".png", ".pdf", ".svg")
AUCTION, RULE = "#000000", "#BB5566"


def styles(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each provider; those that ship keep theirs, others take what is left."""
    style = dict(zip(_PUBLISHED, zip(_MUTED, _MARKERS, strict=True), strict=True))
    style |= dict(zip(_REASONING, zip(_CONTRAST, "osD", strict=True), strict=True))
    style |= dict(zip(_LAB, zip(_BRIGHT, "osD^v", strict=True), strict=True))
    taken = {style[name] for name in names if name in style}
    pairs = [(_MUTED[i % 9], _MARKERS[(i + i // 9) % 9]) for i in range(81)]
    free = [pair for pair in pairs if pair not in taken]
    others = dict.fromkeys(name for name in names if name not in style)
    for i, name in enumerate(others):
        style[name] = free[i % len(free)]
    return {name: dict(color=style[name][0], marker=style[name][1]) for name in names}


def _plain(name: str) -> str:
    """A name as text, not as mathematics."""
    return name.replace("$", r"\$")


def _market(named: "NamedMarket") -> str:
    return _plain(f"{named.benchmark}, {named.method.replace('_', ' ')}")


def check_path(path: str) -> None:
    """Raise InputError, before any work is done, where a figure cannot be written to `path`."""
    check_out(path, _FORMATS, "--plot")


def save(figure: "Figure", path: str) -> None:
    """Write a figure; the format follows the suffix."""
    check_path(path)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"--plot {path}: {error.strerror or error}; name another file") from None


def comparison(result: "Comparison", swept: "Sweep") -> "Figure":
    """Value curves, levels chosen, shares, and waste over rationality, for one market."""
    from matplotlib.figure import Figure

    named = result.named
    style = styles(named.names)
    figure = Figure(figsize=(12.5, 9.2), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(
        f"{_market(named)}: what providers offer, choose and sell under each pricing rule",
        fontsize=14,
    )
    _value_curves(axes[0, 0], result, style)
    _levels(axes[0, 1], result)
    _shares(axes[1, 0], result, style)
    _waste(axes[1, 1], swept)
    for row in result.pay_per_compute:
        axes[1, 1].axvline(row["rationality"], color="0.8", lw=1, zorder=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure


def sweep(result: "Sweep") -> "Figure":
    """Waste of pay-per-compute over rationality."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    _waste(axis, result)
    axis.set_title(f"{_market(result.named)}: welfare lost under pay-per-compute")
    return figure


def curves(table: "pd.DataFrame") -> "Figure":
    """Accuracy and tokens against compute, a column for each benchmark and method.

    Args:
        table: of `mechlab.data` or `mechlab.curves.estimate`; intervals are drawn where it has any.
    """
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(zip(table["benchmark"], table["method"], strict=True)))
    figure = Figure(figsize=(4.8 * len(rows), 8.4), layout="constrained")
    axes = figure.subplots(2, len(rows), squeeze=False)
    style = styles(tuple(dict.fromkeys(table["model"])))
    for column, (benchmark, method) in enumerate(rows):
        chosen = table[(table["benchmark"] == benchmark) & (table["method"] == method)]
        for row, (name, unit, scale) in enumerate(
            (("accuracy", "accuracy (%)", 100), ("tokens", "tokens per query", 1))
        ):
            axis = axes[row, column]
            _with_intervals(axis, chosen, name, scale, style)
            axis.set(ylabel=unit)
        tokens = chosen["tokens"]
        if tokens.max() > 10 * tokens.min():
            axes[1, column].set_yscale("log")
        axes[1, column].yaxis.set_major_formatter("{x:,.0f}")
        axes[0, column].set_title(_plain(f"{benchmark}, {method.replace('_', ' ')}"))
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(6, len(handles)),
    )
    return figure


def _with_intervals(axis: "Axes", chosen: "pd.DataFrame", name: str, scale: float, style) -> None:
    """Lines of `name` against compute, a model each, and bands (bars at a point) of intervals."""
    for named, points in chosen.groupby("model", sort=False):
        model = str(named)
        compute, values = points["compute"], scale * points[name]
        axis.plot(compute, values, lw=1.6, ms=4, label=_plain(model), **style[model])
        if f"{name}_low" not in points:
            continue
        low, high = scale * points[f"{name}_low"], scale * points[f"{name}_high"]
        if len(points) > 1:
            axis.fill_between(compute, low, high, alpha=0.18, lw=0, color=style[model]["color"])
        else:
            axis.errorbar(
                compute,
                values,
                [values - low, high - values],
                fmt="none",
                capsize=3,
                color=style[model]["color"],
            )
    compute_axis(axis, chosen["compute"].to_numpy())
    effort = (chosen["method"] == "reasoning_effort").all()
    axis.set(xlabel="effort level" if effort else "samples n")
    axis.grid(alpha=0.25)


def curves_and_charges(table: "pd.DataFrame", results: Sequence["Comparison"]) -> "Figure":
    """Accuracy of each method's providers, with intervals, beside what each rule charges."""
    from matplotlib.figure import Figure

    style = styles(tuple(dict.fromkeys(table["model"])))
    figure = Figure(figsize=(5.2 * len(results), 8.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharey="row", height_ratios=(1.25, 1))
    for (top, bottom), result in zip(axes.T, results, strict=True):
        named = result.named
        rows = (table["benchmark"] == named.benchmark) & (table["method"] == named.method)
        _with_intervals(top, table[rows], "accuracy", 100, style)
        top.set_title(_market(named))
        bars = [
            (f"pay per compute, β = {row['rationality']:g}", row, RULE)
            for row in result.pay_per_compute
        ]
        bars.append(("auction", result.auction, "0.35"))
        for y, (_, row, colour) in enumerate(bars):
            paid = 1000 * row["user_cost"]
            bottom.barh(y, paid, color=colour, height=0.6)
            edge = paid
            if row.get("intervals"):
                low, edge = (1000 * end for end in row["intervals"]["user_cost"])
                bottom.plot([low, edge], [y, y], color="black", lw=1.4)
            bottom.annotate(
                f"{paid:.3g}",
                (max(edge, paid), y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        bottom.set_yticks(range(len(bars)), [label for label, *_ in bars])
        bottom.margins(x=0.15)
        bottom.set_xlim(left=0)
        bottom.set(xlabel="users pay (USD per 1,000 queries)")
        bottom.grid(alpha=0.25, axis="x")
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure


def population(result: "Simulation") -> "Figure":
    """Distributions over a population: price of anarchy, what users pay and keep, who gains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    kind, noise = in_words(result.population)
    figure.suptitle(
        f"{result.markets:,} {kind} markets: distributions over markets (noise is {noise})",
        fontsize=14,
    )
    colours = (RULE, "#004488", "#DDAA33", "#44AA99")
    lines = ("-", "--", ":", "-.")
    for axis, metric, scale, title, unit in (
        (axes[0, 0], "price_of_anarchy", 1, "Price of anarchy (optimal over reached welfare)", ""),
        (axes[0, 1], "user_cost", 1000, "What users pay", "USD per 1,000 queries"),
        (
            axes[1, 0],
            "user_value",
            1000,
            "What users keep, quality − payment",
            "USD per 1,000 queries",
        ),
    ):
        for rule, colour, line in zip(result.mechanisms, colours, lines, strict=False):
            summary = result.summaries.get(f"{rule}.{metric}")
            if summary is None or not summary.count:
                continue
            value, count = summary.histogram()
            # from 0, so that markets which are all alike are a line too
            value = np.concatenate([value[:1], value])
            share = 100 * np.concatenate([[0], np.cumsum(count)]) / summary.count
            label = rule.replace("_", " ")
            axis.plot(scale * value, share, line, color=colour, lw=2, label=label)
        low, high = _spread(result, metric)
        axis.set(xlabel=unit or "ratio", ylabel="share of markets at or below (%)", title=title)
        axis.set_xlim(scale * low, scale * high)
        axis.set_ylim(0, 102)
        axis.grid(alpha=0.25)
        axis.legend(loc="lower right")
    axis = axes[1, 1]
    others = result.mechanisms[1:]
    height = 0.7 / max(len(others), 1)
    sides = ("users", "society", "providers")
    for at, (rule, colour) in enumerate(zip(others, colours[1:], strict=False)):
        better = [result.share(f"{rule}.better_for.{side}") or {} for side in sides]
        bars = axis.barh(
            np.arange(len(sides)) + (at - (len(others) - 1) / 2) * height,
            [100 * x["mean"] for x in better],
            xerr=[100 * x["standard_error"] for x in better],
            color=colour,
            height=0.9 * height,
            label=rule.replace("_", " "),
        )
        axis.bar_label(bars, [f"{100 * x['mean']:.1f} %" for x in better], padding=4)
    axis.set_yticks(range(len(sides)), sides)
    axis.invert_yaxis()
    first = result.mechanisms[0].replace("_", " ")
    axis.set(xlim=(0, 112), xlabel="share of markets (%)", title=f"Better than {first} for")
    if len(others) > 1:
        axis.legend(loc="lower right")
    return figure


def incentives(report: "Report") -> "Figure":
    """How often somebody gains by deviating, how much, and toward more or less compute."""
    from matplotlib.figure import Figure

    from mechlab.study.survey import merged

    rows = [
        (f"{rule}, {'any start' if starts.count(',') == 2 else starts}", row)
        for rule, starts, row in merged(report.rows)
    ]
    spaces = list(dict.fromkeys(row["space"] for _, row in rows))
    plays = list(dict.fromkeys(play for play, _ in rows))
    figure = Figure(figsize=(15, 1.6 + 0.42 * len(plays)), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    kind, _ = in_words(report.population)
    figure.suptitle(f"Who gains by deviating: {report.markets:,} {kind} markets", fontsize=14)
    for axis, name, title in (
        (axes[0], "share_profitable", "Markets in which somebody gains (%)"),
        (axes[1], "p99_relative_gain", "Largest gain in a market, 99th percentile (% of welfare)"),
    ):
        cells = np.full((len(plays), len(spaces)), np.nan)
        for play, row in rows:
            if row[name] is not None:
                cells[plays.index(play), spaces.index(row["space"])] = 100 * row[name]
        shade = np.sqrt(np.clip(cells, 0, 100))
        axis.imshow(shade, cmap="Oranges", vmin=0, vmax=12, aspect="auto")
        for (y, x), value in np.ndenumerate(cells):
            if np.isfinite(value):
                text = f"{value:.0f}" if value >= 9.95 or value < 0.005 else f"{value:.2g}"
                ink = "white" if value > 50 else "black"
                axis.text(x, y, text, ha="center", va="center", fontsize=9, color=ink)
        axis.set_xticks(range(len(spaces)), spaces)
        axis.set_yticks(range(len(plays)), plays if axis is axes[0] else [""] * len(plays))
        axis.set_title(title, fontsize=11)
    _compute_directions(axes[2], rows, plays)
    return figure


def survival(found: "Survival") -> "Figure":
    """Rules by attacks: in how many markets it pays, and the 99th percentile of the gain."""
    from matplotlib.figure import Figure

    rules = list(dict.fromkeys(row["rule"] for row in found.rows))
    attacks = list(dict.fromkeys(row["attack"] for row in found.rows))
    size = (2.6 + 1.5 * len(attacks), 1.5 + 0.55 * len(rules))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    share = np.full((len(rules), len(attacks)), np.nan)
    for y, x in np.ndindex(share.shape):
        if not any((row["rule"], row["attack"]) == (rules[y], attacks[x]) for row in found.rows):
            axis.text(x, y, "–", ha="center", va="center", fontsize=9, color="0.4")
    for row in found.rows:
        y, x = rules.index(row["rule"]), attacks.index(row["attack"])
        if row["share_profitable"] is None:
            continue
        share[y, x] = 100 * row["share_profitable"]
        gain = 100 * (row["p99_relative_gain"] or 0.0)
        text = "safe" if share[y, x] == 0 else f"{share[y, x]:.1f} %\n{gain:.1f} %"
        ink = "white" if share[y, x] > 50 else "black"
        axis.text(x, y, text, ha="center", va="center", fontsize=9, color=ink)
    axis.imshow(share, cmap="Oranges", vmin=0, vmax=120, aspect="auto")
    axis.set_xticks(range(len(attacks)), [name.replace("_", " ") for name in attacks])
    axis.set_yticks(range(len(rules)), [name.replace("_", " ") for name in rules])
    axis.xaxis.tick_top()
    kind, _ = in_words(found.population)
    axis.set_title(
        f"Which rule survives what: share of {found.markets:,} {kind} markets in which it pays,\n"
        "and the 99th percentile of the gain, of welfare",
        fontsize=11,
    )
    return figure


ROUTE_COLOURS = dict(
    single_best="#228833",
    cascade="#CCBB44",
    router="#BB5566",
    auction="#004488",
    pay_per_compute="#AA4499",
    oracle="#999999",
)


def routing(found: "Routing") -> "Figure":
    """What users get, society gets and users pay, by pilots; intervals over questions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(
        f"Question by question: {_plain(found.benchmark)}, {found.questions:,} questions"
    )
    pilots = list(dict.fromkeys(row["predicted_from"] for row in found.rows))
    rules = list(dict.fromkeys(row["rule"] for row in found.rows))
    metrics = {"user_value": "users get", "welfare": "welfare", "user_cost": "users pay"}
    for axis, (metric, title) in zip(figure.subplots(1, 3), metrics.items(), strict=True):
        for i, rule in enumerate(rules):
            rows = [row for row in found.rows if row["rule"] == rule]
            value, low, high = (
                1000 * np.array([row[metric + end] for row in rows])
                for end in ("", "_low", "_high")
            )
            axis.errorbar(
                np.arange(len(pilots)) + 0.09 * (i - (len(rules) - 1) / 2),
                value,
                yerr=(value - low, high - value),
                fmt="o",
                ms=4,
                lw=1,
                color=ROUTE_COLOURS.get(rule, _MUTED[i % len(_MUTED)]),
                label=rule.replace("_", " ") + (" (out of reach)" if rule == "oracle" else ""),
            )
        axis.set_xticks(range(len(pilots)), [f"{k}" for k in pilots])
        axis.set_xlabel("pilot samples of each provider")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.25, axis="y")
        if metric == "user_value":
            axis.set_ylabel("USD per 1,000 questions")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


LEARNER_COLOURS = dict(
    known="#000000",
    explore_then_commit="#BB5566",
    ucb="#004488",
    thompson="#228833",
    greedy="#DDAA33",
)


def learning(found: "Learning") -> "Figure":
    """Regret while rounds go by, and what is left of the market's value."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    kind, _ = in_words(found.population)
    figure.suptitle(f"Learning who is good: {found.markets:,} {kind} markets")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [row["learner"] for row in found.rows]
    spare = [x for x in _MUTED if x not in LEARNER_COLOURS.values()]
    rounds = np.asarray(found.checkpoints)
    for i, row in enumerate(found.rows):
        name, regret = row["learner"], np.asarray(found.regret_at[row["learner"]])
        if row["exponent"] is None:
            continue
        colour = LEARNER_COLOURS.get(name.partition("=")[0], spare[i % len(spare)])
        seen = regret > 0
        left.loglog(
            rounds[seen], regret[seen], "o-", ms=3, color=colour, label=name.replace("_", " ")
        )
    left.set_xlabel("rounds")
    left.set_ylabel("regret so far (USD, mean of markets)")
    left.grid(alpha=0.25)
    left.legend()
    places = np.arange(len(names))
    parts = (("users get", "user_value", "#004488"), ("providers earn", "provider_utility", RULE))
    start = np.zeros(len(names))
    for label, field, colour in parts:
        width = 1000 * np.array([row[field] for row in found.rows])
        right.barh(places, width, left=start, color=colour, label=label, height=0.6)
        start = start + np.maximum(width, 0)
    right.set_yticks(places, [name.replace("_", " ") for name in names])
    right.invert_yaxis()
    right.set_xlabel("USD per 1,000 queries")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def _compute_directions(
    axis: "Axes", rows: list[tuple[str, dict[str, Any]]], plays: list[str]
) -> None:
    """Bars right: gains by more compute; left: by less; weighted by market share."""
    for play, row in rows:
        if row["space"] != "level":
            continue
        y = plays.index(play)
        for name, sign, colour in (("more_compute", 1, RULE), ("less_compute", -1, "#004488")):
            share = row["direction"][name]["market_share"] or 0.0
            width = 100 * sign * share * row["share_of_providers"]
            axis.barh(y, width, color=colour, height=0.6)
    axis.axvline(0, color="0.3", lw=0.8)
    axis.set_ylim(len(plays) - 0.5, -0.5)
    axis.set_yticks(range(len(plays)), [""] * len(plays))
    reach = max([abs(edge) for edge in axis.get_xlim()] + [1.0])
    axis.set_xlim(-reach, reach)
    axis.set_xlabel("← less compute      more compute →\n% of providers, split by market share")
    axis.set_title("Gains on the grid of levels", fontsize=11)
    axis.grid(alpha=0.25, axis="x")


def _spread(result: "Simulation", metric: str) -> tuple[float, float]:
    """From the least 1st to the largest 99th percentile of the rules."""
    asked = [result.summaries.get(f"{rule}.{metric}") for rule in result.mechanisms]
    found = [summary for summary in asked if summary is not None and summary.count]
    if not found:
        return 0.0, 1.0
    low = min(summary.quantile(0.01) or 0.0 for summary in found)
    high = max(summary.quantile(0.99) or 0.0 for summary in found)
    margin = 0.03 * (high - low) or 0.1
    return low - margin, high + margin


def compute_axis(axis: "Axes", compute: np.ndarray) -> None:
    """Samples double from level to level; effort levels count up."""
    from matplotlib.ticker import NullLocator

    ticks = sorted(set(compute.ravel().tolist()))
    if ticks[0] > 0 and ticks[-1] / ticks[0] > 8:
        axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _value_curves(axis: "Axes", result: "Comparison", style: dict[str, dict[str, Any]]) -> None:
    market, names = result.named.market, result.named.names
    middle = result.pay_per_compute[len(result.pay_per_compute) // 2]
    for i, name in enumerate(names):
        there = np.asarray(market.available[i])
        compute = np.asarray(market.compute[i])[there]
        value = 1000 * np.asarray(market.offered_value[i])[there]
        axis.plot(compute, value, lw=1.6, ms=4, label=_plain(name), **style[name])
        chosen = middle["levels"][name]
        axis.plot(
            chosen, value[compute == chosen], ms=11, mfc="none", mew=1.8, ls="none", **style[name]
        )
    winner = result.auction["winner"]
    if winner is not None:
        i, compute = names.index(winner), result.auction["compute"]
        at = np.asarray(market.compute[i]) == compute
        value = 1000 * np.asarray(market.offered_value[i])[at][0]
        axis.plot(compute, value, "*", ms=17, mfc="none", mec=AUCTION, mew=1.6)
    compute_axis(axis, np.asarray(market.compute)[np.asarray(market.available)])
    axis.set(
        xlabel="test-time compute (samples, or effort level)",
        ylabel="value offered, quality − price (USD per 1,000 queries)",
        title=f"Value to users; ring: chosen at β = {middle['rationality']:g}; "
        "star: auction's winner",
    )
    axis.title.set_fontsize(11)
    axis.grid(alpha=0.25)


def _levels(axis: "Axes", result: "Comparison") -> None:
    names, rows = result.named.names, result.pay_per_compute
    offsets = np.linspace(0.25, -0.25, len(rows)) if len(rows) > 1 else np.zeros(1)
    shades = [str(shade) for shade in np.linspace(0.72, 0.15, len(rows))]
    for row, offset, shade in zip(rows, offsets, shades, strict=True):
        axis.plot(
            [row["levels"][name] for name in names],
            np.arange(len(names)) + offset,
            "o",
            ms=7,
            color=shade,
            label=f"pay-per-compute, β = {row['rationality']:g}",
        )
    winner = result.auction["winner"]
    if winner is not None:
        axis.plot(
            result.auction["compute"],
            names.index(winner),
            "*",
            ms=17,
            mfc="none",
            mec=AUCTION,
            mew=1.6,
            label="auction's winner",
        )
    compute_axis(axis, np.asarray(result.named.market.compute))
    axis.set_yticks(range(len(names)), [_plain(name) for name in names])
    axis.invert_yaxis()
    axis.set(xlabel="test-time compute chosen", title="Compute that providers choose")
    axis.title.set_fontsize(11)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8, frameon=False)


def _shares(axis: "Axes", result: "Comparison", style: dict[str, dict[str, Any]]) -> None:
    names = result.named.names
    bars = [(f"β = {row['rationality']:g}", row["shares"], row) for row in result.pay_per_compute]
    winner = result.auction["winner"]
    bars.append(("auction", {name: float(name == winner) for name in names}, result.auction))
    left = np.zeros(len(bars))
    for name in names:
        width = np.array([100 * share[name] for _, share, _ in bars])
        axis.barh(
            range(len(bars)),
            width,
            left=left,
            color=style[name]["color"],
            height=0.62,
            edgecolor="white",
            lw=0.6,
        )
        left += width
    axis.barh(range(len(bars)), 100 - left, left=left, color="0.9", height=0.62)
    axis.set_yticks(
        range(len(bars)),
        [f"{label}\nusers pay {1000 * row['user_cost']:.2f}" for label, _, row in bars],
    )
    axis.invert_yaxis()
    axis.set(
        xlim=(0, 100),
        xlabel="share of queries (%); light grey: users buy nothing",
        title="Who serves, and what users pay (USD per 1,000 queries)",
    )
    axis.title.set_fontsize(11)


def _waste(axis: "Axes", swept: "Sweep") -> None:
    points = [
        point
        for point in swept.points
        if point["inefficiency"] is not None and point["rationality"] > 0
    ]
    axis.plot(
        [point["rationality"] for point in points],
        [100 * point["inefficiency"] for point in points],
        color=RULE,
        lw=2,
    )
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set(
        xlabel="rationality of users, β (1/USD)",
        ylabel="optimal welfare over welfare reached, − 1 (%)",
        title="Welfare wasted under pay-per-compute",
    )
    axis.title.set_fontsize(11)
    axis.grid(alpha=0.25)
