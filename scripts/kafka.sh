#!/usr/bin/env bash
# One real Apache Kafka broker for tests and development: KRaft in one process, on loopback, without Docker.
#
#   scripts/kafka.sh start     start it unless it runs, and print its address (host:port), nothing else, on stdout
#   scripts/kafka.sh stop      stop it
#   scripts/kafka.sh kill      end it as a power cut would (kill -9)
#   scripts/kafka.sh status    print its address, or fail
#   scripts/kafka.sh wipe      remove its data
#
# KAFKA_VERSION  4.3.1                        which Kafka (org.apache.kafka:kafka_2.13, by Maven)
# KAFKA_CACHE    ~/.cache/mailmill/kafka      its jars, downloaded once
# KAFKA_DIR      ./.mailmill/kafka            data, log, ports and process id
# KAFKA_PORT     a free one                   of the broker; kept in KAFKA_DIR, so that a restart has the same
# KAFKA_HEAP     384m
#
# It needs Java 17 and, for the first start, Maven. As root on Debian they are installed when missing.
set -euo pipefail

VERSION=${KAFKA_VERSION:-4.3.1}
CACHE=${KAFKA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mailmill/kafka}
DIR=${KAFKA_DIR:-$PWD/.mailmill/kafka}
HEAP=${KAFKA_HEAP:-384m}
LIB=$CACHE/$VERSION/lib
PID=$DIR/kafka.pid CONF=$DIR/server.properties LOG=$DIR/kafka.log
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "kafka.sh: $*" >&2; }

# Ours, and not another process that got the same id later.
alive() {
  [[ -s $PID ]] && kill -0 "$(cat "$PID")" 2>/dev/null &&
    tr '\0' ' ' <"/proc/$(cat "$PID")/cmdline" 2>/dev/null | grep -qF "kafka.Kafka $CONF"
}

address() { sed -n 's/^advertised.listeners=PLAINTEXT:\/\///p' "$CONF"; }

# What is missing, installed or named. The message is for whoever runs the tests.
need() {
  "$HERE/debian.sh" "$@" || {
    say "the tests need a Kafka broker: install what is named above (Java 17 or newer, and Maven once), or name a"
    say "broker you have in MAILMILL_TEST_KAFKA_URL=host:port"
    exit 1
  }
}

download() {
  [[ -f $LIB/.complete ]] && return
  need mvn=maven java=default-jre-headless
  mkdir -p "$CACHE/$VERSION"
  exec 8>"$CACHE/$VERSION/lock"
  flock 8 # two test runs may start with an empty cache
  [[ -f $LIB/.complete ]] && return
  local seconds=$SECONDS work=$CACHE/$VERSION/work
  rm -rf "$work" "$LIB" && mkdir -p "$work"
  cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mailmill</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
  </dependencies>
</project>
POM
  say "downloading Kafka $VERSION"
  # the repository of our own: nothing is left in ~/.m2, and a half-finished one there does no harm
  if ! mvn -q -B -f "$work/pom.xml" "-Dmaven.repo.local=$work/m2" \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    "-DoutputDirectory=$work/lib" -DincludeScope=runtime >"$CACHE/$VERSION/maven.log" 2>&1; then
    tail -5 "$CACHE/$VERSION/maven.log" >&2
    say "Maven could not get Kafka $VERSION, see $CACHE/$VERSION/maven.log"
    exit 1
  fi
  mv "$work/lib" "$LIB" && touch "$LIB/.complete" && rm -rf "$work"
  say "Kafka $VERSION is there, $((SECONDS - seconds)) s"
}

free_ports() { # two different ones that nobody listens on
  local found=() port
  while [[ ${#found[@]} -lt 2 ]]; do
    port=$((20000 + RANDOM % 12000)) # below the range from which outgoing connections are numbered
    [[ " ${found[*]} " == *" $port "* ]] && continue
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || found+=("$port")
  done
  echo "${found[@]}"
}

configure() {
  [[ -s $CONF && -f $DIR/data/meta.properties ]] && return
  local port control
  read -r port control <<<"$(free_ports)"
  port=${KAFKA_PORT:-$port}
  mkdir -p "$DIR/data"
  cat >"$CONF" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$control
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$DIR/data
num.network.threads=2
num.io.threads=4
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.segment.bytes=134217728
log.retention.hours=168
PROPERTIES
  cat >"$DIR/log4j2.yaml" <<'LOG4J'
Configuration:
  Appenders:
    Console: {name: OUT, PatternLayout: {pattern: "%d{ISO8601} %p %m (%c)%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: [{ref: OUT}]}
LOG4J
  local cluster
  cluster=$(run kafka.tools.StorageTool random-uuid 2>>"$LOG" | tail -1)
  run kafka.tools.StorageTool format -t "$cluster" -c "$CONF" --ignore-formatted >>"$LOG" 2>&1
}

run() { java -Xmx128m "-Dlog4j2.configurationFile=$DIR/log4j2.yaml" -cp "$LIB/*" "$@"; }

start() {
  if alive; then address && return; fi
  download
  need java=default-jre-headless
  mkdir -p "$DIR"
  configure
  : >"$LOG"
  # no lock or pipe of the caller may live on in it
  LC_ALL=C setsid java "-Xms$HEAP" "-Xmx$HEAP" -XX:+ExitOnOutOfMemoryError -Djava.awt.headless=true \
    "-Dlog4j2.configurationFile=$DIR/log4j2.yaml" -cp "$LIB/*" kafka.Kafka "$CONF" >>"$LOG" 2>&1 </dev/null 8>&- 9>&- &
  echo $! >"$PID"
  local at pid=$!
  at=$(address)
  for _ in $(seq 3000); do # five minutes on a machine that is busy; what listens is ready for requests
    [[ -e /proc/$pid ]] || { tail -5 "$LOG" >&2; say "the broker ended, see $LOG"; exit 1; }
    if (exec 3<>"/dev/tcp/${at%:*}/${at#*:}") 2>/dev/null; then echo "$at" && return; fi
    sleep 0.1
  done
  say "not ready after 300 s, see $LOG"
  exit 1
}

stop() {
  alive || { rm -f "$PID"; return; }
  local pid
  pid=$(cat "$PID")
  kill "$pid"
  for _ in $(seq 200); do
    [[ -e /proc/$pid ]] || { rm -f "$PID"; return; }
    sleep 0.1
  done
  crash
}

crash() {
  if alive; then
    kill -9 "$(cat "$PID")"
    while alive; do sleep 0.05; done # until it is gone its port still answers
  fi
  rm -f "$PID"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  kill) crash ;;
  status) if alive; then address; else say "not running" && exit 1; fi ;;
  wipe) if alive; then say "stop it first" && exit 1; else rm -rf "$DIR"; fi ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
