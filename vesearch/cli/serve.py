"""The command line of `vesearch serve`."""

from __future__ import annotations

import click

from vesearch.cli.options import Common, with_options
from vesearch.errors import MissingPackageError


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0: one that is free.")
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Where to listen; elsewhere than on this machine a token is needed.",
)
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name by which others call this server, as behind a proxy; a token is needed then.",
)
@click.option(
    "--token",
    envvar="VESEARCH_TOKEN",
    metavar="TEXT",
    help="What requests must have; where one is needed and none is given, one is made up.",
)
@with_options
def serve(common: Common, port: int, host: str, names: tuple[str, ...], token: str | None) -> None:
    """Serve the search page, and the HTTP API that it uses, for this collection.

    \b
    vesearch serve
    vesearch serve --host 0.0.0.0 --port 8080

    What is ingested or indexed meanwhile is seen by the next question. Ctrl-C ends it.
    """
    try:
        from vesearch.web import server
    except ModuleNotFoundError as err:
        if (err.name or "").split(".")[0] not in ("fastapi", "starlette", "uvicorn", "contourpy"):
            raise
        raise MissingPackageError("the page needs: pip install 'vesearch[serve]'") from err
    server.serve(common.load(), host=host, port=port, names=names, token=token)
