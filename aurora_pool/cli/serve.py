"""``aurora-pool serve`` and ``aurora-pool keys``: their options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from aurora_pool.cli.config import CONFIG_HELP, apply_config
from aurora_pool.cli.panels import ACCESS, DISPLAY, LIMITS, QUEUE, SERVER, STORAGE, USER, Hostfile, Patience
from aurora_pool.errors import ConfigError

DATA = Path("aurora-pool-data")
_DATA_HELP = "The folder of the database, the files and the journals."
_DATABASE_HELP = "postgresql://USER:PASSWORD@HOST/NAME; by default SQLite in the data folder."


def serve(
    hostfile: Hostfile,
    config: Annotated[  # noqa: ARG001 - its callback does it all
        Path | None,
        typer.Option(
            metavar="FILE",
            is_eager=True,
            callback=apply_config,
            help=CONFIG_HELP,
            rich_help_panel=SERVER,
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", envvar="AURORA_POOL_DATA", help=_DATA_HELP, rich_help_panel=STORAGE)
    ] = DATA,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="AURORA_POOL_DATABASE", help=_DATABASE_HELP, rich_help_panel=STORAGE),
    ] = None,
    files: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An fsspec URL for files, such as s3://bucket/path; by default the data folder.",
            rich_help_panel=STORAGE,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="The address to listen on; others than loopback need keys.", rich_help_panel=SERVER
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="The port to listen on; 0 takes a free one.", rich_help_panel=SERVER
        ),
    ] = 8080,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A certificate chain in PEM, for https.", rich_help_panel=SERVER)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's private key in PEM.", rich_help_panel=SERVER)
    ] = None,
    trusted_proxy: Annotated[
        list[str],
        typer.Option(
            metavar="ADDRESS",
            help="A proxy, or a network of them, whose X-Forwarded-* is believed; may be repeated.",
            rich_help_panel=ACCESS,
        ),
    ] = [],  # noqa: B006 - typer copies it
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Let everybody who can reach the server use it, as administrator.", rich_help_panel=ACCESS
        ),
    ] = False,
    body_limit: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="MiB that an online request may have.", rich_help_panel=LIMITS)
    ] = 64,
    upload_limit: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="MiB that an uploaded file may have.", rich_help_panel=LIMITS)
    ] = 1024,
    connections: Annotated[
        int, typer.Option(metavar="N", min=1, help="Connections that may be open.", rich_help_panel=LIMITS)
    ] = 10_000,
    batches_at_once: Annotated[
        int, typer.Option(metavar="N", min=1, help="Batches that run at a time; others wait.", rich_help_panel=QUEUE)
    ] = 8,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Online requests a minute, for users without a limit of their own.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    tokens_per_day: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Tokens a day, for users without a limit of their own.", rich_help_panel=LIMITS
        ),
    ] = None,
    batches_queued: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Batches queued or running, for users without a limit of their own.",
            rich_help_panel=LIMITS,
        ),
    ] = 1000,
    batches_running: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Batches that run at a time, for users without a limit of their own.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    private_webhooks: Annotated[
        bool,
        typer.Option(
            "--private-webhooks", help="Let webhooks go to private addresses and by plain http.", rich_help_panel=ACCESS
        ),
    ] = False,
    patience: Patience = 60.0,
    lease: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1.0,
            help="Seconds without a sign of life until others take a replica's batches over.",
            rich_help_panel=QUEUE,
        ),
    ] = 30.0,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, help="Seconds that SIGTERM leaves to what is in flight.", rich_help_panel=SERVER
        ),
    ] = 10.0,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines of JSON.", rich_help_panel=DISPLAY)] = False,
) -> None:
    """Serve a fleet as one URL: the OpenAI API, with files and batches that survive whatever is killed.

    Example:
      aurora-pool serve --hostfile fleet.hostfile --port 8080
    """
    from aurora_pool.cli.serving import run_server
    from aurora_pool.options import Timeouts

    _check_extra()
    from aurora_pool.serve.options import MEBIBYTE, ServerOptions, UserLimits

    options = ServerOptions(
        data=data,
        database=database,
        files=files,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        trusted_proxies=tuple(trusted_proxy),
        no_auth=no_auth,
        body_bytes=body_limit * MEBIBYTE,
        upload_bytes=upload_limit * MEBIBYTE,
        connections=connections,
        batches_at_once=batches_at_once,
        lease=lease,
        grace=grace,
        private_webhooks=private_webhooks,
        limits=UserLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day,
            batches_queued=batches_queued,
            batches_running=batches_running,
        ),
    )
    raise typer.Exit(run_server(hostfile, options, Timeouts(patience=patience), log_json=log_json))


def _limit(text: str) -> int:
    """Read a limit; 0 says that there is none, for None says that the option is not given."""
    from aurora_pool.serve.options import parse_limit

    try:
        return parse_limit(text) or 0
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def keys(
    action: Annotated[Literal["create", "list", "revoke"], typer.Argument(metavar="ACTION", help="What to do.")],
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="The id of the key to revoke.")] = None,
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", envvar="AURORA_POOL_DATA", help=_DATA_HELP, rich_help_panel=STORAGE)
    ] = DATA,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="AURORA_POOL_DATABASE", help=_DATABASE_HELP, rich_help_panel=STORAGE),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Whose key it is; needed to create one, and lists only these.", rich_help_panel=USER
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for.", rich_help_panel=USER)] = "",
    admin: Annotated[
        bool | None,
        typer.Option(
            "--admin/--no-admin", help="Whether the user sees everybody's batches and keys.", rich_help_panel=USER
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            metavar="W", min=0.01, help="The user's share of the fleet, beside others' 1.", rich_help_panel=USER
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N|none", parser=_limit, help="Online requests a minute.", rich_help_panel=LIMITS),
    ] = None,
    tokens_per_day: Annotated[
        int | None,
        typer.Option(metavar="N|none", parser=_limit, help="Tokens a day.", rich_help_panel=LIMITS),
    ] = None,
    batches_queued: Annotated[
        int | None,
        typer.Option(metavar="N|none", parser=_limit, help="Batches queued or running.", rich_help_panel=LIMITS),
    ] = None,
    batches_running: Annotated[
        int | None,
        typer.Option(metavar="N|none", parser=_limit, help="Batches running at a time.", rich_help_panel=LIMITS),
    ] = None,
) -> None:
    """Make, list and revoke the keys of a server.

    Example:
      aurora-pool keys create --user ann --name laptop

    A new key is printed once, and nowhere kept. A further key of a user changes
    only what is given with it: the role, the weight, each limit; none lifts one.
    """
    _check_extra()
    from aurora_pool.cli.serving import create_key, list_keys, revoke_key

    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_day": tokens_per_day,
        "batches_queued": batches_queued,
        "batches_running": batches_running,
    }
    if action == "create":
        if user is None:
            raise ConfigError("keys create: say whose it is: --user NAME")
        limits = {limit: value or None for limit, value in given.items() if value is not None}
        create_key(data, database, user, name, admin=admin, weight=weight, limits=limits)
    elif action == "list":
        list_keys(data, database, user)
    elif key is None:
        raise ConfigError("keys revoke: say which: aurora-pool keys revoke KEY")
    else:
        revoke_key(data, database, key)


def _check_extra() -> None:
    try:
        import sqlalchemy  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        raise ConfigError("this needs more packages: pip install 'aurora-pool[server]'") from None
    logging.getLogger("alembic").setLevel(logging.WARNING)
