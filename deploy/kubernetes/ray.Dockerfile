# What a node of the cluster in ray.yaml holds: the trainer's image, the orchestrator's environment and Ray. From the repository's root, after
# orchestrator and trainer: docker build -f deploy/kubernetes/ray.Dockerfile -t eto/ray:gpu .
ARG TRAINER=eto/trainer:gpu
ARG ORCHESTRATOR=eto/orchestrator:0.1.0
# hadolint ignore=DL3006
FROM ${ORCHESTRATOR} AS orchestrator

# hadolint ignore=DL3006
FROM ${TRAINER}
# wget: the operator's probes of a node ask with it.
# hadolint ignore=DL3002
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY --from=orchestrator /opt/venv /opt/venv
COPY orchestrator/requirements-ray.txt /tmp/requirements-ray.txt
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes -r /tmp/requirements-ray.txt && rm /tmp/requirements-ray.txt
ENV PATH=/opt/venv/bin:$PATH \
    ETO_ROOT=/ \
    ETO_STATE=/home/eto/.eto \
    RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
# The operator gives the command; its own start line needs a shell.
ENTRYPOINT []
CMD ["ray", "--help"]
