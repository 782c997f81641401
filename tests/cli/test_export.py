"""`grounddecode export-custom-generate`: transformers runs the folder, and it does what the methods do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Run, assert_sentence

RUN = """
import sys
import torch
from grounddecode import ground, lab, registry
from grounddecode.lab import world

model, processor = lab.load()
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this image in detail."}]}]
text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
pictures = [scene.image for scene in world.scenes("calibration", 2)]
inputs = processor(images=pictures, text=[text, text], return_tensors="pt")
options = {"max_new_tokens": 24, "do_sample": False, "num_beams": int(sys.argv[3])}
plain = model.generate(**inputs, **options)
told = model.generate(**inputs, **options, custom_generate=sys.argv[1], trust_remote_code=True)
with ground(model, registry.parse(sys.argv[2])):
    expected = model.generate(**inputs, **options)
assert torch.equal(told, expected)
assert not torch.equal(told, plain)
assert torch.equal(model.generate(**inputs, **options), plain)
print("same")
"""


def run_folder(folder: Path, spec: str, beams: int, home: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "HF_HOME": str(home)}
    command = [sys.executable, "-c", RUN, str(folder), spec, str(beams)]
    return subprocess.run(command, env=settings | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("spec", "beams"), [("avc:alpha=1.0", 1), ("locore:beta=1.5+avc:alpha=0.5", 2)])
def test_transformers_runs_it(spec: str, beams: int, grounddecode: Run, tmp_path: Path) -> None:
    folder = tmp_path / "grounded"
    assert grounddecode("export-custom-generate", folder, "--method", spec).returncode == 0
    done = run_folder(folder, spec, beams, tmp_path / "home")
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr[-2000:]


def test_without_trust_transformers_runs_nothing(grounddecode: Run, tmp_path: Path) -> None:
    folder = tmp_path / "grounded"
    assert grounddecode("export-custom-generate", folder, "--method", "avc").returncode == 0
    program = RUN.replace(", trust_remote_code=True", ", trust_remote_code=False")
    command = [sys.executable, "-c", program, str(folder), "avc", "1"]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "trust_remote_code" in done.stderr


def test_a_method_of_another_package_is_required(tmp_path: Path) -> None:
    outside = ROOT / "tests" / "support" / "outside"
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, outside)))}
    command = [
        sys.executable,
        "-m",
        "grounddecode",
        "export-custom-generate",
        str(tmp_path / "f"),
        "--method",
        "sharpen",
    ]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    required = (tmp_path / "f" / "custom_generate" / "requirements.txt").read_text().split()
    assert [one.partition(">")[0] for one in required] == ["grounddecode", "outside-method"]


def test_what_a_calibration_says_goes_along(grounddecode: Run, tmp_path: Path) -> None:
    from grounddecode.calibration import Calibration

    Calibration(checkpoint="mine", sink_dims=(3, 11), tau=1.5).save(tmp_path / "c.json")
    folder = tmp_path / "f"
    done = grounddecode("export-custom-generate", folder, "--method", "var", "--calibration", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    written = (folder / "custom_generate" / "generate.py").read_text()
    assert '"sink_dims": [3, 11]' in written
    assert '"tau": 1.5' in written


def test_bad_input_is_one_sentence(grounddecode: Run, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    assert_sentence(grounddecode("export-custom-generate", folder, "--method", "greedy"), "is no method")
    assert_sentence(grounddecode("export-custom-generate", folder, "--method", "avk"), "avc")
    assert not folder.exists()
    (folder / "custom_generate").mkdir(parents=True)
    (folder / "custom_generate" / "generate.py").write_text("mine")
    assert_sentence(grounddecode("export-custom-generate", folder, "--method", "avc"), "is there already")
