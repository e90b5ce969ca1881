"""The page's figures from an `Answer`, as plotly.js reads them; colours as in the report.

Plain dicts: plotly's Python objects check every property of every trace, which takes longer than
all that the library computes.
"""

import textwrap
from typing import Any

import numpy as np

from mechlab.simulation.simulate import Simulation
from mechlab.study.explorer.answers import LEVERS, Answer
from mechlab.study.plots import AUCTION, RULE, styles
from mechlab.study.report.figures import SYMBOLS, label

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
_RINGS = ("circle-open", "star-open", "square-open", "diamond-open", "cross-open", "x-open")
_RULES = (RULE, AUCTION, "#004488", "#DDAA33", "#009988", "#882255")


Figure = dict[str, Any]


def _figure(height: int, **layout: Any) -> Figure:
    plain = dict(
        height=height,
        margin=dict(l=56, r=12, t=14, b=44),
        uirevision="kept",
        font=dict(family="system-ui, sans-serif", size=12),
        xaxis={},
        yaxis={},
    )
    return {"data": [], "layout": plain | layout}


def _add(figure: Figure, kind: str, **trace: Any) -> None:
    figure["data"].append(dict(type=kind, **trace))


def _axes(figure: Figure, x: dict[str, Any], y: dict[str, Any]) -> None:
    for name, options in (("xaxis", x), ("yaxis", y)):
        title = options.pop("title", None)
        options = options if title is None else options | {"title": dict(text=title, standoff=4)}
        figure["layout"][name] = figure["layout"][name] | options


def looks(answer: Answer) -> dict[str, dict[str, Any]]:
    """Of each provider: as its curve has it everywhere; those that share one take others."""
    curves = {one.key: one.curve for one in answer.state.taking_part}
    known: dict[str, str] = {}  # provider by the name that its look goes by
    for key, name in zip(answer.named.names, answer.names, strict=True):
        known[next(x for x in (curves[key], name, f"{name} ({key})") if x not in known)] = name
    style = styles(tuple(known))
    return {name: style[label] for label, name in known.items()}


def value_curves(answer: Answer) -> Figure:
    """Value offered against compute, with what each provider plays under each rule."""
    market = answer.named.net_of_waiting().market
    ticks = sorted(set(np.asarray(market.compute)[np.asarray(market.available)].tolist()))
    look = looks(answer)
    lit = len(answer.names) <= 12
    named = len(answer.rules) + lit * len(answer.names)
    figure = _figure(
        400 + 14 * max(named - 12, 0),
        margin=dict(l=56, r=12, t=14, b=4),
        legend=dict(
            orientation="h",
            yref="container",
            y=0,
            yanchor="bottom",
            font=dict(size=11),
            maxheight=0.7,
        ),
    )
    posted = answer.rules.get("pay_per_compute")
    for i, name in enumerate(answer.names):
        there = np.asarray(market.available[i])
        compute, value, price = (
            np.asarray(x[i])[there] for x in (market.compute, market.offered_value, market.price)
        )
        utility = None if posted is None else posted.level_utility
        told = np.stack([1000 * price, np.full(len(price), np.nan)], 1)
        text = "%{x:g}: worth %{y:.3f}, price %{customdata[0]:.3f}"
        if utility is not None:
            told[:, 1] = 1000 * utility[i][there]
            best = int(told[:, 1].argmax())
            text += "<br>earns %{customdata[1]:.4f} under pay-per-compute"
            text += f"<br>(most at {compute[best]:g}: {told[best, 1]:.4f}"
            stays = posted is not None and best == int(posted.played.profile[i])
            text += ", which it plays: it would not move)" if stays else ")"
        style = look[name]
        _add(
            figure,
            "scatter",
            x=compute.tolist(),
            y=(1000 * value).tolist(),
            customdata=told.tolist(),
            mode="lines+markers",
            name=label(name),
            legendgroup=name,
            showlegend=lit,
            line=dict(color=style["color"], width=1.6),
            marker=dict(symbol=SYMBOLS[style["marker"]], size=6),
            hovertemplate=text + f"<extra>{label(name)}</extra>",
        )
    marks = zip(_RINGS, (14, 19, 11, 24, 9, 7), _RULES, strict=True)
    for (rule, ruled), (ring, size, colour) in zip(answer.rules.items(), marks, strict=False):
        profile, shares = ruled.played.profile, ruled.outcome.shares
        rows = np.arange(len(answer.names))
        served = np.ones(len(rows), bool) if rule == "pay_per_compute" else shares > 1e-6
        _add(
            figure,
            "scatter",
            x=np.asarray(market.compute)[rows, profile][served].tolist(),
            mode="markers",
            y=(1000 * np.asarray(market.offered_value)[rows, profile][served]).tolist(),
            name=_plain(rule),
            text=[label(answer.names[i]) for i in rows[served]],
            customdata=(100 * shares[served]).tolist(),
            marker=dict(symbol=ring, size=size, color=colour, line=dict(width=2)),
            hovertemplate="%{text}: %{customdata:.1f} % of queries at %{x:g}"
            f"<extra>{_plain(rule)}</extra>",
        )
    effort = answer.named.method == "reasoning_effort"
    logarithmic = ticks[0] > 0 and ticks[-1] / ticks[0] > 8
    _axes(
        figure,
        dict(
            title="effort level" if effort else "compute (samples)",
            tickvals=ticks,
            automargin=True,
            type="log" if logarithmic else "linear",
            ticktext=[f"{x:g}" for x in ticks],
        ),
        dict(title="worth − price"),
    )
    return figure


