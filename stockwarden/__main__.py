"""The command `stockwarden`: what both services can do, as `stockwarden warehouse ...` and `stockwarden orders ...`."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from service_kit.starting import EXIT_STATUSES


def command_line(arguments: list[str]) -> typer.Typer:
    """The commands of the service that the arguments begin with; of both, if with neither.

    A process does not carry the other service: importing it takes as long as everything else at the start.
    """
    app = typer.Typer(
        help="A warehouse that never oversells, and an order service in front of it.",
        epilog=EXIT_STATUSES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    wanted = arguments[:1]
    if wanted != ["orders"]:
        from warehouse.__main__ import app as warehouse_app

        app.add_typer(warehouse_app, name="warehouse")
    if wanted != ["warehouse"]:
        from order_gateway.__main__ import cli as orders_app

        app.add_typer(orders_app, name="orders")
    return app


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Say which this is.", is_eager=True, callback=lambda wanted: _tell(wanted))
    ] = False,
) -> None:
    """A warehouse that never oversells, and an order service in front of it."""


def _tell(is_wanted: bool) -> None:
    if is_wanted:
        try:
            typer.echo(version("stockwarden"))
        except PackageNotFoundError:
            typer.echo("a checkout, which is not installed")
        raise typer.Exit


def main() -> None:
    """What `stockwarden` runs."""
    command_line(sys.argv[1:])(prog_name="stockwarden")


if __name__ == "__main__":
    main()
