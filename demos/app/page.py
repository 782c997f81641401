"""The page: picture and question on the left, the answers side by side, and under them where each word comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demos.app.controls import Control, controls_of, spec
from demos.app.models import ONE, Asked, Model
from demos.app.pictures import Picked, scene, upload
from grounddecode import registry
from grounddecode.lab.world import scenes
from grounddecode.report.html import marked
from grounddecode.report.marks import mark

PROMPT = "Describe this image in detail."
SCENES = 8
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def build(model: Model) -> gr.Blocks:
    """The app for one model. Each visitor has a picture of their own."""
    drawn = scenes("evaluation", SCENES)
    with gr.Blocks(title="grounddecode", analytics_enabled=False) as app:
        picked = gr.State(scene(drawn[0].seed))
        gr.Markdown(f"# What the model says, plain and with a method\nModel: {escape(model.name)}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                shown = gr.Image(
                    drawn[0].image, label="Picture", interactive=False, height=260, elem_id="shown", buttons=[]
                )
                said = gr.HTML(_about(scene(drawn[0].seed)), elem_id="about")
                gallery = gr.Gallery(
                    [one.image for one in drawn], label="Drawn scenes", columns=4, height=240,
                    allow_preview=False, elem_id="scenes", buttons=[],
                )  # fmt: skip
                file = gr.File(label="Or a picture of your own", file_types=["image"], elem_id="file", height=160)
                prompt = gr.Textbox(PROMPT, label="Question", elem_id="prompt")
                length = gr.Slider(8, 256, value=60, step=4, label="Longest answer, in tokens")
            with gr.Column(scale=2, min_width=320):
                chosen = gr.CheckboxGroup(
                    registry.names(), value=["avc"], label="Methods, in this order", elem_id="methods"
                )
                controls = _controls(chosen)
                button = gr.Button("Answer", variant="primary", elem_id="go")
                state = gr.HTML("", elem_id="state")
                with gr.Row(elem_id="answers"):
                    plain = gr.HTML(_answer("plain model", "", None), elem_id="plain", min_width=300)
                    other = gr.HTML(_answer("with methods", "", None), elem_id="other", min_width=300)
        explained = gr.HTML("", elem_id="explained")
        gallery.select(_chooser([one.seed for one in drawn]), outputs=[picked, shown, said], queue=False)
        file.upload(_upload, [file, picked], [picked, shown, said], queue=False)
        button.click(
            partial(_run, model, controls),
            [picked, prompt, length, chosen, *(control.component for control in controls)],
            [state, plain, other, explained],
            concurrency_limit=1,
            show_progress="hidden",
        )
    return app


def _controls(chosen: gr.CheckboxGroup) -> list[Control]:
    """A folded group for each method, shown while it is chosen."""
    found: list[Control] = []
    groups = []
    for name in registry.names():
        with gr.Accordion(f"Options of {name}", open=False, visible=name == "avc", elem_id=f"options-{name}") as group:
            gr.Markdown(f"It {registry.method_class(name).summary}. {registry.method_class(name).paper}.")
            found += controls_of(name)
        groups.append(group)
    chosen.change(lambda names: [gr.update(visible=n in names) for n in registry.names()], chosen, groups, queue=False)
    return found


def _chooser(seeds: Sequence[int]) -> Callable[[gr.SelectData], tuple[Picked, Any, str]]:
    def choose(event: gr.SelectData) -> tuple[Picked, Any, str]:
        picked = scene(seeds[event.index])
        return picked, picked.image, _about(picked)

    return choose


def _upload(path: str, before: Picked) -> tuple[Picked, Any, str]:
    """The file as picture; one that is none leaves the picture that was there, and says why."""
    try:
        picked = upload(path)
    except ValueError as error:
        return before, before.image, f'<p class="wrong">{escape(str(error))}</p>{_about(before)}'
    return picked, picked.image, _about(picked)


def _about(picked: Picked) -> str:
    known = "What is in it is not known." if picked.objects is None else f"In it: {', '.join(picked.objects)}."
    return f"<p>{escape(picked.label)}. {escape(known)}</p>"


def _run(
    model: Model,
    controls: Sequence[Control],
    picked: Picked,
    prompt: str,
    length: float,
    chosen: list[str],
    *values: Any,
) -> Iterator[tuple[str, str, str, str]]:
    """Answers as they grow, marked where it is known what is there; then the page that explains them."""
    try:
        name = spec([one for one in registry.names() if one in chosen], controls, values)
        methods = registry.parse(name)
        refused = model.refusal(methods) if methods else None
        if refused:
            raise ValueError(refused)
        asked = Asked(picked, prompt, methods, name, int(length))
        shown = ("", "")
        for texts in model.stream(asked):
            shown = (texts[0], texts[-1] if methods else "")
            yield ("<p>The model answers ...</p>", *_both(shown, asked), "")
        yield ("<p>Reading the answers once more, for where each word comes from ...</p>", *_both(shown, asked), "")
        yield (_done(asked), *_both(shown, asked), _explained(model.page(asked)))
    except (ValueError, RuntimeError) as error:
        empty = _answer("plain model", "", None), _answer("with methods", "", None)
        told = str(error).removeprefix(f"sample {ONE}: ")
        yield (f'<p class="wrong">{escape(told)}</p>', *empty, "")


def _done(asked: Asked) -> str:
    words = f"--method {asked.name}" if asked.methods else "without methods"
    return f"<p>Done, <code>{escape(words)}</code>.</p>"


def _both(texts: tuple[str, str], asked: Asked) -> tuple[str, str]:
    objects = asked.picked.objects
    return _answer("plain model", texts[0], objects), _answer(asked.name or "no method", texts[1], objects)


def _answer(name: str, text: str, objects: Sequence[str] | None) -> str:
    """One answer; what it names is marked where it is known what is in the picture."""
    text = text.strip()
    marks = [] if objects is None else mark(text, objects)
    invented = sum(not one.real for one in marks)
    told = f'<p class="soft">{invented} of {len(marks)} objects are not in the picture.</p>' if marks else ""
    return f'<div class="answer"><h3>{escape(name)}</h3><p>{marked(text, marks)}</p>{told}</div>'


def _explained(page: str | None) -> str:
    """The explain page in a frame of its own, which can reach nothing of this page."""
    if page is None:
        return "<p>A server gives no gradients: risk and heat maps need a model on this machine.</p>"
    title = "Where each word comes from"
    return f'<iframe class="explain" sandbox="allow-scripts" title="{title}" srcdoc="{escape(page)}"></iframe>'
