"""No key and no password reaches a file or a message, whatever way it came in and whatever the server says."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.engines.openai.fake import Fake, Reply, words
from tests.engines.openai.hostile import echoes, hostile

KEY = "sk-X"  # as short as it may be
SMALL = ["--benchmarks", "pope,chair", "--limit", "2", "--max-new-tokens", "9", "--resamples", "9"]
PATIENT = ["--engine", "openai", "--engine-option", "retries=0"]


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    server.script = lambda body, nth: Reply(text="Yes." if words(body).startswith("Is") else "A dog.")
    yield server
    server.close()


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}


def assert_silent(texts: dict[str, str], *secrets: str) -> None:
    assert texts
    for name, text in texts.items():
        for secret in secrets:
            assert secret not in text, (name, secret)


@pytest.mark.parametrize("given", [KEY + "\r", KEY + "\n", f" {KEY} \r\n"])
def test_a_key_with_a_line_end_works_and_is_not_stored(
    grounddecode: Run, fake: Fake, tmp_path: Path, given: str
) -> None:
    command = ["bench", "--model", fake.url, *PATIENT, *SMALL, "--out", tmp_path / "r"]
    done = grounddecode(*command, OPENAI_API_KEY=given)
    assert done.returncode == 0, done.stderr
    assert {one["Authorization"] for one in fake.headers} == {f"Bearer {KEY}"}
    assert_silent(written(tmp_path / "r") | {"out": done.stdout, "err": done.stderr}, KEY)


def test_a_key_in_an_option_is_stored_nowhere_and_another_resumes_the_run(
    grounddecode: Run, fake: Fake, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    fake.script = lambda body, nth: Reply(text="Yes.") if len(fake.bodies) < 4 else Reply(status=400)
    command = ["bench", "--model", fake.url, *PATIENT, *SMALL, "--out", out, "--json"]
    extra = ["--engine-option", 'extra={"user": "me", "api_key": "other-secret"}']
    done = grounddecode(*command, *extra, "--engine-option", f"api_key={KEY}")
    assert done.returncode == 1, done.stderr
    assert {one["Authorization"] for one in fake.headers} == {f"Bearer {KEY}"}
    assert grounddecode("report", out).returncode == 0
    assert {"run.json", "metrics.json", "samples.jsonl", "index.html"} <= written(out).keys()
    assert_silent(written(out) | {"out": done.stdout, "err": done.stderr}, KEY, "other-secret")
    for name in ("run.json", "metrics.json", "samples.jsonl"):
        assert stat.S_IMODE((out / name).stat().st_mode) == 0o600, name
    fake.script = lambda body, nth: Reply(text="Yes.")
    again = grounddecode(*command, *extra, "--engine-option", "api_key=sk-Y", "--engine-option", "timeout=9")
    assert again.returncode == 0, again.stderr
    assert_silent(written(out) | {"out": again.stdout, "err": again.stderr}, KEY, "sk-Y")


def test_a_password_in_an_address_is_sent_and_stored_nowhere(grounddecode: Run, fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "r"
    address = fake.url.replace("://", "://bob:pa55%2Fword@") + "?key=s3cret-one"
    done = grounddecode("bench", "--model", address, *PATIENT, *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    assert {one["Authorization"] for one in fake.headers} == {"Basic Ym9iOnBhNTUvd29yZA=="}
    assert fake.paths[-1] == "/v1/chat/completions?key=s3cret-one"
    assert grounddecode("report", out).returncode == 0
    secrets = ("pa55", "bob:", "s3cret", "Ym9iOnBhNTUvd29yZA")
    assert_silent(written(out) | {"out": done.stdout, "err": done.stderr}, *secrets)
    asked = len(fake.bodies)
    again = grounddecode("bench", "--model", address.replace("pa55", "new"), *PATIENT, *SMALL, "--out", out)
    assert (again.returncode, len(fake.bodies)) == (0, asked), again.stderr
    picture = tmp_path / "p.png"
    Image.new("RGB", (8, 8)).save(picture)
    one = grounddecode("generate", "--model", address, *PATIENT, "-i", picture, "-p", "Is it?", "--json")
    assert json.loads(one.stdout)["text"] == "Yes."
    assert_silent({"out": one.stdout, "err": one.stderr}, *secrets)


@pytest.mark.parametrize("more", [(), ("--debug",)])
def test_a_server_that_echoes_what_it_got_is_not_repeated(
    grounddecode: Run, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with hostile(echoes) as server:
        for address, options, secret in (
            (server.url + "#m", [f"api_key={KEY}"], KEY),
            (server.url.replace("://", "://bob:pa55word@") + "#m", [], "pa55word"),
        ):
            out = tmp_path / secret
            given = [part for one in options for part in ("--engine-option", one)]
            command = [*more, "bench", "--model", address, *PATIENT, *given, *SMALL, "--out", out]
            done = grounddecode(*command)
            assert done.returncode == 2
            assert "status 401 wrong key in" in done.stderr
            assert "wrong key in" in (out / "samples.jsonl").read_text()
            assert_silent(written(out) | {"out": done.stdout, "err": done.stderr}, secret, "Ym9iOnBhNTV3b3Jk")


@pytest.mark.parametrize(
    ("address", "options", "secret"),
    [
        ("http://bob:pa55/word@h/v1", [], "pa55"),
        ("http://bob:12/pa55@h/v1", [], "pa55"),
        ("http://bob:pa55@h:x/v1", [], "pa55"),
        ("bob:pa55@h/v1", [], "pa55"),
        ("http://h/v1#m", ["api_key=pa55 word"], "pa55"),
        ("http://h/v1#m", ["api_key=pa\u00df55"], "\u00df55"),
        ("http://bob:x@h/v1#m", ["api_key=pa55"], "pa55"),
        ("http://h/v1#m", ['extra={"api_key": "pa55"'], "pa55"),
    ],
)
def test_a_refusal_does_not_repeat_it_either(
    grounddecode: Run, tmp_path: Path, address: str, options: list[str], secret: str
) -> None:
    given = [part for one in options for part in ("--engine-option", one)]
    done = grounddecode("bench", "--model", address, *PATIENT, *given, *SMALL, "--out", tmp_path / "r")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unexpected" not in done.stderr
    assert secret not in done.stderr


@pytest.mark.parametrize("proxy", ["http://bob:pa55word@h:x", "gopher://bob:pa55word@h", "socks9://bob:pa55word@h"])
def test_a_proxy_is_told_without_its_password(grounddecode: Run, tmp_path: Path, proxy: str) -> None:
    command = ["bench", "--model", "http://h/v1#m", *PATIENT, *SMALL, "--out", tmp_path / "r"]
    done = grounddecode(*command, HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert done.returncode == 2
    assert "the proxies of the environment (HTTPS_PROXY, ALL_PROXY, ...) cannot be used" in done.stderr
    assert "pa55word" not in done.stderr


def test_what_an_older_version_stored_is_neither_shown_nor_kept(grounddecode: Run, fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "r"
    command = ["bench", "--model", fake.url.replace("://", "://bob:pa55word@"), *PATIENT, *SMALL, "--out", out]
    assert grounddecode(*command).returncode == 0
    run = json.loads((out / "run.json").read_text())
    run["settings"] |= {"model": command[2], "engine_options": {"retries": "0", "api_key": "old-secret"}}
    run["command"] = run["sessions"][0]["command"] = f"bench --model {command[2]} --engine-option api_key=old-secret"
    (out / "run.json").write_text(json.dumps(run))
    shown = [grounddecode("report", out, "--out", tmp_path / "page"), grounddecode("compare", out, "--json")]
    shown += [grounddecode(*command), grounddecode("score", "run", out, "--json")]
    assert [done.returncode for done in shown] == [0] * 4, shown
    texts = {str(at): done.stdout + done.stderr for at, done in enumerate(shown)}
    assert_silent(texts | written(out) | written(tmp_path / "page"), "old-secret", "pa55word")
