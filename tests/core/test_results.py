"""Every result is printed for a person, has a frame of its numbers, and is the same from a file."""

import dataclasses
import functools
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
        if field.name in (
            "profile",
            "smallest",
            "largest",
            "winner",
            "iterations",
            "levels",
            "members",
        ):
            dtype = int
        fields[field.name] = numbers(shape, dtype, seed + i)
    if "status" in fields:
        ends = np.resize([Status.CONVERGED, Status.CONVERGED, Status.ITERATION_LIMIT], batch)
        fields["status"] = jnp.asarray(ends)
    return kind(**fields | others)


def axes(size, names):
    return dict.fromkeys(names.split(), size if isinstance(size, tuple) else (size,))


def offers(batch=BATCH, n=N):
    own = {field.name: (n,) for field in dataclasses.fields(mechlab.Offers)}
    return filled(mechlab.Offers, own, batch, latency=None, bill=None)


def market(batch=BATCH):
    own = {field.name: (N, K) for field in dataclasses.fields(Market)}
    return filled(Market, own, batch, available=jnp.ones((*batch, N, K), bool), latency=None)


def batches(batch=BATCH):
    """Every result that has a batch of markets."""
    users = filled(Users, {}, batch, taste=None)
    levels = axes(N, "profile smallest largest")
    visits = axes((ROUNDS, N), "provider welfare potential") | axes(ROUNDS, "active")
    history = filled(mechlab.History, visits | axes((ROUNDS, N, N), "profile shares"), batch)
    payments = axes(N, "shares payment provider_utility compute income_deviation")
    outcome = filled(mechlab.Outcome, payments, batch, provider_pays=None)
    types = axes(TYPES, "weight rationality outside_value value_scale") | axes(1, "latency_value")
    fitted = {"rationality": numbers(batch), "margin": numbers((*batch, N))}
    errors = {name: jnp.full_like(x, jnp.inf) for name, x in fitted.items()}
    continuous = axes(N, "compute smallest largest held")
    smoothed = axes((N, K), "mixture level_utility") | axes(N, "shares provider_utility")
    owned = axes(OWNERS, "utility gain") | axes(N, "levels")
    grid = axes((N, K), "level_utility") | axes(N, "utility gain best_level")
    joint = axes((PAIRS, 2), "members") | axes(PAIRS, "utility gain restart")
    power = axes((N, N), "elasticities diversion") | axes(N, "shares markups costs")
    repeated = axes(CHECKPOINTS, "regret_at") | axes(N, "shares provider_utility estimate")
    pairs = dict(first=offers(batch, PAIRS), second=offers(batch, PAIRS))
    return [
        market(batch),
        users,
        offers(batch),
        outcome,
        filled(mechlab.UserMixture, types, batch, taste=None),
        filled(mechlab.Equilibrium, levels, batch),
        filled(mechlab.Equilibrium, levels, batch, smallest=None, largest=None, unique=None),
        history,
        filled(mechlab.Dynamics, levels, batch, history=history),
        filled(mechlab.ExtremalEquilibria, levels, batch),
        filled(
            mechlab.ContinuousEquilibrium, continuous, batch, offers=offers(batch), outcome=outcome
        ),
        filled(mechlab.SmoothedEquilibrium, smoothed, batch),
        filled(mechlab.OwnersEquilibrium, levels, batch),
        filled(mechlab.OwnerDeviations, owned, batch),
        filled(mechlab.Optimum, levels, batch),
        filled(mechlab.Efficiency, {}, batch),
        filled(
            mechlab.Fit,
            {},
            batch,
            parameters=fitted,
            standard_errors=errors,
            market=market(batch),
            users=users,
        ),
        filled(mechlab.Played, levels, batch, markup=None, offers=offers(batch)),
        filled(Calibration, {}, batch),
        filled(mechlab.Evaluation, levels, batch, optimal_welfare_bound=None),
        filled(mechlab.GridDeviations, grid, batch),
        filled(
            mechlab.Deviations,
            axes(N, "utility gain restart grid_gain"),
            batch,
            offers=offers(batch),
        ),
        filled(mechlab.Coalitions, joint, batch, **pairs),
        filled(mechlab.SymmetricMarkup, {}, batch, offers=offers(batch)),
        filled(Demand, power, batch),
        filled(mechlab.Repeated, repeated, batch, checkpoints=jnp.arange(CHECKPOINTS)),
    ]


