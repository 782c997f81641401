"""The application: every command in one place, nothing heavy imported until one runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from grounddecode import __version__
from grounddecode.cli.command import App
from grounddecode.cli.errors import DEBUG_VARIABLE, QUIET_VARIABLE
from grounddecode.cli.method import export, methods, new_method
from grounddecode.cli.model import calibrate, doctor, explain, generate, lab, serve
from grounddecode.cli.run import bench, data, report, score

app = App(
    help="Decoding-time methods that make vision-language models hallucinate less, and honest measurements of them.",
    epilog="Try: grounddecode bench --model lab --methods greedy,locore,avc --benchmarks pope,chair --out out/run",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"grounddecode {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, and what libraries log.")
    ] = False,
    silent: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings: results and errors alone.")
    ] = False,
) -> None:
    """Options that come before the command."""
    if silent:
        os.environ[QUIET_VARIABLE] = "1"
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("methods")(methods.methods)
app.command("new-method")(new_method.new_method)
app.command("export-custom-generate")(export.export_custom_generate)
app.command("generate")(generate.generate)
app.command("explain")(explain.explain)
app.command("bench")(bench.bench)
app.command("compare")(bench.compare)
app.command("merge")(bench.merge)
app.command("calibrate")(calibrate.calibrate)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("serve-args")(serve.serve_args)
app.add_typer(score.app, name="score")
app.add_typer(data.app, name="data")
app.add_typer(lab.app, name="lab")
