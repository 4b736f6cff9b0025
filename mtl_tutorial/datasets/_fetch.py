"""Find, verify and download files of the registry: the only place that does."""

import hashlib
import os
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mtl_tutorial.datasets import _registry

VARIABLE = "MTL_TUTORIAL_DATA"
SOURCES = ("auto", "real", "embedded")
BUSY = {429, 500, 502, 503, 504}  # what a server answers that may well answer otherwise soon
PAUSES = (1.0, 3.0)  # seconds before an address that was busy is tried again


def cache_folder() -> Path:
    """Give the folder that ``make data`` fills, whether or not it exists."""
    import pooch

    return Path(pooch.os_cache("mtl_tutorial"))


def file_names(dataset: str) -> list[str]:
    """List the files of a data set, relative to the data folder."""
    return [name for name in _registry.SHA256 if name.startswith(f"{dataset}/")]


def locate(
    dataset: str,
    source: str,
    folder: str | os.PathLike[str] | None,
    instead: str = "scikit-learn's small embedded digits",
) -> Path | None:
    """Find the data folder to read from; call it directly from the public function.

    Parameters
    ----------
    dataset : str
        The data set's folder in the registry.
    source : {"auto", "real", "embedded"}
        Real files where they are found, real files or an error, or no look at the disk.
    folder : path, optional
        The only place to look. By default the folder that the environment variable
        ``MTL_TUTORIAL_DATA`` names, then the cache.
    instead : str
        What the embedded data is, for the warning.

    Returns
    -------
    Path or None
        The folder with all files of the set; None for the embedded data.

    Raises
    ------
    ValueError
        If ``source`` is none of the three.
    FileNotFoundError
        If ``folder`` lacks a file, or if ``source`` is ``"real"`` and nothing was found.

    Warns
    -----
    UserWarning
        If ``source`` is ``"auto"`` and nothing was found.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}, not {source!r}")
    if source == "embedded":
        return None
    if folder is not None:
        places = {"the folder": Path(folder).expanduser().absolute()}
    else:
        places = {"the cache": cache_folder()}
        if os.environ.get(VARIABLE):
            variable = Path(os.environ[VARIABLE]).expanduser().absolute()
            places = {VARIABLE: variable, **places}

    lacking = {}
    for label, root in places.items():
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(f"{label} {root} is a file; give the folder of the data sets")
        missing = [name for name in file_names(dataset) if not (root / name).is_file()]
        if not missing:
            return root
        lacking[label] = missing

    if folder is not None or source == "real":
        found = "; ".join(
            f"{label} {places[label]} lacks {', '.join(missing)}"
            for label, missing in lacking.items()
        )
        to = f" --folder {places['the folder']}" if folder is not None else ""
        raise FileNotFoundError(
            f"No real {dataset}: {found}. Run `make data` "
            f"(`python -m mtl_tutorial.datasets{to}`) to download it."
        )
    # No paths here: the warning is printed on the book's pages.
    counts = " and ".join(
        f"{label} lacks {len(missing)} of {len(file_names(dataset))} files"
        for label, missing in lacking.items()
    )
    warnings.warn(
        f"No real {dataset} ({counts}): using {instead} instead. "
        "`make data` downloads the real files.",
        UserWarning,
        stacklevel=3,
    )
    return None


def read_verified(root: Path, name: str) -> bytes:
    """Read a file of the registry, and let no other content through.

    Parameters
    ----------
    root : Path
        The data folder.
    name : str
        The file, relative to ``root``, as in the registry.

    Returns
    -------
    bytes
        The content: the very bytes that were verified.

    Raises
    ------
    ValueError
        If the SHA-256 of the content is not the one in the registry.
    """
    path = root / name
    content = path.read_bytes()
    fault = find_fault(name, content)
    if fault:
        raise ValueError(
            f"{path}: {fault} To replace it, run `make data` "
            f"(`python -m mtl_tutorial.datasets --folder {root}`)."
        )
    return content


def find_fault(name: str, content: bytes) -> str:
    """Say what is wrong with the content of a file of the registry: "" if nothing is."""
    expected = _registry.SHA256[name]
    found = hashlib.sha256(content).hexdigest()
    if found == expected:
        return ""
    other = [known for known, sha256 in _registry.SHA256.items() if sha256 == found]
    cause = f"a copy of {other[0]}" if other else "truncated or altered"
    return f"SHA-256 expected {expected}, found {found}: the file is {cause}."


def fetch(
    dataset: str,
    folder: Path,
    timeout: tuple[float, float] = (5, 60),
    progressbar: bool = True,
) -> None:
    """Download the files of a data set that are not there yet.

    Parameters
    ----------
    dataset : str
        The data set's folder in the registry.
    folder : Path
        The data folder, made if needed.
    timeout : tuple of float
        Seconds to wait for a connection, and for the next bytes.
    progressbar : bool
        Whether to show one on stderr.

    Raises
    ------
    OSError
        If no mirror gave a file. Files already downloaded and verified stay.
    """
    for name in file_names(dataset):
        urls = [mirror + name.rpartition("/")[2] for mirror in _registry.MIRRORS[dataset]]
        fetch_file(name, folder, urls, timeout, progressbar)


def fetch_file(
    name: str,
    folder: Path,
    urls: Iterable[str],
    timeout: tuple[float, float],
    progressbar: bool,
) -> None:
    """Download one file of the registry from the first address that gives the right bytes.

    An address that is busy (503, say) is tried again twice, after a pause. Each failure is one line
    on stderr. A file that is there and verified is left alone; one with other content is removed.
    After a failure nothing is left, not even a new folder.

    Raises
    ------
    OSError
        If every address failed, or a folder is where the file belongs, or a file where a folder does.
    """
    path = folder / name
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, where a file of that name belongs; move it away"
        )
    for parent in (folder, path.parent):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file, where a folder belongs; move it away")
    if path.exists():
        fault = find_fault(name, path.read_bytes())
        if not fault:
            return
        path.unlink()
        print(f"{path}: removed. {fault}", file=sys.stderr)

    made = [parent for parent in path.parents if not parent.exists()]
    try:
        for url in urls:
            try:
                _insist(url, path, _registry.SHA256[name], timeout, progressbar)
                return
            # Whatever requests raises is an OSError; a wrong hash is pooch's ValueError.
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                print(f"{name}: no luck with {url}: {reason}", file=sys.stderr)
        raise OSError(f"{name}: every mirror failed; nothing was kept.")
    finally:
        if not path.exists():
            for parent in made:
                with suppress(OSError):  # never made, or in use by something else
                    parent.rmdir()


def _insist(
    url: str, path: Path, sha256: str, timeout: tuple[float, float], progressbar: bool
) -> None:
    """Download a file, and be patient with a server that is busy."""
    for pause in (*PAUSES, None):
        try:
            return _download(url, path, sha256, timeout, progressbar)
        except OSError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status not in BUSY or pause is None:
                raise
            print(f"{path.name}: {url} is busy ({status}), again in {pause} s", file=sys.stderr)
            time.sleep(pause)
    return None


def _download(
    url: str, path: Path, sha256: str, timeout: tuple[float, float], progressbar: bool
) -> None:
    """Download a file; ``archive.zip#folder/`` before its name: the member of an archive."""
    archive, _, member = url.partition("#")
    if not member:
        _retrieve(url, path, f"sha256:{sha256}", timeout, progressbar)
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / path.name
        _retrieve(archive, packed, None, timeout, progressbar)  # its members' hashes are known
        try:
            content = zipfile.ZipFile(packed).read(member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"no {member} in the archive: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"SHA256 hash of {member} does not match the known hash")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    path.chmod(0o644)


def _retrieve(
    url: str,
    path: Path,
    known_hash: str | None,
    timeout: tuple[float, float],
    progressbar: bool,
) -> None:
    import pooch
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")  # its news are ours
    # Our own bar, so that it is closed, and the next line starts afresh, after a failure too;
    # pooch tests it for truth, hence a total until the length is known.
    with tqdm(total=1, desc=path.name, unit="B", unit_scale=True, disable=not progressbar) as bar:
        pooch.retrieve(
            url,
            known_hash=known_hash,
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=2**16,
                timeout=timeout,
                # The .gz file itself: with gzip allowed, a server may have it unpacked.
                headers={"Accept-Encoding": "identity"},
            ),
        )
    # pooch's temporary files are private; a shared data folder should be readable.
    path.chmod(0o644)
