"""Several small Llama decoders of one shape side by side, each with its own weights, data and rate, in one batch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder with its image projector."""

    words: int
    width: int = 128
    layers: int = 6
    heads: int = 8
    hidden: int = 384
    features: int = 128
    theta: float = 1e4

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of one copy's tensors; matrices are (inputs, outputs)."""
        d, h = self.width, self.hidden
        table: dict[str, tuple[int, ...]] = {"embed": (self.words, d)}
        for i in range(self.layers):
            table |= {f"{i}.qkv": (d, 3 * d), f"{i}.out": (d, d), f"{i}.up": (d, 2 * h), f"{i}.down": (h, d)}
            table |= {f"{i}.first": (d,), f"{i}.second": (d,)}
        table |= {"norm": (d,), "head": (d, self.words)}
        table |= {"project.in": (self.features, d), "project.in.bias": (d,)}
        return table | {"project.out": (d, d), "project.out.bias": (d,)}


@dataclass
class Seen:
    """What a pass shows besides its result: the inputs of all layers and the last output, and attention if asked."""

    hidden: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    with_attention: bool = False


class Decoders:
    """`copies` plain pre-norm Llamas (RMSNorm, rotary positions, SwiGLU, softmax), as Hugging Face computes them."""

    def __init__(self, shape: Shape, seeds: list[int], device: torch.device) -> None:
        self.shape, self.copies, self.device = shape, len(seeds), device
        table = shape.weights()
        size = sum(math.prod(dims) for dims in table.values()) * self.copies
        self.flat = torch.zeros(size, device=device)
        self.gradient = torch.zeros_like(self.flat)
        self.weights: dict[str, Tensor] = {}
        self.spans: dict[str, slice] = {}
        start = 0
        for name, dims in table.items():
            span = slice(start, start + math.prod(dims) * self.copies)
            start, self.spans[name] = span.stop, span
            leaf = self.flat[span].view(self.copies, *dims).detach().requires_grad_()
            leaf.grad = self.gradient[span].view(self.copies, *dims)
            self.weights[name] = leaf
        for copy, seed in enumerate(seeds):
            self._draw(copy, seed)

    @torch.no_grad()
    def _draw(self, copy: int, seed: int) -> None:
        # The fan-in rule of the first lab: 0.02 everywhere gives near-zero attention logits at such widths.
        dice = torch.Generator().manual_seed(seed)
        for name, weight in self.weights.items():
            one = weight[copy]
            if one.dim() == 1:
                one.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = 0.5 if name == "embed" else 1 / math.sqrt(one.shape[0])
            if name.endswith((".out", ".down")) and not name.startswith("project"):
                scale /= math.sqrt(2 * self.shape.layers)
            one.copy_(torch.randn(one.shape, generator=dice) * scale)

    def embed(self, ids: Tensor) -> Tensor:
        """(copies, rows, length) ids to (copies, rows, length, width)."""
        shift = torch.arange(self.copies, device=ids.device).view(-1, 1, 1) * self.shape.words
        rows = self.weights["embed"].flatten(0, 1).index_select(0, (ids + shift).flatten())
        return rows.view(*ids.shape, self.shape.width)

    def project(self, features: Tensor) -> Tensor:
        """Image features (copies, rows, patches, features) to (copies, rows, patches, width)."""
        w, (copies, rows, patches, _) = self.weights, features.shape
        hidden = torch.baddbmm(
            w["project.in.bias"][:, None], features.reshape(copies, rows * patches, -1), w["project.in"]
        )
        out = torch.baddbmm(w["project.out.bias"][:, None], F.gelu(hidden), w["project.out"])
        return out.view(copies, rows, patches, -1)

    def hidden(self, x: Tensor, position: Tensor, allowed: Tensor | None, seen: Seen | None = None) -> Tensor:
        """Normed last hidden states of embedded rows (copies, rows, length, width).

        `position`: (rows of all copies, length) or (length,). `allowed`: (rows of all copies, length, length) bool, or
        None for the plain causal mask.
        """
        copies, rows, length, d = x.shape
        turn = self._rotation(position)
        x = x.reshape(copies, rows * length, d)
        for i in range(self.shape.layers):
            if seen is not None:
                seen.hidden.append(x.detach().view(copies, rows, length, d))
            x = x + self._attend(i, self._norm(x, f"{i}.first"), turn, allowed, (copies, rows, length), seen)
            gate, up = torch.bmm(self._norm(x, f"{i}.second"), self.weights[f"{i}.up"]).chunk(2, dim=-1)
            x = x + torch.bmm(F.silu(gate) * up, self.weights[f"{i}.down"])
        if seen is not None:
            seen.hidden.append(x.detach().view(copies, rows, length, d))
        return self._norm(x, "norm").view(copies, rows, length, d)

    def logits(self, hidden: Tensor) -> Tensor:
        """(copies, n, width) to (copies, n, words)."""
        return torch.bmm(hidden, self.weights["head"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), None, 1e-6) * self.weights[name][:, None]

    def _rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        size = self.shape.width // self.shape.heads
        rate = self.shape.theta ** (-torch.arange(0, size, 2, device=self.device).float() / size)
        angle = position.float()[..., None] * rate
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().unsqueeze(-3), angle.sin().unsqueeze(-3)

    def _attend(
        self, i: int, x: Tensor, turn: tuple[Tensor, Tensor], allowed: Tensor | None, sizes: tuple[int, int, int],
        seen: Seen | None,
    ) -> Tensor:  # fmt: skip
        (copies, rows, length), heads = sizes, self.shape.heads
        packed = torch.bmm(x, self.weights[f"{i}.qkv"]).view(copies * rows, length, 3, heads, -1)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = _turned(q, *turn), _turned(k, *turn)
        if seen is not None and seen.with_attention:
            mask = _causal(length, self.device) if allowed is None else allowed[:, None]
            scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
            seen.attention.append(weights.view(copies, rows, heads, length, length))
            out = weights @ v
        else:
            given = None if allowed is None else allowed[:, None]
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=given, is_causal=given is None)
        merged = out.transpose(1, 2).reshape(copies, rows * length, -1)
        return torch.bmm(merged, self.weights[f"{i}.out"])

    def named(self, copy: int, prefix: str = "language_model.") -> Iterator[tuple[str, Tensor]]:
        """One copy's weights under the key names of LLaVA 1.5, matrices as (outputs, inputs)."""
        w = {name: weight.detach()[copy] for name, weight in self.weights.items()}
        yield f"{prefix}model.embed_tokens.weight", w["embed"]
        for i in range(self.shape.layers):
            at = f"{prefix}model.layers.{i}."
            for part, matrix in zip("qkv", torch.chunk(w[f"{i}.qkv"], 3, dim=1), strict=True):
                yield f"{at}self_attn.{part}_proj.weight", matrix.T
            yield f"{at}self_attn.o_proj.weight", w[f"{i}.out"].T
            for part, matrix in zip(("gate", "up"), torch.chunk(w[f"{i}.up"], 2, dim=1), strict=True):
                yield f"{at}mlp.{part}_proj.weight", matrix.T
            yield f"{at}mlp.down_proj.weight", w[f"{i}.down"].T
            yield f"{at}input_layernorm.weight", w[f"{i}.first"]
            yield f"{at}post_attention_layernorm.weight", w[f"{i}.second"]
        yield f"{prefix}model.norm.weight", w["norm"]
        yield f"{prefix}lm_head.weight", w["head"].T
        for number, part in ((1, "in"), (2, "out")):
            yield f"multi_modal_projector.linear_{number}.weight", w[f"project.{part}"].T
            yield f"multi_modal_projector.linear_{number}.bias", w[f"project.{part}.bias"]

    @torch.no_grad()
    def take(self, other: "Decoders", copies: list[int]) -> None:
        """Copy weights: this ensemble's i-th copy becomes the other's `copies[i]`-th."""
        for name, weight in self.weights.items():
            weight.copy_(other.weights[name][torch.tensor(copies, device=weight.device)])


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sine


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class AdamW:
    """AdamW over all copies at once, each with its own rate, decay and gradient clip.

    Args:
        decoders: whose `flat` weights it moves.  trained: prefixes of the names that move; all by default.
        rates, decays: one number a copy; decay acts on matrices only, as a share of the rate.
    """

    def __init__(
        self, decoders: Decoders, rates: list[float], decays: list[float], betas: tuple[float, float] = (0.9, 0.95),
        trained: tuple[str, ...] = ("",),
    ) -> None:  # fmt: skip
        self.decoders, self.betas, self.steps = decoders, betas, 0
        self.first, self.second = (torch.zeros_like(decoders.flat) for _ in range(2))
        self.rate, self.decay = torch.zeros_like(decoders.flat), torch.zeros_like(decoders.flat)
        self.names = [name for name in decoders.weights if name.startswith(trained)]
        for name in self.names:
            span, copies = decoders.spans[name], decoders.copies
            matrix = decoders.weights[name].dim() == 3
            for copy in range(copies):
                self.rate[span].view(copies, -1)[copy] = rates[copy]
                self.decay[span].view(copies, -1)[copy] = rates[copy] * decays[copy] * matrix
        for name, weight in decoders.weights.items():
            weight.requires_grad_(name in self.names)
            weight.grad = decoders.gradient[decoders.spans[name]].view(weight.shape)

    @torch.no_grad()
    def step(self, factor: float, clip: float = 1.0) -> None:
        """One step at `factor` times the rates; the gradient is zeroed afterwards."""
        d, (b1, b2) = self.decoders, self.betas
        self.steps += 1
        grads = [grad.flatten(1) for name in self.names if (grad := d.weights[name].grad) is not None]
        norm = torch.stack([g.square().sum(1) for g in grads]).sum(0).sqrt()
        scale = (clip / (norm + 1e-6)).clamp(max=1.0)[:, None]
        for g in grads:
            g.mul_(scale)
        self.first.lerp_(d.gradient, 1 - b1)
        self.second.lerp_(d.gradient.square(), 1 - b2)
        bias1, bias2 = 1 - b1**self.steps, 1 - b2**self.steps
        move = self.first / bias1 / ((self.second / bias2).sqrt() + 1e-8)
        d.flat.sub_((move * self.rate + d.flat * self.decay) * factor)
        d.gradient.zero_()


def losses(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean next-token loss of each copy: logits (copies, n, words), label (copies, n) with -100 for none."""
    copies, n, words = logits.shape
    each = F.cross_entropy(logits.view(-1, words), label.reshape(-1), ignore_index=-100, reduction="none").view(
        copies, n
    )
    share = (label != -100).float() if weight is None else weight
    mean: Tensor = (each * share).sum(1) / share.sum(1).clamp(min=1e-6)
    return mean
