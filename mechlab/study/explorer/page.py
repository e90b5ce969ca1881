"""The page itself: Dash's layout and what answers to a moved control."""

import collections
import dataclasses
import logging
import math
import pathlib
import socket
import threading
import webbrowser
from typing import Any

import dash
from dash import ALL, Input, Output, Patch, dcc, html
from dash import State as Given

from mechlab.core.errors import InputError
from mechlab.data import Dataset
from mechlab.mechanisms.catalogue import NUMBERED, RULES
from mechlab.populations import Published
from mechlab.simulation.simulate import Simulation, simulate
from mechlab.study.explorer import answers, views
from mechlab.study.explorer.guard import LOCAL, checked_host, guard
from mechlab.study.explorer.state import Provider, State

MARKETS = 10_000
_KNOWN = [f"{name}={NUMBERED[name]}" if name in NUMBERED else name for name in RULES]
_NUMBERS = {
    # field: (label, slider's ends and step, the slider's position of a value and the way back)
    "rationality": ("Rationality β of users (1/USD)", 0.0, 6.0, 0.05, True),
    "margin": ("Margin: price over cost, less 1", 0.01, 1.0, 0.01, False),
    "worth": ("Worth of a right answer (USD)", -4.0, 0.0, 0.02, True),
    "outside": ("Outside option (USD per query)", -0.01, 0.01, 0.0005, False),
    "latency_value": ("A second of waiting (USD)", 0.0, 0.001, 0.00001, False),
}
_COLUMNS = ("on", "name", "curve", "price", "owner")
_HERE = pathlib.Path(__file__).parent


def build(
    dataset: Dataset, state: State, curves: str = "published", hosts: tuple[str, ...] = LOCAL
) -> dash.Dash:
    """The application; `state` is what it shows without an address that says another.

    It answers to the names `hosts` alone; see `guard`.
    """
    app = dash.Dash(
        "mechlab.explorer",
        title="mechlab explore",
        update_title=None,
        suppress_callback_exceptions=True,
        add_log_handler=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = (
        '<!doctype html><html lang="en"><head>{%metas%}<title>{%title%}</title>'
        f'<link rel="icon" href="data:,">{{%css%}}<style>{_text("page.css")}</style>'
        f"<script>{_text('page.js')}</script></head>"
        "<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"
    )
    app.layout = html.Div(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Store(id="asked"),
            dcc.Store(id="answered"),
            dcc.Store(id="shown"),
            html.Main(
                id="page",
                children=[
                    html.Section(id="controls", **{"aria-label": "controls"}),
                    html.Section([_views()], **{"aria-label": "answers"}),
                ],
            ),
        ]
    )
    _controls(app, dataset, state)
    _answers(app, dataset, curves)
    _populations(app, dataset)
    guard(app, hosts)
    return app


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def serve(
    dataset: Dataset,
    state: State,
    curves: str,
    *,
    port: int = 8050,
    host: str | None = None,
    browser: bool = True,
) -> None:
    """Serve the page on this machine alone until the program is stopped.

    `host` is another name to answer to, as that of a proxy on this machine.
    """
    hosts = checked_host(host)
    with socket.socket() as probe:  # before anything is compiled
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}; give another") from None
    answers.answer(state, dataset)  # compiles
    app = build(dataset, state, curves, hosts)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    address = f"http://127.0.0.1:{port}/"
    print(f"mechlab explore: {address} (Ctrl-C ends it)", flush=True)
    if browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    app.run(host="127.0.0.1", port=port, debug=False)


# ------------------------------------------------------------------------------------- controls


def _labelled(label: str, control: Any) -> html.Div:
    return html.Div([html.Label(label, htmlFor=control.id), control])


