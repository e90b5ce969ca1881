"""Every result is printed for a person, has a frame of its numbers, and is the same from a file."""

import dataclasses
import json
import re
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

import mechlab
from mechlab import InputError, Market, Status, Users
from mechlab.core.pytree import Pytree
from mechlab.core.results import Batch, Result
from mechlab.demand.calibration import Calibration
from mechlab.demand.power import Demand
from mechlab.mechanisms.catalogue import RULES, named_rule

BATCH, N, K = (2, 3), 4, 5
PAIRS, OWNERS, CHECKPOINTS, ROUNDS, TYPES = 6, 2, 7, 8, 9


def numbers(shape, dtype=float, seed=0):
    drawn = np.random.default_rng([seed, len(shape)]).uniform(-5.0, 5.0, shape)
    return jnp.asarray(drawn.astype(dtype))


def filled(kind, own, batch=BATCH, seed=0, **others):
    """A result with numbers of its own in every field; `own` are axes that are not ()."""
    fields = {}
    for i, field in enumerate(dataclasses.fields(kind)):
        shape = (*batch, *own.get(field.name, ()))
        dtype = bool if field.name in ("unique", "converged", "valid", "held") else float
        if field.name in ("profile", "smallest", "largest", "winner", "iterations", "levels"):
            dtype = int
        fields[field.name] = numbers(shape, dtype, seed + i)
    if "status" in fields:
        ends = np.resize([Status.CONVERGED, Status.CONVERGED, Status.ITERATION_LIMIT], batch)
        fields["status"] = jnp.asarray(ends)
    return kind(**fields | others)


def axes(size, names):
    return dict.fromkeys(names.split(), size if isinstance(size, tuple) else (size,))


def per_provider(kind, batch=BATCH, **others):
    own = {field.name: (N,) for field in dataclasses.fields(kind)}
    return filled(kind, own, batch, **others)


def offers(batch=BATCH):
    return per_provider(mechlab.Offers, batch, latency=None, bill=None)


def outcome(batch=BATCH):
    names = "shares payment provider_utility compute income_deviation provider_pays"
    return filled(mechlab.Outcome, axes(N, names), batch, provider_pays=None)


def market(batch=BATCH):
    own = {field.name: (N, K) for field in dataclasses.fields(Market)}
    return filled(Market, own, batch, available=jnp.ones((*batch, N, K), bool), latency=None)


def users(batch=BATCH):
    return filled(Users, {}, batch, taste=None)


def batches(batch=BATCH):
    """Every result that has a batch of markets."""
    visits, pairs = (ROUNDS, N), (*batch, PAIRS, N)
    levels = "profile smallest largest"
    types = axes(TYPES, "weight rationality outside_value value_scale") | axes(1, "latency_value")
    history = axes(visits, "provider welfare potential") | axes((*visits, N), "profile shares")
    repeated = axes(N, "shares provider_utility estimate") | axes(CHECKPOINTS, "regret_at")
    joint = axes(PAIRS, "utility gain restart") | axes((PAIRS, 2), "members")
    smoothed = axes((N, K), "mixture level_utility") | axes(N, "shares provider_utility")
    power = axes((N, N), "elasticities diversion") | axes(N, "shares markups costs")
    owned = axes(OWNERS, "utility gain") | axes(N, "levels")
    fitted = {"rationality": numbers(batch), "margin": numbers((*batch, N))}
    made = [
        market(batch),
        users(batch),
        offers(batch),
        outcome(batch),
        filled(mechlab.UserMixture, types, batch, taste=None),
        filled(mechlab.Equilibrium, axes(N, levels), batch),
        filled(mechlab.Equilibrium, axes(N, levels), batch, smallest=None, largest=None),
        filled(mechlab.History, history | axes(ROUNDS, "active"), batch),
        filled(
            mechlab.Dynamics,
            axes(N, levels),
            batch,
            history=filled(mechlab.History, history | axes(ROUNDS, "active"), batch),
        ),
        filled(mechlab.ExtremalEquilibria, axes(N, levels), batch),
        filled(
            mechlab.ContinuousEquilibrium,
            axes(N, "compute smallest largest held"),
            batch,
            offers=offers(batch),
            outcome=outcome(batch),
        ),
        filled(mechlab.SmoothedEquilibrium, smoothed, batch),
        filled(mechlab.OwnersEquilibrium, axes(N, levels), batch),
        filled(mechlab.OwnerDeviations, owned, batch),
        filled(mechlab.Optimum, axes(N, levels), batch),
        filled(mechlab.Efficiency, {}, batch),
        filled(
            mechlab.Fit,
            {},
            batch,
            parameters=fitted,
            standard_errors={name: jnp.full_like(x, jnp.inf) for name, x in fitted.items()},
            market=market(batch),
            users=users(batch),
        ),
        filled(mechlab.Played, axes(N, levels), batch, markup=None, offers=offers(batch)),
        filled(Calibration, {}, batch),
        filled(mechlab.Evaluation, axes(N, levels), batch, optimal_welfare_bound=None),
        filled(
            mechlab.GridDeviations,
            axes(N, "utility gain best_level") | axes((N, K), "level_utility"),
            batch,
        ),
        per_provider(mechlab.Deviations, batch, offers=offers(batch)),
        filled(
            mechlab.Coalitions,
            joint,
            batch,
            first=offers(pairs[:-1]).replace(**{}),
            second=offers(pairs[:-1]).replace(**{}),
        ),
        filled(mechlab.SymmetricMarkup, {}, batch, offers=offers(batch)),
        filled(Demand, power, batch),
        filled(mechlab.Repeated, repeated, batch, checkpoints=jnp.arange(CHECKPOINTS)),
    ]
    return made
