"""The lab model without training: packing, key names, processor and template, a tiny training run."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from grounddecode.lab import model, world
from grounddecode.lab.text import corpus, tokenizer
from grounddecode.lab.text.questions import Turn
from grounddecode.lab.training import language


@pytest.fixture(scope="module")
def lab():
    return model.build_model(3).eval()


@pytest.fixture(scope="module")
def processor():
    return tokenizer.build_processor()


def test_packed_rows_equal_single_turns(lab, processor):
    scenes = world.scenes("calibration", 2)
    turns = [
        Turn("existence", "Is there a dog in the image?", "No."),
        Turn("caption", "Describe this image in detail.", "There is a man."),
        Turn("existence", "Is there an apple in the image?", "Yes."),
    ]
    packed = corpus.pack([turns, turns[::-1]], with_image=True)
    single = [
        [
            processor(
                text=f"<s>USER: <image>\n{t.question} ASSISTANT: {t.answer}</s>", images=s.image, return_tensors="pt"
            )
            for t in order
        ]
        for s, order in zip(scenes, (turns, turns[::-1]), strict=True)
    ]
    with torch.no_grad():
        features = torch.cat(
            [
                lab.model.vision_tower(row[0]["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
                for row in single
            ]
        )
        embedded = language.embed(lab, torch.from_numpy(packed.ids), features)
        before = lab.model.language_model.config._attn_implementation
        with language.packed_attention(lab):
            logits = language.PackedLoss(lab).logits(
                embedded, torch.from_numpy(packed.position), torch.from_numpy(packed.segment)
            )
        assert lab.model.language_model.config._attn_implementation == before
        for row in range(2):
            for number, inputs in enumerate(single[row], start=1):
                alone = lab(**inputs).logits[0, 67:]
                inside = logits[row][torch.from_numpy(packed.segment[row] == number)]
                assert alone.shape == inside.shape
                assert (alone - inside).abs().max() <= 1e-5
                assert alone.abs().max() > 0.1


def test_labels_are_the_answer_and_its_end(processor):
    turn = Turn("existence", "Is there a dog in the image?", "Yes.")
    packed = corpus.pack([[turn]], with_image=True)
    targets = packed.label[0][packed.label[0] >= 0].tolist()
    assert processor.tokenizer.decode(targets) == "Yes. </s>"
    first = int((packed.label[0] >= 0).argmax())
    assert processor.tokenizer.decode(packed.ids[0][first - 1 : first + 1].tolist()) == "ASSISTANT :"
    assert packed.weight[0][packed.label[0] >= 0].tolist() == [3.0, 1.0, 1.0]


def test_a_turn_that_does_not_fit_is_left_out_whole():
    turn = Turn("existence", "Is there a dog in the image?", "Yes.")
    packed = corpus.pack([[turn] * 30], with_image=True)
    used = (packed.segment[0] > 0).sum()
    assert used % 13 == 0
    assert used == 13 * 2 * (96 // 13)


def test_tokenizer_round_trip_and_clean_text(processor):
    text = "A red fire hydrant is next to a dog, a cup and an apple. At the top there is a kite. Yes."
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text)
    assert processor.tokenizer.unk_token_id in processor.tokenizer("zeppelin")["input_ids"]


def test_every_path_gives_one_bos(processor):
    message = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog in the image?"}]}
    ]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    assert prompt == "<s>USER: <image>\nIs there a dog in the image? ASSISTANT:"
    image = world.draw(1).image
    by_text = processor(text=prompt, images=image, return_tensors="pt")["input_ids"][0].tolist()
    message[0]["content"][0]["image"] = image
    direct = processor.apply_chat_template(
        message, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert by_text == direct["input_ids"][0].tolist()
    assert by_text.count(2) == 1
    assert by_text.count(4) == 64
    assert by_text[:67] == corpus.prefix(with_image=True)


def test_pixels_of_training_equal_the_processor(processor):
    from grounddecode.lab.training.vision import pixels

    image = world.draw(2).image
    ours = pixels(np.asarray(image)[None], None, torch.device("cpu"))
    theirs = processor(text="<s>USER: <image>", images=image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_saved_keys_suit_vllm_and_load_unchanged(lab, tmp_path):
    model.save(lab, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        keys = list(file.keys())
    roots = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.model.", "language_model.lm_head.")
    assert all(key.startswith(roots) for key in keys)
    assert (tmp_path / "chat_template.jinja").exists()
    again, processor = model.load_checkpoint(tmp_path)
    before, after = lab.state_dict(), again.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[k].half().float(), after[k]) for k in before)
    text = again.config.text_config
    assert text.num_key_value_heads < text.num_attention_heads
    assert text.head_dim in (32, 64, 80, 96, 112, 128)
    assert processor.patch_size == 12


def test_training_is_seeded_and_states_its_hardware(tmp_path):
    from grounddecode.lab import train

    arguments = [
        "--no-compile",
        "--device",
        "cpu",
        "--images",
        "64",
        "--vision-steps",
        "2",
        "--text-steps",
        "1",
        "--align-steps",
        "1",
        "--joint-steps",
        "2",
        "--settle-steps",
        "1",
        "--layers",
        "1",
    ]
    for name in ("one", "two"):
        # A cache of its own, so that the second run computes every stage again.
        train.main(
            ["--seed", "5", "--cache", str(tmp_path / f"cache-{name}"), "--out", str(tmp_path / name), *arguments]
        )
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two
    record = json.loads((tmp_path / "one" / "training.json").read_text())
    assert record["hardware"]["device"] == "cpu"
    assert record["hardware"]["processor"]
    assert set(record["stages"]) == {"render", "vision", "text", "joint", "settle"}
    assert all(seconds >= 0 for seconds in record["stages"].values())


def test_noise_can_be_left_out_of_training():
    from grounddecode.lab.training.vision import pixels

    images = np.full((40, 4, 4, 3), 100, dtype=np.uint8)
    spread = {
        share: pixels(images, np.random.default_rng(0), torch.device("cpu"), share).flatten(1).std(1)
        for share in (0.0, 1.0)
    }
    assert spread[0.0].max() < 1e-6  # light changes a grey picture as a whole
    assert (spread[1.0] > 0.01).sum() > 35
