import importlib.metadata
import os
import subprocess
import sys

import pytest

import mtl_tutorial

FRAMEWORKS = ("keras", "numpy", "sklearn", "tensorflow", "torch")

WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
"""


def python(code: str, **environment: str) -> str:
    """Run code in a process of its own; return what it printed, or its traceback."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout if result.returncode == 0 else result.stderr


def test_import_loads_no_framework() -> None:
    code = f"import mtl_tutorial, sys; print([m for m in {FRAMEWORKS} if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_base_install_needs_no_framework() -> None:
    code = WITHOUT.format(missing=("torch", "keras", "tensorflow")) + (
        "import mtl_tutorial\n"
        "for name in ('datasets', 'metrics', 'plotting', 'relatedness', 'sampling', 'tabular', 'tasks',\n"
        "             'weighting'):\n"
        "    getattr(mtl_tutorial, name)\n"
        "print(len(mtl_tutorial.datasets.digits().train))\n"
    )
    assert python(code).strip() == "1197"


@pytest.mark.parametrize(
    ("part", "missing"), [("pytorch", "torch"), ("keras", "keras"), ("keras", "tensorflow")]
)
@pytest.mark.parametrize("statement", ["import mtl_tutorial.{}", "from mtl_tutorial import {}"])
def test_missing_framework_is_named(part: str, missing: str, statement: str) -> None:
    message = python(WITHOUT.format(missing=(missing,)) + statement.format(part))
    assert message.splitlines()[-1].startswith(f"ImportError: mtl_tutorial.{part} needs")
    assert f'pip install "mtl_tutorial[{part}]"' in message


def test_other_keras_backend_is_refused() -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace as Keras\n"
        "sys.modules['keras'] = Keras(backend=Keras(backend=lambda: 'jax'))\n"
        "import mtl_tutorial.keras"
    )
    message = python(code).splitlines()[-1]
    assert message.startswith("ImportError: mtl_tutorial.keras runs on Keras' TensorFlow backend")
    assert "not 'jax'" in message


def test_version() -> None:
    assert mtl_tutorial.__version__ == importlib.metadata.version("mtl_tutorial")


def test_names_are_listed_and_found() -> None:
    assert set(mtl_tutorial.__all__) <= set(dir(mtl_tutorial))
    for name in mtl_tutorial.__all__:
        assert getattr(mtl_tutorial, name) is getattr(mtl_tutorial.tasks, name)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="'mtl_tutorial' has no attribute 'pytroch'"):
        mtl_tutorial.pytroch  # noqa: B018  # asking is the test
