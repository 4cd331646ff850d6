# A node in a container; see docs/install.md. `make build` first: it takes the wheel from dist/.
FROM python:3.12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap openssh-client tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 p2prc
COPY dist/p2prc-*.whl /tmp/
RUN pip install --no-cache-dir /tmp/p2prc-*.whl && rm /tmp/p2prc-*.whl
USER p2prc
ENV P2PRC_HOME=/home/p2prc/node
RUN mkdir -m 700 /home/p2prc/node
VOLUME /home/p2prc/node
EXPOSE 8088/tcp 8088/udp
ENTRYPOINT ["tini", "--", "p2prc"]
CMD ["up"]
