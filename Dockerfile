# docker build -t patchbay . && docker run -p 8080:8080 -v /models:/models patchbay --model /models/x --batch-size 32 --precision fp16
FROM debian:12 AS build
WORKDIR /src
COPY . .
RUN tools/build release runtime && cmake --install build --prefix /opt/patchbay --component Unspecified

FROM debian:12-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libboost-filesystem1.74.0 libfmt9 libhwy1 libicu72 \
      libpcre2-8-0 libprotobuf-lite32 libsodium23 libspdlog1.10 libssl3 libzmq5 zlib1g \
    && rm -rf /var/lib/apt/lists/* && useradd --system --create-home patchbay
COPY --from=build /opt/patchbay /opt/patchbay
COPY tools/deploy/container.toml /etc/patchbay/patchbay.toml
USER patchbay
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m CMD ["/opt/patchbay/bin/patchbay", "client", "--health", "--timeout", "3"]
ENTRYPOINT ["/opt/patchbay/bin/patchbay", "serve", "--config", "/etc/patchbay/patchbay.toml"]
