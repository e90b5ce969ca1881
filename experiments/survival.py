"""Which rule survives which attack, and how many bills have to be checked under pay-per-compute."""

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output
from mechlab.populations import Published
from mechlab.study import plots, tables
from mechlab.study.survival import survival

MARKETS, LARGE, SEED = 2_000, 100_000, 0
LIABILITIES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, float("inf"))  # USD per answer
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FINES = {0.003: "#DDAA33", 0.01: "#BB5566", 0.03: "#004488", 0.1: "#000000"}  # USD


def liabilities() -> list[dict[str, float]]:
    """What it costs to spare providers: settlement per answer, by the most that they pay."""
    market, users = Published().markets(LARGE, seed=SEED)
    market, users = jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(float), (market, users)
    )
    plain = mechlab.SecondPriceAuction()
    best = plain(plain.truthful(market), users)
    rows = []
    for liability in LIABILITIES:
        rule = mechlab.SecondPriceAuction("per_answer", liability)
        out = rule(rule.truthful(market), users)
        earned = jnp.sum(out.provider_utility, axis=-1)
        rows.append({
            "liability": liability,
            "efficient_loses": float(jnp.mean(out.winner != best.winner)),
            "welfare_lost": 1.0 - float(jnp.sum(out.welfare) / jnp.sum(best.welfare)),
            "user_value": float(jnp.sum(out.user_value) / jnp.sum(best.user_value)),
            "answers_paid_by_provider": float(jnp.mean(jnp.sum(out.provider_pays, axis=-1))),
            "deviation_over_income": float(
                jnp.median(jnp.sum(out.income_deviation, axis=-1) / earned)
            ),
        })  # fmt: skip
    return rows


def main() -> None:
    mechlab.use_all_cores()
    jax.config.update("jax_enable_x64", True)
    out, how = Output("survival"), f"{MARKETS} markets, seed {SEED}"
    found = survival(
        Published(), MARKETS, seed=SEED,
        progress=lambda row: print(f"  {row['rule']}, {row['attack']}"),
    )  # fmt: skip
    tables.print_survival(found)
    out.figure(plots.survival(found))
    out.table(found.flat_rows(), how)
    rows = []
    for fine in FINES:
        for rate in RATES:
            rule = mechlab.Audited(mechlab.PayPerCompute(), rate, mechlab.TokenTest(), fine)
            for attack, space in (
                ("over_bill", mechlab.TokenReport()), ("substitute", mechlab.Substitution()),
            ):  # fmt: skip
                one = mechlab.certify(
                    Published(), rule, MARKETS, space, start="equilibrium", seed=SEED
                )
                rows.append({
                    "attack": attack, "rate": rate, "fine": fine,
                    "share_profitable": one.share_profitable,
                    "p99_relative_gain": one.regret.quantile(0.99),
                })  # fmt: skip
    table = out.table(rows, how, name="audits")
    out.table(liabilities(), f"{LARGE} markets, seed {SEED}", name="liability")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle("Pay-per-compute with audits: where a lie still pays")
    axes = figure.subplots(1, 2, sharey=True)
    words = {"over_bill": "billing up to twice the tokens", "substitute": "serving another level"}
    for axis, (attack, title) in zip(axes, words.items(), strict=True):
        for fine, colour in FINES.items():
            some = table[(table["attack"] == attack) & (table["fine"] == fine)]
            axis.plot(
                some["rate"], 100 * some["share_profitable"], "o-", color=colour,
                label=f"fine {fine:g} USD",
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks(RATES, [f"{100 * rate:g} %" for rate in RATES])
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("bills that are checked")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("markets in which somebody gains (%)")
    axes[1].legend()
    out.figure(figure, name="audits")


if __name__ == "__main__":
    main()
