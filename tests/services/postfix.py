"""A real Postfix per test session: three ports, four accounts at most, one mailbox, and refusals on demand.

It takes mail for every address of every domain and puts it into one Maildir; nothing leaves the
machine. There is no way by URL: a test changes this server's tables and reads its mailbox and log.

The same configuration serves natively and in Docker, where its folder is mounted at the same path.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Self

import trustme

from tests.services import sessions
from tests.services.postfix_hosts import DAEMONS, INSIDE, OFFER, Host, InDocker, Native
from tests.services.processes import free_port, tail, wait_until
from tests.services.sessions import Session
from tests.services.ways import ServiceUnavailable, Way

# How long a signal to reload may go unheard before another is sent.
_ASK_AGAIN_S = 2.0

USERS = {
    "controller@controller.test": "controller-secret",
    "partner@partner.test": "partner-secret",
    "org@org.test": "org-secret",
}

MAIN = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "daemon_directory": DAEMONS,
    "command_directory": "/usr/sbin",
    "shlib_directory": "/usr/lib/postfix",
    "meta_directory": "/etc/postfix",
    "inet_protocols": "ipv4",
    "myhostname": "mail.postbote.test",
    "biff": "no",
    # Every domain is ours, so that nothing is ever relayed, and every address lands in the one Maildir.
    "mydestination": "",
    "alias_maps": "",
    "local_recipient_maps": "",
    "virtual_mailbox_domains": "static:all",
    "virtual_mailbox_maps": "static:inbox/",
    "virtual_mailbox_limit": "0",
    "virtual_transport": "virtual",
    "default_transport": "error:nothing leaves this server",
    # The bytes that a test reads are those that it sent: no domain appended, no header added to.
    "local_header_rewrite_clients": "",
    "append_dot_mydomain": "no",
    "smtputf8_enable": "yes",
    # A load test is one client; the limits against strangers would only slow it down.
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "default_process_limit": "200",
    "smtpd_tls_loglevel": "1",
    "smtpd_tls_security_level": "none",
    "smtpd_sasl_auth_enable": "no",
    "smtpd_sasl_type": "cyrus",
    "smtpd_sasl_path": "smtpd",
    "smtpd_sasl_security_options": "noanonymous",
    "smtpd_sasl_local_domain": "$myhostname",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
}

SERVICES = """\
cleanup    unix  n - n -    0 cleanup
qmgr       unix  n - n 300  1 qmgr
tlsmgr     unix  - - n 1000? 1 tlsmgr
rewrite    unix  - - n -    - trivial-rewrite
bounce     unix  - - n -    0 bounce
defer      unix  - - n -    0 bounce
trace      unix  - - n -    0 bounce
verify     unix  - - n -    1 verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n -    - proxymap
error      unix  - - n -    - error
retry      unix  - - n -    - error
discard    unix  - - n -    - discard
virtual    unix  - n n -    - virtual
anvil      unix  - - n -    1 anvil
postlog    unix-dgram n - n - 1 postlogd
"""

AUTHENTICATED = {
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_tls_auth_only": "yes",
    "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
}


@dataclass
class Postfix:
    """A Postfix instance; `with Postfix.make() as postfix:` or `start()` and `stop()`.

    `port_plain` has neither TLS nor AUTH. `port_starttls` offers STARTTLS, `port_ssl` speaks TLS at
    once; both want AUTH before mail. The certificate is for `names`, signed by the CA in `ca_file`;
    `untrusted_ca_file` is a CA that signed nothing.
    """

    host: Host
    way: Way
    folder: Path
    port_plain: int
    port_starttls: int
    port_ssl: int
    users: dict[str, str]
    extra: dict[str, str]
    names: tuple[str, ...]
    hostname: str = field(default="localhost", init=False)

    @classmethod
    def make(
        cls,
        session: Session | None = None,
        *,
        users: dict[str, str] | None = None,
        extra: dict[str, str] | None = None,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    ) -> "Postfix":
        """An instance by the first open way, not started yet; `extra` overrides main.cf."""
        way = OFFER.choose()
        session = session or sessions.current()
        folder = session.subfolder("postfix")
        ports = (free_port(), free_port(), free_port())
        host: Host = InDocker(session, folder, ports) if way is Way.DOCKER else Native(session, folder)
        return cls(host, way, folder, *ports, dict(users or USERS), dict(extra or {}), names)

    @property
    def ca_file(self) -> Path:
        """The CA that signed this server's certificate."""
        return self.folder / "tls/ca.pem"

    @property
    def untrusted_ca_file(self) -> Path:
        """A CA that has nothing to do with this server."""
        return self.folder / "tls/untrusted-ca.pem"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it (again); its three ports answer when this returns."""
        self.host.prepare()
        self._write_configuration()
        # Not `postfix start-fg`, whose process is a shell script and not the master.
        self.host.start([f"{DAEMONS}/master", "-c", str(self.config), "-d"])
        # The master opens all three ports before it answers on any.
        wait_until(self._greets, log=self.log_file, seconds=30)

    def stop(self) -> None:
        """End it; transactions under way are cut off."""
        self.host.stop()

    def kill(self) -> None:
        """SIGKILL every process of it."""
        self.host.kill()

    def restart(self) -> None:
        """Stop, then start; the queue and the mailbox stay."""
        self.stop()
        self.start()

    def configure(self, **extra: str) -> None:
        """Change main.cf of the running server; holds for connections opened from now on."""
        self.extra.update(extra)
        # A mail that reaches the queue while its manager is reloaded lies there until the next scan, in five minutes.
        wait_until(self.host.queue_is_empty, log=self.log_file, seconds=60)
        self._write_config("main.cf", self._main())
        outdated = self.host.resting(self.log())
        self._reload()
        # The line comes first; then the processes that rest are told to end. Until then they take connections.
        wait_until(lambda: not outdated & self.host.resting(self.log()), log=self.log_file, seconds=60)

    def _reload(self) -> None:
        """Have it read its files, and wait until it says that it does.

        Postfix's master says so, and only then clears the note that a signal made: one that comes in between is
        lost. So one that follows a reload at once may have to be sent again.
        """
        before, asked_at = self.log().count("reload -- version"), -_ASK_AGAIN_S

        def reloaded() -> bool:
            nonlocal asked_at
            if time.monotonic() - asked_at >= _ASK_AGAIN_S:
                asked_at = time.monotonic()
                self.host.reload()
            return self.log().count("reload -- version") > before

        wait_until(reloaded, log=self.log_file, seconds=60)

    # Refusals

    def refuse(self, recipient: str, reply: str | None) -> None:
        """Answer RCPT TO for an address, or a whole domain, with e.g. `550 5.1.1 No such user`; None ends that.

        It holds from the next RCPT on, in open connections too.
        """
        self._rule("recipient", recipient, reply)

    def refuse_sender(self, sender: str, reply: str | None) -> None:
        """The same for MAIL FROM; Postfix gives this reply to the RCPT that follows, as most servers do."""
        self._rule("sender", sender, reply)

    def refuse_nobody(self) -> None:
        """End all refusals."""
        with closing(sqlite3.connect(self._rules_file)) as rules, rules:
            rules.execute("DELETE FROM rules")

    def _rule(self, kind: str, address: str, reply: str | None) -> None:
        key = address.lower()  # Postfix folds an address before it looks it up
        with closing(sqlite3.connect(self._rules_file)) as rules, rules:
            rules.execute("DELETE FROM rules WHERE kind = ? AND address = ?", (kind, key))
            if reply is not None:
                rules.execute("INSERT INTO rules VALUES (?, ?, ?)", (kind, key, reply))

    # What arrived

    def raw(self) -> list[bytes]:
        """Every mail delivered so far, oldest first: one per recipient, with Postfix's own headers before it."""
        files = list((self.folder / "mail/inbox/new").glob("*"))
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def mails(self) -> list[EmailMessage]:
        """The same, parsed; `Delivered-To` is the recipient, `Return-Path` the sender."""
        parser = BytesParser(policy=policy.default)
        return [parser.parsebytes(content) for content in self.raw()]

    def to(self, recipient: str) -> list[EmailMessage]:
        """The mails delivered to one recipient."""
        return [mail for mail in self.mails() if mail["Delivered-To"] == recipient]

    def wait_for(self, count: int, timeout: float = 60.0, *, recipient: str | None = None) -> list[EmailMessage]:
        """Wait until at least so many mails are there (for one recipient); raises `TimeoutError` with the log."""
        found: Callable[[], list[EmailMessage]] = self.mails if recipient is None else lambda: self.to(recipient)
        deadline = time.monotonic() + timeout
        while len(mails := found()) < count:
            if time.monotonic() > deadline:
                msg = f"{len(mails)} of {count} mails within {timeout} s; the log ends:\n{tail(self.log_file)}"
                raise TimeoutError(msg)
            time.sleep(0.02)
        return mails

    def clear(self) -> None:
        """Empty the mailbox and end all refusals: the state that a test starts from."""
        for file in (self.folder / "mail/inbox/new").glob("*"):
            file.unlink(missing_ok=True)
        self.refuse_nobody()

    @property
    def log_file(self) -> Path:
        """Postfix's log."""
        return self.folder / "log/maillog"

    def log(self) -> str:
        """What Postfix has logged; a disconnect line counts the commands: `ehlo=2 starttls=1 auth=1`."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # Its configuration

    @property
    def config(self) -> Path:
        """The folder for `postfix -c`."""
        return self.folder / "config"

    @property
    def _rules_file(self) -> Path:
        return self.folder / "rules/rules.sqlite"

    def _write_configuration(self) -> None:
        # The log is written by the user postfix; the mailbox is delivered to by `virtual` as the same.
        for name, mode in {
            "config": 0o755,
            "config/sasl": 0o755,
            "tls": 0o755,
            "sasl": 0o755,
            "rules": 0o755,
            "log": 0o777,
        }.items():
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(mode)
        (self.folder / "mail").mkdir(exist_ok=True)
        os.chown(self.folder / "mail", self._mail_uid, self._mail_uid)
        if not self.ca_file.exists():
            self._write_certificates()
            self._write_rules()
            self._write_users()
        self._write_config("main.cf", self._main())
        self._write_config("master.cf", self._master())

    def _write_config(self, name: str, text: str) -> None:
        file = self.config / name
        file.write_text(text)
        # Each Postfix process waits, up to two seconds, until a file that was just written is a second old.
        past = time.time() - 10
        os.utime(file, (past, past))

    @property
    def _mail_uid(self) -> int:
        # `virtual` refuses uids below 100; root reads everything anyway.
        return os.geteuid() if os.geteuid() >= 100 else 65534

    def _main(self) -> str:
        local = isinstance(self.host, Native)
        here = {
            "queue_directory": str(self.folder / "queue" if local else INSIDE / "queue"),
            "data_directory": str(self.folder / "data" if local else INSIDE / "data"),
            "inet_interfaces": "loopback-only" if local else "all",
            # In the container, everybody comes from the bridge's address; only loopback reaches its ports.
            "mynetworks": "127.0.0.0/8" if local else "0.0.0.0/0",
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": str(self.folder),
            "virtual_mailbox_base": f"{self.folder}/mail",
            "virtual_uid_maps": f"static:{self._mail_uid}",
            "virtual_gid_maps": f"static:{self._mail_uid}",
            "virtual_minimum_uid": "100",
            "smtpd_tls_cert_file": f"{self.folder}/tls/server.pem",
            "smtpd_tls_key_file": f"{self.folder}/tls/server.key",
            "cyrus_sasl_config_path": f"{self.config}/sasl",
            "smtpd_recipient_restrictions": f"check_recipient_access sqlite:{self.config}/recipient.cf",
            "smtpd_sender_restrictions": f"check_sender_access sqlite:{self.config}/sender.cf",
        }
        return "".join(f"{key} = {value}\n" for key, value in {**MAIN, **here, **self.extra}.items())

    def _master(self) -> str:
        address = "127.0.0.1:" if isinstance(self.host, Native) else ""
        tls = {
            self.port_plain: {},
            self.port_starttls: {**AUTHENTICATED, "smtpd_tls_security_level": "may"},
            self.port_ssl: {**AUTHENTICATED, "smtpd_tls_wrappermode": "yes", "smtpd_tls_security_level": "encrypt"},
        }
        lines = [
            f"{address}{port} inet n - n - - smtpd" + "".join(f"\n  -o {key}={value}" for key, value in options.items())
            for port, options in tls.items()
        ]
        return "\n".join(lines) + "\n" + SERVICES

    def _write_certificates(self) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        certificate = authority.issue_cert(*self.names)
        tls = self.folder / "tls"
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (tls / "server.pem").write_bytes(chain)
        (tls / "server.key").touch(0o600)
        certificate.private_key_pem.write_to_path(tls / "server.key")
        stranger.cert_pem.write_to_path(self.untrusted_ca_file)
        authority.cert_pem.write_to_path(self.ca_file)

    def _write_rules(self) -> None:
        # A table that Postfix asks anew for every command: a refusal holds at once, without a reload, and in
        # connections that are open already. texthash and hash tables are read once per process.
        with closing(sqlite3.connect(self._rules_file)) as rules, rules:
            rules.execute("CREATE TABLE IF NOT EXISTS rules (kind TEXT, address TEXT, reply TEXT)")
        for kind in ("recipient", "sender"):
            query = f"SELECT reply FROM rules WHERE kind = '{kind}' AND address = '%s'"
            self._write_config(f"{kind}.cf", f"dbpath = {self._rules_file}\nquery = {query}\n")

    def _write_users(self) -> None:
        database = self.folder / "sasl/sasldb2"
        lines = (
            "pwcheck_method: auxprop",
            "auxprop_plugin: sasldb",
            f"sasldb_path: {database}",
            "mech_list: PLAIN LOGIN",
        )
        # Debian's Postfix looks into the folder `sasl` beside main.cf, whatever cyrus_sasl_config_path says.
        (self.config / "sasl/smtpd.conf").write_text("\n".join(lines) + "\n")
        for name, password in self.users.items():
            self._add_user(database, name, password)
        self.host.run("chown", "postfix", str(database))

    def _add_user(self, database: Path, name: str, password: str) -> None:
        user, _, realm = name.partition("@")
        # By a file and not an argument: Postfix's user may not see it in the process list, and no shell quotes it.
        secret = self.folder / "sasl/password"
        secret.touch(0o600)
        secret.write_text(password)
        words = f'saslpasswd2 -p -c -f "$1" -u "$2" "$3" <"{secret}"'
        self.host.run("sh", "-c", words, "sh", str(database), realm or "mail.postbote.test", user)
        secret.unlink()

    def _greets(self) -> bool:
        if self.host.ended():
            msg = f"Postfix ended while it started:\n{tail(self.log_file)}\n{tail(self.folder / 'console.log')}"
            raise ServiceUnavailable(msg)
        # Docker's proxy takes connections long before anybody listens behind it: only a greeting counts.
        try:
            with socket.create_connection(("127.0.0.1", self.port_plain), timeout=5) as connection:
                return connection.recv(3) == b"220"
        except OSError:
            return False
