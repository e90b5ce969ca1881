"""Which rule survives which attack, how many bills have to be checked, and by what verifier."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from matplotlib.figure import Figure

import mechlab
from experiments.output import Output
from mechlab.populations import Published
from mechlab.study import plots, tables
from mechlab.study.survival import survival

MARKETS, LARGE, SEED = 2_000, 100_000, 0
LIABILITIES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, float("inf"))  # USD per answer
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ERRORS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # share of answers judged wrongly, either way
CHECKS = (10, 30, 100, 300, 1_000, 3_000)  # answers of each provider in a period
QUERIES = (10_000, 100_000, 1_000_000)  # in a period
CHECK = 0.01  # USD for checking an answer
FINES = {0.003: "#DDAA33", 0.01: "#BB5566", 0.03: "#004488", 0.1: "#000000"}  # USD


def liabilities() -> list[dict[str, float]]:
    """What it costs to spare providers: settlement per answer, by the most that they pay."""
    market, users = _wide()
    plain = mechlab.SecondPriceAuction()
    best = plain(plain.truthful(market, users), users)
    rows = []
    for liability in LIABILITIES:
        rule = mechlab.SecondPriceAuction("per_answer", liability)
        out = rule(rule.truthful(market, users), users)
        earned = jnp.sum(out.provider_utility, axis=-1)
        rows.append(
            {
                "liability": liability,
                "efficient_loses": float(jnp.mean(out.winner != best.winner)),
                "welfare_lost": 1.0 - float(jnp.sum(out.welfare) / jnp.sum(best.welfare)),
                "user_value": float(jnp.sum(out.user_value) / jnp.sum(best.user_value)),
                "answers_paid_by_provider": float(jnp.mean(jnp.sum(out.provider_pays, axis=-1))),
                "deviation_over_income": float(
                    jnp.median(jnp.sum(out.income_deviation, axis=-1) / earned)
                ),
            }
        )
    return rows


def _wide() -> tuple[mechlab.Market, mechlab.Users]:
    return jax.tree.map(
        lambda x: x if x.dtype == bool else x.astype(float), Published().markets(LARGE, seed=SEED)
    )


def verifiers() -> list[dict[str, float]]:
    """What a verifier that errs costs, and one that checks a few answers of each provider."""
    market, users = _wide()
    plain = mechlab.evaluate(market, users, mechlab.SecondPriceAuction())
    best = jnp.sum(plain.welfare)
    rows = []
    for error in ERRORS:
        for sort, verifier in (
            ("either way", mechlab.Verifier(error, error)),
            ("wrong taken as right", mechlab.Verifier(error, 0.0)),
            ("right taken as wrong", mechlab.Verifier(0.0, error)),
        ):
            found = mechlab.evaluate(market, users, mechlab.SecondPriceAuction(verifier=verifier))
            rows.append(
                {
                    "verifier": f"errs, {sort}",
                    "error": error,
                    "answers": float("inf"),
                    "welfare_lost": 1.0 - float(jnp.sum(found.welfare) / best),
                    "user_value": float(jnp.sum(found.user_value) / jnp.sum(plain.user_value)),
                    "markets_that_lose": float(jnp.mean(found.welfare < plain.welfare - 1e-9)),
                }
            )
    some = jax.tree.map(lambda x: x[: LARGE // 10], (market, users))
    best = jnp.sum(plain.welfare[: LARGE // 10])
    worth = jnp.sum(plain.user_value[: LARGE // 10])
    for answers in CHECKS:
        found = mechlab.evaluate(*some, mechlab.NoisyAuction(answers=float(answers)))
        rows.append(
            {
                "verifier": "checks a few",
                "error": 0.0,
                "answers": answers,
                "welfare_lost": 1.0 - float(jnp.sum(found.welfare) / best),
                "user_value": float(jnp.sum(found.user_value) / worth),
            }
        )
    return rows


def expense(price: float, rule: mechlab.NoisyAuction) -> jax.Array:
    return price * rule.answers


def checks() -> list[dict[str, float]]:
    """How many answers of each provider are worth checking, by gradient."""
    rows = []
    for queries in QUERIES:
        providers = Published().markets(1)[0].providers
        price = CHECK * providers / queries  # USD per query, of one more answer of each
        found = mechlab.optimize(
            Published(),
            mechlab.Family(
                mechlab.NoisyAuction,
                {"answers": (5.0, 1_000.0)},
                space=(),
                expense=Partial(expense, price),
            ),
            settings=mechlab.Settings(
                steps=300, batch=64, held_out=4096, temperature=(0.01, 0.001), seed=SEED
            ),
        )
        answers = found.parameters["answers"]
        rows.append(
            {
                "queries": queries,
                "price_per_check": CHECK,
                "answers": answers,
                "expense": price * answers,
                "welfare_less_expense": found.objective,
                "error": found.objective_error,
            }
        )
    return rows


def main() -> None:
    mechlab.use_all_cores()
    jax.config.update("jax_enable_x64", True)
    out, how = Output("survival"), f"{MARKETS} markets, seed {SEED}"
    found = survival(
        Published(),
        MARKETS,
        seed=SEED,
        progress=lambda row: print(f"  {row['rule']}, {row['attack']}"),
    )
    tables.print_survival(found)
    out.figure(plots.survival(found))
    out.table(found.flat_rows(), how)
    rows = []
    for fine in FINES:
        for rate in RATES:
            rule = mechlab.Audited(mechlab.PayPerCompute(), rate, mechlab.TokenTest(), fine)
            for attack, space in (
                ("over_bill", mechlab.TokenReport()),
                ("substitute", mechlab.Substitution()),
            ):
                one = mechlab.certify(
                    Published(), rule, MARKETS, space, start="equilibrium", seed=SEED
                )
                rows.append(
                    {
                        "attack": attack,
                        "rate": rate,
                        "fine": fine,
                        "share_profitable": one.share_profitable,
                        "p99_relative_gain": one.regret.quantile(0.99),
                    }
                )
    table = out.table(rows, how, name="audits")
    out.table(liabilities(), f"{LARGE} markets, seed {SEED}", name="liability")
    out.table(
        verifiers(), f"{LARGE} markets (a tenth for a few checks), seed {SEED}", name="verifier"
    )
    out.table(checks(), f"4096 markets held out, seed {SEED}", name="checks")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle("Pay-per-compute with audits: where a lie still pays")
    axes = figure.subplots(1, 2, sharey=True)
    words = {"over_bill": "billing up to twice the tokens", "substitute": "serving another level"}
    for axis, (attack, title) in zip(axes, words.items(), strict=True):
        for fine, colour in FINES.items():
            some = table[(table["attack"] == attack) & (table["fine"] == fine)]
            axis.plot(
                some["rate"],
                100 * some["share_profitable"],
                "o-",
                color=colour,
                label=f"fine {fine:g} USD",
            )
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
