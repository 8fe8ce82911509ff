# A server for bundles: docker build -t s2dnas-serve . && docker run -p 8000:8000 -v ./bundle:/bundles/net s2dnas-serve
FROM python:3.13-slim
RUN useradd --create-home serve
COPY . /source
RUN pip install --no-cache-dir -c /source/constraints.txt '/source[serve]' && rm -r /source
USER serve
EXPOSE 8000 8001
HEALTHCHECK CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready')"
ENTRYPOINT ["s2dnas-serve", "--host", "0.0.0.0", "--port", "8000", "--grpc-port", "8001"]
CMD ["/bundles/net"]
