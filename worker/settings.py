"""Every environment variable that Postbote reads, and nothing else reads any.

All begin with ``POSTBOTE_``, next to the names that the documented systems use. Where one thing
has two names and both are set to different values, the start ends with an error naming both.
A wrong value is one line that names the variable: `load_settings` raises `SettingsError`.
"""

import os
import socket
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from schemas.address import Address
from schemas.smtp_config import Host, SmtpConfig, tls_from_flags
from schemas.text import RequiredText
from worker.errors import SettingsError
from worker.proof.keys import key_bytes
from worker.rabbit.addresses import addresses

PREFIX = "POSTBOTE_"
HIGHEST_PORT = 65535
_LEAST_KEY_CHARS = 32

# The name that a documented system uses -> our own name for the same thing.
SYNONYMS = {
    "ES_USER_NAME": "POSTBOTE_OPENSEARCH_USER",
    "ES_PASSWORD": "POSTBOTE_OPENSEARCH_PASSWORD",
    "ELASTIC_SEARCH_FQDN": "POSTBOTE_OPENSEARCH_URL",
    "ACCOUNT_CREATION_STRATEGY": "POSTBOTE_ACCOUNT_CREATION_STRATEGY",
    **{
        f"FW_EVENT_SMTP_SERVER_{name}": f"POSTBOTE_CONTROLLER_{ours}"
        for name, ours in (
            ("ADDR", "HOST"),
            ("PORT", "PORT"),
            ("USERNAME", "USERNAME"),
            ("PASSWORD", "PASSWORD"),
            ("USE_TLS", "USE_TLS"),
            ("USE_INSECURE", "USE_INSECURE"),
        )
    },
}


