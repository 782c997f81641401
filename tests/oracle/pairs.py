"""Methods that are composed, beside their dense forms composed."""

from __future__ import annotations

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.attention.var import VAR
from grounddecode.methods.choice.sgrs import SGRS
from grounddecode.methods.contrast.avc import AvisC
from grounddecode.methods.contrast.sid import SID
from grounddecode.methods.layers.memvr import MemVR
from tests.oracle.avc import Contrast
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.memvr import Retracing
from tests.oracle.sgrs import Rejection
from tests.oracle.sid import Introspection
from tests.oracle.var import VAREdit

_VAR, _VAR_EDIT = VAR(sink_dims=(3, 11), tau=1.5, p=0.9, rho=0.2), VAREdit((3, 11), 1.5, p=0.9, rho=0.2)
_MEMVR = MemVR(r=0.4, tau=0.99, layers=(0, 3))
_RETRACING = Retracing((0, 3), 0.4, 0.99)


CASES = (
    Case("var+avc", (_VAR, AvisC(alpha=1.0)), (_VAR_EDIT,), Contrast(alpha=1.0)),
    Case("var+locore", (_VAR, LocoRE(beta=3.0)), (_VAR_EDIT, LocoREEdit(3.0))),
    Case("locore+avc", (LocoRE(beta=3.0), AvisC(alpha=1.0)), (LocoREEdit(3.0),), Contrast(alpha=1.0)),
    Case(
        "locore+sgrs",
        (LocoRE(beta=1.0), SGRS(layers=(0, 2), alpha=1.5)),
        rejection=lambda: Rejection((0, 2), edits=(LocoREEdit(1.0),), alpha=1.5),
    ),
    Case(
        "locore+sid",
        (LocoRE(beta=3.0), SID(n=200)),
        edits=(LocoREEdit(3.0),),
        adjustments=(Introspection(n=200),),
    ),
    Case("var+sid", (_VAR, SID(n=200)), edits=(_VAR_EDIT,), adjustments=(Introspection(n=200),), everywhere=False),
    Case("memvr+avc", (_MEMVR, AvisC(alpha=1.0)), contrast=Contrast(alpha=1.0), steering=_RETRACING),
    Case("memvr+sid", (_MEMVR, SID(n=200)), adjustments=(Introspection(n=200),), steering=_RETRACING, everywhere=False),
    Case("memvr+var", (_MEMVR, _VAR), edits=(_VAR_EDIT,), steering=_RETRACING, everywhere=False),
)