def summary(seed=0, size=1000):
    found = mechlab.Summary()
    found.add(np.random.default_rng(seed).lognormal(-5.0, 1.0, size))
    return found


def others():
    """Every result that is no batch of markets."""
    rules = ("pay_per_compute", "second_price")
    rows = ("welfare", "user_cost", "user_value", "provider_utility", "price_of_anarchy", "tokens")
    directions = ("over_report", "under_bid")
    return [
        summary(),
        mechlab.Summary(),
        mechlab.Certificate(
            markets=4096,
            restarts=3,
            steps=60,
            seed=0,
            start="truthful",
            together=1,
            space=("PriceBid",),
            regret=summary(),
            worst_market=17,
            counted=4000,
            share_profitable=0.25,
            share_of_providers=0.125,
            directions={name: {"count": 0.5, "market_share": None} for name in directions},
            by_direction={name: summary(i) for i, name in enumerate(directions)},
            share_by_direction={"over_report": 0.25, "under_bid": None},
        ),
        mechlab.Simulation(
            population={"kind": "published"},
            markets=1000,
            seed=3,
            mechanisms=rules,
            summaries={f"{rule}.{row}": summary() for rule in rules for row in rows},
            markets_per_second=1e6,
            computed=1000,
        ),
        mechlab.Design(
            rule=mechlab.ScoringAuction(mix=0.5),
            parameters={"mix": 0.5, "reserve": -np.inf},
            objective=0.005,
            objective_error=1e-5,
            regret=1e-4,
            regret_error=np.nan,
            feasible=True,
            markets=16384,
            history=[{"step": step, "objective": 0.004, "mix": 0.5} for step in (10, 20, 30)],
        ),
        mechlab.PureEquilibria(
            profiles=np.arange(2 * N).reshape(2, N),
            welfare=np.array([0.005, 0.004]),
            status=Status.CAPPED,
        ),
        mechlab.Deterrence(rate=0.2, regret=0.0, without=0.003),
        mechlab.Gaming("bid", *np.random.default_rng(0).uniform(size=(6, N))),
        mechlab.Growth((100, 1000), (0.1, 0.2), (0.01, 0.02), 0.5, 0.1),
        mechlab.Comparison(
            published(),
            pay_per_compute=[{"rationality": b, "welfare": 0.004} for b in (100.0, 1000.0)],
            auction={"winner": "a", "welfare": 0.005},
            noise="error",
            readings=[],
        ),
        mechlab.Sweep(published(), [{"rationality": 1.0, "inefficiency": None}], "error"),
        published(),
    ]


@functools.cache
def published():
    return mechlab.data.load().select()


def named(values):
    return pytest.mark.parametrize("x", values, ids=lambda x: type(x).__name__)


def every_class(kind):
    """All classes of mechlab under one."""
    for one in kind.__subclasses__():
        if one.__module__.startswith("mechlab"):
            yield one
            yield from every_class(one)


def test_every_public_result_is_tried_here():
    public = {kind for kind in every_class(Result) if hasattr(mechlab, kind.__name__)}
    tried = {type(x) for x in (*batches(), *others())}
    assert public - {mechlab.Solution, mechlab.Seen} <= tried
    assert {kind for kind in every_class(Batch) if kind._axes is not None} - {mechlab.Solution} == {
        type(x) for x in batches()
    }


# ---- printed


@named([*batches(), *batches(()), *others()])
def test_a_result_is_printed_in_a_few_lines_without_a_program(x):
    compiled = []

    def listen(event, seconds, **_):
        compiled.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        text = repr(x)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    lines = text.splitlines()
    assert compiled == []
    assert len(lines) <= 12 and max(map(len, lines[1:]), default=0) <= 110, text
    assert lines[0].startswith(type(x).__name__) and "array(" not in text
    if isinstance(x, Batch):
        many = x.to_frame("market").shape[0] > 1
        assert lines[0].startswith(f"{type(x).__name__}: {'2 × 3 markets' if many else 'one'}")
    if isinstance(x, mechlab.Solution):
        assert x.message in lines[0]


