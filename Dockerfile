# The command `tenure` as an image, for a user without rights. With etcd:
#
#     docker build --build-arg FEATURES=etcd -t tenure .
FROM rust:1-slim AS build
ARG FEATURES=
RUN apt-get update && apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev
WORKDIR /src
COPY . .
RUN cargo install --locked --path cli --root /out --features "$FEATURES"

FROM debian:stable-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin/tenure /usr/bin/tenure
# A number, so that Kubernetes can check that it is not root.
USER 65532
ENTRYPOINT ["tenure"]
