"""Methods per request on a real vLLM server over loopback: answers, refusals, aborted clients, nothing left behind."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from grounddecode import lab, registry
from grounddecode.engines.base import Decoding, Engine, Request, open_engine
from grounddecode.lab import world
from tests.support import vllm_server

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(vllm_server.python() is None, reason="needs vLLM's environment: make .venv-vllm"),
]
DETAIL = "Describe this image in detail."
SINKS = "sink_dims=3;11,tau=1.5,rho=0.2,p=0.9"
SETTINGS = {"for": [f"var:{SINKS}", "sgrs:layers=1;2,alpha=0.9"]}
METHODS: dict[str, Any] = {
    "locore:beta=3": {"method": "locore", "beta": 3},
    "heads:alpha=4": {"method": "heads", "alpha": 4},
    f"var:{SINKS}": {"method": "var"},
    "avc:alpha=1": {"method": "avc", "alpha": 1},
    "sgrs:layers=1;2,alpha=0.9": {"method": "sgrs"},
    "locore:beta=3+avc:alpha=1": [{"method": "locore", "beta": 3}, {"method": "avc", "alpha": 1}],
    "": {"method": "none"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log"
    flags = ("--logits-processors", "logits_processors.vllm:GroundDecode")
    flags += ("--additional-config", json.dumps({"grounddecode": SETTINGS | {"default": "locore:beta=3"}}))
    with vllm_server.serve(lab.checkpoint("seed0"), log, *flags) as address:
        yield address
    told = log.read_text(errors="replace")
    assert "failed, switched off" not in told
    assert (
        told.count("grounddecode: attention CPU_ATTN, runner V1, compilation NONE, graphs NONE; started for var, ") == 1
    )


@pytest.fixture(scope="module")
def local() -> Iterator[Engine]:
    engine = open_engine("hf", "lab", device="cpu", dtype="float32")
    yield engine
    engine.close()


def picture(image: Any) -> dict[str, Any]:
    kept = io.BytesIO()
    image.save(kept, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"},
    }


def body(image: Any | None, wanted: Any = None, tokens: int = 48, **options: Any) -> dict[str, Any]:
    content = ([] if image is None else [picture(image)]) + [{"type": "text", "text": DETAIL}]
    chat = {"model": str(lab.checkpoint("seed0")), "messages": [{"role": "user", "content": content}]}
    given = (
        {}
        if wanted is None
        else {"vllm_xargs": {"grounddecode": wanted if isinstance(wanted, str) else json.dumps(wanted)}}
    )
    return chat | {"max_tokens": tokens, "temperature": 0} | given | options


def ask(server: str, sent: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server}/v1/chat/completions", json=sent, timeout=300, trust_env=False)


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"]).strip()


def is_healthy(server: str) -> bool:
    return httpx.get(f"{server}/health", timeout=30, trust_env=False).is_success


def by_hf(local: Engine, image: Any, spec: str) -> str:
    request = Request(sample_id="s", prompt=DETAIL, images=(image,))
    return local.generate([request], Decoding(max_new_tokens=48), registry.parse(spec))[0].text


def test_each_request_has_its_method_and_64_at_once_give_what_engine_hf_gives(server: str, local: Engine) -> None:
    scenes = list(world.scenes("evaluation", 4))
    expected = {(i, spec): by_hf(local, scene.image, spec) for i, scene in enumerate(scenes) for spec in METHODS}
    wanted = [key for key in expected for _ in range(3)][:64]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda key: text(ask(server, body(scenes[key[0]].image, METHODS[key[1]]))), wanted))
    assert len(answers) == 64
    assert [expected[key] for key in wanted] == answers
    assert len(set(expected.values())) > 16, "the methods change nothing"


def test_a_stream_of_events_has_the_same_text(server: str, local: Engine) -> None:
    image = next(iter(world.scenes("evaluation", 1))).image
    sent = body(image, METHODS["avc:alpha=1"], stream=True)
    pieces = []
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=sent, timeout=300, trust_env=False) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                pieces += [c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"]]
    assert "".join(pieces).strip() == by_hf(local, image, "avc:alpha=1")


def test_an_answer_names_its_methods_and_engine_openai_takes_it(server: str, local: Engine) -> None:
    image = next(iter(world.scenes("evaluation", 1))).image
    told = ask(server, body(image, METHODS["avc:alpha=1"])).json()["grounddecode"]
    assert told == {"methods": [method.to_dict() for method in registry.parse("avc:alpha=1")]}
    assert "grounddecode" not in ask(server, body(image, {"method": "none"})).json()
    engine = open_engine("openai", server, send_methods=True)
    request = Request(sample_id="s", prompt=DETAIL, images=(image,))
    for spec in ("avc:alpha=1", "locore:beta=3+avc:alpha=1"):
        (answer,) = engine.generate([request], Decoding(max_new_tokens=48), registry.parse(spec))
        assert answer.text == by_hf(local, image, spec)
    engine.close()


def test_what_says_nothing_gets_the_servers_default(server: str, local: Engine) -> None:
    image = next(iter(world.scenes("evaluation", 1))).image
    assert text(ask(server, body(image))) == by_hf(local, image, "locore:beta=3")


def test_a_text_alone_runs_plain_under_the_default(server: str) -> None:
    assert text(ask(server, body(None))) == text(ask(server, body(None, {"method": "none"})))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"method": "vra"}, "'vra' is no method, did you mean 'var'?"),
        ({"method": "locore", "beta": -1}, "locore: beta is -1.0, give a finite number of at least 0"),
        ({"method": "locore", "bta": 1}, "'bta' is no hyper-parameter of locore, did you mean 'beta'?"),
        ({"method": "locore", "beta": "much"}, "locore: beta is 'much', give a number"),
        ({"method": "locore", "window": 10**30}, "locore: window is a number of many digits, give at most 2147483647"),
        ({"method": "locore", "layers": [17]}, "locore acts on no layer of this model, which has layers 0 to 5"),
        ({"method": "paint"}, "paint: vLLM's vision tower gives no attention weights"),
        ({"method": "var", "tau": 9}, "var: this server looks for sinks as"),
        ([{"method": "avc"}, {"method": "sgrs"}], "sgrs and avc both decide on the next token"),
        ([], None),
        ("{", "grounddecode is no JSON"),
        ("[" * 5000, "grounddecode is no JSON"),
        ("x" * 9000, "grounddecode is a text of 9000 characters"),
        ("7", "'7' is no method"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(server: str, wanted: Any, sentence: str | None) -> None:
    image = next(iter(world.scenes("evaluation", 1))).image
    response = ask(server, body(image, wanted, tokens=2))
    assert response.status_code == (200 if sentence is None else 400), response.text
    if sentence is not None:
        assert sentence in response.json()["error"]["message"]
    assert is_healthy(server)


def test_beam_search_with_a_method_is_refused(server: str) -> None:
    image = next(iter(world.scenes("evaluation", 1))).image
    for wanted, words in (({"method": "avc"}, "avc cannot"), (None, "locore, the default of this server, cannot")):
        response = ask(server, body(image, wanted, tokens=2, use_beam_search=True, n=2))
        assert response.status_code == 400
        assert f"{words} follow vLLM's beam search" in response.json()["error"]["message"]
    assert len(ask(server, body(None, tokens=2, use_beam_search=True, n=2)).json()["choices"]) == 2


def test_a_method_without_an_image_is_refused(server: str) -> None:
    response = ask(server, body(None, {"method": "locore"}))
    assert response.status_code == 400
    assert "locore: no image token in the prompt" in response.json()["error"]["message"]


def test_an_object_where_text_belongs_is_refused_by_the_server(server: str) -> None:
    response = ask(server, body(None) | {"vllm_xargs": {"grounddecode": {"method": "var"}}})
    assert response.status_code == 400
    assert is_healthy(server)


def test_an_image_that_is_too_long_is_refused(server: str) -> None:
    scene = next(iter(world.scenes("evaluation", 1)))
    sent = body(scene.image, {"method": "avc"})
    sent["messages"][0]["content"] += [picture(scene.image)] * 5
    response = ask(server, sent)
    assert response.status_code == 400
    assert is_healthy(server)


def metric(server: str, name: str) -> float:
    """A number of `/metrics`, 0 where it is not there yet."""
    page = httpx.get(f"{server}/metrics", timeout=30, trust_env=False).text
    found = [line for line in page.splitlines() if line.startswith(name)]
    return float(found[0].split()[-1]) if found else 0.0


def test_metrics_tell_which_methods_were_asked_for_and_what_they_changed(server: str) -> None:
    names = (
        'grounddecode_requests_total{methods="avc+locore"}',
        'grounddecode_tokens_total{method="avc"}',
        'grounddecode_tokens_changed_total{method="avc"}',
    )
    before = [metric(server, name) for name in names]
    scenes = list(world.scenes("evaluation", 6))
    for scene in scenes:
        text(ask(server, body(scene.image, METHODS["locore:beta=3+avc:alpha=1"], tokens=24, ignore_eos=True)))
    text(ask(server, body(scene.image, {"method": "none"}, tokens=2)))  # workers hear of ends with the next step
    requests, tokens, changed = (metric(server, name) - was for name, was in zip(names, before, strict=True))
    assert requests == len(scenes)
    assert 24 * len(scenes) <= tokens <= 25 * len(scenes)
    assert 0 < changed < tokens


def test_after_a_refusal_the_same_picture_is_answered(server: str) -> None:
    """The frontend must not believe that the engine has a picture which came with a refused request."""
    scene = list(world.scenes("evaluation", 9))[8]
    assert ask(server, body(scene.image, {"method": "locore", "beta": -1}, tokens=2)).status_code == 400
    assert text(ask(server, body(scene.image, {"method": "none"}, tokens=2)))


def test_clients_that_leave_take_their_second_streams_with_them(server: str, local: Engine) -> None:
    scenes = list(world.scenes("evaluation", 4))
    _crowd(server, scenes, 100)
    grown = {False: 0.0, True: 0.0}  # vLLM's own processes grow for a while, also where no method was asked for
    for plain in (True, False) * 3:
        before = _memory(server)
        _crowd(server, scenes, 100, plain)
        grown[plain] += _memory(server) - before
    assert grown[False] - grown[True] < 24, "megabytes by which 300 requests grow the server beyond plain ones"
    assert is_healthy(server)
    image = scenes[0].image
    assert text(ask(server, body(image, METHODS["avc:alpha=1"]))) == by_hf(local, image, "avc:alpha=1")


def _crowd(server: str, scenes: list[Any], count: int, plain: bool = False) -> None:
    """Requests of all methods, or of none, a third of whose clients leave in the middle."""
    specs = list(METHODS)

    def one(i: int) -> None:
        wanted = {"method": "none"} if plain else METHODS[specs[i % len(specs)]]
        sent = body(scenes[i % 4].image, wanted, stream=True)
        with httpx.stream("POST", f"{server}/v1/chat/completions", json=sent, timeout=300, trust_env=False) as response:
            for n, _ in enumerate(response.iter_lines()):
                if i % 3 == 0 and n > i % 20:
                    return

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(count)))


def _memory(server: str) -> float:
    """Megabytes of the server's processes."""
    port = server.rpartition(":")[2]
    roots = [p for p in _processes() if f"--port {port} " in p[2]]
    group = {os.getpgid(pid) for pid, _, _ in roots}
    return sum(rss for pid, rss, _ in _processes() if _group(pid) in group)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _processes() -> list[tuple[int, float, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_text().replace("\0", " ")
                pages = int((folder / "statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            found.append((int(folder.name), pages * os.sysconf("SC_PAGE_SIZE") / 2**20, command))
    return found
