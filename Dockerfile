# The CPU build of `asr serve`: docs/serving.md shows how to build and run it.
FROM python:3.12-slim

# Without PyTorch: onnxruntime runs the models.
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY asr ./asr
COPY recipes ./recipes
RUN pip install --no-cache-dir ".[serve]" && rm -rf /src/*

RUN useradd --create-home asr
USER asr
WORKDIR /home/asr
# The compiled search is kept in the image, so that the first start is as quick as later ones.
RUN asr warm-up

EXPOSE 8000 10300
# Names that clients use for this machine need --allow-host NAME; localhost and addresses in figures do not.
ENTRYPOINT ["asr"]
CMD ["serve", "--host", "0.0.0.0"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=9)"]
