"""Downloads from a real web server, and the gate against altered files."""

import hashlib
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pooch
import pytest

from mtl_tutorial.datasets import _fetch, _registry, mnist
from mtl_tutorial.datasets.__main__ import main

FILE = "mnist/t10k-labels-idx1-ubyte.gz"
TIMEOUT = (0.5, 0.3)
# What a mirror does, and what the line about it says.
FAILURES = {
    "missing": "404",
    "wrong": "SHA256 hash .* does not match",
    "cut": "IncompleteRead|Connection broken",
    "stalled": "timed out",
    "silent": "timed out",
}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "PAUSES", (0.01, 0.02))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def get(folder: Path, *urls: str) -> None:
    _fetch.fetch_file(FILE, folder, [url + Path(FILE).name for url in urls], TIMEOUT, False)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_mirror_then_a_good_one(
    failure: str,
    server: SimpleNamespace,
    cache: Path,
    known: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    get(cache, server.url(failure), server.url("good"))
    assert files(cache) == {FILE}
    assert (cache / FILE).read_bytes() == known[FILE]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{FILE}: no luck with {server.url(failure)}")
    assert re.search(FAILURES[failure], line)


@pytest.mark.parametrize("way", ["good", "slow", "labelled"])
def test_a_good_mirror_needs_no_second(way: str, server: SimpleNamespace, cache: Path) -> None:
    get(cache, server.url(way), server.url("good"))
    assert server.requests == [f"/{way}/{FILE}"]
    assert (cache / FILE).stat().st_mode & 0o777 == 0o644


def test_a_busy_server_is_asked_again_before_the_next(
    server: SimpleNamespace,
    cache: Path,
    known: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    get(cache, server.url("busy-once"), server.url("good"))
    assert server.requests == [f"/busy-once/{FILE}"] * 2
    assert (cache / FILE).read_bytes() == known[FILE]
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"/busy-once/.* is busy \(503\), again in 0\.01 s$", line)


def test_a_server_that_stays_busy_is_asked_three_times(
    server: SimpleNamespace, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(cache, server.url("busy"), server.url("missing"), server.url("good"))
    assert server.requests == [
        *[f"/busy/{FILE}"] * 3, f"/missing/{FILE}", f"/good/{FILE}"
    ]  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert ["again in" in line for line in lines] == [True, True, False, False]
    assert "no luck" in lines[2]
    assert "503" in lines[2]


def test_a_folder_where_a_file_belongs_and_a_file_where_a_folder_does(
    server: SimpleNamespace, cache: Path, tmp_path: Path
) -> None:
    (cache / FILE / "kept").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"labels-idx1-ubyte\.gz is a folder, where a file"):
        get(cache, server.url("good"))
    assert (cache / FILE / "kept").is_dir()
    (tmp_path / "mnist").write_text("mine")
    for folder in (tmp_path, tmp_path / "mnist"):
        with pytest.raises(NotADirectoryError, match="mnist is a file, where a folder belongs"):
            get(folder, server.url("good"))
    assert (tmp_path / "mnist").read_text() == "mine"
    assert server.requests == []


def test_a_file_given_as_the_folder_is_no_lack_of_data(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"the folder .*file is a file; give the"):
        mnist("auto", file)


def test_all_fail_and_nothing_is_left(
    server: SimpleNamespace, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match=f"{FILE}: every mirror failed; nothing was kept"):
        get(cache, *map(server.url, FAILURES))
    assert time.monotonic() - start < 3
    assert list(tmp_path.iterdir()) == []
    assert len(capsys.readouterr().err.splitlines()) == len(FAILURES)


def test_nobody_listens(cache: Path, known: dict[str, bytes], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OSError, match="every mirror failed"):
        get(cache, f"http://127.0.0.1:{port}/", "http://127.0.0.1:bad/", "nonsense")
    assert list(tmp_path.iterdir()) == []


def test_interrupted(
    server: SimpleNamespace, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.core, "hash_matches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(cache, server.url("good"))
    assert list(tmp_path.iterdir()) == []


def test_a_verified_file_is_not_downloaded_again(server: SimpleNamespace, cache: Path) -> None:
    get(cache, server.url("good"))
    get(cache, server.url("good"))
    assert len(server.requests) == 1


def test_an_altered_file_is_replaced(
    server: SimpleNamespace,
    cache: Path,
    known: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    get(cache, server.url("good"))
    (cache / FILE).write_bytes(known[FILE][:-1])
    get(cache, server.url("good"))
    assert (cache / FILE).read_bytes() == known[FILE]
    assert f"{cache / FILE}: removed. SHA-256 expected" in capsys.readouterr().err


def test_an_altered_file_is_not_kept_when_all_fail(server: SimpleNamespace, cache: Path) -> None:
    (cache / FILE).parent.mkdir(parents=True)
    (cache / FILE).write_bytes(b"altered")
    with pytest.raises(OSError, match="every mirror failed"):
        get(cache, server.url("cut"))
    assert files(cache) == set()


def use(
    monkeypatch: pytest.MonkeyPatch, server: SimpleNamespace, ways: dict[str, tuple[str, ...]]
) -> None:
    """Replace all mirrors by ones that behave as said."""
    mirrors = {
        dataset: tuple(server.url(name, dataset) for name in names)
        for dataset, names in ways.items()
    }
    monkeypatch.setattr(_registry, "MIRRORS", mirrors)


def test_command_line(
    monkeypatch: pytest.MonkeyPatch,
    server: SimpleNamespace,
    cache: Path,
    known: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, server, {"mnist": ("cut", "good"), "fashion-mnist": ("good", "cut")})
    assert main([]) == 0
    assert files(cache) == set(known)
    out, err = capsys.readouterr()
    assert str(cache) in out
    assert err.count("no luck") == 4
    assert "100%" in err
    assert mnist("auto").source == "real"


def test_command_line_with_a_folder(
    monkeypatch: pytest.MonkeyPatch,
    server: SimpleNamespace,
    cache: Path,
    known: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, server, {"mnist": ("good",), "fashion-mnist": ("good",)})
    folder = cache.parent / "data"
    assert main(["--folder", str(folder)]) == 0
    assert files(folder) == set(known)
    assert not cache.exists()
    assert f"{_fetch.VARIABLE}={folder}" in capsys.readouterr().out
    assert mnist("real", folder).source == "real"


def test_command_line_failure(
    monkeypatch: pytest.MonkeyPatch,
    server: SimpleNamespace,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, server, {"mnist": ("missing", "cut"), "fashion-mnist": ("wrong", "missing")})
    assert main([]) == 1
    assert list(tmp_path.iterdir()) == []
    err = capsys.readouterr().err
    assert err.count("no luck") == 4
    assert err.count("every mirror failed") == 2
    assert "Failed: mnist, fashion-mnist." in err


def test_one_set_down_does_not_hold_up_the_other(
    monkeypatch: pytest.MonkeyPatch, server: SimpleNamespace, cache: Path
) -> None:
    use(monkeypatch, server, {"mnist": ("missing",), "fashion-mnist": ("good",)})
    assert main([]) == 1
    assert len(files(cache)) == 4


def test_registry() -> None:
    assert {name.split("/")[0] for name in _registry.SHA256} == set(_registry.MIRRORS)
    assert len(set(_registry.SHA256.values())) == len(_registry.SHA256)
    for mirrors in _registry.MIRRORS.values():
        assert len(mirrors) >= 2
        assert all(url.startswith("http") and url.endswith(("/", "#")) for url in mirrors)
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in _registry.SHA256.values())


def flip_one_byte(path: Path, place: int) -> tuple[str, str]:
    """Change a file; give its hashes before and after."""
    content = bytearray(path.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[place] ^= 1
    path.write_bytes(content)
    return before, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("place", [0, 9, 20, -1])
def test_gate_one_flipped_byte(place: int, tmp_path: Path, fill: Callable[[Path], Path]) -> None:
    folder = fill(tmp_path)
    assert mnist("auto", folder).source == "real"
    expected, found = flip_one_byte(folder / FILE, place)
    for source in ("auto", "real"):
        message = f"^{folder / FILE}: .*expected {expected}, found {found}: .*`make data`"
        with pytest.raises(ValueError, match=message):
            mnist(source, folder)


def test_gate_one_flipped_byte_in_the_real_file(tmp_path: Path, real: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir()
    shutil.copyfile(real / FILE, path)
    assert _fetch.read_verified(tmp_path, FILE) == path.read_bytes()
    expected, found = flip_one_byte(path, 2000)
    assert expected == _registry.SHA256[FILE]
    with pytest.raises(ValueError, match=f"{FILE}: .*expected {expected}, found {found}"):
        _fetch.read_verified(tmp_path, FILE)
