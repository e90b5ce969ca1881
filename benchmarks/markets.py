"""Baselines of `benchmarks.headline`: the same work in NumPy on all cores, and in a plain loop.

NumPy: the market axis last and chunks that stay in cache, weights normalised per provider, one
exponential per level, no temporary larger than a chunk, markets that have settled dropped from
later rounds, one process per core.
"""

import concurrent.futures
import math
import multiprocessing
import os
import tempfile
import time

import numpy as np

from mechlab.core.devices import cores

CHUNK = 2048
TOLERANCE = np.float32(1e-6)
CAP, FLOOR = np.float32(40.0), np.float32(1e-17)


def solve_chunk(m: dict[str, np.ndarray], orders: list[np.ndarray]) -> dict[str, np.ndarray]:
    """One chunk of markets: arrays [N, K, C] and [C]; returns metrics [C]."""
    quality, price, cost = m["quality"], m["price"], m["cost"]
    beta, outside = m["rationality"], m["outside_value"]
    n, k, size = quality.shape
    value, profit, surplus = quality - price, price - cost, quality - cost
    best = value.max(axis=1)
    both = np.concatenate([best, outside[None]])
    second = np.partition(both, -2, axis=0)[-2]
    reference = np.minimum(best, second)
    weight = np.exp(np.minimum(beta * (value - reference[:, None]), CAP))
    gain = profit * weight
    scale = np.exp(beta * (reference - second))
    free = np.exp(np.minimum(beta * (outside - second), CAP))

    level = np.zeros((n, size), np.int64)
    steps = np.arange(k)
    distance = (2 * np.abs(steps[:, None] - steps) + (steps[:, None] > steps)).astype(np.float32)
    active = np.arange(size)
    w, g, s, f, lev = weight, gain, scale, free, level.copy()
    current = s * w[:, 0]
    for turn in range(100):
        before = lev.copy()
        for i in orders[turn % len(orders)]:
            rivals = np.maximum(f + current[:i].sum(0) + current[i + 1 :].sum(0), FLOOR)
            utility = g[i] / (1 + w[i] * (s[i] / rivals))
            columns = np.arange(len(active))
            threshold = utility[lev[i], columns] * (1 + TOLERANCE)
            far = np.where(utility > threshold, distance[:, lev[i]], np.float32(99))
            nearest = far.argmin(axis=0)
            lev[i] = np.where(far[nearest, columns] < 99, nearest, lev[i])
            current[i] = s[i] * w[i, lev[i], columns]
        moved = (lev != before).any(axis=0)
        if not moved.any():
            break
        if moved.mean() < 0.5:  # copying the rest costs less than visiting all again
            level[:, active] = lev
            active = active[moved]
            w, g, s, f = w[..., moved], g[..., moved], s[:, moved], f[moved]
            lev, current = lev[:, moved], current[:, moved]
    level[:, active] = lev

    def at(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, level[:, None], axis=1)[:, 0]

    bought = scale * at(weight)
    trade = bought.sum(0)
    shares = bought / (trade + free)
    q, p, c = at(quality), at(price), at(cost)
    out = {
        "welfare": (shares * (q - c)).sum(0),
        "net_welfare": (shares * (q - c - outside)).sum(0),
        "user_value": (shares * (q - p)).sum(0),
        "user_cost": (shares * p).sum(0),
        "quality": (shares * q).sum(0),
        "provider_utility": (shares * (p - c)).sum(0),
        "accuracy": (bought * at(m["accuracy"])).sum(0) / trade,
        "tokens": (bought * at(m["tokens"])).sum(0) / trade,
    }

    nudge = np.float32(1e-6) * np.abs(surplus).max(axis=(0, 1))
    top = surplus.argmax(axis=1)[:, None]
    chosen = scale * np.take_along_axis(weight, top, 1)[:, 0]
    reached = (chosen * np.take_along_axis(surplus, top, 1)[:, 0]).sum(0) / (chosen.sum(0) + free)
    for _ in range(100):
        pick = (weight * (surplus - (reached + nudge))).argmax(axis=1)[:, None]
        chosen = scale * np.take_along_axis(weight, pick, 1)[:, 0]
        worth = (chosen * np.take_along_axis(surplus, pick, 1)[:, 0]).sum(0)
        total = chosen.sum(0) + free  # 0 where nobody helps and all weights underflow
        candidate = np.where(total > 0, worth / np.where(total > 0, total, 1), reached)
        improves = candidate - reached > nudge
        reached = np.maximum(reached, candidate)
        if not improves.any():
            break
    out["optimal_welfare"] = reached

    columns = np.arange(size)
    score = np.take_along_axis(surplus, top, 1)[:, 0]
    winner = score.argmax(axis=0)
    ranked = np.partition(np.concatenate([score, outside[None]]), -2, axis=0)
    runner_up = np.maximum(ranked[-2], outside)
    won = (winner, top[:, 0][winner, columns], columns)
    trade = score[winner, columns] >= outside
    out["auction.welfare"] = np.where(trade, score[winner, columns], 0)
    out["auction.user_value"] = np.where(trade, runner_up, 0)
    out["auction.user_cost"] = np.where(trade, quality[won] - runner_up, 0)
    out["auction.quality"] = np.where(trade, quality[won], 0)
    out["auction.provider_utility"] = out["auction.welfare"] - out["auction.user_value"]
    out["auction.accuracy"] = np.where(trade, m["accuracy"][won], 0)
    out["auction.tokens"] = np.where(trade, m["tokens"][won], 0)
    return out


