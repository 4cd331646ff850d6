#!/bin/sh
# Generates the client from openapi.json, compiles the program and runs it.
# P2PRC_API is the URL of a node, P2PRC_TOKEN its token.
set -eu
export GOFLAGS=-mod=mod
mkdir -p p2prc
go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 \
    -generate types,client -package p2prc openapi.json > p2prc/client.go
go mod tidy >&2
exec go run .