def service(answer: Answer) -> Figure:
    """Who serves, as a bar a rule."""
    figure = _figure(
        70 + 34 * len(answer.rules),
        barmode="stack",
        showlegend=False,
        margin=dict(l=20, r=16, t=14, b=44),
        uniformtext=dict(minsize=9, mode="hide"),
    )
    _axes(
        figure,
        dict(title="share of queries (%); grey: nobody", range=[0, 100]),
        dict(autorange="reversed", automargin=True),
    )
    look = looks(answer)
    rules = [_plain(rule) for rule in answer.rules]
    for i, name in enumerate(answer.names):
        shares = [100 * float(ruled.outcome.shares[i]) for ruled in answer.rules.values()]
        if max(shares) < 0.05:
            continue
        _add(
            figure,
            "bar",
            y=rules,
            x=shares,
            name=label(name),
            orientation="h",
            text=[label(name)] * len(rules),
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            marker=dict(
                color=look[name]["color"],
                pattern=dict(
                    shape="" if look[name]["marker"] in "osD" else "/", fillmode="overlay"
                ),
            ),
            hovertemplate="%{x:.2f} %<extra>" + label(name) + "</extra>",
        )
    unsold = [100 * max(0.0, 1 - float(one.outcome.shares.sum())) for one in answer.rules.values()]
    if max(unsold) > 0.05:
        grey = dict(color="#dddddd")
        _add(figure, "bar", y=rules, x=unsold, name="nobody", orientation="h", marker=grey)
    return figure


def waste(answer: Answer) -> Figure:
    """Waste of pay-per-compute over β, with the state's own marked."""
    figure = _figure(230, showlegend=False)
    points = [(beta, 100 * lost) for beta, lost in answer.waste if lost is not None]
    _add(
        figure,
        "scatter",
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="lines",
        line=dict(color=RULE),
        hovertemplate="β = %{x:.4g}: %{y:.2f} %<extra></extra>",
    )
    beta = answer.state.rationality
    if answer.here is not None and beta > 0:
        beside = "top right" if beta < 1e5 else "top center"  # the curve falls; the figure ends
        _add(
            figure,
            "scatter",
            x=[beta],
            y=[100 * answer.here],
            mode="markers+text",
            text=[f"{100 * answer.here:.2f} %"],
            textposition=beside,
            marker=dict(size=11, color=AUCTION),
            hoverinfo="skip",
            cliponaxis=False,
        )
    _axes(
        figure,
        dict(title="rationality β of users (1/USD)", type="log"),
        dict(title="waste (%)", rangemode="tozero"),
    )
    return figure


