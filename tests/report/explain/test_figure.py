"""The explained answer as one picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import ImageColor

from grounddecode.report.explain.figure import GAP, SIDE, figure
from grounddecode.report.picture import MARGIN, PAPER, RULE
from tests.report.explain.accounts import account, seen, told


def test_labels_stay_over_their_own_heat_maps() -> None:
    """Between two columns there is nothing but paper, however long the name of an object is."""
    words = [seen("refrigerators", 0, 0, 0.5, object="refrigerator", real=False), seen("cup", 1, 14, 0.5, object="cup")]
    drawn = np.asarray(
        figure(account(told=(replace(told("x", ["refrigerators", "cup"], [0.5, 0.5]), words=tuple(words)),)))
    )
    end = MARGIN + 110 + SIDE
    between = {tuple(pixel) for pixel in drawn[MARGIN + SIDE :, end : end + GAP].reshape(-1, 3).tolist()}
    assert between <= {ImageColor.getrgb(PAPER), ImageColor.getrgb(RULE)}
