#!/bin/sh
# Makes the roles and databases of mailmill; safe to run again, when it sets the passwords anew.
# The image of PostgreSQL runs it once, on an empty data folder. For a server of your own, run it as a superuser:
#   PGHOST=… PGUSER=postgres SECRETS=deploy/secrets deploy/postgres/roles.sh
set -eu
SECRETS="${SECRETS:-/run/secrets}"

role() { # name, attributes
  psql -X -q -v ON_ERROR_STOP=1 -d postgres -v name="$1" -v password="$(cat "$SECRETS/$1_password")" <<SQL
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE $2 PASSWORD :'password';
SQL
}

database() { # name, owner
  psql -X -q -v ON_ERROR_STOP=1 -d postgres -v name="$1" -v owner="$2" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
ALTER DATABASE :"name" OWNER TO :"owner";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

for name in owner sender listener ingress stats; do role "mailmill_$name" NOBYPASSRLS; done
role mailmill_backup BYPASSRLS # pg_dump refuses to run under row-level security
role dagster NOBYPASSRLS
database mailmill mailmill_owner
database dagster dagster
psql -X -q -v ON_ERROR_STOP=1 -d postgres <<'SQL'
-- the owner may act as each of them: mailmill's own verbs (apply, backup, a lone send) enter by one URL
GRANT mailmill_sender, mailmill_listener, mailmill_ingress, mailmill_stats, mailmill_backup TO mailmill_owner;
GRANT CONNECT ON DATABASE mailmill TO mailmill_sender, mailmill_listener, mailmill_ingress, mailmill_stats, mailmill_backup;
GRANT TEMPORARY ON DATABASE mailmill TO mailmill_listener; -- it stages a batch of events before it folds them
SQL
