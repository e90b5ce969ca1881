"""What a person has set on the explorer's page: the market moved by hand, as plain values.

A `State` is what the address of the page holds, what a market file and a script are made of, and
all that the answers depend on.
"""

import base64
import binascii
import dataclasses
import json
import math
import zlib
from typing import Any

import numpy as np

from mechlab import data
from mechlab.core.errors import InputError
from mechlab.core.users import Users
from mechlab.data import Constants, Dataset, NamedMarket
from mechlab.mechanisms import Mechanism
from mechlab.mechanisms.catalogue import named_rule

DEFAULT_RULES = ("pay_per_compute", "second_price", "first_price")
MOST_PROVIDERS, MOST_RULES = 50, 6


@dataclasses.dataclass(frozen=True)
class Provider:
    """A line of the table of providers.

    Attributes:
        name: as shown; told apart by it.
        curve: the model whose curve it has.
        price: USD per million tokens.
        on: whether it takes part.
        owner: providers of one owner answer together; "" is by itself.
        like: the name in the market file whose other prices and speed it has.
    """

    name: str
    curve: str
    price: float
    on: bool = True
    owner: str = ""
    like: str = ""

    @property
    def key(self) -> str:
        """Its name in a market file: MODEL or MODEL@HOST."""
        name = self.name if self.name != self.curve else ""
        if self.name.startswith(f"{self.curve}@"):
            return self.name
        return f"{self.curve}@{name}" if name else self.curve


