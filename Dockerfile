# Everything that runs on a node or a workstation: the package with its pinned dependencies, and SLURM's client.
# docker build -t nest-repro . && docker run --gpus all -v "$PWD/work:/work" nest-repro list
FROM python:3.12-slim-bookworm

# git: a result names the commit of its code. slurm-client: `repro ... --launch slurm` from inside.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends git slurm-client \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/nest-repro
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY repro ./repro
RUN pip install --no-cache-dir -c constraints.txt .

WORKDIR /work
ENTRYPOINT ["repro"]
CMD ["list"]
