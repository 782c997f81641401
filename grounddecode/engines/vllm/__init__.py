"""The vLLM engine: methods per request, behind `--logits-processors logits_processors.vllm:GroundDecode`.

Control plane: `params` reads what a request asks for, `plugin` puts it through at admission, `processor` and `requests`
keep it in the worker. Data plane: `step` says which rows of a step are edited, `backend` edits them in the attention
layers from the paged `cache`, `observer` flags tokens, `stream` runs a second stream, `saliency` takes gradients.
"""
