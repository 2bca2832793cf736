#!/bin/sh
# Runs one of Dagster's processes with its storage's URL, which is a secret in a file and not in the environment.
set -eu
file="${DAGSTER_PG_URL_FILE:-/run/secrets/dagster_url}"
DAGSTER_PG_URL="$(cat "$file")"
export DAGSTER_PG_URL
exec "$@"
