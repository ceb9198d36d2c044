# Two stages: build the wheel, which takes a compiler, and install it, which takes none. The image runs as a
# plain user.
#   docker build -t taskstore .
#   docker run --rm -v "$PWD/models:/models" taskstore pack /models/base /models/a /models/b -o /models/family
# EXTRA adds extras of the package: torch reads pytorch_model.bin; serve (on a GPU) and serve-cpu
# bring vLLM, and the C++ compiler that it calls.
#   docker build -t taskstore:serve --build-arg EXTRA=serve .
#   docker run --gpus all --shm-size 2g -p 8000:8000 -e TASKSTORE_API_KEY -v "$PWD/models/family:/store:ro" \
#       taskstore:serve serve /store --host 0.0.0.0
# TORCH_INDEX may name PyTorch's index of CPU wheels; without it pip's default build is taken.

FROM python:3.12-slim AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml CMakeLists.txt README.md LICENSE CHANGELOG.md ./
COPY tools tools
COPY taskstore taskstore
COPY cli cli
COPY serving serving
RUN pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=""
ARG EXTRA=""
RUN case "$EXTRA" in *serve*) \
        apt-get update && apt-get install -y --no-install-recommends g++ libnuma1 \
        && rm -rf /var/lib/apt/lists/*;; \
    esac
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        "$(ls /wheels/*.whl)${EXTRA:+[$EXTRA]}" \
    && if [ -n "$EXTRA" ] && ! python -c "import torchvision" 2>/dev/null; then \
        pip uninstall -y torchvision torchaudio torchcodec; \
    fi \
    && useradd --create-home --uid 1000 taskstore
USER taskstore
WORKDIR /home/taskstore
EXPOSE 8000
# Of `serve` on its default port; loading a large family takes minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["taskstore"]
CMD ["--help"]
