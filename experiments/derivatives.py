"""Welfare on GSM8K over the level of prices, and its slope where providers hold, move or mix."""

import jax
import numpy as np
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output

BENCHMARK, METHOD, RATIONALITY, PRECISION = "GSM8K", "majority_voting", 1000.0, 1e4
FACTORS = np.linspace(0.85, 1.6, 61)  # of all prices, at costs that stay
LOOKS = {
    "levels held": ("#BB5566", "-"),
    "continuous compute": ("#004488", "-"),
    "mixing over levels": ("#DDAA33", "--"),
}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    out = Output("derivatives")
    market = mechlab.data.load().select(BENCHMARK, METHOD).market
    users = mechlab.Users.create(RATIONALITY)
    rule = mechlab.PayPerCompute()

    def at(factor: jax.Array) -> mechlab.Market:
        return market.replace(price=market.price * factor)

    work = {
        "levels held": lambda x: mechlab.evaluate(at(x), users, rule).welfare,
        "continuous compute": lambda x: mechlab.continuous_equilibrium(at(x), users).welfare,
        "mixing over levels": lambda x: (
            mechlab.smoothed_equilibrium(at(x), users, precision=PRECISION).welfare
        ),
    }
    rows = []
    for name, welfare in work.items():
        both = jax.jit(jax.value_and_grad(welfare))
        for factor in FACTORS:
            value, slope = both(factor)
            rows.append({"play": name, "factor": factor, "welfare": value, "derivative": slope})
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"{BENCHMARK}, β = {RATIONALITY:g} per USD: all prices times a factor")
    axes = figure.subplots(1, 2)
    for axis, column in zip(axes, ("welfare", "derivative"), strict=True):
        for name, (color, style) in LOOKS.items():
            values = [1000 * float(row[column]) for row in rows if row["play"] == name]
            axis.plot(FACTORS, values, style, color=color, label=name)
        axis.set_xlabel("factor on all prices")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("welfare (USD per 1,000 queries)")
    axes[1].set_ylabel("its derivative in the factor")
    axes[1].axhline(0, color="#555555", linewidth=0.8)
    axes[0].legend()
    out.figure(figure)
    out.table(rows, f"λ = {PRECISION:g} per USD")


if __name__ == "__main__":
    main()