def test_money_is_printed_in_usd_per_1000_queries():
    [one] = [x for x in batches(()) if isinstance(x, mechlab.Optimum)]
    assert re.search(r"welfare +2\.5 USD per 1,000 queries", repr(one.replace(welfare=0.0025)))
    [many] = [x for x in batches() if isinstance(x, mechlab.Optimum)]
    welfare = jnp.asarray([[0.001, 0.002, jnp.nan], [0.003, 0.004, 0.005]])
    shown = "mean 3, 1 to 5 USD per 1,000 queries; 1 not finite"
    assert shown in repr(many.replace(welfare=welfare))
    alike = many.replace(welfare=jnp.full((2, 3), 1e-3))
    assert re.search(r"welfare +all 1 USD per 1,000 queries", repr(alike))
    assert "4 of 6: the solution was found; 2 of 6: more steps" in repr(many)


def test_a_summary_in_a_run_is_in_the_unit_of_its_row():
    simulation = next(x for x in others() if isinstance(x, mechlab.Simulation))
    mean = 1e3 * summary().mean
    row = rf"second_price\.welfare +{mean:.4g} ± .* USD per 1,000 queries\n"
    assert re.search(row, repr(simulation))
    certificate = next(x for x in others() if isinstance(x, mechlab.Certificate))
    assert "gained_by           over_report 0.25\n" in repr(certificate)
    assert "of welfare" in repr(certificate) and "PriceBid from truthful play" in repr(certificate)


def test_a_result_under_jit_is_printed_by_shapes():
    printed = []
    results = (batches(), batches(()))
    shapes = jax.eval_shape(lambda x: printed.append([*map(repr, (*x[0], *x[1]))]) or x, results)
    for text, x in zip(printed[0], (*results[0], *results[1])):
        assert text.startswith(type(x).__name__) and len(text.splitlines()) <= 12
        assert f"{x.status.dtype if hasattr(x, 'status') else 'float64'}" in text or "[" in text
    assert [*map(repr, (*shapes[0], *shapes[1]))] == printed[0]
    in_axes = jax.tree.map(lambda _: 0, results[0])  # as vmap takes them
    assert all(map(repr, in_axes))


# ---- tables


def leaves(x, prefix=""):
    """Arrays by name, of parts as well but markets and histories; written anew, as an oracle."""
    for field in dataclasses.fields(x):
        value = getattr(x, field.name)
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for key, part in parts:
            name = prefix + field.name + (f".{key}" if key else "")
            if isinstance(part, Pytree):
                if not isinstance(part, Market | mechlab.History):
                    yield from leaves(part, f"{name}.")
            elif part is not None and field.name != "status":
                yield name, np.asarray(part)


@named(batches())
def test_a_frame_by_market_has_every_number_once(x):
    frame = x.to_frame(by="market")
    assert frame.index.names == ["market"] and list(frame.index) == list(range(6))
    expected = []
    for name, values in leaves(x):
        if name == "checkpoints":
            values = np.broadcast_to(values, (*BATCH, *values.shape))
        own = values.shape[2:]
        columns = [f"{name}[{', '.join(map(str, i))}]" for i in np.ndindex(own)] if own else [name]
        np.testing.assert_array_equal(frame[columns].to_numpy(), values.reshape(6, -1))
        expected += columns
    if isinstance(x, mechlab.Solution):
        ends = [Status(int(one)).name for one in np.asarray(x.status).reshape(-1)]
        assert list(frame["status"]) == ends
        assert list(frame["converged"]) == [end == "CONVERGED" for end in ends]
        expected += ["status", "converged"]
    assert sorted(frame.columns) == sorted(expected)


