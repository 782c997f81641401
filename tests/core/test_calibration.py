"""Calibration: files, the built-in table, and a finder that must find what was planted and nothing else."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from grounddecode import ground
from grounddecode.calibration import BUILT_IN, Calibration, fingerprint, known, scaled_tau
from grounddecode.engines.hf.watch.calibrate import calibrate
from grounddecode.methods.attention.heads import HeadModulation
from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.attention.var import VAR
from tests import zoo
from tests.engines.hf.footprint import footprint
from tests.oracle.whole import Oracle

DIM = 7
COMMON = 9
WORDS = {1: "<s>", 5: "what", 6: ".", 7: "is", 8: "this", 9: "?", 10: "now", 11: "\n"}


class Processor:
    """What a processor must be to the finder: a tokenizer that decodes, and a call that makes model inputs."""

    chat_template = None
    image_token = "<image>"
    tokenizer = SimpleNamespace(batch_decode=lambda ids: [WORDS.get(int(i), "<image>") for i in ids.flatten()])

    def __init__(self, row: zoo.Row = (1, 5, -1, 7, 6, 8, 9)) -> None:
        self.row, self.pictures = row, 0

    def __call__(self, images, text, return_tensors):
        assert ("<image>" in text[0]) == (images is not None)
        family = zoo.family("llava")
        if images is None:
            inputs = family.batch([(1, 5, 7, 8, 9, -1)])  # pictures cannot be none in a batch of the zoo
            return Inputs({name: value[:, :5] for name, value in inputs.items() if name != "pixel_values"})
        self.pictures += 1
        return Inputs(family.batch([tuple(-self.pictures if token < 0 else token for token in self.row)]))


class Inputs(dict):
    def to(self, *_):
        return self


def planted(where: str, drawing: bool = True):
    """A tiny model; `where`: "first" token, "delimiter", every "image" token, or "none" stands out in dimension 7.

    `drawing`: what stands out there draws attention as well: all tokens share dimension 9, which every head's query
    reads, as it reads dimension 7, along the direction in which its key reads dimension 7.
    """
    model = zoo.fresh("llava")
    with torch.no_grad():
        if drawing and where != "none":
            model.model.language_model.embed_tokens.weight[:, COMMON] = 8.0
            model.model.multi_modal_projector.linear_2.bias[COMMON] = 8.0
            for layer in model.model.language_model.layers:
                for matrix, dims in ((layer.self_attn.q_proj, [DIM, COMMON]), (layer.self_attn.k_proj, [DIM])):
                    matrix.weight[:, [DIM, COMMON]] = 0.0
                    for dim in dims:
                        matrix.weight[3::8, dim] = 3.0  # of a head's eight the one that rotary positions turn least
        if where in ("first", "image"):
            model.model.language_model.embed_tokens.weight[1, DIM] = 400.0
        if where == "delimiter":
            model.model.language_model.embed_tokens.weight[[6, 9], DIM] = 400.0
        if where == "image":
            model.model.multi_modal_projector.linear_2.bias[DIM] = 400.0
    return model


def measured(model, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = calibrate(model, Processor(), ["picture"] * 3, checkpoint="toy", tau=4.5, **options)
    return found, [str(w.message) for w in caught if "take from sinks" in str(w.message)]


def test_a_dimension_that_draws_no_attention_makes_no_sink():
    found, warned = measured(planted("first", drawing=False))
    assert found.sink_dims == (DIM,)
    assert not found.has_sinks
    assert found.provenance["pairs_drawing"] * 2 <= found.provenance["pairs_with_sink"]
    assert "draw no more attention than others" in warned[0]


@pytest.mark.parametrize("where", ["first", "delimiter"])
def test_finds_the_planted_dimension(where):
    found, warned = measured(planted(where))
    assert found.sink_dims == (DIM,)
    assert found.has_sinks
    assert found.layers == (0, 4)
    assert found.provenance["image_tokens_firing"] == 0.0
    assert warned == []


def test_a_model_without_sinks_is_said_to_have_none():
    found, warned = measured(planted("none"))
    assert found.sink_dims == ()
    assert not found.has_sinks
    assert found.layers == (0, 0)
    assert "toy: no dimension" in warned[0]
    with pytest.raises(ValueError, match="toy has no attention sinks"):
        ground(planted("none"), VAR(), calibration=found)


def test_image_tokens_that_all_fire_are_no_sinks():
    found, warned = measured(planted("image"))
    assert found.sink_dims == (DIM,)
    assert not found.has_sinks
    assert found.provenance["image_tokens_firing"] == 1.0
    assert "100% of the image tokens" in warned[0]


def test_head_sensitivity_is_the_mean_image_mass_of_the_last_prompt_row():
    model = planted("first")
    found, _ = measured(model)
    expected = torch.zeros(4, 4)
    for number in (1, 2, 3):
        inputs = zoo.family("llava").batch([(1, 5, -number, 7, 6, 8, 9)])
        context, _ = Oracle(model, zoo.family("llava")).forward(inputs, inputs["input_ids"].shape[1])
        for layer, weights in context.weights.items():
            expected[layer] += (weights[0, :, -1] * context.image[0]).sum(-1) / 3
    torch.testing.assert_close(torch.tensor(found.head_sensitivity), expected, atol=2e-6, rtol=0)


def test_what_was_found_is_enough_for_the_methods():
    model = planted("first")
    found, _ = measured(model)
    inputs = zoo.family("llava").batch()
    with ground(model, [VAR(), HeadModulation(sensitivity="calibrated")], calibration=found) as session:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert session.methods[0].sink_dims == (DIM,)
        assert session.methods[0].tau == 4.5
        assert session.methods[1].head_sensitivity == found.head_sensitivity


def test_the_model_is_left_as_it_was():
    model = planted("none")
    model.generate(**zoo.family("llava").batch(), max_new_tokens=1)  # transformers adds marks of its own once
    before = footprint(model)
    measured(model)
    assert footprint(model) == before


def entry(**changes):
    return Calibration(**({"checkpoint": "a", "fingerprint": "f1", "sink_dims": (1, 2), "tau": 3.0} | changes))


def test_files_hold_several_checkpoints(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    model = zoo.model("llava")
    first = entry(head_sensitivity=((0.1, 0.2), (0.3, 0.4)), layers=(1, 3), provenance={"images": 8})
    second = entry(checkpoint="b", fingerprint=fingerprint(model.config))
    first.save(path)
    assert Calibration.load(path) == first
    second.save(path)
    with pytest.raises(ValueError, match="holds calibrations of a, b"):
        Calibration.load(path)
    assert Calibration.load(path, model.config) == second
    entry(checkpoint="b", fingerprint=fingerprint(model.config), tau=9.0).save(path)
    assert Calibration.load(path, model.config).tau == 9.0


@pytest.mark.parametrize("text", ["", "[]", '{"a@b": {}}', '{"a@b": {"checkpoint": "a"}}', '{"a@b": 3}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no calibration file"):
        Calibration.load(path)
    with pytest.raises(ValueError, match="no calibration file"):
        Calibration.load(tmp_path / "none.json")


def test_a_calibration_of_another_shape_is_refused(tmp_path):
    model = zoo.model("llava")
    with pytest.raises(ValueError, match="of another shape"):
        ground(model, VAR(), calibration=entry())
    entry().save(tmp_path / "x.json")
    with pytest.raises(ValueError, match="of another shape"):
        Calibration.load(tmp_path / "x.json", model.config)


def test_the_fingerprint_sees_the_shape_and_not_the_name():
    one, two = zoo.fresh("llava").config, zoo.fresh("llava").config
    two._name_or_path = "elsewhere/model"
    assert fingerprint(one) == fingerprint(two)
    two.text_config.num_hidden_layers += 1
    assert fingerprint(one) != fingerprint(two)


def test_what_lies_beside_a_checkpoint_is_used(tmp_path):
    model = zoo.fresh("llava")
    assert known(model.config) is None
    model.config._name_or_path = str(tmp_path)
    assert known(model.config) is None
    beside = entry(checkpoint="lab", fingerprint=fingerprint(model.config))
    beside.save(tmp_path / "calibration.json")
    assert known(model.config) == beside
    with ground(model, VAR()) as session:
        assert session.methods[0].sink_dims == (1, 2)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("llava-hf/llava-1.5-7b-hf", (1415, 2533)),
        ("/models/llava-1.5-13b-hf/", (2100, 4743)),
        ("Qwen/Qwen2-VL-7B-Instruct", (458, 2570)),
        ("OpenGVLab/InternVL2-8B", (3584,)),
    ],
)
def test_built_in_checkpoints(name, dims):
    found = known(SimpleNamespace(_name_or_path=name))
    assert found is not None
    assert (found.sink_dims, found.tau, found.has_sinks) == (dims, 20.0, True)
    assert len(BUILT_IN) == 4


def test_tau_scales_with_the_root_of_the_width():
    assert scaled_tau(4096) == 20.0
    assert scaled_tau(1024) == 10.0


def test_a_model_is_watched_as_a_part_and_left_as_it_was() -> None:
    model = planted("first")
    measured(model)  # transformers puts hooks of its own at the first forward pass
    before = footprint(model)
    found, _ = measured(model)
    assert footprint(model) == before
    assert len(found.head_sensitivity) == model.config.get_text_config(decoder=True).num_hidden_layers
    with ground(model, LocoRE()), pytest.raises(RuntimeError, match="is grounded already"):
        measured(model)  # a second attach beside the first would have measured an edited model in silence
