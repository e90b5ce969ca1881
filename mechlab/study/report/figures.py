"""Interactive figures of a market, by plotly: hover for values, click the legend to toggle."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechlab.study.comparison import Comparison, Sweep
from mechlab.study.plots import AUCTION, RULE, styles

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "<": "triangle-left",
    ">": "triangle-right",
    "X": "x",
}


def _figure(rows: int, columns: int, titles: list[str], height: int, **options: Any) -> go.Figure:
    figure = make_subplots(rows, columns, subplot_titles=titles, **options)
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin=dict(l=60, r=40, t=50, b=50),
        font=dict(family="system-ui, sans-serif", size=13),
        legend=dict(orientation="h", y=-0.18),
    )
    return figure


def label(name: str) -> str:
    """A name as it stands, in a figure of Plotly, which takes <b> for bold."""
    return html.escape(name, quote=False)


def curves(result: Comparison) -> go.Figure:
    """Accuracy, and the value offered with what is chosen under each rule, against compute."""
    named, market = result.named, result.named.market
    effort = named.method == "reasoning_effort"
    figure = _figure(1, 2, ["Accuracy", "Value offered: quality − price"], 460)
    rows = result.pay_per_compute
    middle = rows[len(rows) // 2]
    for i, (name, style) in enumerate(styles(named.names).items()):
        there = np.asarray(market.available[i])
        compute, accuracy, value, price = (
            np.asarray(x[i])[there]
            for x in (market.compute, market.accuracy, market.offered_value, market.price)
        )
        look = dict(
            mode="lines+markers",
            line_color=style["color"],
            name=label(name),
            legendgroup=name,
            marker=dict(symbol=SYMBOLS[style["marker"]], size=7, color=style["color"]),
        )
        figure.add_trace(
            go.Scatter(
                x=compute,
                y=100 * accuracy,
                **look,
                hovertemplate="%{x:g}: %{y:.1f} %<extra>" + label(name) + "</extra>",
            ),
            1,
            1,
        )
        figure.add_trace(
            go.Scatter(
                x=compute,
                y=1000 * value,
                customdata=1000 * price,
                showlegend=False,
                **look,
                hovertemplate="%{x:g}: worth %{y:.3f}, price %{customdata:.3f}<extra>"
                + label(name)
                + "</extra>",
            ),
            1,
            2,
        )
        at = np.flatnonzero(compute == middle["levels"][name])
        figure.add_trace(
            go.Scatter(
                x=compute[at],
                y=1000 * value[at],
                mode="markers",
                showlegend=False,
                legendgroup=name,
                marker=dict(symbol="circle-open", size=15, color=style["color"], line_width=2),
                hoverinfo="skip",
            ),
            1,
            2,
        )
    winner = result.auction["winner"]
    if winner is not None:
        i = named.names.index(winner)
        at = np.asarray(market.compute[i]) == result.auction["compute"]
        figure.add_trace(
            go.Scatter(
                x=[result.auction["compute"]],
                mode="markers",
                name="auction's winner",
                y=1000 * np.asarray(market.offered_value[i])[at][:1],
                marker=dict(symbol="star-open", size=19, color=AUCTION, line_width=2),
            ),
            1,
            2,
        )
    ticks = sorted(set(np.asarray(market.compute)[np.asarray(market.available)].tolist()))
    logarithmic = ticks[0] > 0 and ticks[-1] / ticks[0] > 8
    figure.update_xaxes(
        title="effort level" if effort else "samples",
        tickvals=ticks,
        type="log" if logarithmic else "linear",
    )
    figure.update_yaxes(title="%", row=1, col=1)
    figure.update_yaxes(title="USD per 1,000 queries", row=1, col=2)
    figure.layout.meta = f"rings: chosen under pay-per-compute at β = {middle['rationality']:g}"
    return figure


def charges(result: Comparison, swept: Sweep) -> go.Figure:
    """What users pay and keep under each rule, and waste over rationality."""
    figure = _figure(
        1,
        2,
        ["What users pay and keep", "Waste of pay-per-compute"],
        400,
        column_widths=[0.55, 0.45],
    )
    rows = [(f"β = {row['rationality']:g}", row) for row in result.pay_per_compute]
    rows.append(("auction", result.auction))
    for title, name, colour in (
        ("users pay", "user_cost", RULE),
        ("users keep", "user_value", "#004488"),
        ("providers earn", "provider_utility", "#DDAA33"),
    ):
        usd = [1000 * row[name] for _, row in rows]
        intervals = [row.get("intervals", {}).get(name) for _, row in rows]
        error = None
        if all(intervals):
            ends = 1000 * np.asarray(intervals)
            error = dict(
                type="data", symmetric=False, array=ends[:, 1] - usd, arrayminus=usd - ends[:, 0]
            )
        figure.add_trace(
            go.Bar(
                x=[label for label, _ in rows],
                y=usd,
                name=title,
                marker_color=colour,
                error_y=error,
                hovertemplate="%{y:.3f}<extra>" + title + "</extra>",
            ),
            1,
            1,
        )
    points = [p for p in swept.points if p["inefficiency"] is not None and p["rationality"] > 0]
    figure.add_trace(
        go.Scatter(
            x=[p["rationality"] for p in points],
            line_color=RULE,
            showlegend=False,
            y=[100 * p["inefficiency"] for p in points],
            mode="lines",
            hovertemplate="β = %{x:.4g}: %{y:.2f} %<extra></extra>",
        ),
        1,
        2,
    )
    figure.update_yaxes(title="USD per 1,000 queries", row=1, col=1)
    figure.update_xaxes(title="rationality β of users (1/USD)", type="log", row=1, col=2)
    figure.update_yaxes(title="%", rangemode="tozero", row=1, col=2)
    return figure
