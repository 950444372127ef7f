# syntax=docker/dockerfile:1
#
# Headrace with what a pod on Kubernetes needs, with Ray or without it. Build your application's image on it:
#
#   docker build -t headrace:dev .
#
#   FROM headrace:dev
#   COPY --chown=headrace . /app
#   RUN pip install --no-cache-dir -r /app/requirements.txt
#
# On GPUs, take a base that has the libraries that your models want, with a Python that Headrace runs on:
#
#   docker build -t headrace:gpu --build-arg BASE=vllm/vllm-openai:latest .
#
# Pods that need no Ray (`headrace kubernetes deployment`) are smaller without it: --build-arg RAY=
#
# The versions of Python and of Ray must be the same in all pods of a cluster: use one image for head and workers.
ARG BASE=python:3.12-slim-bookworm

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
RUN pip install --no-cache-dir build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m build --wheel --outdir /dist

FROM ${BASE}
# [default]: what tells of the health of each node, and Ray's dashboard.
ARG RAY="ray[default]>=2.60,<2.61"
# tini: takes in the children of those that died. procps: `ps`, for Ray. wget: KubeRay's own probes ask with it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash procps tini wget \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /dist /tmp/dist
RUN python3 -m pip install --no-cache-dir "$(echo /tmp/dist/headrace-*.whl)[otel]" ${RAY:+"$RAY"} && rm -rf /tmp/dist
# Not root: a number, so that Kubernetes can see that it is not.
RUN useradd --create-home --uid 1000 --non-unique headrace && mkdir -p /app && chown 1000 /app
USER 1000
WORKDIR /app
# Import paths are looked for here, in every process, on Ray too.
ENV PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
EXPOSE 8000 8265
ENTRYPOINT ["tini", "--"]
CMD ["headrace", "start", "--block", "--http-host", "0.0.0.0"]
