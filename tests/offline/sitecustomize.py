"""Put this folder on PYTHONPATH and no name resolves but those of this machine.

Python imports ``sitecustomize`` at every start, so the notebooks' kernels are covered too: what a
notebook fetches without being asked fails its test. The packages that ``ABSENT_PACKAGES``
names are not found, as if they were not installed.
"""

import os
import socket
from importlib.machinery import PathFinder

_resolve = socket.getaddrinfo


# as untyped as what it stands for
def _only_local(host, *args, **kwargs):  # type: ignore[no-untyped-def]
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()):
        raise socket.gaierror(f"tests run without a network; {host!r} was asked for")
    return _resolve(host, *args, **kwargs)


socket.getaddrinfo = _only_local


_absent = set(os.environ.get("ABSENT_PACKAGES", "").split())
_find_spec = PathFinder.find_spec


# as untyped as what it stands for
def _find_present(_finder, name, path=None, target=None):  # type: ignore[no-untyped-def]
    return None if name.split(".")[0] in _absent else _find_spec(name, path, target)


if _absent:
    # as untyped as what it stands for
    PathFinder.find_spec = classmethod(_find_present)  # type: ignore[assignment, method-assign]
