"""What a view keeps between layers: the function is the key."""

import torch

from grounddecode.methods.attention.paint import PAINT
from grounddecode.view import StepView, VisionView
from tests.core.views import step_view

CALLS: list[str] = []


def doubled(step: StepView, times: int = 2) -> torch.Tensor:
    CALLS.append(f"doubled {times}")
    return step.queries * times


def other(step: StepView, times: int = 2) -> torch.Tensor:
    CALLS.append(f"other {times}")
    return step.queries + times


def columns(image: torch.Tensor, value: float) -> torch.Tensor:
    CALLS.append(f"columns {value}")
    return image * value


def test_each_function_is_computed_once_for_each_of_its_arguments() -> None:
    CALLS.clear()
    view = step_view([5], 6, [1, 2], 4)
    for _layer in range(3):
        assert view.once(doubled).tolist() == [10]
        assert view.once(doubled, 3).tolist() == [15]
        assert view.once(other, 3).tolist() == [8]
    assert CALLS == ["doubled 2", "doubled 3", "other 3"]


def test_what_follows_from_the_image_is_kept_with_and_without_an_engine() -> None:
    CALLS.clear()
    view = step_view([5], 6, [1, 2], 4)
    for _layer in range(2):
        assert view.of_image(columns, 2.0)[0].tolist() == [0, 2, 2, 0, 0, 0]
        assert view.of_image(columns, 3.0)[0].tolist() == [0, 3, 3, 0, 0, 0]
    assert CALLS == ["columns 2.0", "columns 3.0"]
    asked = []
    served = step_view([5], 6, [1, 2], 4, laid_out=lambda *given: asked.append(given) or torch.ones(1))
    served.of_image(columns, 2.0)
    assert asked == [(columns, 2.0)]


def test_a_changed_view_remembers_nothing() -> None:
    CALLS.clear()
    view = step_view([5], 6, [1, 2], 4)
    view.once(doubled)
    assert view.with_(queries=torch.tensor([7])).once(doubled).tolist() == [14]
    assert view.with_(flags=view.image, memo=view.memo).once(doubled).tolist() == [10]
    assert CALLS == ["doubled 2", "doubled 2"]


def test_two_methods_of_one_class_keep_their_own_values_of_one_view() -> None:
    """PAINT keeps the gain of each patch on the view of the images; two of them must not share it."""
    values = torch.tensor([[0.1, 0.9, 0.2, 0.8]])
    none, at = torch.full((1, 6), -1), torch.zeros(1, 6, dtype=torch.long)
    none[0, 1:5], at[0, 1:5] = 0, torch.arange(4)
    vision = VisionView(first=values, last=values * 0, received=values, image_of_key=none, patch_of_key=at)
    view = step_view([5], 6, [1, 2, 3, 4], 5, vision=vision)
    scores = torch.ones(1, 1, 6)
    weak, strong = PAINT(alpha=0.1, local_share=0.25), PAINT(alpha=0.9, local_share=0.25)
    assert weak.edit_scores(scores, view, 2)[0, 0].tolist() == torch.tensor([1, 1, 1.1, 1, 1, 1]).tolist()
    assert strong.edit_scores(scores, view, 2)[0, 0].tolist() == torch.tensor([1, 1, 1.9, 1, 1, 1]).tolist()
