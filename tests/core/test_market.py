"""Bad markets are refused with a line that names the entry; good ones follow the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mechlab import InputError, Market, Users, better_response

GOOD = dict(quality=[[0.01, 0.02]], price=[[0.001, 0.002]], cost=[[0.001, 0.001]])
CURVE = dict(
    accuracy=[[0.5, 0.6]], tokens=[[100.0, 200.0]], price_per_token=1e-6, value_per_answer=0.01
)


def test_a_curve_market_follows_the_formulas():
    market = Market.from_curves(
        [[0.5, 0.6], [0.2, 0.9]],
        [[100.0, 400.0], [50.0, 70.0]],
        np.array([1e-6, 2e-6]),
        value_per_answer=0.01,
        baseline=0.1,
        margin=0.25,
    )
    np.testing.assert_allclose(market.price, [[1e-4, 4e-4], [1e-4, 1.4e-4]])
    np.testing.assert_allclose(market.cost, np.asarray(market.price) / 1.25)
    np.testing.assert_allclose(market.quality[1, 1], 0.01 * (0.1 + 0.9 * 0.9))
    np.testing.assert_allclose(market.offered_value, market.quality - market.price)
    np.testing.assert_allclose(market.surplus, market.quality - market.cost)
    assert market.providers == 2 and market.levels == 2 and market.batch_shape == ()


def test_ragged_levels_are_masked():
    market = Market.from_curves(
        [[0.5], [0.4, 0.5, 0.6]],
        [[10.0], [10.0, 20.0, 40.0]],
        1e-6,
        value_per_answer=0.01,
        compute=[[1], [1, 2, 4]],
    )
    np.testing.assert_array_equal(market.available, [[True, False, False], [True, True, True]])
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(market))


@pytest.mark.float64
def test_offers_at_a_profile_are_the_levels_of_the_market():
    market = Market.from_arrays(**GOOD)
    posted, bids = market.at([1], "price"), market.at([1], asking="cost")
    assert float(posted.price[0]) == 0.002 and float(bids.price[0]) == 0.001
    np.testing.assert_array_equal(posted.reported_quality, posted.quality)
    assert market.at(jnp.zeros((5, 1), int), "price").quality.shape == (5, 1)
    with pytest.raises(InputError, match="asking"):
        market.at([0], asking="nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(quality=[[0.01, float("nan")]]), r"quality\[0, 1\] = nan is not a finite number"),
        (dict(price=[[-0.001, 0.002]]), r"price\[0, 0\] = -0.001 is below 0"),
        (dict(cost=[[0.0, float("inf")]]), r"cost\[0, 1\]"),
        (dict(accuracy=[[0.2, 64.0]]), r"accuracy\[0, 1\] = 64 is above 1.*divide percents"),
        (dict(tokens=[[-1, 2]]), r"tokens\[0, 0\]"),
        (dict(price=None), "price: not given"),
        (dict(compute=[[2, 1]]), r"compute\[0, 1\].*ascending"),
        (dict(quality=[]), "no providers"),
        (dict(quality=[[]]), "no providers or no levels|no level"),
        (dict(quality=[0.1, 0.2]), r"\[..., providers, levels\]"),
        (dict(quality=[["a", "b"]]), "not an array of numbers"),
        (dict(price=[[0.1, 0.2, 0.3]]), "price: shape"),
        (dict(available=[[False, True]]), r"available\[0\].*prefix"),
        (dict(available=[[False, False]]), r"available\[0\].*at least one level"),
        (dict(quality=[[0.1], []], price=0.1, cost=0.1), "row 1 has no level"),
    ],
)
def test_bad_arrays_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message) as caught:
        Market.from_arrays(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(price_per_token=0.0), "price_per_token = 0 is not above 0"),
        (dict(price_per_token=[1e-6, -1e-6]), r"price_per_token\[1\]"),
        (dict(margin=-1.0), "margin = -1 is not above -1"),
        (dict(value_per_answer=float("nan")), "value_per_answer"),
        (dict(accuracy=[[0.5, 1.2]]), r"accuracy\[0, 1\]"),
        (dict(tokens=[[1.0, float("nan")]]), r"tokens\[0, 1\]"),
        (dict(tokens=[[1.0, 0.0]]), r"tokens\[0, 1\] = 0 is not above 0"),
        (dict(tokens=[[1.0], [1.0, 2.0]]), "tokens: give as many levels"),
        (dict(tokens=[[1.0, 2.0, 3.0]]), "tokens: give as many levels"),
        (dict(price_per_token=[1e-6, 1e-6, 1e-6]), "price_per_token: 3 numbers for 1"),
    ],
)
def test_bad_curves_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        Market.from_curves(**{**CURVE, **change})


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), "many"])
def test_bad_rationality_is_refused(beta):
    with pytest.raises(InputError, match="rationality"):
        Users.create(beta)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ([0, 2], r"profile\[1\] = 2: no such level"),
        ([-1, 0], r"profile\[0\] = -1"),
        ([0], "one level for each of 2"),
        ([0.0, 1.0], "whole numbers"),
        ([[0, 0], [0, 9]], r"profile\[1, 1\] = 9"),
    ],
)
def test_profiles_of_levels_that_are_not_there_are_refused(profile, message):
    ragged = Market.from_arrays([[0.1, 0.2, 0.3], [0.1, 0.2]], 0.01, 0.001)
    with pytest.raises(InputError, match=message):
        ragged.at(profile, "price")
    with pytest.raises(InputError, match=message):
        better_response(ragged, Users.create(1.0), key=jax.random.key(0), start=profile)


def test_rows_of_levels_may_be_numpy_arrays():
    market = Market.from_arrays([np.array([0.1, 0.2]), np.array([0.1])], 0.01, 0.001)
    np.testing.assert_array_equal(market.available, [[True, True], [True, False]])


def test_users_whose_shapes_do_not_fit_are_refused():
    with pytest.raises(InputError, match="shapes do not fit"):
        Users.create([1.0, 2.0], [0.0, 0.0, 0.0])


def test_construction_works_inside_jit_without_checks():
    @jax.jit
    def welfare(value):
        market = Market.from_curves(**{**CURVE, "value_per_answer": value})
        return market.surplus.sum()

    assert np.isfinite(welfare(0.01)) and np.isfinite(jax.grad(welfare)(0.01))


def test_what_is_asked_at_a_profile_has_to_be_said():
    market = Market.from_arrays([[0.005]], [[0.002]], [[0.001]])
    with pytest.raises(InputError, match=r"asking: None.*rule\.offers\(market, profile\)"):
        market.at([0])
    assert float(market.at([0], "price").price[0]) == pytest.approx(0.002)
    assert float(market.at([0], asking="cost").price[0]) == pytest.approx(0.001)
