#!/usr/bin/env bash
# Does what a guide says, as it is printed, in a folder of its own.
#   guide_test.sh GUIDE.md PREFIX WORK
# In the guide, `<!-- file: PATH -->` before a block makes it that file; `<!-- edit: PATH` and lines of that file up to `-->` before a block
# puts the block in their place; ```sh blocks are run, in order; `<!-- output -->` before a block says what the run before it printed, line by
# line in order (lines between them may be left out).
set -euo pipefail
guide=$1 prefix=$2 work=$3
rm -rf "$work" && mkdir -p "$work/parts" "$work/home" && cd "$work"
awk -v dir=parts '
  function start(kind) { n++; base = sprintf("%s/%03d.%s", dir, n, kind); printf "" > base }
  /^<!-- file: .* -->$/ { what = "file"; target = $0; sub(/^<!-- file: /, "", target); sub(/ -->$/, "", target); next }
  /^<!-- edit: / { what = "edit"; target = substr($0, 12); from = sprintf("%s/%03d.from", dir, n + 1); printf "" > from; reading = 1; next }
  /^<!-- output -->$/ { what = "output"; next }
  reading && /^-->$/ { reading = 0; next }
  reading { print > from; next }
  /^```/ && !inside {
    inside = 1
    kind = what != "" ? what : ($0 == "```sh" ? "run" : "")
    if (kind != "") { start(kind); if (kind == "file" || kind == "edit") print target > (dir "/" sprintf("%03d", n) ".target") }
    what = ""
    next
  }
  /^```/ { inside = 0; kind = ""; next }
  inside && kind != "" { print > base }
' "$guide"

model=$prefix/share/patchbay/quickstart/model
fail() { echo "$(basename "$guide"): $*"; exit 1; }
for part in parts/*; do
  number=${part%.*}
  case $part in
    *.file)
      target=$(cat "$number.target")
      mkdir -p "$(dirname "$target")"
      sed "s|@QUICKSTART@|$model|" "$part" >"$target" ;;
    *.edit)
      target=$(cat "$number.target")
      # The lines must stand there exactly once.
      awk -v from="$number.from" -v to="$part" '
        BEGIN { while ((getline line < from) > 0) old = old line "\n"; while ((getline line < to) > 0) new = new line "\n" }
        { text = text $0 "\n" }
        END {
          at = index(text, old)
          if (at == 0 || index(substr(text, at + 1), old) > 0) exit 1
          printf "%s", substr(text, 1, at - 1) new substr(text, at + length(old))
        }' "$target" >"$target.new" || fail "$target: expected the lines of $number.from once, got them more often or not at all"
      mv "$target.new" "$target" ;;
    *.run)
      env -i HOME="$work/home" PATH="$prefix/bin:/usr/bin:/bin" LANG=C.UTF-8 bash -euo pipefail "$part" >output 2>&1 ||
        { cat "$part" output; fail "these commands failed"; } ;;
    *.output)
      awk -v want="$part" '
        BEGIN { while ((getline line < want) > 0) lines[++n] = line; at = 1 }
        { sub(/ +$/, "") } at <= n && $0 == lines[at] { at++ }
        END { if (at <= n) { print "expected, and not there: " lines[at]; exit 1 } }' output || { cat output; fail "other output than printed"; } ;;
  esac
done
echo "$(basename "$guide"): $(ls parts/*.run | wc -l) blocks of commands, $(ls parts/*.file parts/*.edit 2>/dev/null | wc -l) files and edits"
