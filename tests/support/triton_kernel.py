"""The kernels of grouped attention beside sums by hand: `python -m tests.support.triton_kernel [cuda]`.

Without a card, in Triton's interpreter: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import torch

from grounddecode import SPIN, VAR, HeadModulation
from grounddecode.engines.grouped import kernel, merging, peaks, sloped
from grounddecode.engines.grouped.kernel import PartialAttention, splits_of
from grounddecode.engines.grouped.launch import Launcher
from grounddecode.engines.grouped.merge import HIDDEN, merged
from tests.engines.test_grouped import partial

MERGED = (
    HeadModulation(alpha=3.0),
    SPIN(rho=0.6, damp=0.2),
    VAR(sink_dims=(1,), p=0.7, rho=0.3),
    VAR(sink_dims=(1,), p=1.0, rho=0.9),
)


def check(device: str, heads: int, width: int, groups: int, dtype: torch.dtype, fresh: bool = False) -> None:
    """One shape: grouped-query heads, an odd number of keys, hidden keys in front of one row."""
    generator = torch.Generator().manual_seed(width + groups)
    rows, key_heads, keys = 2, 2, 75
    query = torch.randn(rows, heads, 1, width, generator=generator).to(device, dtype)
    key = torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype)
    value = torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype)
    room = torch.randint(0, groups // 2, (rows, keys + 9), generator=generator, dtype=torch.uint8)
    room[1, :7] = HIDDEN
    labels = room.to(device)[:, :keys]  # a slice, as the engine has it
    flags = (torch.rand(rows, keys, generator=generator) < 0.4).to(device)
    splits = splits_of(rows, heads)
    shape = (rows, heads, splits)
    into = tuple(torch.full(size, 7.0, device=device) for size in ((*shape, groups, width), shape, (*shape, groups)))
    scaling = 1 / math.sqrt(width)
    PartialAttention(query, key, labels, True, scaling, into)(query, key, value, flags)
    if fresh:  # the flag of the newest key is found out on the way
        token = torch.randn(rows, 1, 40, generator=generator).to(device, dtype)
        token[0, 0, 3], flags[0, -1], flags[1, -1] = 99.0, True, False
        PartialAttention(query, key, labels, True, scaling, into)(query, key, value, flags)
        expected_parts, room = [part.clone() for part in into], torch.zeros(rows, keys + 5, dtype=torch.bool)
        room = room.to(device)
        room[:, : keys - 1], room[1, keys - 1 :] = flags[:, :-1], True
        bound = peaks.Bound.of((3, 17), 0.5, token)
        noting = PartialAttention(query, key, labels, True, scaling, into, (bound, token))
        noting(query, key, value, room, token)
        assert all(torch.equal(part, known) for part, known in zip(into, expected_parts, strict=True))
        assert room[:, keys - 1].tolist() == [True, False]
        assert room[:, keys:].tolist() == [[False] * 5, [True] * 5]
    scores = query.float() @ key.float().repeat_interleave(heads // key_heads, dim=1).mT / math.sqrt(width)
    marked = torch.where(labels == HIDDEN, labels, labels + groups // 2 * flags.to(torch.uint8))
    values = value.float().repeat_interleave(heads // key_heads, dim=1)
    expected = partial(scores.squeeze(2), values, marked, groups, 1)

    def factors(masses: torch.Tensor) -> torch.Tensor:
        return 1 + masses * torch.arange(groups, device=masses.device)

    ours, by_hand = merged(*into, factors), merged(*expected, factors)
    apart = float((ours - by_hand).abs().max())
    assert apart <= 2e-5, (device, heads, width, groups, dtype, apart)


def check_sloped(device: str, heads: int, width: int, keys: int, dtype: torch.dtype) -> None:
    """One shape of the kernel with slopes: a dense row in float64, hidden keys in front of one row."""
    generator = torch.Generator().manual_seed(width + keys)
    rows, key_heads = 2, 2
    bound = 2e-5 if dtype == torch.float32 else 2e-2
    query = (3 * torch.randn(rows, heads, 1, width, generator=generator)).to(device, dtype)
    key, value = (torch.randn(rows, key_heads, keys, width, generator=generator).to(device, dtype) for _ in range(2))
    room = torch.rand(rows, 2, keys + 9, generator=generator) * 1.5
    room[1, :, :7] = -1.0
    slopes = room.to(device)[..., :keys]  # a slice, as the engine has it
    scaling = 1 / math.sqrt(width)
    found = sloped.SlopedAttention(query, key, slopes, scaling)(query, key, value)
    repeated = [x.double().repeat_interleave(heads // key_heads, dim=1) for x in (key, value)]
    plain = (query.double() @ repeated[0].mT / math.sqrt(width)).squeeze(2)
    scores = torch.where(plain > 0, plain * slopes[:, :1], plain * slopes[:, 1:])
    scores = scores.masked_fill(slopes[:, :1] < 0, -torch.inf)

    def right(found: torch.Tensor, scores: torch.Tensor) -> None:
        expected = (scores.softmax(-1)[:, :, None] @ repeated[1]).transpose(1, 2)
        assert found.shape == expected.shape
        assert found.dtype == dtype
        apart = float((found.double() - expected).abs().max())
        assert apart <= bound, (device, heads, width, keys, dtype, apart)

    right(found, scores)
    for of_heads in (1, heads):  # raised scores, by as much in all heads and by each head's own
        room = torch.randn(rows, of_heads, keys + 9, generator=generator)
        room[1, :, :7], room[0, -1, 3] = -torch.inf, -torch.inf
        more = room.to(device)[..., :keys]
        right(sloped.SlopedAttention(query, key, more, scaling, raised=True)(query, key, value), plain + more)


def check_peaks(device: str, width: int, dims: tuple[int, ...], dtype: torch.dtype) -> None:
    """The kernel of token flags: tokens above and below the bound, one of zeros, and nothing else written."""
    hidden = torch.randn(6, 1, width, generator=torch.Generator().manual_seed(width))
    hidden[::2, 0, dims[-1]] = 9.0 * width**0.5
    hidden[5] = 0.0
    room = torch.zeros(6, 12, dtype=torch.bool, device=device)
    hidden = hidden.to(device, dtype)
    peaks.Peaks(hidden, peaks.Bound.of(dims, 0.5, hidden), room)(hidden, room, 7)
    expected = torch.zeros(6, 12, dtype=torch.bool)
    expected[::2, 7] = True
    assert torch.equal(room.cpu(), expected), (device, width, dims, dtype)


def rounding(dtype: torch.dtype) -> float:
    """By what share a number in float32 may change when it is rounded to `dtype`, and by a little more."""
    return 0.0 if dtype == torch.float32 else 0.51 * torch.finfo(dtype).eps


def check_merging(device: str, method: Any, heads: int, splits: int, width: int, dtype: torch.dtype) -> None:
    """The kernel that merges, beside the method's own factors: equal heads, rows and splits that see no image."""
    generator, rows = torch.Generator().manual_seed(heads + splits), 3
    shape = (rows, heads, splits)
    sums, tops, masses = (
        torch.rand(size, generator=generator)
        for size in ((*shape, method.groups, width), shape, (*shape, method.groups))
    )
    tops[0, 1], masses[0, 1], sums[0, 1] = tops[0, 0], masses[0, 0], sums[0, 0]  # two heads are as good
    masses[1, ..., 1::2], sums[1, ..., 1::2, :] = 0.0, 0.0  # no image
    tops[2, :, 1:], masses[2, :, 1:], sums[2, :, 1:] = -math.inf, 0.0, 0.0  # nothing to see but in the first split
    parts = sums.to(device), tops.to(device), masses.to(device)
    rule = method.factor_rule(heads)
    assert rule is not None
    wanted = merged(*parts, method.group_factors)[:, None]
    found = merging.Merging(parts, rule, dtype)(torch.empty(0, device=device, dtype=dtype))
    assert found.shape == (rows, 1, heads, width)
    assert found.dtype == dtype
    apart = (found.float() - wanted).abs() - rounding(dtype) * wanted.abs()
    assert float(apart.max()) <= 2e-5, (device, method.name, heads, splits, width, float(apart.max()))
    assert merging.merging(parts, method, dtype) is not None


