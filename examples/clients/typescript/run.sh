#!/bin/sh
# Generates the types from openapi.json, compiles the program and runs it.
# P2PRC_API is the URL of a node, P2PRC_TOKEN its token.
set -eu
npm install --no-audit --no-fund --loglevel=error >&2
npx openapi-typescript openapi.json -o api.d.ts --default-non-nullable=false >&2
npx tsc >&2
exec node out/main.js
