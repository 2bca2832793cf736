#!/usr/bin/env bash
# Make sure that programs from Debian's packages are there: debian.sh PROGRAM=PACKAGE …
# As root on Debian it installs what is missing; else it says what to install, and fails.
set -euo pipefail
missing=()
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
else
  echo "needed and not here: ${missing[*]}; on Debian: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