def check_other_factors(device: str) -> None:
    """A class with the rule of ours and factors of its own does not go by the rule."""

    class Doubled(HeadModulation):
        def extra(self, sensitivity: torch.Tensor) -> torch.Tensor:
            return 2 * super().extra(sensitivity)

    shape = (2, 4, 3)
    parts = tuple(torch.rand(size, device=device) for size in ((*shape, 2, 16), shape, (*shape, 2)))
    assert merging.merging(parts, HeadModulation(), torch.float32) is not None
    assert merging.merging(parts, Doubled(), torch.float32) is None


def check_all(device: str) -> int:
    """How many shapes were right; an AssertionError for one that is not."""
    cases = list(itertools.product((2, 4), (16, 24), (2, 4, 8), (torch.float32,)))
    long = [(4, 16, 150, torch.float32)]
    if device != "cpu":
        cases += itertools.product((8,), (64, 80, 128), (4,), (torch.bfloat16, torch.float16))
        long += [(8, 80, 150, torch.float32), *((n, 128, 640, torch.bfloat16) for n in (8, 28, 32))]
        long += [(8, 64, 640, torch.float16), (32, 128, 5000, torch.bfloat16)]  # the last one is read in parts
    for heads, width, groups, dtype in cases:
        check(device, heads, width, groups, dtype)
        check(device, heads, width, groups, dtype, fresh=True)
    for heads, width, keys, dtype in [(2, 24, 75, torch.float32), *long]:
        check_sloped(device, heads, width, keys, dtype)
    for width, dims in ((64, (3,)), (48, (1, 40, 7)), (4096, (1415, 2533))):
        check_peaks(device, width, dims, torch.float32 if device == "cpu" else torch.bfloat16)
    large = (5, 3, 24) if device == "cpu" else (32, 8, 128)
    for method, (heads, splits, width) in itertools.product(MERGED, ((4, 1, 16), large)):
        check_merging(device, method, heads, splits, width, torch.float32 if device == "cpu" else torch.bfloat16)
    check_other_factors(device)
    sloped.LONG, usual = 64, sloped.LONG  # a row is read in parts
    try:
        check_sloped(device, 4, 16, 150, torch.float32)
    finally:
        sloped.LONG = usual
    return 2 * len(cases) + len(long) + 5 + 2 * len(MERGED) + 1


