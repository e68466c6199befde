# hart serve in a container. With API keys in the file keys.txt, one a line, which user 10001 must be able to read:
#
#   docker build -t hart .
#   docker run --stop-timeout 130 -p 127.0.0.1:8000:8000 -v ./keys.txt:/run/secrets/hart_keys:ro hart
#
# --stop-timeout is the server's --timeout, in which it finishes what was accepted, and a little.
# Options of hart serve follow the image's name and take the place of CMD.
FROM python:3.11-slim

# Further index of torch builds, from PyTorch's installation page: that of the CPU builds saves gigabytes. Without it
# torch is the default one, which runs on NVIDIA GPUs too.
ARG TORCH_INDEX=""
# serve,ray for hart serve --ray
ARG EXTRAS=serve

RUN useradd --create-home --uid 10001 hart && install --directory --owner hart /cache
# what is downloaded from the Hugging Face hub; a volume there keeps it
ENV HF_HOME=/cache
WORKDIR /opt/hart
# before the sources, so that a change of them does not install torch again
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

USER 10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["hart", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--api-key-file", "/run/secrets/hart_keys"]
