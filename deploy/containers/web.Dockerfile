# The web server with its dispatcher: pages, API, websocket on port 8080. Build it from the top of the checkout:
#   docker build -f deploy/containers/web.Dockerfile -t pilothouse-web .
# It has torch for processors alone (which it never imports): jobs run in the agent's container.
FROM python:3.11.14-slim-bookworm

# hadolint ignore=DL3008 # Debian keeps one version of each in a release, so a pinned one would be gone some day
RUN apt-get update \
    && apt-get install -y --no-install-recommends util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/pilothouse --create-home pilothouse

WORKDIR /opt/pilothouse
COPY . .
RUN PIP_NO_CACHE_DIR=1 bin/setup --extras postgres,redis,ray \
    --torch "torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

USER 10001
ENV PILOTHOUSE_HOME=/var/lib/pilothouse PILOTHOUSE_AGENT=external PYTHONUNBUFFERED=1
VOLUME /var/lib/pilothouse
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["/opt/pilothouse/.venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/login')"]
CMD ["deploy/containers/serve"]
