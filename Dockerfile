# The image of worker and API: one virtual environment on a slim Python, without pip's caches or a compiler.
# It runs as a user of its own and with a read-only root: it writes to /var/lib/postbote and /tmp alone.

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/postbote
# The dependencies come first and from the lock alone: this layer is built anew only when the lock changes.
COPY requirements/runtime.lock /build/requirements/runtime.lock
RUN /opt/postbote/bin/pip install --require-hashes -r /build/requirements/runtime.lock
# The build backend is not in the lock: nothing of it reaches the image.
COPY pyproject.toml README.md* /build/
COPY schemas /build/schemas
COPY worker /build/worker
RUN /opt/postbote/bin/pip install --no-deps /build \
    && /opt/postbote/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN groupadd --system --gid 10001 postbote \
    && useradd --system --uid 10001 --gid postbote --home-dir /var/lib/postbote --no-create-home postbote \
    && install -d -o postbote -g postbote -m 0750 /var/lib/postbote
COPY --from=build /opt/postbote /opt/postbote
# Bytecode cannot be written at run time, as the root is read-only; pip wrote it when it installed.
ENV PATH=/opt/postbote/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    POSTBOTE_DATA_DIR=/var/lib/postbote \
    POSTBOTE_JOURNAL_DIR=/var/lib/postbote/journal
USER postbote
WORKDIR /var/lib/postbote
VOLUME /var/lib/postbote
# Asks the process in this container, at POSTBOTE_HTTP_HOST and POSTBOTE_HTTP_PORT.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["postbote", "health"]
# SIGTERM, Docker's default, drains: give it longer than POSTBOTE_SHUTDOWN_GRACE_S (docker stop -t 30).
ENTRYPOINT ["postbote"]
CMD ["worker"]
