"""The options of the server. Times are seconds, sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import UnionType

from aurora_pool.arguments import check_amount, check_each_instance, check_fields, check_positive, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.serve.proxies import parse_networks

__all__ = ["ServerOptions", "UserLimits"]

MEBIBYTE = 1 << 20
DATABASE = "serve.db"
"""SQLite's file in the data folder."""
MOST = (1 << 53) - 1
"""The largest limit: a float holds it, and any reader of JSON."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimits:
    """What one user may do; None sets no limit. They hold for users of whom nothing else was said."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    batches_queued: int | None = 1000
    batches_running: int | None = None


def parse_limit(text: str) -> int | None:
    """Read a limit; ``none`` is None. Raises :class:`~aurora_pool.errors.ConfigError`.

    >>> parse_limit("600"), parse_limit("none")
    (600, None)
    """
    if text == "none":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MOST)) or not 0 < int(text) <= MOST:
        raise ConfigError(f"expected a whole number above 0 and below 2^53, or none, got {text[:40]!r}")
    return int(text)


# What the fields of ServerOptions must be.
_KINDS: Mapping[type | UnionType, Sequence[str]] = {
    Path: ("data",),
    str: ("host",),
    bool: ("no_auth", "private_webhooks"),
    UserLimits: ("limits",),
}
_OPTIONAL_KINDS: Mapping[type | UnionType, Sequence[str]] = {str: ("database", "files"), Path: ("tls_cert", "tls_key")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server is run.

    >>> options = ServerOptions(data=Path("serve-data"), port=8443, limits=UserLimits(requests_per_minute=600))

    - ``data``: the folder of the database, the files and the journals; several replicas share it;
    - ``database``: a SQLAlchemy URL; None is SQLite in ``data``;
    - ``files``: where uploaded files and outputs lie: None is ``data/files``, else an fsspec URL such as ``s3://...``;
    - ``host``, ``port``, ``tls_cert``, ``tls_key``: where it listens;
    - ``no_auth``: let everybody in, whatever the address;
    - ``body_bytes``, ``upload_bytes``, ``header_bytes``: the most of a request, of an uploaded file, of one header;
    - ``read_timeout``, ``write_timeout``: how long a client may send nothing, or not read what is sent to it;
    - ``connections``: how many may be open;
    - ``batches_at_once``: how many batches run at a time; the others wait their turn;
    - ``lease``: how long a replica's batches stay its own without a sign of life;
    - ``grace``: what SIGTERM leaves to what is in flight;
    - ``trusted_proxies``: addresses and networks of proxies whose ``X-Forwarded-*`` is believed;
    - ``private_webhooks``: let webhooks go to private addresses and by plain HTTP;
    - ``file_days``: for how many days files are kept, where the request does not say;
    - ``limits``: what a user may do of whom nothing else was said.

    Raises :class:`~aurora_pool.errors.ConfigError` for a certificate without its key, and for invalid arguments.
    """

    data: Path
    database: str | None = None
    files: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    no_auth: bool = False
    body_bytes: int = 64 * MEBIBYTE
    upload_bytes: int = 1024 * MEBIBYTE
    header_bytes: int = 16 * 1024
    read_timeout: float = 30.0
    write_timeout: float = 120.0
    connections: int = 10_000
    batches_at_once: int = 8
    lease: float = 30.0
    grace: float = 10.0
    file_days: float = 30.0
    private_webhooks: bool = False
    trusted_proxies: tuple[str, ...] = ()
    limits: UserLimits = field(default_factory=UserLimits)

    def __post_init__(self) -> None:
        check_fields(self, _KINDS, optional=False)
        check_fields(self, _OPTIONAL_KINDS)
        check_whole(0, optional=False, port=self.port)
        check_whole(
            1,
            optional=False,
            connections=self.connections,
            batches_at_once=self.batches_at_once,
            body_bytes=self.body_bytes,
            upload_bytes=self.upload_bytes,
            header_bytes=self.header_bytes,
        )
        check_positive(read_timeout=self.read_timeout, write_timeout=self.write_timeout)
        check_positive(lease=self.lease, file_days=self.file_days)
        check_amount(grace=self.grace)
        check_whole(0, **{f"limits.{name}": value for name, value in asdict(self.limits).items()})
        for name, value in asdict(self.limits).items():
            if value is not None and value > MOST:
                raise ConfigError(f"limits.{name}: expected a whole number below 2^53")
        check_each_instance("trusted_proxies", self.trusted_proxies, str)
        parse_networks(self.trusted_proxies)
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise ConfigError("tls_cert, tls_key: TLS needs both")

    @property
    def database_url(self) -> str:
        """The database's URL."""
        return self.database or f"sqlite:///{self.data.absolute() / DATABASE}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host in LOOPBACK_NAMES:
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