_worker: dict = {}


def _start(folder: str, seed: int) -> None:
    files = [name for name in os.listdir(folder) if name.endswith(".npy")]
    _worker["arrays"] = {f[:-4]: np.load(os.path.join(folder, f), mmap_mode="r") for f in files}
    _worker["orders"] = _orders(seed, _worker["arrays"]["quality"].shape[0])


def _work(start: int) -> float:
    chunk = {
        name: np.ascontiguousarray(x[..., start : start + CHUNK])
        for name, x in _worker["arrays"].items()
    }
    return float(solve_chunk(chunk, _worker["orders"])["welfare"].sum())


def _orders(seed: int, providers: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(providers) for _ in range(2)]


def numpy_rate(arrays: dict[str, np.ndarray], seed: int) -> float:
    """Markets per second on all cores, the best of three passes."""
    count = arrays["rationality"].shape[-1]
    with tempfile.TemporaryDirectory() as folder:
        for name, x in arrays.items():
            np.save(os.path.join(folder, name), x)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            cores(), context, initializer=_start, initargs=(folder, seed)
        ) as pool:
            seconds = []
            for _ in range(4):
                began = time.perf_counter()
                list(pool.map(_work, range(0, count, CHUNK), chunksize=4))
                seconds.append(time.perf_counter() - began)
    return count / min(seconds[1:])


def solve_one(m: dict[str, np.ndarray], j: int, orders: list[np.ndarray]) -> dict[str, float]:
    """One market by plain loops over providers and levels."""
    quality, price, cost = (m[name][..., j].tolist() for name in ("quality", "price", "cost"))
    beta, outside = float(m["rationality"][j]), float(m["outside_value"][j])
    n, k = len(quality), len(quality[0])
    value = [[q - p for q, p in zip(*rows)] for rows in zip(quality, price)]
    profit = [[p - c for p, c in zip(*rows)] for rows in zip(price, cost)]
    surplus = [[q - c for q, c in zip(*rows)] for rows in zip(quality, cost)]

    def shares(profile):
        top = max(outside, *(value[i][profile[i]] for i in range(n)))
        weights = [math.exp(beta * (value[i][profile[i]] - top)) for i in range(n)]
        total = sum(weights) + math.exp(beta * (outside - top))
        return [w / total for w in weights]

    def log_utility(i, level, log_rivals):
        return math.log(profit[i][level]) - math.log1p(
            math.exp(min(log_rivals - beta * value[i][level], 700.0))
        )

    profile = [0] * n
    for turn in range(100):
        before = profile.copy()
        for i in orders[turn % len(orders)]:
            others = [beta * outside]
            others += [beta * value[j][profile[j]] for j in range(n) if j != i]
            top = max(others)
            log_rivals = top + math.log(sum(math.exp(x - top) for x in others))
            now = log_utility(i, profile[i], log_rivals)
            for level in sorted(range(k), key=lambda x, i=i: (abs(x - profile[i]), x)):
                if log_utility(i, level, log_rivals) > now + 1e-8:
                    profile[i] = level
                    break
        if profile == before:
            break
    sigma = shares(profile)
    welfare = sum(s * surplus[i][profile[i]] for i, s in enumerate(sigma))
    bought = sum(sigma)
    out = {
        "welfare": welfare,
        "net_welfare": welfare - outside * bought,
        "user_value": sum(s * value[i][profile[i]] for i, s in enumerate(sigma)),
        "user_cost": sum(s * price[i][profile[i]] for i, s in enumerate(sigma)),
        "quality": sum(s * quality[i][profile[i]] for i, s in enumerate(sigma)),
        "provider_utility": sum(s * profit[i][profile[i]] for i, s in enumerate(sigma)),
    }
    for name in ("accuracy", "tokens"):
        out[name] = sum(s * m[name][i, profile[i], j] for i, s in enumerate(sigma)) / bought
    top = max(outside, *(max(row) for row in value))
    weights = [[math.exp(beta * (v - top)) for v in row] for row in value]
    free, best = math.exp(beta * (outside - top)), welfare
    while True:
        trial = best + 1e-12
        levels = [
            max(range(k), key=lambda x, i=i: weights[i][x] * (surplus[i][x] - trial))
            for i in range(n)
        ]
        total = free + sum(weights[i][levels[i]] for i in range(n))
        worth = sum(weights[i][levels[i]] * surplus[i][levels[i]] for i in range(n)) / total
        if worth <= best:
            break
        best = worth
    out["optimal_welfare"] = best
    scores = [max(row) for row in surplus]
    winner = scores.index(max(scores))
    level = surplus[winner].index(scores[winner])
    runner_up = max([outside, *(s for i, s in enumerate(scores) if i != winner)])
    trade = scores[winner] >= outside
    out["auction.welfare"] = scores[winner] if trade else 0.0
    out["auction.user_value"] = runner_up if trade else 0.0
    out["auction.user_cost"] = quality[winner][level] - runner_up if trade else 0.0
    return out


def loop_rate(arrays: dict[str, np.ndarray], seed: int, markets: int = 500) -> float:
    """Markets per second of the plain loop, on a sample, one core."""
    orders = _orders(seed, arrays["quality"].shape[0])
    markets = min(markets, arrays["rationality"].shape[-1])
    began = time.perf_counter()
    for j in range(markets):
        solve_one(arrays, j, orders)
    return markets / (time.perf_counter() - began)
