from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pytest

from mtl_tutorial.weighting import Equal, Weighting

NAN = np.nan


@dataclass(eq=False)
class Recorder(Weighting):
    """Keep what was asked; answer 1, 2, … to the tasks by their place in the full list."""

    needs_gramian: ClassVar[bool] = True
    asked: ClassVar[list[tuple[list[float], list[list[float]]]]]
    factor: float = 1.0

    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        assert gramian is not None
        type(self).asked.append((losses.tolist(), gramian.tolist()))
        assert isinstance(self.present, np.ndarray)
        places = np.arange(1.0, len(self.present) + 1)
        return np.asarray(self.factor * places[self.present])


class Fails(Weighting):
    def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
        raise ArithmeticError


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Recorder.asked = []


GRAMIAN = np.array([[4.0, 1.0, -1.0], [1.0, 9.0, 2.0], [-1.0, 2.0, 16.0]])


def test_all_tasks() -> None:
    assert Recorder()([1, 2, 3], GRAMIAN).tolist() == [1, 2, 3]
    assert Recorder.asked == [([1, 2, 3], GRAMIAN.tolist())]


def test_absent_tasks_are_dropped() -> None:
    weights = Recorder()([1, 2, 3], GRAMIAN, present=[True, False, True])
    assert weights.tolist() == [1, 0, 3]
    assert Recorder.asked == [([1, 3], [[4, -1], [-1, 16]])]


def test_what_an_absent_task_holds_is_ignored() -> None:
    gramian = GRAMIAN.copy()
    gramian[1], gramian[:, 1] = NAN, np.inf
    weights = Recorder()([1, NAN, 3], gramian, present=[True, False, True])
    assert weights.tolist() == [1, 0, 3]


def test_nothing_present_nothing_asked() -> None:
    assert Fails()([1, 2], present=[False, False]).tolist() == [0, 0]
    assert Fails()([]).tolist() == []


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_bad_loss_names_the_task(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"the loss of task 1 \('b'\) is {bad}"):
        Recorder()([1, bad, NAN], GRAMIAN, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="the loss of task 2 is"):
        Recorder()([1, NAN, bad], GRAMIAN, present=[True, False, True])
    assert Recorder.asked == []


def test_bad_norm_names_the_task() -> None:
    gramian = np.where(np.eye(3) * [0, 0, 1] == 1, NAN, GRAMIAN)
    with pytest.raises(ValueError, match=r"squared gradient norm of task 2 \('c'\) is nan"):
        Recorder()([1, 2, 3], gramian, names=["a", "b", "c"])


def test_bad_product_off_the_diagonal() -> None:
    gramian = GRAMIAN.copy()
    gramian[0, 1] = gramian[1, 0] = np.inf
    with pytest.raises(ValueError, match="off its diagonal"):
        Recorder()([1, 2, 3], gramian)


def test_losses_that_are_not_read_may_be_nan() -> None:
    assert Equal()([NAN, np.inf]).tolist() == [1, 1]


def test_missing_gramian() -> None:
    with pytest.raises(ValueError, match="Recorder needs the Gramian"):
        Recorder()([1, 2, 3])


@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 2)])
def test_gramian_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Gramian has shape .* but there are 3 losses"):
        Recorder()([1, 2, 3], np.ones(shape))


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_type_of_the_gramian_tells_its_rounding_so_it_is_kept(precision: type) -> None:
    class Asked(Weighting):
        needs_gramian = True

        def weights(self, losses: np.ndarray, gramian: np.ndarray | None) -> np.ndarray:
            assert gramian is not None
            assert gramian.dtype == precision
            return losses

    Asked()([1, 2, 3], GRAMIAN.astype(precision), present=[True, False, True])
    if precision is np.float64:
        Asked()([1, 2, 3], GRAMIAN.astype(int))


def test_present_of_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"present has shape \(2,\), but there are 3 losses"):
        Recorder()([1, 2, 3], GRAMIAN, present=[True, False])


def test_nothing_is_left_behind() -> None:
    recorder, fails = Recorder(), Fails()
    recorder([1, 2, 3], GRAMIAN, present=[True, False, True])
    with pytest.raises(ArithmeticError):
        fails([1, 2], present=[True, False])
    assert vars(recorder) == {"factor": 1.0}
    assert vars(fails) == {}


def test_settings_are_shown_and_saved() -> None:
    assert repr(Recorder(factor=2.0)) == "Recorder(factor=2.0)"
    assert asdict(Recorder(factor=2.0)) == {"factor": 2.0}


def test_a_method_must_be_written() -> None:
    with pytest.raises(NotImplementedError, match=r"Weighting defines no weights\(losses"):
        Weighting()([1.0])
