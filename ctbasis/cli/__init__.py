"""The console command `ctbasis`.

Each verb is defined in a module of this package, which is imported when the verb is called: `ctbasis --help` imports
neither NumPy nor pydicom nor kfp.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.errors import CtbasisError
from ctbasis.installed import VERSION
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Iterable

HELP_WIDTH = 110
"""Columns of a help page at most."""


@dataclass(frozen=True)
class Verb:
    """A verb of the command line, described without importing the module that defines it.

    Attributes:
        module: Module of `ctbasis.cli` that defines the command.
        function: Name of the command in that module.
        summary: One line for `ctbasis --help`.
    """

    module: str
    function: str
    summary: str

    def load(self) -> click.Command:
        """Import the module and return the command."""
        command = getattr(importlib.import_module(f"ctbasis.cli.{self.module}"), self.function)
        if not isinstance(command, click.Command):
            raise TypeError(f"ctbasis.cli.{self.module}.{self.function} is no command")
        return command


SECTIONS: dict[str, dict[str, Verb]] = {
    "Denoise on this machine": {
        "run": Verb("run", "run", "Denoise a CT series, or several, and report what was removed."),
        "denoise": Verb("run", "denoise", "Denoise a series with the stored basis of another run."),
        "cohort": Verb("cohort", "cohort", "Denoise every series of a source of any mix, and summarize."),
        "view": Verb("view", "view", "Show a result in a browser: before, after, removed and noise."),
        "inventory": Verb("inventory", "inventory", "List the studies and series of a source, from headers alone."),
        "factor": Verb("basis", "factor", "Factor DICOM files on Spark without storing a matrix (global mode)."),
        "reconstruct": Verb("basis", "reconstruct", "Write a series at another rank from a stored basis."),
        "demo": Verb("demo", "demo", "Denoise a low-dose chest phantom in both modes."),
    },
    "DICOM network": {
        "node": Verb("node", "node", "Receive CT from scanners and archives, denoise it, and send it on."),
        "serve": Verb("serve", "serve", "Serve stored bases over HTTP, as a model of KServe's protocol."),
        "process": Verb("process", "process", "Denoise a folder to a folder, as routers call a container."),
        "jobs": Verb("archive", "jobs", "List the jobs of a node."),
        "pull": Verb("archive", "pull", "Retrieve a study from an archive."),
        "push": Verb("archive", "push", "Send a series to an archive."),
    },
    "Kubeflow Pipelines": {
        "submit": Verb("kubeflow", "submit", "Run the pipeline on a Kubeflow server and fetch its results."),
        "results": Verb("kubeflow", "results", "Fetch the results of a run that is over from a Kubeflow server."),
        "compile": Verb("package", "compile_", "Compile the pipeline to YAML, or check the committed YAML."),
        "lint": Verb("package", "lint", "Check compiled pipelines and Kubernetes manifests, or what a cluster lacks."),
        "sweep": Verb("sweep", "sweep", "Remove the stores on S3 of runs that are over or deleted."),
    },
    "Simulate and measure": {
        "simulate-dose": Verb("measure", "simulate_dose", "Insert the noise of a lower dose into a series."),
        "simulate-inserts": Verb("measure", "simulate_inserts", "Make a phantom with disc inserts, to score the TTF."),
        "score": Verb("measure", "score", "Compare a series with its clean copy."),
        "bench": Verb("bench", "bench", "Measure speed, memory and image quality."),
    },
}
"""The verbs by section, in the order of `ctbasis --help`."""

VERBS: dict[str, Verb] = {name: verb for verbs in SECTIONS.values() for name, verb in verbs.items()}


class Console(cloup.Group):
    """A command group that imports a verb when it is called, and prints a `CtbasisError` as text with exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the verbs."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of the verb `cmd_name` and return its command, or None for an unknown name."""
        del ctx
        return VERBS[cmd_name].load() if cmd_name in VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their summaries, section by section."""
        del ctx
        width = max(map(len, VERBS))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(_rows(verbs.items(), width))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. A `CtbasisError` ends with its text and exit code 2, Ctrl-C with exit code 130."""
        try:
            return super().invoke(ctx)
        except CtbasisError as error:
            say(*f"ctbasis: error: {error}".split("\n"))
            sys.exit(2)
        except KeyboardInterrupt as interrupt:
            consequence = str(interrupt) or "no partial output is kept, run it again"
            say(f"ctbasis: interrupted; {consequence}")
            sys.exit(130)


def _rows(verbs: Iterable[tuple[str, Verb]], width: int) -> list[tuple[str, str]]:
    """Return rows whose first column is `width` characters wide, so that the sections align."""
    return [(name.ljust(width), verb.summary) for name, verb in verbs]


@cloup.group(cls=Console, context_settings={"max_content_width": HELP_WIDTH})
@click.version_option(VERSION)
def main() -> None:
    """Denoise low-dose chest CT by a distributed stochastic SVD, on a laptop or on Kubeflow.

    First steps: `ctbasis demo`, then `ctbasis run FOLDER --out DIR`.
    """
