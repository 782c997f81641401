"""Controls made from the declared ranges: every value that one can have is one that the method takes."""

from __future__ import annotations

from dataclasses import fields

import pytest

from grounddecode import registry
from grounddecode.schema import range_of

gr = pytest.importorskip("gradio", reason="the app's environment has gradio: make test-app")

from demos.app.controls import controls_of, spec  # noqa: E402

METHODS = registry.names()
FIELDS = {method: {field.name: field for field in fields(registry.method_class(method))} for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_the_ends_of_every_slider_are_values_of_the_option(method: str) -> None:
    for control in controls_of(method):
        slider = control.component
        if not isinstance(slider, gr.Slider):
            continue
        for value in (slider.minimum, slider.maximum, slider.value):
            given = int(value) if slider.step == 1 else value
            assert range_of(FIELDS[method][control.name]).holds(given), (control.name, given)


@pytest.mark.parametrize("method", METHODS)
def test_untouched_controls_say_nothing(method: str) -> None:
    controls = controls_of(method)
    assert spec([method], controls, [control.component.value for control in controls]) == method


def test_what_was_changed_is_written_as_the_command_takes_it() -> None:
    controls = controls_of("avc") + controls_of("locore")
    values = [control.component.value for control in controls]
    values[[control.name for control in controls].index("alpha")] = 1.5
    written = spec(["locore", "avc"], controls, values)
    assert written == "locore+avc:alpha=1.5"
    assert [method.name for method in registry.parse(written)] == ["locore", "avc"]
    assert spec([], controls, values) == ""


def test_switches_choices_and_the_rest_have_controls_of_their_kind() -> None:
    kinds = {control.name: type(control.component) for control in controls_of("sgrs")}
    assert kinds["alpha"] is gr.Slider
    assert kinds["top_k"] is gr.Slider
    assert kinds["history"] is gr.Dropdown
    assert kinds["append_fallback"] is gr.Checkbox
    assert kinds["layers"] is gr.Textbox
