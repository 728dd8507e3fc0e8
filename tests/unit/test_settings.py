"""What a setting means, and what a wrong one is told."""

import base64
from ipaddress import ip_network

import pytest

from schemas.smtp_config import TlsMode
from worker.errors import SettingsError
from worker.settings import load_settings

RAFAY = {
    "FW_EVENT_SMTP_SERVER_ADDR": "mx.example.com",
    "FW_EVENT_SMTP_SERVER_PORT": "587",
    "FW_EVENT_SMTP_SERVER_USERNAME": "u@example.com",
    "FW_EVENT_SMTP_SERVER_PASSWORD": "geheim",
}

KEY, OTHER_KEY = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"POSTBOTE_HTTP_PORT": "zehn"}, "POSTBOTE_HTTP_PORT: "),
        ({"POSTBOTE_HTTP_HOST": "everywhere"}, "POSTBOTE_HTTP_HOST: expected an IP address"),
        ({"POSTBOTE_AMQP_URL": "http://x"}, "POSTBOTE_AMQP_URL: expected a URL that begins with amqp://"),
        ({"ELASTIC_SEARCH_FQDN": "ftp://x"}, "ELASTIC_SEARCH_FQDN: expected a URL"),
        (
            {"ES_USER_NAME": "a", "POSTBOTE_OPENSEARCH_USER": "b"},
            "POSTBOTE_OPENSEARCH_USER and ES_USER_NAME are set to different values",
        ),
        ({"ES_USER_NAME": "a"}, "ES_USER_NAME and POSTBOTE_OPENSEARCH_PASSWORD belong together"),
        ({**RAFAY, "FW_EVENT_SMTP_SERVER_PASSWORD": ""}, "FW_EVENT_SMTP_SERVER_USERNAME, "),
        ({**RAFAY, "FW_EVENT_SMTP_SERVER_USE_TLS": "false"}, "credentials are never sent without TLS"),
        ({**RAFAY, "FW_EVENT_SMTP_SERVER_PORT": "99999"}, "FW_EVENT_SMTP_SERVER_PORT: "),
        ({**RAFAY, "POSTBOTE_CONTROLLER_CA_FILE": "/nowhere.pem"}, "POSTBOTE_CONTROLLER_CA_FILE: No such file"),
        ({"POSTBOTE_LOG_LEVEL": "loud"}, "POSTBOTE_LOG_LEVEL: "),
        ({"POSTBOTE_SMTP_MAX_CONNECTIONS": "0"}, "POSTBOTE_SMTP_MAX_CONNECTIONS: "),
        ({"POSTBOTE_EGRESS_ALLOW": "10.0.0.0/8,intranet"}, "POSTBOTE_EGRESS_ALLOW: "),
        ({"POSTBOTE_EGRESS_ALLOW": "10.0.0.1/8"}, "POSTBOTE_EGRESS_ALLOW: "),
        ({"POSTBOTE_EGRESS_PORTS": "26,x"}, "POSTBOTE_EGRESS_PORTS: 'x' is neither a port nor a range"),
        ({"POSTBOTE_EGRESS_PORTS": "30-20"}, "POSTBOTE_EGRESS_PORTS: '30-20' is neither"),
        (
            {"POSTBOTE_AUDIT_SIGNING_KEY": "geheim"},
            "POSTBOTE_AUDIT_SIGNING_KEY: expected a key as `postbote audit key`",
        ),
        ({"POSTBOTE_AUDIT_SIGNING_KEY": "Z2VoZWlt"}, "POSTBOTE_AUDIT_SIGNING_KEY: expected a key"),
        ({"POSTBOTE_AUDIT_VERIFY_KEYS": f"{KEY},geheim"}, "POSTBOTE_AUDIT_VERIFY_KEYS: expected a key"),
        ({"POSTBOTE_AUDIT_HEAD_S": "0"}, "POSTBOTE_AUDIT_HEAD_S: "),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_variable(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "use_tls", "mode"),
    [("465", "true", TlsMode.SSL), ("587", "true", TlsMode.STARTTLS), ("25", "true", TlsMode.STARTTLS)],
)
def test_rafays_use_tls_chooses_by_port(port: str, use_tls: str, mode: TlsMode) -> None:
    found = load_settings({**RAFAY, "FW_EVENT_SMTP_SERVER_PORT": port, "FW_EVENT_SMTP_SERVER_USE_TLS": use_tls})
    record = found.controller_record()
    assert record
    assert record.tls is mode
    assert record.verify_tls


def test_the_same_thing_set_twice_alike_is_fine() -> None:
    found = load_settings(
        {"ELASTIC_SEARCH_FQDN": "os.example.com", "POSTBOTE_OPENSEARCH_URL": "https://os.example.com:9200"}
    )
    assert found.opensearch_url == "https://os.example.com:9200"


def test_without_a_host_there_is_no_controller_record() -> None:
    assert load_settings({}).controller_record() is None


def test_the_audits_keys_are_read_and_the_private_one_does_not_show() -> None:
    found = load_settings(
        {"POSTBOTE_AUDIT_SIGNING_KEY": f" {KEY}\n", "POSTBOTE_AUDIT_VERIFY_KEYS": f"{KEY}, {OTHER_KEY}"}
    )
    assert found.audit_signing_key
    assert found.audit_signing_key.get_secret_value() == KEY
    assert found.audit_verify_keys == (KEY, OTHER_KEY)
    assert KEY not in repr(found.audit_signing_key)


def test_secrets_do_not_show() -> None:
    found = load_settings({**RAFAY, "POSTBOTE_SECRET_KEYS": "geheim-1, geheim-2"})
    assert len(found.secret_keys) == 2
    assert "geheim" not in repr(found)


def test_where_tenants_records_may_lead_is_read_as_networks_and_ranges() -> None:
    found = load_settings({"POSTBOTE_EGRESS_ALLOW": "10.1.0.0/16, ::1/128", "POSTBOTE_EGRESS_PORTS": "26, 3000-3100"})
    assert found.egress_allow == (ip_network("10.1.0.0/16"), ip_network("::1/128"))
    assert found.egress_ports == ((26, 26), (3000, 3100))
    assert (load_settings({}).egress_allow, load_settings({}).egress_ports) == ((), ())
