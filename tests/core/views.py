"""Small hand-made step views for unit tests of the methods."""

import torch

from grounddecode.view import Phase, StepView


def step_view(queries, keys, image, prompt_length, *, n_layers=4, phase=Phase.DECODE, **extra):
    """A view of one request: `queries` positions, `keys` how many keys, `image` positions of image tokens."""
    rows = len(queries)
    mask = torch.zeros(rows, keys, dtype=torch.bool)
    mask[:, list(image)] = True
    return StepView(
        phase=phase,
        step=1,
        n_layers=n_layers,
        slots=torch.zeros(rows, dtype=torch.long),
        queries=torch.tensor(queries),
        keys=torch.arange(keys),
        image=mask,
        image_end=torch.full((rows,), max(image) if image else -1),
        prompt_length=prompt_length,
        **extra,
    )
