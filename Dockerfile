# Base images are pinned by the digest of their index, which covers amd64 and arm64. To renew one, ask the registry and
# replace tag and digest together: docker buildx imagetools inspect debian:bookworm-slim
# The toolchain of rust-toolchain.toml, which .dockerignore leaves out: it would have rustup fetch clippy and rustfmt.
FROM rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin backend-worker

FROM debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
# Redis over TLS and the providers are checked against the system's certificates.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --shell /usr/sbin/nologin worker
WORKDIR /app
COPY --from=build /src/target/release/backend-worker ./bin/backend-worker
USER worker
EXPOSE 3002
# No curl here: the binary asks the worker of its container, on the PORT of its environment.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=4 CMD ["./bin/backend-worker", "health"]
STOPSIGNAL SIGTERM
CMD ["./bin/backend-worker", "run"]
