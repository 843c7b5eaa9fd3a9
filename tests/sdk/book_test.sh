#!/usr/bin/env bash
# The reference book has a place for every struct of the ABI, every operation, every guide and every plugin.
#   book_test.sh BUILD
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
tools/book "$1"
html=$1/book/html
missing=0
expect() { grep -rqF -- "$1" "$html" || { echo "the book has no $1"; missing=1; }; }
while read -r name _; do expect "$name"; done < <(grep -v '^ ' tests/data/abi/layout.txt)
while read -r id; do expect "$id"; done < <(grep -ohE 'MOE_OP_[A-Z_]+' sdk/include/moe/abi/ops.h | sort -u)
for guide in sdk/docs/guides/*.md; do expect "$(head -1 "$guide" | sed 's/^# //')"; done
while read -r kind name _; do expect "$kind $name"; done < <("$1/bin/patchbay" plugins list | tail -n +2 | grep -v '^refused')
exit $missing