def _number(name: str, value: float) -> html.Div:
    label, low, high, step, logarithmic = _NUMBERS[name]
    place = math.log10(value) if logarithmic and value > 0 else value
    place = min(max(low, place), high)
    return html.Div(
        [
            html.Label(label, htmlFor=name),
            html.Div(
                className="number",
                children=[
                    dcc.Slider(
                        low,
                        high,
                        step,
                        value=place,
                        id={"slider": name},
                        marks=None,
                        updatemode="drag",
                        allow_direct_input=False,
                    ),
                    dcc.Input(id=name, value=f"{value:.6g}", debounce=True, inputMode="decimal"),
                ],
            ),
        ]
    )


def _line(number: int, one: Provider) -> html.Tr:
    def named(column: str) -> dict[str, Any]:
        return {"column": column, "line": number}

    def cell(column: str, **options: Any) -> html.Td:
        box = dcc.Input(id=named(column), debounce=True, autoComplete="off", **options)
        return html.Td(box, className=column)

    return html.Tr(
        [
            html.Td(
                dcc.Checklist(
                    [{"label": "", "value": "on"}],
                    ["on"] if one.on else [],
                    id=named("on"),
                    **{"className": "on"},
                ),
                title=f"{one.name} takes part",
            ),
            cell("name", value=one.name),
            cell("curve", value=one.curve, list="curves"),
            cell("price", value=f"{one.price:g}", inputMode="decimal"),
            cell("owner", value=one.owner),
            html.Td(
                html.Button(
                    "+",
                    id={"copy": number},
                    title=f"another provider like {one.name}",
                    **{"aria-label": f"another provider like {one.name}"},
                )
            ),
        ]
    )


def _table(state: State) -> html.Table:
    head = ("on", "name", "curve", "USD/M", "owner", "")
    return html.Table(
        [
            html.Thead(html.Tr([html.Th(title, scope="col") for title in head])),
            html.Tbody([_line(number, one) for number, one in enumerate(state.providers)]),
        ]
    )


def _levels(dataset: Dataset, benchmark: str, method: str) -> list[float]:
    rows = dataset.curves
    rows = rows[(rows["benchmark"] == benchmark) & (rows["method"] == method)]
    return sorted(set(map(float, rows["compute"])))


def _all_controls(dataset: Dataset, state: State, note: str) -> list[Any]:
    priced = [name for name in dataset.benchmarks if name in dataset.constants.value_per_answer]
    levels = _levels(dataset, state.benchmark, state.method)
    curves = dict.fromkeys(dataset.curves["model"])
    timed = bool(dataset.constants.tokens_per_second) or "latency" in dataset.curves

    def pick(name: str, options: list[Any], value: Any) -> dcc.Dropdown:
        return dcc.Dropdown(options, value, id=name, clearable=False, searchable=False)

    numbers = [name for name in _NUMBERS if timed or name != "latency_value"]
    hidden = [] if timed else [dcc.Input(id="latency_value", value="0", type="hidden")]
    return [
        html.H1("A market of LLM inference, by hand"),
        html.Div(note, id="note", className="small", role="status"),
        html.Div(
            className="pair",
            children=[
                _labelled("Benchmark", pick("benchmark", priced, state.benchmark)),
                _labelled(
                    "Method",
                    pick(
                        "method",
                        [
                            {"label": one.replace("_", " "), "value": one}
                            for one in dataset.methods(state.benchmark)
                        ],
                        state.method,
                    ),
                ),
            ],
        ),
        *[_number(name, getattr(state, name)) for name in numbers],
        *hidden,
        html.Div(
            className="pair",
            children=[
                _labelled("Noise in choices is", pick("noise", ["error", "taste"], state.noise)),
                _labelled(
                    "Largest level",
                    pick(
                        "most", [{"label": f"{one:g}", "value": one} for one in levels], state.most
                    ),
                ),
            ],
        ),
        html.Label("Rules to compare (name, or name=number)", htmlFor="rules"),
        dcc.Input(id="rules", value=", ".join(state.rules), debounce=True),
        html.Div("Known: " + ", ".join(_KNOWN), className="small"),
        html.H2("Providers"),
        html.Div(
            "curve: whose accuracy and tokens; USD/M: price of a million tokens; owner: one name "
            "for those that choose together.",
            className="small",
        ),
        html.Div(_table(state), id="lines", className="lines"),
        html.Datalist([html.Option(value=name) for name in curves], id="curves"),
        dcc.Store(id="like", data=[one.like for one in state.providers]),
    ]


