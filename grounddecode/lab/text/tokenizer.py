"""Word-level tokenizer and LLaVA processor of the lab model."""

import re
from functools import cache
from typing import Any

from grounddecode.lab import captions
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.world import CATEGORIES, SCENES, SIDE

PATCH = 12
IMAGE_TOKEN = "<image>"
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", IMAGE_TOKEN)
# BOS stands in the template, and the tokenizer adds none: every engine then sees exactly one.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PIECE = re.compile(r"\w+|[^\w\s]+")


@cache
def vocabulary() -> dict[str, int]:
    """Every word the lab can write or be asked, to its id; special tokens come first."""
    texts = [*captions.LONG_PROMPTS, captions.SHORT_PROMPT, *captions.INTROS, *captions.SINGLES, *captions.DOUBLES]
    texts += [*captions.PLACES, *captions.RELATIONS, *captions.EXISTENCE, captions.ATTRIBUTE, captions.PLACEMENT]
    texts += [captions.RELATION, captions.YES_OR_NO, *captions.PEOPLE, *CATEGORIES, *SCENES, *COLOURS]
    texts += [word for words in captions.NOUNS.values() for word in words]
    texts += [place.capitalize() for place in captions.PLACES]
    texts += ["Yes. No. A An a an with, and ? : ! USER ASSISTANT SYSTEM yes no what What in of are Are not"]
    words = {w for text in texts for w in _PIECE.findall(re.sub(r"\{\w*\}", " ", text))}
    return {word: index for index, word in enumerate([*SPECIAL, *sorted(words)])}


def split(text: str) -> list[str]:
    """The pieces that a text is made of: words and marks."""
    return _PIECE.findall(text)


def encode(text: str) -> list[int]:
    """Ids of a text of known words, as the shipped tokenizer gives them; raises KeyError for an unknown word."""
    table = vocabulary()
    return [table[piece] for piece in split(text)]


def build_tokenizer(words: dict[str, int] | None = None) -> Any:
    """The `PreTrainedTokenizerFast` of these words (by default the first lab's); no blank before punctuation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(words or vocabulary(), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[IMAGE_TOKEN],
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(words: dict[str, int] | None = None) -> Any:
    """The `LlavaProcessor` for 96 x 96 images in 64 patches; `words` as for `build_tokenizer`."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=_image_processor(),
        tokenizer=build_tokenizer(words),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def _image_processor() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
