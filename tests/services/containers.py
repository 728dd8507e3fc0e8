"""Docker, through testcontainers: whether it is open, and a container that keeps its ports when restarted."""

import functools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.services.sessions import Session, locked
from tests.services.ways import ServiceUnavailable

# testcontainers would start a second container that removes the first when the tests end. Sessions do that
# here, also after a kill -9, and the helper's image may be out of reach.
testcontainers_config.ryuk_disabled = True
# Ports are published on loopback alone. Where the tests themselves run in a container, testcontainers would go by
# the bridge's address; the engine that counts here is this machine's own.
testcontainers_config.connection_mode_override = ConnectionMode.docker_host
testcontainers_config.tc_host_override = testcontainers_config.tc_host_override or "127.0.0.1"

START_DOCKER = "start a Docker engine"


@functools.cache
def engine_closed() -> str | None:
    """None where an engine answers."""
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except (DockerException, OSError) as error:
        return f"{START_DOCKER} (none answers: {str(error)[:120]})"
    return None


@functools.cache
def image_closed(image: str) -> str | None:
    """None where an engine answers and has the image, or can pull it."""
    if reason := engine_closed():
        return reason
    client = docker.from_env(timeout=600)
    try:
        with suppress(ImageNotFound):
            client.images.get(image)
            return None
        client.images.pull(*image.split(":"))
    except (DockerException, OSError) as error:
        return f"docker pull {image} (it failed here: {str(error)[:120]})"
    finally:
        client.close()
    return None


def has_image(image: str) -> bool:
    """Whether the engine has the image already."""
    client = docker.from_env(timeout=10)
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    else:
        return True
    finally:
        client.close()


def build(image: str, folder: Path) -> None:
    """Build an image from a folder with a Dockerfile, unless it is there."""
    with locked("docker-build"):
        if has_image(image):
            return
        client = docker.from_env(timeout=600)
        try:
            client.images.build(path=str(folder), tag=image, rm=True, network_mode="host")
        except (DockerException, OSError) as error:
            msg = f"docker build -t {image} {folder} failed: {error}"
            raise ServiceUnavailable(msg) from error
        finally:
            client.close()


class Container:
    """A container made once and then stopped, killed, paused and started again; published ports stay the same.

    Docker picks a new host port at every start where it may choose. Clients under test keep their URL over
    a restart, so the caller gives fixed host ports.
    """

    def __init__(self, session: Session, container: DockerContainer) -> None:
        self._session = session
        self._container = container
        self._created = False

    def start(self) -> None:
        """Create it and wait as testcontainers does, or start the stopped one (and not wait)."""
        if self._created:
            self._raw.start()
            return
        try:
            self._container.start()
        finally:
            # Also when it does not become ready: it runs by then, and must end with the session.
            if self._raw is not None:
                self._session.register_container(str(self._raw.id))
                self._created = True

    def stop(self) -> None:
        """Ask its first process to end."""
        self._raw.stop(timeout=20)

    def kill(self) -> None:
        """SIGKILL."""
        self._raw.kill()

    def pause(self) -> None:
        """Freeze its processes; frozen already is fine."""
        if self._status() == "running":
            self._raw.pause()

    def resume(self) -> None:
        """Let them go on; running already is fine."""
        if self._status() == "paused":
            self._raw.unpause()

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in it: exit status, output."""
        result = self._raw.exec_run(list(command))
        return int(result.exit_code), bytes(result.output).decode(errors="replace")

    def logs(self) -> str:
        """What it has written."""
        return bytes(self._raw.logs()).decode(errors="replace")

    def _status(self) -> str:
        self._raw.reload()
        return str(self._raw.status)

    @property
    def _raw(self) -> Any:
        return self._container._container


def publish(container: DockerContainer, ports: Sequence[tuple[int, int]]) -> DockerContainer:
    """Publish (inside, outside) ports on loopback only."""
    for inside, outside in ports:
        container.ports[str(inside)] = ("127.0.0.1", outside)  # type: ignore[assignment]
    return container
