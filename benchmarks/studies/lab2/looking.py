"""What questions about one thing need, and how far the second lab's models have it: the tower's part and the decoder's.

    python -m benchmarks.studies.lab2.looking --out benchmarks/results/lab2/looking.json

The tower's part: linear probes of one patch's projector input for category, colour, column, row, and whether the middle
of an object is there, fitted on training scenes and tried on calibration scenes. The decoder's part: in "Where is the
cup?" some token has to look at the cup's patches rather than at other objects'. How much more attention a patch of the
asked thing draws than an object patch on average is given of every layer for its best (head, token) pair: 1 is no
difference, and a head that looked at nothing else would reach `most`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grounddecode.evaluate.run.provenance import provenance
from grounddecode.lab.model import load_checkpoint
from grounddecode.lab.second.gates import PROMPT
from grounddecode.lab.second.stages import HEAD
from grounddecode.lab.second.tower import centres
from grounddecode.lab.second.words import encode
from grounddecode.lab.text.corpus import BACKGROUND, PATCHES, patch_labels
from grounddecode.lab.text.questions import single
from grounddecode.lab.training.vision import pixels
from grounddecode.lab.world import CATEGORIES, GRID, SPLITS, Scene, draw_with_owners

CHECKPOINTS = Path(__file__).parents[3] / "grounddecode" / "lab" / "checkpoints"
MODELS = ("lab2-seed0", "lab2-seed1", "lab2-seed2", "lab2-clean")
CPU = torch.device("cpu")
#: Encoded length of "Where is the cup? ASSISTANT:", of which things of one word are asked.
ASKED = len(encode("Where is the cup? ASSISTANT:"))


class Drawn:
    """The first `count` scenes of a split as one tower sees them: features (n, 64, 128), labels (n, 64) int64."""

    def __init__(self, model: Any, split: str, count: int) -> None:
        pairs = [draw_with_owners(seed) for seed in SPLITS[split][:count]]
        self.scenes: list[Scene] = [scene for scene, _ in pairs]
        seen = [patch_labels(*pair) for pair in pairs]
        place = np.tile(np.arange(PATCHES), (count, 1))
        arrays = {
            "category": np.stack([category for category, _ in seen]), "colour": np.stack([tint for _, tint in seen]),
            "column": place % GRID, "row": place // GRID, "middle": centres(self.scenes),
        }  # fmt: skip
        self.labels = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
        self.objects = self.labels["category"] != BACKGROUND
        images = pixels(np.stack([np.asarray(s.image) for s in self.scenes]), None, CPU)
        with torch.no_grad():
            parts = [
                model.model.vision_tower(p, output_hidden_states=True).hidden_states[-2][:, 1:]
                for p in torch.split(images, 64)
            ]
        self.features = torch.cat(parts)


def probes(training: Drawn, held: Drawn, steps: int = 300) -> dict[str, float]:
    """Accuracy of linear probes on object patches of `held`; of the middles recall and precision on all patches."""
    mean, scale = training.features.mean((0, 1)), training.features.std((0, 1))
    told: dict[str, float] = {}
    for name, label in training.labels.items():
        probe = _fitted((training.features - mean).flatten(0, 1) / scale, label.flatten(), steps)
        guess, truth = probe((held.features - mean) / scale).argmax(-1), held.labels[name]
        hit = (guess == truth).float()
        if name == "middle":
            told["middle, recall"] = round(float(hit[truth == 1].mean()), 3)
            told["middle, precision"] = round(float(hit[guess == 1].mean()), 3)
        else:
            told[name] = round(float(hit[held.objects].mean()), 3)
    return told


def _fitted(inputs: Tensor, label: Tensor, steps: int) -> torch.nn.Linear:
    torch.manual_seed(0)
    probe = torch.nn.Linear(inputs.shape[-1], int(label.max()) + 1)
    optimiser = torch.optim.Adam(probe.parameters(), 1e-2)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        some = torch.randint(len(inputs), (4096,))
        loss = F.cross_entropy(probe(inputs[some]), label[some])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return probe.requires_grad_(False)


def preference(attention: Tensor, asked: Tensor, objects: Tensor) -> Tensor:
    """Attention of a patch of the asked thing over that of an object patch on average: (heads, tokens).

    `attention` (rows, heads, tokens, patches); `asked`, `objects` (rows, patches) bool.
    """
    own = (attention * asked[:, None, None]).sum(-1).sum(0)
    fair = (asked.sum(1) / objects.sum(1))[:, None, None]
    return own / ((attention * objects[:, None, None]).sum(-1) * fair).sum(0)


def matching(model: Any, held: Drawn) -> dict[str, Any]:
    """`preference` of each layer's best head and token in questions about the only thing of its kind."""
    rows, asked, objects, images = [], [], [], []
    for index, scene in enumerate(held.scenes):
        for thing in single(scene):
            question = encode(f"Where is the {thing.category}? ASSISTANT:")
            patches = held.labels["category"][index] == CATEGORIES.index(thing.category)
            if len(question) == ASKED and bool(patches.any()):
                rows.append([*PROMPT, *question])
                asked.append(patches)
                objects.append(held.objects[index])
                images.append(np.asarray(scene.image))
    with torch.no_grad():
        seen = model(
            input_ids=torch.tensor(rows), pixel_values=pixels(np.stack(images), None, CPU), output_attentions=True
        )
    own, all_of = torch.stack(asked), torch.stack(objects)
    best = [float(preference(a[:, :, HEAD:, 3:HEAD], own, all_of).max()) for a in seen.attentions]
    most = 1 / float((own.sum(1) / all_of.sum(1)).mean())
    return {"questions": len(rows), "best by layer": [round(x, 2) for x in best], "most": round(most, 1)}


def tell(result: dict[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and write it where a file is named."""
    text = json.dumps(result, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--scenes", type=int, default=1000, help="training scenes of the probes")
    parser.add_argument("--held", type=int, default=64, help="calibration scenes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    for name in args.models:
        model, _ = load_checkpoint(CHECKPOINTS / name, attn_implementation="eager")
        held = Drawn(model, "calibration2", args.held)
        told[name] = {"tower": probes(Drawn(model, "train2", args.scenes), held), "decoder": matching(model, held)}
    tell({**provenance(), "models": told}, args.out)


if __name__ == "__main__":
    main()
