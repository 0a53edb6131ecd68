# A worker: one process for one GPU. Weights are not inside; they lie in the volume /models.
#   docker build -f deploy/docker/worker.Dockerfile -t renderfarm-worker:0.1.0 .
# `base` has CUDA's runtime and makes the container toolkit refuse a driver that is too old; cuDNN,
# cuBLAS and NCCL come with torch's wheels, so the larger CUDA images would hold them twice.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS base
# Triton compiles its launchers at run time: it needs a C compiler and Python's headers. The tag
# above names the distribution; its mirror keeps no old versions that could be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3.12 python3.12-dev \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3.12 -m venv /opt/venv && python3.12 -m venv /opt/tools
COPY pyproject.toml constraints.txt deploy/docker/requirements.py ./
RUN /opt/tools/bin/python requirements.py worker traces > requirements.txt \
 && /opt/venv/bin/python -m pip install -c constraints.txt -r requirements.txt \
 && /opt/venv/bin/python -m pip freeze > /opt/venv/requirements.txt
COPY README.md LICENSE ./
COPY shared shared
COPY cli cli
COPY renderfarm_client renderfarm_client
COPY worker worker
RUN /opt/tools/bin/python -m pip install hatchling==1.33.0 \
 && /opt/tools/bin/python -m pip wheel --no-deps --no-build-isolation -w /opt/wheel . \
 && /opt/venv/bin/python -m pip install --no-deps --target /opt/farm /opt/wheel/*.whl

FROM base
LABEL org.opencontainers.image.title="renderfarm-worker" \
      org.opencontainers.image.description="A GPU worker of renderfarm" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin farm \
 && install -d -o farm -g farm /data /models
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/farm /opt/farm
COPY deploy/docker/healthy /usr/local/bin/healthy
ENV PATH=/opt/farm/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/farm \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    FARM_DATA_DIR=/data \
    FARM_MODEL_CACHE_DIR=/models \
    FARM_LIVENESS_FILE=/tmp/alive \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
USER 10001:10001
VOLUME ["/models"]
# Loading 28 GB takes minutes, and the worker lives meanwhile.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["healthy"]
ENTRYPOINT ["renderfarm"]
CMD ["worker"]
