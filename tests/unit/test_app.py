"""The composition root: what it opens says what it lacks."""

from pathlib import Path

import pytest

from schemas.smtp_config import Scope, SmtpConfig, TlsMode
from worker.app import open_configs, open_store
from worker.errors import StoreUnavailable
from worker.settings import load_settings
from worker.store.configs import ConfigStore


async def test_readiness_says_that_older_records_are_used_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings({}, database_url=f"sqlite:///{tmp_path / 'p.db'}", config_cache_s=0)
    async with open_store(settings) as store:
        await store.put(SmtpConfig(host="mx.example.com", port=25, tls=TlsMode.NONE, from_address="a@example.com"))
    async with open_configs(settings) as configs:
        assert (await configs.source.configs_for(Scope())).records[Scope()].host == "mx.example.com"
        assert configs.missing() is None

        async def away(*_: object) -> object:
            raise StoreUnavailable("locked")

        monkeypatch.setattr(ConfigStore, "configs_for", away)
        assert (await configs.source.configs_for(Scope())).records[Scope()].host == "mx.example.com"
        assert configs.missing() == "the store is away: older records are used"
