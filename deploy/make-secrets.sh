#!/bin/sh
# Makes the secrets that docker-compose.yml mounts as files: a password for each role, and the URLs with them.
# Passwords that are there stay; the URLs name the server POSTGRES_HOST, host:port, that of docker-compose.yml if nothing
# else is said. The folder is for its owner only; the files are readable, because in a container another user reads
# them.
set -eu
cd "$(dirname "$0")"
folder="${1:-secrets}"
host="${POSTGRES_HOST:-postgres:5432}"
mkdir -p "$folder"
chmod 700 "$folder"

password() {
  test -s "$folder/$1_password" || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$1_password"
}

url() { # file, scheme, user, database
  rm -f "$folder/$1" # nobody may write to the one of an earlier run
  printf '%s://%s:%s@%s/%s' "$2" "$3" "$(cat "$folder/$3_password")" "$host" "$4" >"$folder/$1"
}

password postgres
for name in owner sender listener ingress stats backup; do
  password "mailmill_$name"
  url "${name}_url" postgresql "mailmill_$name" mailmill
done
password dagster
# the driver is named: SQLAlchemy reads plain postgresql:// as psycopg 3, with which Dagster's storage does not work
url dagster_url postgresql+psycopg2 dagster dagster
chmod 444 "$folder"/*
echo "secrets in $folder"