def deviations(answer: Answer, found: dict[str, dict[str, np.ndarray]] | None) -> Figure:
    """The largest gain of one provider alone, by rule and lever; of levels where nothing else is
    known."""
    figure = _figure(
        250,
        barmode="group",
        margin=dict(l=56, r=12, t=14, b=4),
        legend=dict(orientation="h", yref="container", y=0, yanchor="bottom"),
    )
    levels = {}
    for rule, ruled in answer.rules.items():
        if ruled.level_utility is not None:
            now = ruled.outcome.provider_utility
            levels[rule] = np.maximum(ruled.level_utility.max(-1) - now, 0.0)
    by_lever: dict[str, dict[str, np.ndarray]] = {"level": levels}
    for lever in LEVERS if found else ():
        by_lever[lever] = {rule: one[lever] for rule, one in (found or {}).items()}
    for (lever, gained), colour in zip(
        by_lever.items(), ("#4477AA", "#CCBB44", "#EE6677"), strict=False
    ):
        rules = [rule for rule in answer.rules if rule in gained]
        who = [label(answer.names[int(np.argmax(gained[rule]))]) for rule in rules]
        _add(
            figure,
            "bar",
            x=[_plain(rule) for rule in rules],
            name=LEVERS[lever],
            marker=dict(color=colour),
            y=[1000 * float(np.max(gained[rule])) for rule in rules],
            text=who,
            textposition="none",
            hovertemplate="%{y:.4f}, most by %{text}<extra>" + LEVERS[lever] + "</extra>",
        )
    largest = max((max(one["y"], default=0.0) for one in figure["data"]), default=0.0)
    gain: dict[str, Any] = dict(title="gain, USD per 1,000", rangemode="tozero")
    if largest <= 1e-6:
        gain["range"] = [0, 1]
        said = "nobody gains" if found else "nobody gains by another level"
        figure["layout"]["annotations"] = [
            dict(text=said, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
        ]
    _axes(figure, dict(automargin=True), gain)
    return figure


def without_levels(answer: Answer) -> str:
    """Of which rules a deviation by level alone says nothing."""
    rules = [rule for rule, ruled in answer.rules.items() if ruled.level_utility is None]
    if not rules:
        return ""
    return f" {', '.join(rules).replace('_', ' ')}: providers move their prices; search for that"


def population(found: Simulation, metric: str = "user_cost") -> Figure:
    """Percentiles of a metric over markets, a line a rule."""
    figure = _figure(
        280,
        margin=dict(l=56, r=12, t=14, b=4),
        legend=dict(orientation="h", yref="container", y=0, yanchor="bottom"),
    )
    for rule, colour in zip(found.mechanisms, _RULES, strict=False):
        summary = found.summaries[f"{rule}.{metric}"]
        usd = [summary.quantile(level / 100) or 0.0 for level in PERCENTILES]
        _add(
            figure,
            "scatter",
            x=[1000 * x for x in usd],
            y=PERCENTILES,
            mode="lines+markers",
            name=_plain(rule),
            line=dict(color=colour),
            hovertemplate="%{y} % of markets at or below %{x:.3f}<extra></extra>",
        )
    _axes(
        figure,
        dict(title="users pay (USD per 1,000 queries)", automargin=True),
        dict(title="% of markets", range=[0, 100]),
    )
    return figure


def _plain(rule: str) -> str:
    """A rule's name; a long one in lines, for a figure is as narrow as a phone."""
    return "<br>".join(textwrap.wrap(rule.replace("_", " ").replace("=", " = "), 14))
