"""`python -m demos.app`: the demo app in a browser, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from demos.app.models import Local, Model, Served
from demos.app.page import STYLE, build


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demos.app", description=__doc__)
    parser.add_argument("--model", default="lab", help="a folder, a hub id, or `lab`")
    parser.add_argument(
        "--url", help="address of a running vLLM server, in place of a model of this machine; key: OPENAI_API_KEY"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, ...")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others of the network in")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    local = {"device": options.device, "dtype": options.dtype}
    model: Model = Served(options.url) if options.url else Local(options.model, **local)
    build(model).launch(
        server_name=options.host, server_port=options.port, share=False, css=STYLE, footer_links=[], ssr_mode=False,
        max_file_size="30mb", show_error=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