def _controls(app: dash.Dash, dataset: Dataset, first: State) -> None:
    @app.callback(Output("controls", "children"), Input("address", "search"))
    def restore(search: str | None):
        text = (search or "").removeprefix("?s=")
        try:
            state = State.from_address(text) if text else first
            state.market(dataset)
            return _all_controls(dataset, state, "")
        except InputError as error:
            return _all_controls(dataset, first, str(error))

    @app.callback(
        Output("method", "options"),
        Output("method", "value"),
        Output("most", "options"),
        Output("most", "value"),
        Output("lines", "children"),
        Output("like", "data"),
        Output("worth", "value"),
        Input("benchmark", "value"),
        Input("method", "value"),
        prevent_initial_call=True,
    )
    def other_curves(benchmark: str, method: str):
        """Another benchmark or method has other levels, and maybe other models."""
        methods = dataset.methods(benchmark)
        method = method if method in methods else methods[0]
        state = State.first(dataset, benchmark, method)
        levels = _levels(dataset, benchmark, method)
        moved = dash.ctx.triggered_id == "benchmark"
        worth = f"{state.worth:.6g}" if moved else dash.no_update
        return (
            [{"label": one.replace("_", " "), "value": one} for one in methods],
            method,
            [{"label": f"{one:g}", "value": one} for one in levels],
            levels[-1],
            _table(state),
            [one.like for one in state.providers],
            worth,
        )

    @app.callback(
        Output("lines", "children", allow_duplicate=True),
        Output("like", "data", allow_duplicate=True),
        Input({"copy": ALL}, "n_clicks"),
        Given({"column": ALL, "line": ALL}, "value"),
        Given("like", "data"),
        prevent_initial_call=True,
    )
    def copy(clicks: list[int | None], values: list[Any], like: list[str]):
        if not any(clicks) or dash.ctx.triggered_id is None:
            return dash.no_update, dash.no_update
        rows = _rows(values, like)
        source = rows[dash.ctx.triggered_id["copy"]]
        names, number = {one.name for one in rows}, 2
        while f"{source.name} {number}" in names:
            number += 1
        new = dataclasses.replace(source, name=f"{source.name} {number}", owner="", on=True)
        table = Patch()
        table["props"]["children"][1]["props"]["children"].append(_line(len(rows), new))
        return table, [*like, source.like]

    # what a slider says goes to its field, and back, without a round trip
    for name, (_, low, high, _, logarithmic) in _NUMBERS.items():
        app.clientside_callback(
            f"""function (place, text) {{
                const moved = dash_clientside.callback_context.triggered.some(
                    one => one.prop_id.includes("slider"));
                const said = Number(text), none = dash_clientside.no_update;
                const to = {"x => Math.pow(10, x)" if logarithmic else "x => x"};
                const from = {"x => Math.log10(x)" if logarithmic else "x => x"};
                if (moved) {{
                    const value = Number(to(place).toPrecision(4));
                    const now = Math.min({high}, Math.max({low}, from(said)));
                    return Math.abs(now - place) < 1e-9 ? [none, none] : [none, String(value)];
                }}
                const there = Math.min({high}, Math.max({low}, from(said)));
                return [Number.isFinite(there) ? there : none, none];
            }}""",
            Output({"slider": name}, "value"),
            Output(name, "value", allow_duplicate=True),
            Input({"slider": name}, "value"),
            Input(name, "value"),
            prevent_initial_call=True,
        )