def test_a_frame_has_a_row_per_market_and_provider_where_all_fields_do():
    rows = {type(x).__name__: x.to_frame() for x in batches()}
    by_provider = rows["Deviations"]
    assert by_provider.index.names == ["market", "provider"] and len(by_provider) == 6 * N
    [x] = [x for x in batches() if isinstance(x, mechlab.Deviations)]
    np.testing.assert_array_equal(by_provider["gain"], np.asarray(x.gain).reshape(-1))
    np.testing.assert_array_equal(
        by_provider["offers.price"], np.asarray(x.offers.price).reshape(-1)
    )
    assert rows["Offers"].index.names == ["market", "provider"]
    assert rows["Market"].index.names == ["market", "provider", "level"]
    np.testing.assert_array_equal(
        rows["Market"]["price"].loc[4, 2], np.asarray(market().price)[1, 1, 2]
    )
    assert rows["Coalitions"].index.names == ["market", "pair"]
    assert {"members[0]", "members[1]", "first.price"} <= set(rows["Coalitions"].columns)
    assert rows["UserMixture"].index.names == ["market", "type"]
    assert rows["Equilibrium"].index.names == rows["Outcome"].index.names == ["market"]


def test_a_frame_by_provider_repeats_the_numbers_of_the_market():
    [x] = [x for x in batches() if isinstance(x, mechlab.Outcome)]
    frame = x.to_frame(by="provider")
    assert len(frame) == 6 * N
    np.testing.assert_array_equal(frame["shares"], np.asarray(x.shares).reshape(-1))
    np.testing.assert_array_equal(frame["welfare"], np.repeat(np.asarray(x.welfare), N))
    [grid] = [x for x in batches() if isinstance(x, mechlab.GridDeviations)]
    frame = grid.to_frame(by="provider")
    np.testing.assert_array_equal(frame["level_utility[3]"], grid.level_utility[..., 3].reshape(-1))
    assert "level_utility" not in frame


def test_a_frame_that_cannot_be_is_one_line():
    [users] = [x for x in batches() if isinstance(x, Users)]
    with pytest.raises(InputError, match="no field has a value for each provider"):
        users.to_frame(by="provider")
    with pytest.raises(InputError, match="give 'market' or 'provider'"):
        users.to_frame(by="row")
    with pytest.raises(InputError, match="call to_frame outside jit"):
        jax.eval_shape(lambda x: x.to_frame() or x, users)


def test_frames_of_results_that_are_no_batch():
    one, none, certificate, simulation, *more = (x.to_frame() for x in others()[:-1])
    design, pure, deterrence, gaming, growth, comparison, sweep = more
    found = summary()
    assert one["count"][0] == 1000 and one["mean"][0] == found.mean
    assert one["p95"][0] == found.quantile(0.95) and one["largest"][0] == found.largest
    assert none["count"][0] == 0 and none["mean"].isna().all() and none["smallest"].isna().all()
    assert list(certificate.index) == ["any", "over_report", "under_bid"]
    assert certificate["mean"]["under_bid"] == summary(1).mean
    assert certificate["share"]["over_report"] == 0.25
    assert simulation.shape == (12, 8) and "second_price.tokens" in simulation.index
    assert list(design.index) == [10, 20, 30] and set(design.columns) == {"objective", "mix"}
    assert list(pure.columns) == ["welfare", *(f"profile[{i}]" for i in range(N))]
    assert list(pure["profile[1]"]) == [1, 5]
    assert deterrence.shape == (1, 3) and len(gaming) == N
    assert growth["regret"][1000] == 0.2
    assert list(comparison["welfare"]) == [0.004, 0.004, 0.005]
    assert list(sweep["rationality"]) == [1.0]


# ---- saved


def same(found, wanted):
    """Of the same types, dtypes, bits and parts."""
    assert type(found) is type(wanted)
    if isinstance(wanted, jax.Array | np.ndarray | np.generic):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for x, y in zip(found, wanted):
            same(x, y)
    elif isinstance(wanted, dict):
        same(list(found), list(wanted))
        same(list(found.values()), list(wanted.values()))
    elif dataclasses.is_dataclass(wanted):
        for field in dataclasses.fields(wanted):
            same(getattr(found, field.name), getattr(wanted, field.name))
    else:
        assert found == wanted or (found != found and wanted != wanted)


