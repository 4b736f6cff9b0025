import ast
import inspect
import json
import re

import numpy as np
import pytest

import mtl_tutorial.weighting
from mtl_tutorial.weighting import Weighting
from tests.weighting.properties import METHODS, PROPERTIES, Journey, journeys

JOURNEYS = list(journeys())
each_method = pytest.mark.parametrize("name", METHODS)
CLASSES = {
    name: getattr(mtl_tutorial.weighting, name)
    for name in mtl_tutorial.weighting.__all__
    if name not in ("Weighting", "Recorded", "conflict_shares", "cosines")
}
PAIRS = [(name, claim) for name in METHODS for claim in PROPERTIES]


def holds(name: str, claim: str) -> bool:
    try:
        for journey in JOURNEYS:
            PROPERTIES[claim](METHODS[name], journey)
    except AssertionError:
        return False
    return True


def test_every_method_is_tested_here() -> None:
    assert set(METHODS) == set(CLASSES)


@each_method
def test_every_claim_has_a_test_and_is_explained(name: str) -> None:
    assert CLASSES[name].claims
    assert CLASSES[name].claims <= set(PROPERTIES)
    for claim in PROPERTIES:
        assert f'``"{claim}"``' in (inspect.getdoc(Weighting) or "")


@pytest.mark.parametrize(("name", "claim"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_claimed_is_what_holds(name: str, claim: str) -> None:
    if claim in CLASSES[name].claims:
        for journey in JOURNEYS:
            PROPERTIES[claim](METHODS[name], journey)
    else:
        assert not holds(name, claim), f"{name} is {claim}, but does not say so"


def test_a_false_claim_is_found() -> None:
    assert not holds("Equal", "non-conflicting")
    assert not holds("Static", "permutation-equivariant")


@each_method
def test_docstring(name: str) -> None:
    """First statement of the class; equation, year of the source, size of the step, example."""
    tree = ast.parse(inspect.getsource(CLASSES[name]))
    assert isinstance(tree.body[0], ast.ClassDef)
    doc = ast.get_docstring(tree.body[0]) or ""
    assert ".. math::" in doc
    assert re.search(r"\b(19|20)\d\d\b", doc)
    assert re.search(r"\bstep\b", doc)
    assert "Examples\n--------\n>>>" in doc


@each_method
def test_code_fits_a_screen(name: str) -> None:
    tree = ast.parse(inspect.getsource(inspect.getmodule(CLASSES[name])))  # type: ignore[arg-type]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and ast.get_docstring(
            node
        ):
            del node.body[0]
            node.body = node.body or [ast.Pass()]
    code = ast.unparse(tree).splitlines()
    assert sum(bool(line) and "import" not in line for line in code) <= 60
    assert "@property" not in code


@each_method
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_state_goes_on_after_save_and_load(name: str, stop: int) -> None:
    """Through JSON, and into an object that has already seen something else."""
    journey = Journey(*(part[:, :3] for part in vars(JOURNEYS[6]).values()))

    def go(method: Weighting, start: int, end: int) -> list[list[float]]:
        found = []
        for number in range(start, end):
            jacobian = journey.jacobians[number % 5]
            found.append(method(journey.before[number % 5], jacobian @ jacobian.T).tolist())
            if method.needs_observe:
                method.observe(journey.after[number % 5])
            if number % 2:
                method.end_epoch()
        return found

    saved, other = METHODS[name](3), METHODS[name](3)
    go(saved, 0, stop)
    state = json.loads(json.dumps(saved.state_dict()))
    go(other, 2, 5)
    other.load_state_dict(state)
    assert go(other, stop, 9) == go(saved, stop, 9)


@each_method
def test_state_is_a_copy(name: str) -> None:
    method = METHODS[name](3)
    state = method.state_dict()
    before = json.dumps(state)
    method([1, 2, 3], np.eye(3))
    assert json.dumps(state) == before


@each_method
def test_state_of_another_method_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} remembers"):
        METHODS[name](2).load_state_dict({"nonsense": 1})


@each_method
def test_absent_task_keeps_its_state_and_gets_no_weight(name: str) -> None:
    method = METHODS[name](3)
    if not set(method.remembers) - {"generator", "before"}:
        return
    journey = JOURNEYS[6]
    jacobian = journey.jacobians[0][:3]
    method([1, 2, 3], jacobian @ jacobian.T)
    if method.needs_observe:
        method.observe([0.5, 1.5, 2.9])
    before = method.state_dict()
    gramian = jacobian @ jacobian.T
    gramian[1] = gramian[:, 1] = np.nan
    weights = method([1.1, np.nan, 2.7], gramian, present=[True, False, True])
    if method.needs_observe:
        method.observe([0.7, np.nan, 2.0])
    after = method.state_dict()
    assert weights[1] == 0
    for key in set(method.remembers) - {"before"}:
        old, new = np.array(before[key]), np.array(after[key])
        np.testing.assert_array_equal(old[..., 1], new[..., 1])
    assert before != after


@each_method
def test_number_of_tasks_may_not_change(name: str) -> None:
    method = METHODS[name](3)
    method([1, 2, 3], np.eye(3))
    if set(method.remembers) - {"generator"}:
        with pytest.raises(ValueError, match=f"{name} remembers 3 tasks, but there are 2"):
            method([1, 2], np.eye(2))


@each_method
def test_settings_are_all_that_is_shown(name: str) -> None:
    method = METHODS[name](3)
    shown = repr(method)
    method([1, 2, 3], np.eye(3))
    assert repr(method) == shown


@each_method
def test_base_hooks_do_nothing(name: str) -> None:
    method = METHODS[name](3)
    if not method.remembers:
        before = vars(method).copy()
        method.observe([1, 2, 3])
        method.end_epoch()
        assert vars(method) == before
