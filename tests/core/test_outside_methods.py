"""A method of another package: an entry point makes it one of ours, everywhere that methods have names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


def run(*arguments: str, packages: tuple[str, ...] = ("outside",)) -> subprocess.CompletedProcess[str]:
    """Python where the packages are installed: their folders hold what `pip install --target` leaves."""
    path = os.pathsep.join([str(ROOT), *(str(SUPPORT / name) for name in packages)])
    settings = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300
    )


def printed(program: str, **options: tuple[str, ...]) -> str:
    done = run("-c", program, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_a_name_a_specification_and_a_setting() -> None:
    told = printed(
        "from grounddecode import registry as r\n"
        "print(r.names()[-1], r.parse('sharpen:share=0.25+avc')[0], sep='|')\n"
        "from grounddecode.cli.asking import with_settings\n"
        "print(with_settings(r.plan('sample+sharpen'), ['share=2']).to_dict()['methods'])"
    )
    assert told.splitlines() == ["sharpen|Sharpen(share=0.25)", "[{'name': 'sharpen', 'share': 2.0}]"]


def test_its_range_is_checked_and_in_the_schema_of_requests() -> None:
    done = run("-m", "grounddecode", "methods", "--json-schema")
    entries = json.loads(done.stdout)["oneOf"][0]["oneOf"]
    (share,) = [one["properties"]["share"] for one in entries if one["properties"]["method"]["const"] == "sharpen"]
    assert (share["minimum"], share["maximum"], share["default"]) == (0, 4, 0.5)
    wrong = run("-m", "grounddecode", "generate", "--model", "lab", "-p", "p", "--method", "sharpen:share=9")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "grounddecode: sharpen: share is 9.0, give a number between 0 and 4\n",
    )


def test_the_command_lists_it() -> None:
    cards = json.loads(run("-m", "grounddecode", "methods", "--json").stdout)["methods"]
    assert cards["sharpen"]["needs"] == ["logits"]


def test_it_has_a_logits_processor_and_no_place_among_our_own_names() -> None:
    told = printed(
        "import grounddecode, logits_processors\n"
        "from logits_processors import SharpenLogitsProcessor, SHARPENLogitsProcessor\n"
        "print(SharpenLogitsProcessor is SHARPENLogitsProcessor, 'Sharpen' in dir(grounddecode))\n"
        "print('SharpenLogitsProcessor' in logits_processors.list_processors(), SharpenLogitsProcessor.registered)"
    )
    assert told.splitlines() == ["True False", "True sharpen"]


def test_it_keeps_the_contract_that_ours_keep() -> None:
    contracts = [f"tests/contract/test_{name}.py" for name in ("declaration", "functions")]
    done = run("-m", "pytest", *contracts, "-k", "sharpen or Sharpen", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout  # 5 where no test asks for it


def test_what_is_no_method_or_takes_a_name_does_not_harm_the_others() -> None:
    told = printed(
        "from grounddecode import registry as r\n"
        "print(r.method_class('avc').__module__, 'sample' in r.names())\n"
        "for name in ('wrong', 'other', 'gone'):\n"
        "    try: r.create(name)\n"
        "    except ValueError as error: print(error)",
        packages=("outside", "broken"),
    )
    assert told.splitlines() == [
        "grounddecode.methods.contrast.avc False",
        "grounddecode.method:option is no method named 'wrong', give a Method whose `name` it is",
        "grounddecode.methods.attention.var:VAR is no method named 'other', give a Method whose `name` it is",
        "the method 'gone' cannot be had (No module named 'a_package_that_is_gone'), install its package anew",
    ]


def test_a_server_can_be_started_for_it_beside_ours() -> None:
    done = run("-m", "grounddecode", "serve-args", "--model", "lab", "--for", "sgrs,sharpen", "--json")
    assert done.returncode == 0, done.stderr
    command = json.loads(done.stdout)["command"]
    assert json.loads(command[command.index("--additional-config") + 1])["grounddecode"]["for"] == ["sgrs"]
