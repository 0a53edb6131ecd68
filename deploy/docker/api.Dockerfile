# The API, and with the command `chores` the chores: no torch, and of worker/ only what chores need.
#   docker build -f deploy/docker/api.Dockerfile -t renderfarm-api:0.1.0 .
FROM python:3.12.13-slim-bookworm AS base

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/venv && python -m venv /opt/tools
COPY pyproject.toml constraints.txt deploy/docker/requirements.py ./
RUN python requirements.py api traces > requirements.txt \
 && /opt/venv/bin/python -m pip install -c constraints.txt -r requirements.txt \
 && /opt/venv/bin/python -m pip freeze > /opt/venv/requirements.txt
COPY README.md LICENSE ./
COPY shared shared
COPY api api
COPY cli cli
COPY renderfarm_client renderfarm_client
COPY worker/__init__.py worker/chores.py worker/liveness.py worker/webhooks.py worker/
RUN /opt/tools/bin/python -m pip install hatchling==1.33.0 \
 && /opt/tools/bin/python -m pip wheel --no-deps --no-build-isolation -w /opt/wheel . \
 && /opt/venv/bin/python -m pip install --no-deps --target /opt/farm /opt/wheel/*.whl

FROM base
LABEL org.opencontainers.image.title="renderfarm-api" \
      org.opencontainers.image.description="The HTTP API and the chores of renderfarm" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin farm \
 && install -d -o farm -g farm /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/farm /opt/farm
COPY deploy/docker/healthy /usr/local/bin/healthy
ENV PATH=/opt/farm/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/farm \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    FARM_DATA_DIR=/data \
    FARM_HOST=0.0.0.0
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["healthy"]
ENTRYPOINT ["renderfarm"]
CMD ["api"]
