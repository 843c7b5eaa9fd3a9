#!/usr/bin/env bash
# `patchbay plugins new` for every kind and language: what it writes builds from the installed SDK and passes its own tests. A kernel is built
# where there is a CUDA toolkit, and not run.
#   plugins_new_test.sh PREFIX WORK
set -euo pipefail
prefix=$1 work=$2
rm -rf "$work" && mkdir -p "$work/home" && cd "$work"
author() { env -i HOME="$work/home" PATH="$prefix/bin:/usr/bin:/bin" LANG=C.UTF-8 "$@"; }
quiet() { author "$@" >log 2>&1 || { cat log; echo "failed: $*"; exit 1; }; }

for template in "$prefix"/share/moe-sdk/template/*; do
  name=$(basename "$template")
  kind=${name%-*} language=${name#*-}
  [ "$language" = "$name" ] && language=cpp
  quiet patchbay plugins new "$kind" "own_$kind" --lang "$language" --dir "$name"
  grep -rql "my_$kind" "$name" && { echo "$name: my_$kind is still there"; exit 1; }
  if [ "$language" = cuda ] && ! [ -x /usr/local/cuda/bin/nvcc ] && ! command -v nvcc >/dev/null; then continue; fi
  quiet cmake -S "$name" -B "$name/build"
  quiet cmake --build "$name/build"
  [ -f "$name/build/own_$kind.so" ] || { echo "$name: expected own_$kind.so, got none"; exit 1; }
  [ "$language" = cuda ] || quiet ctest --test-dir "$name/build" --output-on-failure --no-tests=error
  echo "$name"
done

# What it refuses.
refuses() {
  if author "$@" >log 2>&1; then echo "expected a refusal: ${*:2}"; exit 1; fi
  grep -qF -- "$text" log || { cat log; echo "expected: $text"; exit 1; }
}
text='expected cpp for a transport, got c' refuses patchbay plugins new transport x --lang c
text='expected [a-z][a-z0-9_]*' refuses patchbay plugins new router My-Router
text='expected no such folder yet' refuses patchbay plugins new router y --dir router
