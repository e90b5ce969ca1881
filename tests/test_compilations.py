"""Common calls compile few programs: those are what a user of a fresh process waits for."""

import json
import subprocess
import sys

import pytest

# what each call compiles in a fresh process, in this order
COUNTED = """
import json, jax, jax.monitoring
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event)
    if event == "/jax/core/compile/backend_compile_duration" else None
)
from mechlab import (
    Market, Parametric, PayPerCompute, SecondPriceAuction, UserMixture, Users, check_rule,
    equilibrium, evaluate,
)

def market(n):
    return Market.from_curves(
        [[0.4, 0.6, 0.7]] * n, [[1e3, 2e3, 4e3]] * n, 1e-7, value_per_answer=0.01, margin=0.3
    )

users, types = Users.create(1e3), UserMixture.create([0.5, 0.5], [100.0, 1e3])
two, rule, auction = market(2), PayPerCompute(), SecondPriceAuction()
found = {"market and users": len(compiled)}

def count(name, call):
    before = len(compiled)
    value = call()
    found[name] = len(compiled) - before
    return value

offers = count("offers", lambda: rule.offers(two, [0, 1]))
count("call", lambda: rule(offers, users))
count("call again", lambda: rule(rule.offers(two, [1, 1]), users))
count("call with types", lambda: rule(offers, types))
count("another N", lambda: rule(rule.offers(market(3), [0, 1, 2]), users))
count("auction", lambda: auction(auction.truthful(two, users), users))
stated = SecondPriceAuction("per_answer", 0.001)
count("per answer", lambda: stated(stated.truthful(two, users), users))
count("drawn", lambda: Parametric(providers=3).markets(8))
count("equilibrium", lambda: equilibrium(two, users))
count("evaluate", lambda: evaluate(two, users, {"now": rule, "auction": auction}))
count("check_rule", lambda: check_rule(rule))
print(json.dumps(found))
"""

MOST = {
    "market and users": 0,
    "offers": 2,  # whether the levels are there, and the offers
    "call": 1,
    "call again": 0,
    "call with types": 1,
    "another N": 3,
    "auction": 3,
    "per answer": 8,
    "drawn": 1,
    "equilibrium": 3,
    "evaluate": 4,
    "check_rule": 9,  # of two numbers of providers: offers, and all that is looked at
}


@pytest.fixture(scope="module")
def counted():
    run = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", MOST)
def test_a_common_call_compiles_few_programs(counted, call):
    assert counted[call] <= MOST[call], f"{call}: {counted}"


def test_every_count_has_a_bound(counted):
    assert set(counted) == set(MOST)