def _rows(values: list[Any], like: list[str]) -> list[Provider]:
    """Lines of the table from its fields, one after the other."""
    rows = []
    for number in range(0, len(values), len(_COLUMNS)):
        on, name, curve, price, owner = values[number : number + len(_COLUMNS)]
        of = number // len(_COLUMNS)
        rows.append(
            Provider(
                str(name or "").strip(),
                str(curve or "").strip(),
                _float(price, f"{name}: price"),
                bool(on),
                str(owner or "").strip(),
                like[of] if of < len(like) else str(curve),
            )
        )
    return rows


def _float(text: Any, name: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise InputError(f"{name} = {text!r}; write a number") from None


# -------------------------------------------------------------------------------------- answers


def _views() -> html.Div:
    def graph(name: str, label: str) -> html.Div:
        return html.Div(
            dcc.Graph(id=name, config={"displaylogo": False, "displayModeBar": False}),
            role="img",
            **{"aria-label": label},
        )

    return html.Div(
        id="answers",
        children=[
            html.Div("computing; something new is compiled first", id="busy", className="small"),
            html.Div(id="error", role="alert"),
            html.Div(
                id="views",
                children=[
                    html.Div(
                        [
                            html.H2("Value offered, and what is chosen (USD per 1,000 queries)"),
                            graph("value", "value offered by each provider against compute"),
                        ],
                        className="broad",
                    ),
                    html.Div(
                        [html.H2("Who serves"), graph("service", "shares of queries by rule")]
                    ),
                    html.Div(
                        [
                            html.H2("What users pay and get"),
                            html.Div(id="numbers", className="lines"),
                            html.Div(id="merger"),
                        ]
                    ),
                    html.Div(
                        [
                            html.H2("Waste of pay-per-compute"),
                            graph("waste", "waste over rationality"),
                        ]
                    ),
                    html.Div(
                        [
                            html.H2("Who gains by deviating"),
                            graph("gains", "the largest gain of one provider by rule and lever"),
                            html.Button("Search prices and reports too", id="search"),
                            html.Span(id="searched", className="small", role="status"),
                        ]
                    ),
                    html.Div(
                        [
                            html.H2(f"{MARKETS:,} markets around this one"),
                            html.Div(
                                "Providers resampled with shocks of 0.2 on prices, tokens and "
                                "odds; margins, worth and β from half to twice what is set.",
                                className="small",
                            ),
                            html.Button("Draw", id="draw"),
                            html.Button("Cancel", id="cancel", disabled=True),
                            html.Span(id="drawn", className="small", role="status"),
                            dcc.Interval(id="tick", interval=300, disabled=True),
                            html.Div(
                                graph("population", "percentiles of what users pay over markets"),
                                id="around",
                                hidden=True,
                            ),
                        ],
                        className="broad",
                    ),
                ],
            ),
            html.Details([html.Summary("This as a script"), html.Pre(id="script")]),
            html.Details([html.Summary("This as a market file"), html.Pre(id="file")]),
        ],
    )


def _numbers(found: answers.Answer) -> html.Table:
    net = found.state.outside != 0  # then rules are compared by what they add to it
    head = ["USD per 1,000 queries", "users pay", "users get", "providers earn", "welfare"]
    head += ["less outside option"] * net + ["accuracy"]
    rows = []
    for rule, one in found.rules.items():
        out = one.outcome
        money = [out.user_cost, out.user_value, out.provider_utility.sum(), out.welfare]
        money += [out.net_welfare] * net
        cells = [f"{1000 * float(x):.4f}" for x in money] + [f"{100 * float(out.accuracy):.2f} %"]
        title = html.Td(rule.replace("_", " "))
        rows.append(html.Tr([title, *map(html.Td, cells)], id={"rule": rule}))
    return html.Table(
        [html.Thead(html.Tr([html.Th(x, scope="col") for x in head])), html.Tbody(rows)],
        className="figures",
    )


def _merger(found: answers.Answer) -> list[Any]:
    if not found.merger:
        return []
    lines: list[Any] = [html.H2("What common owners change")]
    for row in found.merger:
        pays, before = 1000 * row["user_cost"], 1000 * row["user_cost_apart"]
        title = row["rule"].replace("_", " ")
        lines.append(html.Div(f"{title}: users pay {pays:.4f}, {before:.4f} if apart"))
    return lines


class _Questions:
    """What each page asks, numbered: only the newest is answered, and one at a time."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        self.turn = threading.Lock()

    def ask(self, page: str, number: int) -> None:
        self._newest[page] = max(number, self._newest.get(page, 0))

    def is_newest(self, page: str, number: int) -> bool:
        return self._newest[page] == number


def _answers(app: dash.Dash, dataset: Dataset, curves: str) -> None:
    fields = ("benchmark", "method", "noise", "most", *_NUMBERS)
    questions = _Questions()

    app.clientside_callback(
        """function (...values) {
            window.asked = window.asked || [Math.random().toString(36).slice(2), 0];
            window.asked = [window.asked[0], window.asked[1] + 1];
            return [[...window.asked, ...values], "busy", true, true];
        }""",
        Output("asked", "data"),
        Output("answers", "className"),
        Output("draw", "disabled"),
        Output("search", "disabled"),
        *[Input(name, "value") for name in fields],
        Input("rules", "value"),
        Input({"column": ALL, "line": ALL}, "value"),
    )

    # what is not the answer to the controls stays pale; what is drawn and searched starts from it
    app.clientside_callback(
        """function (answered, error) {
            const late = String(window.asked) !== String(answered);
            return [late ? "busy" : error ? "stale" : "", late || !!error, late || !!error];
        }""",
        Output("answers", "className", allow_duplicate=True),
        Output("draw", "disabled", allow_duplicate=True),
        Output("search", "disabled", allow_duplicate=True),
        Input("answered", "data"),
        Input("error", "children"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("answered", "data"),
        Output("shown", "data"),
        Output("error", "children"),
        Output("value", "figure"),
        Output("service", "figure"),
        Output("waste", "figure"),
        Output("gains", "figure"),
        Output("numbers", "children"),
        Output("merger", "children"),
        Output("script", "children"),
        Output("file", "children"),
        Output("searched", "children"),
        Input("asked", "data"),
        Given("like", "data"),
        prevent_initial_call=True,
    )
    def show(asked: list[Any], like: list[str]):
        page, number, *values, rules, lines = asked
        questions.ask(page, number)
        given = dict(zip(fields, values, strict=True))
        try:
            numbers = {name: _float(given[name], name) for name in _NUMBERS}
            names = tuple(dict.fromkeys(x.strip() for x in (rules or "").split(",") if x.strip()))
            state = State(
                benchmark=given["benchmark"],
                method=given["method"],
                noise=given["noise"],
                most=_float(given["most"], "largest level"),
                providers=tuple(_rows(lines, like)),
                rules=names,
                **numbers,
            )
            with questions.turn:
                found = (
                    answers.answer(state, dataset) if questions.is_newest(page, number) else None
                )
        except InputError as error:
            return [[page, number], dash.no_update, str(error)] + [dash.no_update] * 9
        if found is None or not questions.is_newest(page, number):
            return [dash.no_update] * 12
        return [
            [page, number],
            state.to_address(),
            "",
            views.value_curves(found),
            views.service(found),
            views.waste(found),
            views.deviations(found, None),
            _numbers(found),
            _merger(found),
            state.script(curves),
            state.market_file(dataset),
            views.without_levels(found),
        ]

    # the address holds the state; it is written, and read only when the page is loaded
    app.clientside_callback(
        """function (shown) {
            if (shown) { window.history.replaceState(null, "", "?s=" + shown); }
            return window.dash_clientside.no_update;
        }""",
        Output("shown", "modified_timestamp"),
        Input("shown", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("gains", "figure", allow_duplicate=True),
        Output("searched", "children", allow_duplicate=True),
        Input("search", "n_clicks"),
        Given("shown", "data"),
        Given("asked", "data"),
        Given("answered", "data"),
        prevent_initial_call=True,
        running=[
            (Output("search", "disabled"), True, False),
            (Output("search", "children"), "Searching…", "Search prices and reports too"),
        ],
    )
    def searched(_: int, shown: str, asked: list[Any], answered: list[Any]):
        if answered != asked[:2]:  # pressed while another market is on its way
            return dash.no_update, dash.no_update
        state = State.from_address(shown)
        found = answers.answer(state, dataset)
        figure = views.deviations(found, answers.gains(state, dataset))
        if not questions.is_newest(*asked[:2]):
            return dash.no_update, dash.no_update
        return figure, " a lower bound: the best that the search found"


# ----------------------------------------------------------------------------------- population


class _Cancelled(Exception):
    pass


class Job:
    """Markets around a state, drawn in the background; one at a time for each page."""

    def __init__(self) -> None:
        self.done, self.error = 0, ""
        self.found: Simulation | None = None
        self._cancelled = False
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, state: State, dataset: Dataset) -> None:
        self.cancel()
        self.done, self.found, self.error, self._cancelled = 0, None, "", False
        self._thread = threading.Thread(target=self._run, args=(state, dataset), daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """What was drawn, or is being drawn, is of a market that is no longer shown."""
        self._cancelled, self.found, self.error = True, None, ""

    def cancel(self) -> None:
        self._cancelled = True
        if self._thread is not None:
            self._thread.join()

    def _run(self, state: State, dataset: Dataset) -> None:
        try:
            found = around(state, dataset, self._advance)
            self.found = None if self._cancelled else found
        except _Cancelled:
            self.error = "cancelled"
        except InputError as error:
            self.error = str(error)

    def _advance(self, done: int) -> None:
        self.done = done
        if self._cancelled:
            raise _Cancelled


def around(
    state: State, dataset: Dataset, progress: Any = None, markets: int = MARKETS
) -> Simulation:
    """Markets around a state, under its rules."""
    named = state.checked().market(dataset)
    population = Published.around(
        named,
        margin=(state.margin / 2, 2 * state.margin),
        rationality=(max(state.rationality, 1e-6) / 2, 2 * max(state.rationality, 1e-6)),
        value_factor=(0.5, 2.0),
    )
    return simulate(population, markets, rules=state.mechanisms(), progress=progress, chunk=1000)


def _populations(app: dash.Dash, dataset: Dataset) -> None:
    jobs: dict[str, Job] = collections.defaultdict(Job)

    @app.callback(
        Output("drawn", "children"),
        Output("population", "figure"),
        Output("around", "hidden"),
        Output("tick", "disabled"),
        Output("cancel", "disabled"),
        Input("draw", "n_clicks"),
        Input("cancel", "n_clicks"),
        Input("tick", "n_intervals"),
        Input("shown", "data"),
        Given("asked", "data"),
        prevent_initial_call=True,
    )
    def population(_, __, ___, shown: str, asked: list[Any]):
        job, pressed = jobs[asked[0]], dash.ctx.triggered_id
        if pressed == "shown":
            job.forget()
            return "", dash.no_update, True, True, True
        if pressed == "draw":
            job.start(State.from_address(shown), dataset)
        elif pressed == "cancel":
            job.cancel()
        if job.running:
            told = f" {job.done:,} of {MARKETS:,}" if job.done else " compiling"
            return told, dash.no_update, dash.no_update, False, False
        if job.found is None:
            return f" {job.error}", dash.no_update, dash.no_update, True, True
        return f" {MARKETS:,} markets", views.population(job.found), False, True, True
