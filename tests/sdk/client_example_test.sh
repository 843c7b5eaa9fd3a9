#!/usr/bin/env bash
# The C++ example builds from the installed SDK, and gets its answer from the installed server, over a socket.
#   client_example_test.sh EXAMPLE PREFIX WORK
set -euo pipefail
example=$1 prefix=$2 work=$3
rm -rf "$work" && mkdir -p "$work" && cd "$work"
log() { "$@" >log 2>&1 || { cat log; exit 1; }; }
log cmake -S "$example" -B build -DCMAKE_PREFIX_PATH="$prefix"
log cmake --build build

socket=$(mktemp -u /tmp/client-example-XXXXXX)
"$prefix/bin/patchbay" serve --model "$prefix/share/patchbay/quickstart/model" --set "transport=[{plugin=\"zeromq\",bind=\"ipc://$socket\"}]" 2>server &
server=$!
trap 'kill $server 2>/dev/null; wait $server || true; rm -f "$socket"' EXIT
for _ in $(seq 100); do [ -S "$socket" ] && break; sleep 0.1; done
answer=$(build/client "ipc://$socket" "What is 293 + 85?")
[ "$answer" = 378 ] || { cat server; echo "expected the answer 378, got: $answer"; exit 1; }
if build/client ipc:///nowhere/at/all question >log 2>&1; then echo "expected no server there"; exit 1; fi
grep -q "expected one at ipc:///nowhere/at/all" log || { cat log; exit 1; }
echo "answer: $answer"
