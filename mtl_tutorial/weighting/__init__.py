"""How much does each task count in this step? One small class a method, pure NumPy.

A method turns the loss vector, or the Gramian of the task gradients, into one weight a task. Both
frameworks call the same object, so a method is written, tested and explained once.
"""

from mtl_tutorial.weighting._base import Weighting
from mtl_tutorial.weighting.alignedmtl import AlignedMTL
from mtl_tutorial.weighting.cagrad import CAGrad
from mtl_tutorial.weighting.dwa import DWA
from mtl_tutorial.weighting.equal import Equal
from mtl_tutorial.weighting.famo import FAMO
from mtl_tutorial.weighting.gradnorm import GradNorm
from mtl_tutorial.weighting.imtlg import IMTLG
from mtl_tutorial.weighting.inverseloss import InverseLoss
from mtl_tutorial.weighting.mgda import MGDA
from mtl_tutorial.weighting.nashmtl import NashMTL
from mtl_tutorial.weighting.pcgrad import PCGrad
from mtl_tutorial.weighting.recorded import Recorded, conflict_shares, cosines
from mtl_tutorial.weighting.rlw import RLW
from mtl_tutorial.weighting.static import Static
from mtl_tutorial.weighting.upgrad import UPGrad
from mtl_tutorial.weighting.uw import UW

__all__ = [
    "DWA",
    "FAMO",
    "IMTLG",
    "MGDA",
    "RLW",
    "UW",
    "AlignedMTL",
    "CAGrad",
    "Equal",
    "GradNorm",
    "InverseLoss",
    "NashMTL",
    "PCGrad",
    "Recorded",
    "Static",
    "UPGrad",
    "Weighting",
    "conflict_shares",
    "cosines",
]
