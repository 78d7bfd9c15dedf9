# The program and nothing else: one static file, no shell, run by a user without rights.
#   docker build --build-arg VERSION=v1.2.3 -t tideover .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# All but what .dockerignore leaves out.
COPY . .
ARG VERSION=""
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /tideover ./cmd/tideover

FROM scratch
# For upstreams behind wss:// and https://.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /tideover /tideover
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/tideover"]
CMD ["run", "--config", "/etc/tideover/proxy.yaml"]
