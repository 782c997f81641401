"""Writes the sources of the site: `python -m benchmarks.pages.site --out out/docs`, then `zensical build`.

Pages of docs/ are taken as they are; pages of methods, the reference and the commands are made of the sources, so that
they cannot be out of date; results are those committed.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import yaml

from benchmarks.pages.site import methods, reference
from grounddecode import registry

ROOT = Path(__file__).parents[3]
FIRST = (
    "guides/which_method.md", "guides/hf.md", "vllm.md", "ray.md", "guides/benchmark_data.md",
    "guides/reading_tables.md", "guides/new_model.md", "guides/new_method.md",
)  # fmt: skip
"""The order of what is written by hand; what is not named here comes behind."""
RESULTS = {
    "Methods on the lab": "results/lab/methods.md",
    "What we read from it": "results/lab/README.md",
    "Methods to compare with": "results/lab/peers.md",
    "Contrasts on the lab": "results/lab/contrasts.md",
    "Contrasts without noise in training": "results/lab/noise.md",
    "One setting for all seeds": "results/lab/bar.md",
    "Methods on the second lab": "results/lab2/methods.md",
    "What we read from that": "results/lab2/README.md",
    "The second lab's earlier models": "results/lab2/earlier/methods.md",
    "The second lab's sweep": "results/lab2/sweep.md",
    "What is by construction": "results/lab2/dials.md",
    "Speed": "results/speed.md",
    "Speed, more repeats at batch 8": "results/speed_batch8.md",
    "Speed on vLLM": "results/vllm_speed.md",
    "On a GPU": "results/gpu/h100.md",
    "Two commits beside each other": "results/paired.md",
    "OPERA, studied": "results/opera.md",
    "Model families": "support.md",
    "Composition": "composition.md",
    "Ledger of the papers": "ledger.md",
    "Licences": "licences.md",
}
STYLE = """.step { width: 100%; max-width: 52rem; }
.step.tall { display: none; max-width: 20rem; }
@media (max-width: 760px) { .step.wide { display: none; } .step.tall { display: block; } }
.step rect { fill: none; stroke: currentColor; stroke-width: 1.2; opacity: .55; }
.step rect.edited { fill: #d55e00; fill-opacity: .25; stroke: #d55e00; stroke-width: 2.5; opacity: 1; }
.step rect.read { stroke: #0072b2; stroke-width: 2.5; stroke-dasharray: 6 4; opacity: 1; }
.step text { font: 13px sans-serif; text-anchor: middle; fill: currentColor; }
.step text.note { font-size: 11px; font-weight: 600; }
.step .arrow { stroke: currentColor; stroke-width: 1.2; fill: none; opacity: .55; }
.md-typeset table:not([class]) { font-size: .62rem; }
.md-typeset td code { white-space: nowrap; }
.md-typeset img { max-width: 100%; }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/docs"), help="folder for sources, settings and site")
    write(parser.parse_args().out)


def write(out: Path) -> None:
    """Sources in `out`/source, settings in `out`/mkdocs.yml; what lay there before is removed."""
    source = out / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("methods"))
    for page in (ROOT / "benchmarks" / "results").rglob("*.md"):
        _put(source / "results" / page.relative_to(ROOT / "benchmarks" / "results"), page.read_text(encoding="utf-8"))
    for name in registry.names():
        _put(source / "methods" / f"{name}.md", methods.page(name))
    _put(source / "methods" / "index.md", methods.index())
    for module in reference.MODULES:
        _put(source / "reference" / f"{module}.md", reference.page(module))
    _put(source / "reference" / "commands.md", reference.command_page())
    _put(source / "style.css", STYLE)
    for page in source.rglob("*.md"):
        page.write_text(_relinked(page.read_text(encoding="utf-8"), page, source), encoding="utf-8")
    (out / "mkdocs.yml").write_text(yaml.safe_dump(settings(source), sort_keys=False), encoding="utf-8")


def settings(source: Path) -> dict[str, object]:
    """What the builder is told: no network at build time or afterwards."""
    auto = {"media": "(prefers-color-scheme)", "toggle": {"icon": "material/brightness-auto", "name": "Light colours"}}
    palette = [
        {"media": f"(prefers-color-scheme: {kind})", "scheme": scheme, "toggle": {"icon": icon, "name": name}}
        for kind, scheme, icon, name in (
            ("light", "default", "material/weather-sunny", "Dark colours"),
            ("dark", "slate", "material/weather-night", "Colours of the system"),
        )
    ]
    return {
        "site_name": "grounddecode",
        "docs_dir": "source",
        "site_dir": "site",
        "use_directory_urls": False,
        "theme": {"name": "material", "variant": "classic", "font": False, "palette": [auto, *palette],
                  "features": ["content.code.copy", "navigation.indexes", "navigation.top"]},
        "extra_css": ["style.css"],
        "plugins": ["search", "offline"],
        "markdown_extensions": ["tables", "attr_list", "md_in_html", "pymdownx.superfences", "pymdownx.highlight"],
        "nav": nav(source),
    }  # fmt: skip


def nav(source: Path) -> list[dict[str, object]]:
    """The order of the pages; one that is not there yet is left out."""
    written = [str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))]
    written = [page for page in written if page not in ("index.md", *RESULTS.values()) and "methods/" not in page]
    guides = sorted(written, key=lambda page: FIRST.index(page) if page in FIRST else len(FIRST))
    named = {_title(source / guide): guide for guide in guides}
    return [
        {"Start": "index.md"},
        {"Methods": [{"All": "methods/index.md"}, *({n: f"methods/{n}.md"} for n in registry.names())]},
        {"How to": [{title: path} for title, path in named.items()]},
        {"Results": [{title: path} for title, path in RESULTS.items() if (source / path).is_file()]},
        {"Reference": [{"Commands": "reference/commands.md"}, *({m: f"reference/{m}.md"} for m in reference.MODULES)]},
    ]


def _title(page: Path) -> str:
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else page.stem


def _relinked(text: str, page: Path, source: Path) -> str:
    """Links into the repository, which the site has in other places or not at all."""

    def place(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if "benchmarks/results/" in target and target.endswith(".md"):
            up = "../" * (len(page.relative_to(source).parts) - 1)
            return f"[{words}]({up}results/{target.partition('benchmarks/results/')[2]})"
        if target.startswith("../") and not (page.parent / target).resolve().is_relative_to(source.resolve()):
            return words  # a file of the repository that is no page
        return found[0]

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+)\)", place, text)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
