"""Environment variables that Ray's nodes need for the endpoints, set before Ray starts there."""

import os

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = "serve.front.shedding:middlewares"
"""Middlewares in Serve's proxy that protect the endpoints."""

NODE_VARIABLES = {
    PROXY_VARIABLE: PROXY_CALLBACK,
    # Proxy, ingress and engines then call each other by gRPC. With Ray's actor calls, which are the
    # default, a streamed answer costs them 1.7 times the CPU time.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
}
"""Name -> value. The files in cluster/ have them, too."""


def set_node_variables() -> None:
    """Set those that are not set, for the Ray that this process starts next."""
    for name, value in NODE_VARIABLES.items():
        os.environ.setdefault(name, value)
