#!/usr/bin/env bash
# Looks for phrases that CONTRIBUTING.md says to write in another way. Those that are gone for good are in
# `words.txt`.
set -euo pipefail
cd "$(dirname "$0")/.."
phrases=$(paste -sd'|' .ci/words.txt)
if git grep -nwiE -- "$phrases" -- '*.rs' '*.md' ':!CONTRIBUTING.md'; then
    echo "these phrases have a plainer word: see CONTRIBUTING.md, Words"
    exit 1
fi
echo "no such phrase in $(git ls-files '*.rs' '*.md' | wc -l) files"