def back(path, x, **options):
    mechlab.save(path / "x.mechlab", x)
    return mechlab.load(path / "x.mechlab", **options)


@named([*batches(), *others()])
def test_a_result_is_the_same_from_a_file(x, tmp_path):
    same(back(tmp_path, x), x)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_the_catalogue_is_the_same_from_a_file(name, tmp_path):
    rule = named_rule("fixed_price=0.001" if name == "fixed_price" else name)
    found = back(tmp_path, rule)
    same(found, rule)
    assert jax.tree.structure(found) == jax.tree.structure(rule)


def test_parameters_of_all_kinds_are_the_same_from_a_file(tmp_path):
    auction = mechlab.SecondPriceAuction("per_answer", verifier=mechlab.Verifier(0.1, 0.2))
    rules = [
        mechlab.Tariff(token_cap=mechlab.per_provider([1.0, 2.0, np.inf])),
        mechlab.Tariff(token_cap=mechlab.per_provider(jnp.arange(3.0))),
        mechlab.NestedLogit(("a", "b", 3), 0.5),
        mechlab.Audited(auction, 0.1, mechlab.SequentialTest(size=1.5), 0.01),
        mechlab.ScoringAuction(mix=np.float32(0.5), reserve=jnp.asarray([-jnp.inf, 0.0])),
    ]
    same(back(tmp_path, rules), rules)


def test_values_of_all_kinds_are_the_same_from_a_file(tmp_path):
    values = {
        "numbers": [1, -(2**70), True, 0.1, -0.0, np.inf, -np.inf, np.nan, None, "βγ"],
        "scalars": (np.float32(0.1), np.int64(3), np.bool_(True), Status.JUMP),
        3: np.array(["a", "bc"]),
        None: [np.zeros((0, 3)), np.asfortranarray(np.ones((2, 3))), np.array(2.0)],
        "narrow": jnp.asarray([0.1, jnp.nan], jnp.bfloat16),
        "half": jnp.asarray(0.1, jnp.float16),
    }
    same(back(tmp_path, values), values)


SOURCE = """
import dataclasses
from mechlab import Mechanism
from mechlab.core.market import Array

class Half(Mechanism):
    kind: str = dataclasses.field(default="a", metadata={"static": True})
    price: Array | float = 0.001

    def __post_init__(self):
        print("constructed")

    def allocate(self, offers, users):
        return offers.price * 0.0, offers.price * 0.0 + self.price
"""


def module_of_users(name):
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(SOURCE, module.__dict__)
    return module


