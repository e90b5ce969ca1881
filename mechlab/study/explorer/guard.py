"""Who may ask the explorer's server what: this machine's names, the page itself, known paths.

A web page elsewhere can point its own name at 127.0.0.1 (DNS rebinding) and so read what is served
here, unless the server refuses names that are not its own.
"""

import re
import sys
from typing import Any
from urllib.parse import urlsplit

import dash
import flask
from dash.exceptions import DashException
from werkzeug.exceptions import HTTPException

from mechlab.core.errors import InputError

LOCAL = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::\d{1,5})?")
_CALLBACKS = "/_dash-update-component"
_MALFORMED = (DashException, LookupError, TypeError, ValueError, AttributeError, RecursionError)


def checked_host(name: str | None) -> tuple[str, ...]:
    """Names that the page answers to; InputError for one that is no host name."""
    if name is None:
        return LOCAL
    found = _HOST.fullmatch(name.lower())
    if found is None or found[1] != name.lower():
        raise InputError(f"--host {name}: no host name; give one without port, as lab.example")
    return (*LOCAL, name.lower())


def guard(app: dash.Dash, hosts: tuple[str, ...] = LOCAL) -> None:
    """Refuse requests that the page at one of these names does not make.

    400: another Host, or a malformed callback; 403: a callback of another origin; 404: an unknown
    path. None of them leaves a traceback in the terminal.
    """
    server: flask.Flask = app.server

    @server.before_request
    def check() -> None:
        host = flask.request.headers.get("Host", "").lower()
        named = _HOST.fullmatch(host)
        if named is None or named[1] not in hosts:
            flask.abort(400, f"the page answers to {', '.join(hosts)}; see --host")
        # Dash answers every other path with the page
        if flask.request.url_rule is not None and flask.request.url_rule.rule == "/<path:path>":
            flask.abort(404)
        if flask.request.method not in ("GET", "HEAD", "OPTIONS"):
            origin = urlsplit(flask.request.headers.get("Origin", "").lower())
            if origin.scheme not in ("http", "https") or origin.netloc != host:
                flask.abort(403, "only the page itself may ask this")

    def refuse(error: Exception) -> Any:
        """What Dash or a callback of the page cannot read."""
        if isinstance(error, HTTPException):
            return error
        if flask.request.path != _CALLBACKS:
            return "", 404
        print(f"mechlab explore: a malformed callback ({type(error).__name__})", file=sys.stderr)
        return "malformed callback", 400

    for kind in _MALFORMED:
        server.register_error_handler(kind, refuse)
