# The server as a container; `compose.yaml` runs it hardened, docs/howto/deploy.md says how.
FROM python:3.11-slim AS build

# Where pip finds torch: the index of PyTorch's install page for the CPU, or for your CUDA version.
# Without it the default index brings the build with CUDA.
ARG TORCH_INDEX=

WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN python -m venv /opt/purvey \
    && /opt/purvey/bin/pip install --no-cache-dir --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -c constraints.txt '.[engine]' \
    && /opt/purvey/bin/python -m compileall -q /opt/purvey/lib

FROM python:3.11-slim

RUN groupadd --gid 10001 purvey \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin purvey \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/purvey
COPY --from=build /opt/purvey /opt/purvey

# Only the volume and /tmp are written to. The data folder lies one level below the volume, so that
# `purvey restore` can put a new one in its place by one rename.
ENV PATH=/opt/purvey/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PURVEY_HOST=0.0.0.0 \
    PURVEY_PORT=8000 \
    PURVEY_DATA_DIR=/var/lib/purvey/data
VOLUME /var/lib/purvey
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ['PURVEY_PORT']), timeout=2); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["purvey"]
CMD ["serve"]