class LogFormat(StrEnum):
    """`auto`: JSON, unless standard error is a terminal."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().strip()) < _LEAST_KEY_CHARS:
        msg = f"expected at least {_LEAST_KEY_CHARS} characters, such as `openssl rand -base64 32` makes"
        raise ValueError(msg)
    return value


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _ip_address(value: str) -> str:
    if value == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(value))
    except ValueError:
        msg = "expected an IP address to listen on, such as 127.0.0.1 or 0.0.0.0"
        raise ValueError(msg) from None


def _port_ranges(value: object) -> object:
    parts = _split_list(value)
    return tuple(map(_port_range, parts)) if isinstance(value, str) and isinstance(parts, tuple) else parts


def _port_range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first, last = (int(each) if each.isascii() and each.isdigit() else 0 for each in (low, high if dash else low))
    if not 1 <= first <= last <= HIGHEST_PORT:
        msg = f"{text!r} is neither a port nor a range of ports like 3000-3100"
        raise ValueError(msg)
    return first, last


def _url_of(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.hostname or parts.path.strip("/")):
            msg = f"expected a URL that begins with {' or '.join(s + '://' for s in schemes)}"
            raise ValueError(msg)
        return value

    return AfterValidator(check)


def _amqp(value: str) -> str:
    addresses(value)
    return value


def _ed25519(value: str) -> str:
    key_bytes(value)
    return value.strip()


def _secret_key(value: SecretStr) -> SecretStr:
    return SecretStr(_ed25519(value.get_secret_value()))


def _with_scheme(value: object) -> object:
    # ELASTIC_SEARCH_FQDN is a bare host name in the system that it comes from.
    if isinstance(value, str) and value and "://" not in value:
        return f"https://{value}" if ":" in value else f"https://{value}:9200"
    return value


class Settings(BaseSettings):
    """What a process runs with; read once at its start by `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    # RabbitMQ
    amqp_url: Annotated[str, AfterValidator(_amqp)] = Field(
        "amqp://guest:guest@127.0.0.1:5672/%2F",
        description="RabbitMQ, with user, password and virtual host; nodes of a cluster: several hosts or URLs, "
        "comma-separated, tried in random order; `?heartbeat=30` in seconds",
    )
    prefetch: int = Field(1000, ge=1, le=5000, description="Events that one worker holds unacknowledged at most")

    topology: Literal["declare", "check", "trust"] = Field(
        "declare",
        description="declare: make missing exchanges and queues; check: refuse to start without; trust: don't look",
    )

    # OpenSearch
    opensearch_url: Annotated[str, BeforeValidator(_with_scheme), _url_of("http", "https")] = Field(
        "http://127.0.0.1:9200", description="OpenSearch; a bare host name means https and port 9200"
    )
    opensearch_user: str | None = Field(None, description="OpenSearch user, with opensearch_password")
    opensearch_password: SecretStr | None = Field(None, description="OpenSearch password")
    opensearch_lookup_user: str | None = Field(
        None, description="OpenSearch user of a worker's lookups and claims, where opensearch_user may only write"
    )
    opensearch_lookup_password: SecretStr | None = Field(None, description="Its password")
    opensearch_reader_user: str | None = Field(
        None, description="OpenSearch user of the API's and the commands' questions, where opensearch_user may not read"
    )
    opensearch_reader_password: SecretStr | None = Field(None, description="Its password")
    opensearch_ca_file: Path | None = Field(None, description="PEM file of the CA that signed OpenSearch's certificate")
    audit_index_prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,60}$")] = Field(
        "systemaudit", description="Audit indices are named PREFIX-YYYY.MM"
    )
    audit_recipients: Literal["plain", "masked", "hashed"] = Field(
        "plain", description="How the audit names recipients: plain, masked (b***@example.com) or hashed"
    )
    audit_hash_key: Annotated[SecretStr, AfterValidator(_long_enough)] | None = Field(
        None, description="Key of the recipients' hashes, at least 32 characters; hashed needs it, as forgetting does"
    )
    audit_head_s: float = Field(60.0, ge=0.1, le=3600, description="Seconds between heads of an audit chain that grows")
    audit_signing_key: Annotated[SecretStr, AfterValidator(_secret_key)] | None = Field(
        None, description="Ed25519 key that signs the heads of the audit's chains, as `postbote audit key` prints it"
    )
    audit_verify_keys: Annotated[
        tuple[Annotated[str, AfterValidator(_ed25519)], ...], NoDecode, BeforeValidator(_split_list)
    ] = Field((), description="Public keys that heads may be signed with, comma-separated, for `postbote audit verify`")

    # SMTP records
    database_url: str = Field(
        "sqlite:///postbote.db", description="Store of SMTP records: sqlite:///FILE or postgresql://…"
    )
    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_list)] = Field(
        (), description="Fernet keys for stored passwords, comma-separated; the first one encrypts, all decrypt"
    )
    smtp_password: SecretStr | None = Field(
        None, description="Password for `postbote config set --username`, where nobody can be asked for it"
    )
    admin_password: SecretStr | None = Field(
        None, description="Password of the first admin for `postbote init`, where nobody can be asked for it"
    )
    config_source: Literal["store", "topic"] = Field(
        "store", description="Where a worker reads SMTP records: store (the database) or topic (the config stream)"
    )
    config_cache_s: float = Field(2.0, ge=0, le=300, description="Seconds for which a read SMTP record is reused")

    # The controller's own SMTP record
    controller_host: Host | None = Field(None, description="Controller's SMTP server; sets the controller's record")
    controller_port: int = Field(587, ge=1, le=65535, description="Controller's SMTP port")
    controller_username: RequiredText | None = Field(None, description="Controller's SMTP user")
    controller_password: SecretStr | None = Field(None, description="Controller's SMTP password")
    controller_use_tls: bool = Field(
        default=True, description="TLS to the controller's server: port 465 at once, any other port by STARTTLS"
    )
    controller_use_insecure: bool = Field(
        default=False, description="Do not verify the certificate of the controller's server"
    )
    controller_from_address: Address | None = Field(None, description="From address of the controller's mail")
    controller_ca_file: Path | None = Field(None, description="PEM file of the CA of the controller's server")

    # Sending
    retry_budget_s: float = Field(60.0, ge=0, le=60, description="Seconds of in-process retries for one event")
    retry_first_wait_s: float = Field(1.0, gt=0, le=60, description="Seconds before the first retry; doubles after")
    doubt_wait_s: float = Field(
        60.0, ge=0, le=600, description="Seconds before a mail is sent again that the server may have got already"
    )
    transactional_limit_h: float = Field(
        24.0, gt=0, le=720, description="Hours for which transactional mail is tried, from its first try on"
    )
    bulk_limit_h: float = Field(72.0, gt=0, le=720, description="Hours for which bulk mail is tried")
    ehlo_name: str = Field(
        default_factory=socket.getfqdn, description="Name given in EHLO and Message-ID; this host's name by default"
    )

    smtp_max_connections: int = Field(500, ge=1, le=20_000, description="SMTP connections of one worker at most")
    # Where partners' and orgs' records may lead beyond; the controller's own record is not bound
    egress_allow: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split_list)] = Field(
        (), description="Networks beside the public ones that tenants' SMTP servers may be in: 10.1.0.0/16,fd00::/8"
    )
    egress_ports: Annotated[tuple[tuple[int, int], ...], NoDecode, BeforeValidator(_port_ranges)] = Field(
        (), description="Ports beside 25, 465, 587 and 2525 that tenants' SMTP servers may have: 26,3000-3100"
    )

    # HTTP
    http_host: Annotated[str, AfterValidator(_ip_address)] = Field(
        "127.0.0.1", description="Address of the HTTP API; off loopback put TLS in front: cookies are Secure there"
    )
    http_port: int = Field(8025, ge=0, le=65535, description="Port of the HTTP API; 0 picks a free one")
    http_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split_list)] = Field(
        (IPv4Network("127.0.0.0/8"),),
        description="Networks of proxies in front of the API, whose X-Forwarded-For tells the client: 10.0.0.0/8",
    )
    public_url: Annotated[str, _url_of("http", "https")] | None = Field(
        None, description="Where users reach the API, for the links in mails; http://HOST:PORT by default"
    )
    session_h: float = Field(12.0, gt=0, le=720, description="Hours after which a session's cookie ends")
    account_creation_strategy: Literal["VERIFY", "AUTO"] = Field(
        "VERIFY", description="VERIFY: an organization's first admin sets a password by a mailed link; AUTO: give one"
    )

    # The process
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", description="Name of this worker in the audit"
    )
    shutdown_grace_s: float = Field(25.0, ge=1, le=600, description="Seconds to finish transactions after SIGTERM")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="debug, info, warning or error"
    )
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto, json or console")
    journal_dir: Path = Field(
        Path(".postbote/journal"),
        description="Folder, on a disk that outlives the process, for what was sent and is not in the audit yet",
    )
    data_dir: Path = Field(Path(".postbote"), description="Folder of the embedded mode's queue, audit and certificates")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the given values alone: `load_settings` has merged the environment's names already."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for user in ("opensearch_user", "opensearch_lookup_user", "opensearch_reader_user"):
            password = user.replace("_user", "_password")
            if (getattr(self, user) is None) != (getattr(self, password) is None):
                msg = f"{user} and {password} belong together: set both or neither"
                raise ValueError(msg)
        if self.audit_recipients == "hashed" and self.audit_hash_key is None:
            msg = "audit_recipients is hashed, which needs audit_hash_key: nobody could be found without it"
            raise ValueError(msg)
        try:
            self.controller_record()
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            msg = f"controller_username, controller_password, controller_use_tls: {reason}"
            raise ValueError(msg) from None
        return self

    def controller_record(self) -> SmtpConfig | None:
        """The controller's SMTP record from the environment, or None where no host is set.

        Raises ValueError (pydantic's) where the variables contradict each other.
        """
        if self.controller_host is None:
            return None
        return SmtpConfig(
            display_name="environment",
            host=self.controller_host,
            port=self.controller_port,
            tls=tls_from_flags(self.controller_port, use_tls=self.controller_use_tls),
            verify_tls=not self.controller_use_insecure,
            ca_bundle=self.controller_ca_file.read_text() if self.controller_ca_file else None,
            username=self.controller_username,
            password=self.controller_password,
            from_address=self.controller_from_address,
        )


def load_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings from the environment; `overrides` (field names) win over it.

    Raises SettingsError, one line that names the variable, for a wrong or contradicting value.
    """
    env = os.environ if environment is None else environment
    values: dict[str, object] = {**_from_environment(env), **overrides}
    try:
        return Settings(**values)  # type: ignore[arg-type] # values are strings of any field, validated here
    except ValidationError as error:
        raise SettingsError(_explain(error, env)) from None
    except OSError as error:
        msg = f"{PREFIX}CONTROLLER_CA_FILE: {error.strerror}: {error.filename}"
        raise SettingsError(msg) from None


def environment_variable(name: str) -> str | None:
    """A variable that a stored record refers to (``env:NAME``), None where it is not set.

    Raises SettingsError for Postbote's own settings: a record must not send its keys and URLs to a mail server.
    """
    if name.upper().startswith(PREFIX) or name.upper() in SYNONYMS:
        msg = "it is one of Postbote's own settings, and no record may refer to these"
        raise SettingsError(msg)
    return os.environ.get(name)


def variable_names(field: str) -> tuple[str, ...]:
    """Every environment variable that sets `field`, our own name first."""
    own = PREFIX + field.upper()
    return (own, *(theirs for theirs, ours in SYNONYMS.items() if ours == own))


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for field in Settings.model_fields:
        given = {name: env[name] for name in variable_names(field) if env.get(name)}
        if len({_comparable(field, value) for value in given.values()}) > 1:
            msg = f"{' and '.join(given)} are set to different values: keep one of them"
            raise SettingsError(msg)
        if given:
            found[field] = next(iter(given.values()))
    return found


def _comparable(field: str, value: str) -> object:
    return _with_scheme(value) if field == "opensearch_url" else value


def _explain(error: ValidationError, env: Mapping[str, str]) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    message = first["msg"].removeprefix("Value error, ").split("\n")[0]
    if not first["loc"]:
        return _name_fields(message, env)
    field = str(first["loc"][0])
    return f"{_set_name(field, env)}: {message}"


def _name_fields(message: str, env: Mapping[str, str]) -> str:
    for field in sorted(Settings.model_fields, key=len, reverse=True):
        if "_" in field:
            message = message.replace(field, _set_name(field, env))
    return message


def _set_name(field: str, env: Mapping[str, str]) -> str:
    names = variable_names(field)
    return next((name for name in names if env.get(name)), names[0])
