# The agent of a GPU host and the jobs that it starts. Build it from the top of the checkout:
#   docker build -f deploy/containers/agent.Dockerfile -t pilothouse-agent .
# It needs NVIDIA's container toolkit on the host (`--gpus all`), and the same home folder as the web server's container.
FROM python:3.11.14-slim-bookworm

# hadolint ignore=DL3008 # Debian keeps one version of each in a release, so a pinned one would be gone some day
RUN apt-get update \
    && apt-get install -y --no-install-recommends util-linux gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/pilothouse --create-home pilothouse

WORKDIR /opt/pilothouse
COPY . .
RUN PIP_NO_CACHE_DIR=1 bin/setup --extras ray,quant

USER 10001
ENV PILOTHOUSE_HOME=/var/lib/pilothouse PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME /var/lib/pilothouse
CMD ["/opt/pilothouse/.venv/bin/python", "-m", "monitoring", "agent", "--home", "/var/lib/pilothouse"]
