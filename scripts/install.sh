#!/bin/sh
# Install gengen into the folder of a stamp: sh scripts/install.sh '.[dev]' .venv/.dev [newest]
#
# The stamp is made last: what was interrupted is done again. PYTHON names an interpreter to use.
# Versions are those of constraints.txt; with `newest`, the newest that pyproject.toml allows, which
# need a newer Python.
set -u

venv=${2%/*}
constraints='--constraint constraints.txt'
oldest=11 # Python 3.11
if [ "${3-}" = newest ]; then
    constraints='--upgrade --upgrade-strategy eager'
    oldest=12
fi

fail() {
    printf 'gengen: %s\n' "$*" >&2
    exit 1
}

recent() { # is $1 recent enough? Each is run: a name on the PATH may be an empty promise.
    "$1" -c "import sys; sys.exit(sys.version_info < (3, $oldest))" >/dev/null 2>&1
}

if [ ! -e "$venv/.made" ] || ! recent "$venv/bin/python"; then
    found=
    tried=${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}
    for candidate in $tried; do
        if recent "$candidate"; then
            found=$candidate
            break
        fi
    done
    [ -n "$found" ] || fail "no Python >= 3.$oldest found (tried: $tried): install one, or name it: make PYTHON=/path/to/python3.12 ..."
    echo "gengen: making $venv with $("$found" -V 2>&1)" >&2
    rm -rf "$venv"
    "$found" -m venv "$venv" ||
        fail "'$found -m venv' failed, see above: is the disk full, the folder read-only, or the module missing (on Debian: apt install python3-venv)?"
    touch "$venv/.made"
fi

echo "gengen: installing $1 (about 1.3 GB; a minute or two)" >&2
# shellcheck disable=SC2086  # several words
"$venv/bin/python" -m pip install --quiet $constraints --editable "$1" ||
    fail "pip could not install, see above: is there a network, and space on the disk? Once there is, run the same command again"
touch "$2"