@dataclasses.dataclass(frozen=True)
class State:
    """The market and the users that the page shows.

    Attributes:
        benchmark, method: of the data set.
        rationality: β, 1/USD.
        margin: price/cost − 1.
        worth: USD that a right answer is worth.
        outside: v0, USD.
        latency_value: USD per second.
        noise: "error" or "taste".
        most: the largest compute that a level may have.
        providers: lines of the table.
        rules: names of the catalogue, with their parameters.
    """

    benchmark: str
    method: str
    rationality: float
    margin: float
    worth: float
    outside: float
    latency_value: float
    noise: str
    most: float
    providers: tuple[Provider, ...]
    rules: tuple[str, ...] = DEFAULT_RULES

    @classmethod
    def first(
        cls, dataset: Dataset, benchmark: str | None = None, method: str | None = None
    ) -> "State":
        """What a data set says by itself, at the middle one of its rationalities."""
        named, constants = dataset.select(benchmark, method), dataset.constants
        if len(named.names) > MOST_PROVIDERS:
            raise InputError(
                f"{dataset.source}: {len(named.names):,} providers of {named.benchmark}, "
                f"{named.method}; the explorer takes at most {MOST_PROVIDERS}: name the others in "
                "leave_out of the market file"
            )
        betas = sorted(constants.rationality)
        rows, models = [], set(dataset.curves["model"])
        for name in named.names:
            curve = name if name in models else name.partition("@")[0]
            price = constants.price_per_million_tokens[name]
            rows.append(Provider(name, curve, price, like=name))
        return cls(
            named.benchmark,
            named.method,
            betas[len(betas) // 2],
            constants.margin,
            constants.value_per_answer[named.benchmark],
            constants.outside_value,
            constants.latency_value,
            "error",
            float(np.asarray(named.market.compute)[np.asarray(named.market.available)].max()),
            tuple(rows),
        )

    def checked(self) -> "State":
        """Itself; InputError in one line where a field is out of range."""
        for name, low, high, unit in (
            ("rationality", 0.0, data.LARGEST, "1/USD"),
            ("margin", 0.0, 100.0, "price over cost, less 1"),
            ("worth", 0.0, data.LARGEST, "USD"),
            ("outside", -data.LARGEST, data.LARGEST, "USD"),
            ("latency_value", 0.0, data.LARGEST, "USD per second"),
            ("most", 0.0, math.inf, "samples"),
        ):
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise InputError(
                    f"{name} = {value!r}; give a number from {low:g} to {high:g} ({unit})"
                )
        if self.margin <= 0:
            raise InputError(
                "margin = 0: who earns nothing at any level has no best one; give more"
            )
        if self.noise not in ("error", "taste"):
            raise InputError(f"noise = {self.noise!r}; use error or taste")
        if not 1 <= len(self.providers) <= MOST_PROVIDERS:
            raise InputError(f"{len(self.providers)} providers; keep 1 to {MOST_PROVIDERS}")
        seen: set[str] = set()
        for one in self.providers:
            texts = (one.name, one.curve, one.owner, one.like)
            if not all(isinstance(text, str) for text in texts) or not one.name.strip():
                raise InputError("a provider has no name; write one")
            if one.key in seen or one.name in {x.name for x in self.providers if x is not one}:
                raise InputError(f"provider {one.name}: the name is taken; write another")
            seen.add(one.key)
            if not _is_number(one.price) or not 0 < one.price <= data.LARGEST:
                raise InputError(
                    f"provider {one.name}: price {one.price!r}; give a number above 0, in USD per "
                    "million tokens"
                )
        if not any(one.on for one in self.providers):
            raise InputError("no provider is on; switch one on")
        if not 1 <= len(self.rules) <= MOST_RULES:
            raise InputError(f"{len(self.rules)} rules; compare 1 to {MOST_RULES}")
        for rule in self.rules:
            named_rule(rule)
        return self

    # ------------------------------------------------------------------------------- the market

    @property
    def taking_part(self) -> tuple[Provider, ...]:
        return tuple(one for one in self.providers if one.on)

    def constants(self, before: Constants) -> Constants:
        """What a market file of this state holds."""
        tables: dict[str, Any] = {}
        for name in (
            "input_price_per_million_tokens",
            "cached_input_price_per_million_tokens",
            "reasoning_price_per_million_tokens",
            "price_per_thousand_requests",
            "first_token_seconds",
            "tokens_per_second",
            "price_source",
        ):
            old = getattr(before, name)
            tables[name] = {x.key: old[x.like] for x in self.taking_part if x.like in old}
        return dataclasses.replace(
            before,
            **tables,
            price_per_million_tokens={x.key: float(x.price) for x in self.taking_part},
            value_per_answer=before.value_per_answer | {self.benchmark: self.worth},
            margin=self.margin,
            outside_value=self.outside,
            latency_value=self.latency_value,
            rationality=(self.rationality,),
        )

    def dataset(self, before: Dataset) -> Dataset:
        """The data set with these constants, its curves cut at the largest level."""
        table, models = before.curves, {one.curve for one in self.taking_part}
        if unknown := models - set(table["model"]):
            raise InputError(f"no curve {min(unknown)!r}; choose one of the list")
        every = tuple(dict.fromkeys(table["model"]))
        table = table[table["model"].isin(models) & (table["compute"] <= self.most)]
        constants = dataclasses.replace(
            self.constants(before.constants),
            leave_out=tuple(name for name in every if name not in models),
        )
        return Dataset(table, constants, before.source)

    def market(self, before: Dataset) -> NamedMarket:
        """InputError where nothing is left of the curves."""
        dataset = self.dataset(before)
        rows = dataset.curves
        here = rows[(rows["benchmark"] == self.benchmark) & (rows["method"] == self.method)]
        for one in self.taking_part:
            if one.curve not in set(here["model"]):
                raise InputError(
                    f"provider {one.name}: {one.curve} has no level of {self.method} on "
                    f"{self.benchmark} at or below {self.most:g}; raise the largest level, or "
                    "switch it off"
                )
        return dataset.select(self.benchmark, self.method)

    def users(self) -> Users:
        return Users.create(self.rationality, self.outside, self.noise)

    def mechanisms(self) -> dict[str, Mechanism]:
        return {name: named_rule(name) for name in self.rules}

    def owners(self) -> list[list[str]]:
        """Keys of the providers that one owner has, of owners with several."""
        owned: dict[str, list[str]] = {}
        for one in self.taking_part:
            if one.owner:
                owned.setdefault(one.owner, []).append(one.key)
        return [keys for keys in owned.values() if len(keys) > 1]

    # ---------------------------------------------------------------------------- in and out

    def to_address(self) -> str:
        """Text for the address of the page."""
        plain = json.dumps(dataclasses.astuple(self), separators=(",", ":"))
        packed = base64.urlsafe_b64encode(zlib.compress(plain.encode(), 9))
        return packed.decode().rstrip("=")

    @classmethod
    def from_address(cls, text: str) -> "State":
        """What `to_address` wrote; InputError for anything else."""
        try:
            packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(packed, 2**20)
            *fields, providers, rules = json.loads(plain)
            rows = tuple(Provider(*row) for row in providers)
            return cls(*fields, rows, tuple(rules)).checked()  # type: ignore[call-arg]
        except InputError:
            raise
        except (ValueError, TypeError, binascii.Error, zlib.error, RecursionError):
            raise InputError("the address holds no state of this page; it begins anew") from None

    def market_file(self, before: Dataset) -> str:
        """TOML that `mechlab.data.load` reads as this market."""
        note = (
            f"# {self.benchmark}, {self.method}, of {before.source}: made with mechlab explore.\n"
        )
        return note + data.constants_toml(self.dataset(before).constants)

    def script(self, curves: str) -> str:
        """Lines of Python that print the page's figures, with the market file beside them."""
        return f"""\
import dataclasses, jax, mechlab
from mechlab.mechanisms.catalogue import named_rule
jax.config.update("jax_enable_x64", True)
data = mechlab.data.load({curves!r}, "market.toml")  # the market file of the page
data = dataclasses.replace(data, curves=data.curves[data.curves["compute"] <= {self.most:g}])
market = data.select({self.benchmark!r}, {self.method!r}).net_of_waiting().market
users = mechlab.Users.create({self.rationality!r}, {self.outside!r}, {self.noise!r})
rules = {{name: named_rule(name) for name in {list(self.rules)!r}}}
for name, found in mechlab.evaluate(market, users, rules).items():
    print(name, *(1000 * float(x) for x in (found.user_cost, found.user_value, found.welfare)))
"""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
