# One image for every mailmill process; docker-compose.yml names their commands.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ENV UV_NO_CACHE=1 \
    PYTHONUNBUFFERED=1 \
    DAGSTER_DISABLE_TELEMETRY=1 \
    PATH=/opt/venv/bin:$PATH

WORKDIR /opt/build
COPY requirements.lock requirements-dev.lock ./
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --quiet uv==0.13.8
RUN /opt/venv/bin/uv pip install --quiet --python /opt/venv/bin/python --require-hashes -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY mailmill ./mailmill
# the build's own tools are held to the lock of the development packages
RUN /opt/venv/bin/uv pip install --quiet --python /opt/venv/bin/python --no-deps --build-constraint requirements-dev.lock .

# volumes take the owner of the folder they are mounted on
RUN install -d -o 10001 -g 10001 /opt/data /opt/journal /opt/project /opt/dagster
COPY deploy/dagster.yaml /opt/dagster/dagster.yaml
COPY deploy/workspace.yaml /opt/dagster/workspace.yaml
COPY deploy/dagster.sh /opt/dagster/dagster.sh

ENV HOME=/opt/data \
    MAILMILL_HOME=/opt/data \
    MAILMILL_JOURNAL=/opt/journal \
    MAILMILL_PROJECT=/opt/project \
    DAGSTER_HOME=/opt/dagster
WORKDIR /opt/project
USER 10001:10001
ENTRYPOINT ["mailmill"]
