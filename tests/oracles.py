"""Brute force over every profile, in plain Python: slow and obviously right."""

import itertools
import math

import numpy as np


def profiles(market):
    lengths = np.asarray(market.available).sum(axis=1)
    return list(itertools.product(*(range(n) for n in lengths)))


def shares(values, beta, outside):
    top = max([*values, outside])
    weights = [math.exp(beta * (v - top)) for v in values]
    total = sum(weights) + math.exp(beta * (outside - top))
    return [w / total for w in weights]


def log_shares(values, beta, outside):
    top = max([*values, outside])
    total = sum(math.exp(beta * (v - top)) for v in values) + math.exp(beta * (outside - top))
    return [beta * (v - top) - math.log(total) for v in values]


def at(field, profile):
    return [float(field[i, k]) for i, k in enumerate(profile)]


def values_at(market, profile):
    return [q - p for q, p in zip(at(market.quality, profile), at(market.price, profile))]


def profits_at(market, profile):
    return [p - c for p, c in zip(at(market.price, profile), at(market.cost, profile))]


def welfare(market, users, profile):
    sigma = shares(values_at(market, profile), float(users.rationality), float(users.outside_value))
    quality, cost = at(market.quality, profile), at(market.cost, profile)
    return sum(s * (q - c) for s, q, c in zip(sigma, quality, cost))


def utilities(market, users, profile):
    sigma = shares(values_at(market, profile), float(users.rationality), float(users.outside_value))
    return [s * m for s, m in zip(sigma, profits_at(market, profile))]


def preferences(market, users, profile, provider):
    """(sign, ±log|U|) of a provider at each level: larger tuples are better."""
    rows = []
    for level in range(int(np.asarray(market.available)[provider].sum())):
        moved = (*profile[:provider], level, *profile[provider + 1 :])
        log_sigma = log_shares(
            values_at(market, moved), float(users.rationality), float(users.outside_value)
        )[provider]
        m = profits_at(market, moved)[provider]
        sign = (m > 0) - (m < 0)
        rows.append((sign, sign * (math.log(abs(m)) + log_sigma) if m else 0.0))
    return rows


def slack(market, users, profile):
    """How far the worst-off provider is below its best level: ≤ 0 up to rounding at equilibrium."""
    worst = 0.0
    for i, now in enumerate(profile):
        rows = preferences(market, users, profile, i)
        best = max(rows)
        if best[0] != rows[now][0]:
            return math.inf
        worst = max(worst, best[1] - rows[now][1])
    return worst


def vote(table, q, chosen):
    """Credit of plurality voting among chosen samples of question q."""
    return _plurality(table, q, chosen, lambda j: 1.0)


def weigh(table, q, chosen):
    """Credit of voting weighted by reward."""
    reward = table.reward[q]
    return _plurality(table, q, chosen, lambda j: 0.0 if math.isnan(reward[j]) else reward[j])


def _plurality(table, q, chosen, weight):
    total = {}
    for j in chosen:
        if table.answer[q, j] >= 0:
            total[table.answer[q, j]] = total.get(table.answer[q, j], 0.0) + weight(j)
    best = [a for a in total if math.isclose(total[a], max(total.values()), abs_tol=1e-12)]
    return best.count(0) / len(best) if best else 0.0


def best(table, q, chosen):
    """Credit of the sample of the highest reward; a missing one is the lowest."""
    reward = [-math.inf if math.isnan(table.reward[q, j]) else table.reward[q, j] for j in chosen]
    top = [table.correct[q, j] for j, r in zip(chosen, reward) if r == max(reward)]
    return sum(top) / len(top)


def any_right(table, q, chosen):
    return float(any(table.correct[q, j] for j in chosen))
