# Tunewright on the CPU, as an ordinary user:
#   docker build -t tunewright .
#   docker run --rm -v "$PWD:/work" tunewright run recipe.yaml
# A bind-mounted /work must be writable for user id 1000 (else: --user "$(id -u):$(id -g)" -e HOME=/tmp).
FROM python:3.11-slim

# PyPI's torch for Linux brings CUDA along, several gigabytes of it; this index has the build for the CPU alone. For a GPU:
#   docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t tunewright . ; docker run --gpus all ...
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/tunewright
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple -r constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY tunewright ./tunewright
COPY benchmarks/README.md ./benchmarks/
RUN pip install --no-cache-dir -c constraints.txt ".[fast,track]"

RUN useradd --create-home --uid 1000 tunewright && mkdir /work && chown tunewright /work
USER tunewright
WORKDIR /work
ENTRYPOINT ["tunewright"]
CMD ["--help"]
