"""Auctions learned by gradient: second price for welfare, and a reserve once users' cost counts.

Costs that are uniform on [0, 1] have a closed form (Myerson 1981, for procurement): with objective
welfare − γ·user_cost and quality 1, buy at costs up to 1/(1 + 2γ). Among nine published providers
the runner-up does a reserve's work; between two of them a reserve pays once γ is large enough. The
objective has local optima there: the best of several random starts is kept.
"""

import jax
import jax.numpy as jnp
import pandas as pd
from matplotlib.figure import Figure

from experiments.output import Output
from mechlab import Market, Users
from mechlab.incentives.design import Family, Settings, optimize, welfare_less_cost
from mechlab.populations import Population, Published
from mechlab.study import tables

GAMMAS, SEEDS, STEPS, EPSILON = (0.0, 0.5, 1.0, 2.0, 4.0), range(5), 400, 1e-3
PUBLISHED = Published()
TWO = Published(providers=2, value_factor=(1.0, 1.0))


class UniformCosts(Population):
    """Three providers with one level each, quality 1 and costs uniform on [0, 1]."""

    def sample(self, key: jax.Array) -> tuple[Market, Users]:
        cost = jax.random.uniform(key, (3, 1))
        return Market.from_arrays(jnp.ones((3, 1)), cost, cost), Users.create(0.0)


def learn(name: str, family: Family, population: Population, gamma: float, seed: int = 0) -> dict:
    with tables.live_design(f"{name}, γ = {gamma:g}, seed {seed}") as progress:
        settings = Settings(steps=STEPS, seed=seed, batch=1024, epsilon=EPSILON)
        found = optimize(
            population, family, welfare_less_cost(gamma), settings=settings, progress=progress
        )
    market, users = population.markets(20_000, seed=99)
    outcome = found.rule(found.rule.truthful(market, users), users)
    means = {x: float(getattr(outcome, x).mean()) for x in ("welfare", "user_cost", "user_value")}
    row = dict(name=name, gamma=gamma, seed=seed, **found.parameters, regret=found.regret, **means)
    return row | {"history": found.history}


def main() -> None:
    out = Output("design_reserve")
    mix, reserve = Family(free={"mix": (0.0, 1.0)}), {"reserve": (0.0, 1.0)}
    both = Family(free={"mix": (0.0, 1.0), "reserve": (0.0, 0.0075)})
    rows = [learn("mix", mix, PUBLISHED, 0.0, seed) for seed in SEEDS]
    rows += [learn("uniform costs", Family(free=reserve), UniformCosts(), g) for g in GAMMAS]
    for gamma in GAMMAS:
        tried = [learn("two published", both, TWO, gamma, seed) for seed in SEEDS]
        allowed = [row for row in tried if row["regret"] <= EPSILON]
        rows.append(max(allowed, key=lambda row: row["welfare"] - gamma * row["user_cost"]))
    out.figure(drawn(rows))
    table = out.table(pd.DataFrame(rows).drop(columns="history"), f"{STEPS} steps")
    print(table.to_string(index=False))


def drawn(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for row in (row for row in rows if row["name"] == "mix"):
        steps = [point["step"] for point in row["history"]]
        axes[0].plot(steps, [point["mix"] for point in row["history"]], color="#004488")
    axes[0].set(xlim=(0, 100), ylim=(0, 1.03))
    axes[0].set(
        xlabel="step",
        ylabel="mix (0 first price, 1 second price)",
        title="Welfare subject to no regret, from five random starts",
    )
    uniform = [row for row in rows if row["name"] == "uniform costs"]
    line = jnp.linspace(0, max(GAMMAS), 100)
    axes[1].plot(line, 1 - 1 / (1 + 2 * line), color="0.5", label="closed form (Myerson 1981)")
    axes[1].plot(GAMMAS, [row["reserve"] for row in uniform], "o", color="#BB5566", label="learned")
    axes[1].set(
        xlabel="weight γ on what users pay",
        ylabel="reserve value (quality 1)",
        title="Costs uniform on [0, 1]",
    )
    published = [row for row in rows if row["name"] == "two published"]
    for name, style, colour in (
        ("welfare", "o-", "#004488"),
        ("user_cost", "s--", "#BB5566"),
        ("reserve", "D:", "#DDAA33"),
    ):
        label = "users pay" if name == "user_cost" else name
        usd = [1000 * row[name] for row in published]
        axes[2].plot(GAMMAS, usd, style, color=colour, label=label)
    axes[2].set(
        xlabel="weight γ on what users pay",
        ylabel="USD per 1,000 queries",
        title="Two published providers, GSM8K",
    )
    for axis in axes:
        axis.grid(alpha=0.25)
    axes[1].legend()
    axes[2].legend()
    return figure


if __name__ == "__main__":
    main()
