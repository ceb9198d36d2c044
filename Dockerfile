# Two stages: build the wheel, install it. The image holds no compiler and runs as a plain user.
#   docker build -t taskstore .
#   docker run --rm -v "$PWD/models:/models" taskstore pack /models/base /models/a /models/b -o /models/family
# TORCH_INDEX may name PyTorch's index of CPU wheels; without it pip's default build is taken.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY taskstore taskstore
COPY cli cli
COPY serving serving
RUN pip wheel --no-cache-dir --no-deps -w /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=""
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl \
    && useradd --create-home --uid 1000 taskstore
USER taskstore
WORKDIR /home/taskstore
ENV NUMBA_CACHE_DIR=/home/taskstore/.cache/numba
ENTRYPOINT ["taskstore"]
CMD ["--help"]
