# The CPU build of `asr serve`: docs/serving.md shows how to build and run it.
FROM python:3.12-slim AS wheel
# The compiler links the search, so that the image needs no numba.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE NOTICE ./
COPY asr ./asr
COPY recipes ./recipes
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# Without PyTorch: onnxruntime runs the models.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir "$(echo /wheels/*.whl)[serve]"

RUN useradd --create-home asr
USER asr
WORKDIR /home/asr
# Does nothing where the wheel holds the search; else the first start is as quick as later ones.
RUN asr warm-up

EXPOSE 8000 10300
# Names that clients use for this machine need --allow-host NAME; localhost and addresses in figures do not.
ENTRYPOINT ["asr"]
CMD ["serve", "--host", "0.0.0.0"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=9)"]
