"""Of two things with one fingerprint either may stand in, whatever a number is bound to."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import InputError, Market, Parametric, Population, Users, simulate
from mechlab.core.fingerprint import code


@dataclasses.dataclass
class Wage:
    hourly: float
    by_day: np.ndarray


SCALE = 0.5
TABLE = np.arange(3000.0)
WAGE = Wage(20.0, np.ones(5))
NAMES = {"first", "second", "third"}
BASE = Parametric(margin=(0.1, 0.4))
UNRELATED = 1


def scaled(x):
    return SCALE * x


def of_a_table(x):
    return TABLE[1500] * x


def of_a_wage(x):
    return WAGE.hourly * x


def of_a_set(x):
    return x if "first" in NAMES else -x


def of_a_population(key):
    return BASE.sample(key)


@jax.jit
def calling(x):
    return scaled(x) + 1


def nested(x):
    return jax.vmap(lambda one: scaled(one))(x)


def times(factor):
    def multiplied(x):
        return factor * x

    return multiplied


def repeating(times):
    return functools.partial(lambda count, x: count * x, times)


class Taxed:
    @property
    def rate(self):
        return SCALE

    @staticmethod
    @jax.jit
    def charge(x):
        return of_a_table(x)


CHANGED = {
    "SCALE": 0.7,
    "TABLE": np.where(np.arange(3000) == 1500, 0.0, TABLE),
    "WAGE": Wage(21.0, np.ones(5)),
    "NAMES": {"second", "third"},
    "BASE": Parametric(margin=(0.1, 0.5)),
    "UNRELATED": 2,
}
USED = [
    (scaled, {"SCALE"}),
    (of_a_table, {"TABLE"}),
    (of_a_wage, {"WAGE"}),
    (of_a_set, {"NAMES"}),
    (of_a_population, {"BASE"}),
    (calling, {"SCALE"}),
    (nested, {"SCALE"}),
    (functools.partial(calling, 2.0), {"SCALE"}),
    (Taxed, {"SCALE", "TABLE"}),
    (Taxed(), {"SCALE", "TABLE"}),
    (type("Heir", (Taxed,), {}), {"SCALE", "TABLE"}),
]


@pytest.mark.parametrize("constant", CHANGED)
@pytest.mark.parametrize(("value", "uses"), USED)
def test_a_constant_counts_where_it_is_used(value, uses, constant, monkeypatch):
    before = code(value)
    assert code(value) == before
    monkeypatch.setitem(globals(), constant, CHANGED[constant])
    assert (code(value) != before) == (constant in uses)


@pytest.mark.parametrize("made", [times, repeating, lambda x: jax.jit(times(x))])
@pytest.mark.parametrize(
    ("one", "other"),
    [(0.1, 0.3), (jnp.ones(3), jnp.zeros(3)), ({"a": (1, 2)}, {"a": (1, 3)}), (None, "x")],
)
def test_numbers_that_are_closed_over_count(made, one, other):
    assert code(made(one)) == code(made(one)) != code(made(other))


def test_what_refers_to_itself_is_told_once():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n > 0 and even(n - 1)

    assert code(even) == code(even) != code(odd)


def test_a_version_stands_in_for_the_code():
    one, other = times(0.1), times(0.3)
    one.version = other.version = "2026-11"
    assert code(one) == code(other)


def test_it_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(
        "SIDES = {'a': 1.0, 'b': (2, None)}\nNAMES = {'a', 'b', 'c'}\n"
        "def f(x):\n    return [SIDES[k] for k in NAMES]\n"
    )
    program = (
        "from mine import f; from mechlab.core.fingerprint import code; import mechlab;"
        "names = {}; exec('def g(x):\\n    return (lambda y: y + 1)(x)', names);"
        "print(code(f), code(names['g']), code(mechlab.SecondPriceAuction()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1 and len(set(told.pop().split())) == 3


def drawn(factor):
    class Costs(Population):
        def sample(self, key):
            cost = factor * jax.random.uniform(key, (3, 2))
            return Market.from_arrays(jnp.ones((3, 2)), 1.25 * cost, cost), Users.create(20.0)

    return Costs()


def above(threshold):
    def share(market, users, rows):
        return rows["pay_per_compute.welfare"] > threshold

    return share


def test_a_run_goes_on_for_the_same_numbers_alone(tmp_path):
    out = str(tmp_path)
    found = simulate(drawn(0.1), 64, out=out, metrics={"above": above(0.5)})
    again = simulate(drawn(0.1), 64, out=out, metrics={"above": above(0.5)})
    assert again.computed == 0 and again.summaries["above"].mean == found.summaries["above"].mean
    for population, metric in ((drawn(0.3), above(0.5)), (drawn(0.1), above(0.6))):
        with pytest.raises(InputError, match="another"):
            simulate(population, 64, out=out, metrics={"above": metric})
