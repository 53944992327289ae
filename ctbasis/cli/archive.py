"""`ctbasis pull`, `ctbasis push` and `ctbasis jobs`: archives, and what a node does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.cli.network import (
    AET,
    HOST,
    PEER_CA,
    TLS_CERT,
    TLS_KEY,
    caller_of,
    parse_host,
    port_option,
    require_pynetdicom,
    tls_files,
)
from ctbasis.cli.options import OUTPUT_FOLDER, PATH, grouped, own_option
from ctbasis.plans import Group
from ctbasis.printable import show


@cloup.command()
@grouped(
    own_option(
        Group.SOURCE,
        "--from",
        "source",
        required=True,
        metavar="ARCHIVE",
        help="What has the study: AET@HOST:PORT or dicom+tls://AET@HOST:PORT, or dicomweb+https://HOST/PATH.",
    ),
    own_option(Group.SOURCE, "--study", required=True, metavar="UID", help="StudyInstanceUID."),
    own_option(Group.SOURCE, "--series", default="", metavar="UID", help="SeriesInstanceUID of the only series."),
    own_option(
        Group.OUTPUT,
        "--out",
        type=OUTPUT_FOLDER,
        required=True,
        help="Folder for the files, one folder a series. A former result is replaced.",
    ),
    AET,
    port_option(essential=False),
    HOST,
    TLS_CERT,
    TLS_KEY,
    PEER_CA,
)
def pull(source: str, study: str, series: str, out: Path, **options: Any) -> None:
    """Retrieve the CT series of a study from another DICOM node, by C-FIND and C-MOVE, or from a DICOMweb server.

    A DICOM node connects back to send the instances: it must know --aet with the address of this machine and --port.
    """
    require_pynetdicom()
    from ctbasis.node.peers import WebPeer, parse_destination

    peer = parse_destination(source, what="--from")
    if isinstance(peer, WebPeer):
        from ctbasis.node.pull import pull_web

        done = pull_web(peer, study, out, series=series)
    else:
        from ctbasis.node.listening import Listening
        from ctbasis.node.peers import parse_title

        title = parse_title(options["aet"], what="--aet")
        tls = tls_files(options["tls_cert"], options["tls_key"])
        caller = caller_of(options["aet"], options["peer_ca"], tls)
        listening = Listening(title, parse_host(options["host"]), options["port"], tls=tls)
        from ctbasis.node.pull import pull as retrieve

        done = retrieve(peer, study, out, caller=caller, listening=listening, series=series)
    show(f"{out}: {done.instances} instances of {done.series} series; next: ctbasis run {out} --out DIR")


@cloup.command()
@click.argument("source", type=PATH)
@grouped(
    own_option(
        Group.OUTPUT,
        "--to",
        "destination",
        required=True,
        metavar="DESTINATION",
        help="What gets the instances: AET@HOST:PORT or dicom+tls://AET@HOST:PORT by C-STORE, or "
        "dicomweb+https://HOST/PATH by STOW-RS.",
    ),
    AET,
    TLS_CERT,
    TLS_KEY,
    PEER_CA,
)
def push(source: Path, destination: str, **options: Any) -> None:
    """Send the DICOM files of the folder SOURCE to an archive, as they are."""
    require_pynetdicom()
    from ctbasis.node.peers import parse_destination

    peer = parse_destination(destination, what="--to")
    caller = caller_of(options["aet"], options["peer_ca"], tls_files(options["tls_cert"], options["tls_key"]))
    from ctbasis.node.push import push as send

    done = send(source, peer, caller=caller)
    others = f"; {done.others} other files" if done.others else ""
    show(f"{peer}: {done.instances} instances{others}")


@cloup.command()
@grouped(
    own_option(
        Group.PLACE, "--state", type=PATH, default=Path("ctbasis-node"), show_default=True, help="Folder of the node."
    ),
    own_option(
        Group.OUTPUT, "--json", "as_json", is_flag=True, help="Write a JSON document a line, with UIDs and records."
    ),
)
def jobs(state: Path, as_json: bool) -> None:
    """List the jobs of a node, which may run meanwhile."""
    from ctbasis.node.listing import job_lines

    show(*job_lines(state, as_json=as_json))
