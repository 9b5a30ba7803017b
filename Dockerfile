# joulegate as an image: the proxy and, for trying it out, the simulated engine and GPU.
#
#   docker build -t joulegate .
#   docker compose up                 a simulated engine behind joulegate on http://127.0.0.1:8080

FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# Everything the lock names is fetched and checked against its hash; only what joulegate needs is installed.
COPY requirements.lock ./
RUN pip download --no-cache-dir --require-hashes --only-binary :all: --dest /wheels -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY joulegate ./joulegate
COPY proxy ./proxy
COPY accounting ./accounting
COPY simulator ./simulator
COPY loadgen ./loadgen
COPY migrations ./migrations
RUN pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/joulegate \
    && /opt/joulegate/bin/pip install --no-index --find-links /wheels "joulegate[demo,postgres]"

# The NVML library that shows the simulated GPU, so that the image itself needs no compiler.
RUN /opt/joulegate/bin/python -c \
    "from pathlib import Path; from simulator.gpu.library import build; build(Path('/opt/simulated-nvml'))"

FROM python:3.11-slim
COPY --from=build /opt/joulegate /opt/joulegate
COPY --from=build /opt/simulated-nvml /opt/simulated-nvml
RUN useradd --uid 10001 --no-create-home joulegate \
    && install -d -o joulegate -g joulegate /data /board
USER joulegate
WORKDIR /data
ENV PATH=/opt/joulegate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    JOULEGATE_DATA_DIR=/data \
    JOULEGATE_SERVER__HOST=0.0.0.0
# 0.0.0.0 is the container's own network; publish the port on 127.0.0.1 (-p 127.0.0.1:8080:8080).
EXPOSE 8080
VOLUME /data
# Stopping may take 45 s (requests in flight end, figures are settled and stored): docker stop -t 50.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
ENTRYPOINT ["joulegate"]
CMD ["serve"]
