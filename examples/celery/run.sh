#!/usr/bin/env bash
# Redis, an embedded mixnet with the daemon, two workers and a beat; sends ten tasks, and ends everything.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
port=${REDIS_PORT:-16379}
export BROKER="redis://127.0.0.1:$port/0" SMOLMIX_DAEMON="$work/tunnel.sock"
python=${PYTHON:-python3}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$work"' EXIT

redis-server --port "$port" --bind 127.0.0.1 --save "" --dir "$work" >"$work/redis.log" &
pids+=($!)
# Leave --localnet out, and this is the real network.
"$python" -m smolmix_sync daemon --localnet &
pids+=($!)
"$python" -m smolmix_sync status --wait 60

"$python" -m celery -A tasks worker -P prefork -c 2 -n one@example -l WARNING &
pids+=($!)
"$python" -m celery -A tasks worker -P threads -c 4 -n two@example -l WARNING &
pids+=($!)
"$python" -m celery -A tasks beat -s "$work/schedule" -l WARNING &
pids+=($!)

"$python" send.py
"$python" -m smolmix_sync status
