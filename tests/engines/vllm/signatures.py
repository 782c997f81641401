"""What the vLLM engine uses of vLLM's insides, read from its source without importing it.

`python -m tests.engines.vllm.signatures FOLDER` prints the signatures of the vLLM in that folder; those of the versions
that are supported are kept in signatures.json.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

KEPT = Path(__file__).with_name("signatures.json")
USED = {
    "v1/sample/logits_processor/interface.py": [
        "LogitsProcessor.__init__", "LogitsProcessor.apply", "LogitsProcessor.update_state",
        "LogitsProcessor.is_argmax_invariant", "LogitsProcessor.validate_params", "BatchUpdate", "MoveDirectionality",
    ],
    "v1/worker/gpu/sample/logits_processor/interface.py": [
        "LogitsProcessor.__init__", "LogitsProcessor.add_request", "LogitsProcessor.apply_staged_writes",
        "LogitsProcessor.apply", "LogitsProcessor.validate_params", "LogitsProcRequestState", "LogitsContext",
    ],
    "v1/engine/input_processor.py": ["InputProcessor.process_inputs"],
    "v1/engine/__init__.py": ["EngineCoreRequest"],
    "v1/attention/backends/registry.py": ["register_backend", "AttentionBackendEnum.get_class"],
    "v1/attention/backend.py": [
        "CommonAttentionMetadata", "AttentionMetadataBuilder.__init__", "AttentionMetadataBuilder.build",
        "AttentionMetadataBuilder.get_cudagraph_support", "AttentionCGSupport", "AttentionBackend.get_impl_cls",
        "AttentionBackend.get_builder_cls", "AttentionBackend.full_cls_name",
    ],
    "v1/attention/backends/cpu_attn.py": [
        "CPUAttentionMetadataBuilder.build", "CPUAttentionBackendImpl.forward",
        "CPUAttentionBackendImpl.do_kv_cache_update",
    ],
    "_custom_ops.py": ["cpu_attn_get_scheduler_metadata", "cpu_attn_reshape_and_cache", "cpu_attention_with_kv_cache"],
    "v1/attention/backends/flash_attn.py": [
        "FlashAttentionMetadataBuilder.build", "FlashAttentionImpl.forward", "FlashAttentionImpl.do_kv_cache_update",
    ],
    "v1/attention/backends/triton_attn.py": [
        "TritonAttentionMetadataBuilder.build", "TritonAttentionImpl.forward",
        "TritonAttentionImpl.do_kv_cache_update",
    ],
    "v1/attention/backends/flex_attention.py": [
        "FlexAttentionMetadataBuilder.build", "FlexAttentionImpl.forward", "FlexAttentionImpl.do_kv_cache_update",
    ],
    "config/compilation.py": ["CUDAGraphMode"],
    "model_executor/model_loader/base_loader.py": ["BaseModelLoader.load_model"],
    "model_executor/layers/attention/attention.py": ["Attention.forward"],
    "model_executor/models/interfaces_base.py": ["VllmModelForTextGeneration.compute_logits"],
    "model_executor/custom_op.py": ["CustomOp.forward_native", "CustomOp.forward"],
    "forward_context.py": ["set_forward_context", "get_forward_context", "ForwardContext"],
    "utils/torch_utils.py": ["direct_register_custom_op"],
    "v1/core/sched/scheduler.py": ["Scheduler.schedule"],
    "v1/core/sched/request_queue.py": [
        "RequestQueue.__iter__", "RequestQueue.add_request", "RequestQueue.remove_requests",
    ],
    "v1/worker/gpu_model_runner.py": ["GPUModelRunner._update_states"],
    "v1/worker/gpu/model_runner.py": ["GPUModelRunner.finish_requests"],
    "distributed/communication_op.py": ["tensor_model_parallel_all_reduce", "tensor_model_parallel_all_gather"],
    "plugins/__init__.py": ["load_general_plugins"],
    "entrypoints/openai/chat_completion/serving.py": ["OpenAIServingChat.chat_completion_full_generator"],
    "entrypoints/openai/chat_completion/protocol.py": ["ChatCompletionRequest.to_beam_search_params"],
    "entrypoints/openai/completion/protocol.py": ["CompletionRequest.to_beam_search_params"],
    "entrypoints/generate/beam_search/online.py": ["BeamSearchOnlineMixin.beam_search"],
    "entrypoints/generate/beam_search/offline.py": ["BeamSearchOfflineMixin.beam_search"],
    "multimodal/inputs.py": ["MultiModalFeatureSpec", "PlaceholderRange"],
    "sampling_params.py": ["BeamSearchParams"],
    "exceptions.py": ["VLLMValidationError.__init__"],
}  # fmt: skip

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def signatures(folder: Path) -> dict[str, str]:
    """`file:name` to what it takes (functions) or holds (classes of fields); "missing" where it is not there."""
    found = {}
    for file, names in USED.items():
        path = folder / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        for name in names:
            found[f"{file}:{name}"] = _told(_find(tree, name.split(".")))
    return found


def _find(tree: ast.AST, path: list[str]) -> ast.AST | None:
    node: ast.AST | None = tree
    for name in path:
        body = getattr(node, "body", [])
        node = next((n for n in body if isinstance(n, ast.ClassDef | FUNCTION) and n.name == name), None)
    return node


def _told(node: ast.AST | None) -> str:
    if isinstance(node, FUNCTION):
        return f"({ast.unparse(node.args)})"
    if isinstance(node, ast.ClassDef):
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign | ast.Assign)]
        return "; ".join(fields)
    return "missing"


def kept() -> dict[str, dict[str, str]]:
    """By version."""
    return dict(json.loads(KEPT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    json.dump(signatures(Path(sys.argv[1])), sys.stdout, indent=1)