class ByHand:
    """In place of `Replay`, whose graph needs a card."""

    def __init__(self, function: Any, inputs: Any) -> None:
        self.function, self.inputs = function, tuple(inputs)

    def __call__(self) -> torch.Tensor:
        made: torch.Tensor = self.function(*self.inputs)
        return made


def check_engine() -> float:
    """How far logits are apart that the engine gives with the kernels and without, on a CPU."""
    from grounddecode import ground
    from grounddecode.engines.hf.attention import card
    from grounddecode.engines.hf.watch import flags
    from grounddecode.registry import create
    from tests import zoo

    usual, over, apart = (card.on_card, flags.on_card, card.Replay), Launcher.over, 0.0
    launched: set[str] = set()

    def counted(self: Launcher, *given: Any) -> Any:
        launched.add(self.name)
        return over(self, *given)

    class Doubled(HeadModulation):  # by a graph
        def extra(self, sensitivity: torch.Tensor) -> torch.Tensor:
            return 2 * super().extra(sensitivity)

    methods = (
        create("locore"),
        create("vaf", layers=(0, 9)),
        create("paint", layers=(0, 9), summary_tokens=((1, 2),)),
        create("heads", alpha=3.0),
        create("spin", rho=0.5),
        Doubled(alpha=1.5),
        create("var", sink_dims=(1, 2), tau=1.0),
    )
    plain = {"max_new_tokens": 7, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    beams = plain | {"num_beams": 2, "num_return_sequences": 2}
    runs = [(name, [method], plain) for name, method in itertools.product(("llava",), methods)]
    runs += [("qwen2_5_vl", [method], plain) for method in methods[::2]]
    runs += [("llava", [methods[-1]], beams), ("llava", [methods[-1], create("avc", alpha=1.0)], plain)]
    for name, chosen, options in runs:
        model, inputs = zoo.model(name), zoo.family(name).batch()
        found = []
        for here in (usual, (lambda _: True, lambda _: True, ByHand)):
            (card.on_card, flags.on_card, card.Replay), Launcher.over = here, counted
            try:
                with torch.no_grad(), ground(model, chosen):
                    found.append(torch.stack(model.generate(**inputs, **options).logits))
            finally:
                (card.on_card, flags.on_card, card.Replay), Launcher.over = usual, over
        apart = max(apart, float((found[0] - found[1]).abs().max()))
    assert launched == {"_sloped_attention", "_partial_attention", "_merge", "_peaks"}, launched
    return apart


def compile_all() -> int:
    """How many kernels compile for an H100, which needs none: the interpreter takes what the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    numbers = {"scaling": "fp32", "bound": "fp32", "first": "fp32", "second": "fp32", "third": "fp32"}
    others = {"label": "*u8", "flag": "*i1", "flags": "*i1", "dims": "*i64", "into": "*bf16"}
    others |= dict.fromkeys(("query", "key", "value", "hidden"), "*bf16") | dict.fromkeys(
        ("sums", "tops", "masses", "slope"), "*fp32"
    )
    sizes = {"HEADS": 32, "HEAD_ROOM": 32, "REPEAT": 1, "WIDTH": 128, "ROOM": 128, "NONE": HIDDEN, "BLOCK": 64}
    split = {"SPLITS": 4, "SPLIT_ROOM": 4, "DIMS": 2, "DIM_ROOM": 2, "INNER": 4096, "INNER_BLOCK": 1024}
    forms = [(merging, rule, groups) for rule, groups in ((0, 2), (1, 2), (2, 4))]
    forms += [(kernel, 0, 2), (kernel, 0, 4), (sloped, 0, 2), (sloped, 1, 2), (peaks, 0, 2)]
    for module, rule, groups in forms:
        given = sizes | split | {"RULE": rule, "GROUPS": groups, "FLAGGED": groups // 2 if groups == 4 else 0}
        given |= {} if groups == 4 or module is peaks else {"DIMS": 0}
        if module is peaks:
            given |= {"WIDTH": 4096, "ROOM": 2, "BLOCK": 1024}
        elif module is kernel:
            given |= {"BLOCK": 64 // groups}
        elif module is sloped:
            given |= {"SPLITS": 1, "BLOCK": 256, "RAISED": rule}
        function = module._launches.kernel
        types = {
            name: "constexpr" if name.isupper() else numbers.get(name) or others.get(name) or "i32"
            for name in function.arg_names
        }
        round_ = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(types) if types[name].startswith("*")}
        constants = {name: given[name] for name in types if name.isupper()}
        source = ASTSource(function, types, constexprs=constants, attrs=round_)
        triton.compile(source, target=GPUTarget("cuda", 90, 32))
    return len(forms)


if __name__ == "__main__":
    if sys.argv[1:] == ["compile"]:
        sys.stdout.write(f"{compile_all()} kernels compile\n")
        sys.exit()
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    if device == "cpu":
        sys.stdout.write(f"engine: {check_engine():.1e}\n")
    sys.stdout.write(f"{check_all(device)} cases\n")
