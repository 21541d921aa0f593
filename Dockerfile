# quantvggt serve on a CPU: docs/serve.md. The builder compiles what the image then only reads.
FROM python:3.11-slim AS builder
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
RUN python -m venv /opt/quantvggt
ENV PATH=/opt/quantvggt/bin:$PATH XDG_CACHE_HOME=/opt/quantvggt/cache
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve,heic]'
# The native kernels, and which of them are the quickest here; another CPU measures them again when the worker starts.
RUN quantvggt doctor

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin quantvggt \
    && mkdir /jobs && chown quantvggt /jobs
COPY --from=builder /opt/quantvggt /opt/quantvggt
ENV PATH=/opt/quantvggt/bin:$PATH XDG_CACHE_HOME=/opt/quantvggt/cache PYTHONDONTWRITEBYTECODE=1
USER 10001
VOLUME /jobs
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# The API key comes in QUANTVGGT_API_KEY, without which it doesn't listen to others.
ENTRYPOINT ["quantvggt", "serve", "--host", "0.0.0.0", "--folder", "/jobs"]
CMD ["/model"]
