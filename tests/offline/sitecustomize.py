"""Put this folder on PYTHONPATH and no name resolves but those of this machine.

Python imports ``sitecustomize`` at every start, so the notebooks' kernels are covered too: what a
notebook fetches without being asked fails its test.
"""

import socket

_resolve = socket.getaddrinfo


def _only_local(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()):
        raise socket.gaierror(f"tests run without a network; {host!r} was asked for")
    return _resolve(host, *args, **kwargs)


socket.getaddrinfo = _only_local
