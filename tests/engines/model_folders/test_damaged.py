"""Model folders that are damaged or half there: one sentence that names the file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grounddecode.engines.hf.engine import HFEngine
from grounddecode.engines.model_folder import check_folder
from tests.engines.model_folders.asking import answer
from tests.engines.model_folders.changes import CONFIG, DAMAGED, LIGHT, SHARD, WEIGHTS, sharded


def test_there_are_enough_of_them() -> None:
    assert len(DAMAGED) >= 60


@pytest.mark.parametrize("name", LIGHT)
def test_damaged_files_are_told_from_the_files_alone(name: str, copy: Path) -> None:
    change, word = DAMAGED[name]
    change(copy)
    begin = time.thread_time()  # of this thread's own work: how busy the machine is does not count
    with pytest.raises(ValueError) as caught:
        check_folder(str(copy))
    assert time.thread_time() - begin < 2
    assert word in str(caught.value)
    assert "copy" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model", ["/no/such/model", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", "a b", "C:\\model"]
)
def test_a_path_that_leads_nowhere_is_no_hub_id(model: str) -> None:
    with pytest.raises(ValueError, match=f"^there is no folder {re.escape(repr(model))}, give one that holds a model"):
        check_folder(model)
    for name in ("gpt2", "llava-hf/llava-1.5-7b-hf", "lab:seed1"):
        check_folder(name)


def test_nothing_heavy_is_imported_to_say_so(copy: Path) -> None:
    (copy / CONFIG).write_text("null")
    code = (
        "import sys; from grounddecode.engines.base import open_engine\n"
        f"try: open_engine('hf', {str(copy)!r})\n"
        "except ValueError as error: print(error, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "config.json holds null" in done.stdout, done.stderr
    assert done.stdout.endswith("False False\n")


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_a_library_says_is_one_sentence(name: str, copy: Path) -> None:
    change, word = DAMAGED[name]
    change(copy)
    with pytest.raises(ValueError) as caught:
        HFEngine(str(copy), device="cpu")
    said = str(caught.value)
    assert word in said
    assert "copy" in said
    assert "\n" not in said
    assert len(said) < 600


def test_whole_folders_answer(whole: Path, tmp_path: Path) -> None:
    """The checks refuse nothing that is right: as saved, and in shards."""
    copy = Path(shutil.copytree(whole, tmp_path / "shards"))
    from safetensors import safe_open

    with safe_open(copy / WEIGHTS, "pt") as file:
        names = list(file.keys())
    sharded({"metadata": {}, "weight_map": dict.fromkeys(names, SHARD)})(copy)
    answers = [answer(HFEngine(str(folder), device="cpu")) for folder in (whole, copy)]
    assert answers[0] == answers[1] != ""