def test_a_rule_of_ones_own_is_found_where_it_is_imported_or_given(tmp_path, capsys):
    module = module_of_users("pricing_of_mine")
    rule = module.Half(kind="b", price=jnp.asarray(0.1))
    capsys.readouterr()
    try:
        same(back(tmp_path, rule), rule)
        assert capsys.readouterr().out == ""  # constructors do not run
        del sys.modules["pricing_of_mine"]
        file = tmp_path / "x.mechlab"
        with pytest.raises(InputError, match=r"x\.mechlab: class Half of pricing_of_mine is not"):
            mechlab.load(file)
        same(mechlab.load(file, classes=[module.Half]), rule)
        moved = module_of_users("pricing_moved").Half
        assert type(mechlab.load(file, classes=[moved])) is moved
    finally:
        for name in ("pricing_of_mine", "pricing_moved"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("x", "line"),
    [
        ([lambda x: x], r"list\[0\]: a function cannot be saved"),
        ({"a": np.array([None])}, r"dict\['a'\]: an array of Python objects cannot be saved"),
        ((jax.random.key(0),), r"tuple\[0\]: random keys cannot be saved; save the seed"),
        (
            mechlab.Audited(mechlab.PayPerCompute(), 0.1, np.tanh),
            r"Audited\.power: a function cannot be saved",
        ),
        ({1, 2}, r"set: a set cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_named_and_no_file_appears(x, line, tmp_path):
    with pytest.raises(InputError, match=line):
        mechlab.save(tmp_path / "x", x)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_under_jit_or_into_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"Market\.quality: has no numbers under jit"):
        jax.eval_shape(lambda x: mechlab.save(tmp_path / "x", x) or x, market())
    with pytest.raises(InputError, match="cannot be written"):
        mechlab.save(tmp_path / "none" / "x", 1)


def one_line(path, *names):
    with pytest.raises(InputError) as caught:
        mechlab.load(path)
    text = str(caught.value)
    assert "\n" not in text and all(name in text for name in (path.name, *names)), text


def test_a_damaged_file_is_one_line(tmp_path):
    whole, file = tmp_path / "whole", tmp_path / "damaged"
    mechlab.save(whole, market())
    data = whole.read_bytes()
    for end in np.linspace(0, len(data) - 1, 25).astype(int):
        file.write_bytes(data[:end])
        one_line(file, "truncated", "save it again")
    one_line(tmp_path / "missing", "No such file")
    one_line(tmp_path, "cannot be read")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    one_line(tmp_path / "other.npz", "not written by mechlab.save")


def test_flipped_bytes_never_give_another_value(tmp_path):
    """A file that is read at all is the one that was written: archives hold checksums."""
    whole, file = tmp_path / "whole", tmp_path / "damaged"
    mechlab.save(whole, jnp.arange(100.0))
    data = whole.read_bytes()
    for place in range(0, len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            found = mechlab.load(file)
        except InputError as error:
            assert str(file) in str(error)
        else:
            same(found, jnp.arange(100.0))


def write(path, value, **header):
    with zipfile.ZipFile(path, "w") as archive:
        whole = {"format": "mechlab", "version": 1, "mechlab": "0.9", "value": value} | header
        archive.writestr("header.json", json.dumps(whole))


def made(name, **fields):
    return {"kind": "dataclass", "class": name, "fields": fields}


@pytest.mark.parametrize(
    ("value", "header", "names"),
    [
        (1, {"version": 2}, ["format 2", "mechlab 0.9", "reads format 1", "save it again"]),
        (1, {"format": "other"}, ["not written by mechlab.save"]),
        (made("mechlab:Nothing"), {}, ["class Nothing", "0.9", "classes=[Nothing]"]),
        (made("mechlab:Optimum", profile=1), {}, ["Optimum has other fields", "0.9"]),
        (made("antigravity:Nothing"), {}, ["import antigravity", "classes=[Nothing]"]),
        (made("os:system"), {}, ["class system of os is not known"]),
        (made("json.decoder:JSONDecoder"), {}, ["JSONDecoder has other fields"]),
        ({"kind": "enum", "class": "mechlab:Status", "value": "mro"}, {}, ["Status has other"]),
        ({"kind": "jax", "number": 0, "dtype": "float64"}, {}, ["damaged"]),
        ({"kind": "program"}, {}, ["damaged"]),
    ],
)
def test_a_file_of_another_version_or_class_is_one_line_and_runs_nothing(
    value, header, names, tmp_path
):
    write(tmp_path / "x", value, **header)
    one_line(tmp_path / "x", *names)
    assert "antigravity" not in sys.modules


def test_arrays_of_python_objects_are_never_unpickled(tmp_path):
    write(tmp_path / "x", {"kind": "numpy", "number": 0, "dtype": "object"})
    with zipfile.ZipFile(tmp_path / "x", "a") as archive, archive.open("0.npy", "w") as member:
        np.lib.format.write_array(member, np.array([print]), allow_pickle=True)
    one_line(tmp_path / "x", "damaged")


@pytest.mark.float64
def test_float64_is_not_read_as_float32(tmp_path):
    mechlab.save(tmp_path / "x", jnp.asarray(0.1))
    with jax.enable_x64(False), pytest.raises(InputError, match="jax_enable_x64"):
        mechlab.load(tmp_path / "x")


def test_a_files_classes_go_by_names_that_are_unique():
    names = [kind.__qualname__ for kind in (*every_class(Result), *every_class(mechlab.Mechanism))]
    public = [name for name in names if not name.startswith("_")]
    assert len(set(public)) == len(public)
