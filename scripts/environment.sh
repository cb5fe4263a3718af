# Sourced by the other scripts: sets ROOT, and creates virtual environments with the packages of pyproject.toml.
#
# use_environment FOLDER EXTRAS   creates FOLDER if it is missing or out of date, and sets PYTHON to its interpreter
# show_help MODULE ARGUMENTS...   if an argument is -h or --help, prints the comment at the top of the script and
#                                 MODULE's options (MODULE imports only the standard library), and exits; MODULE may be ""
#
# PYTHON_BASE: the interpreter of the environment, 3.10 to 3.13. Default: python3. TORCH: the torch to install. Default:
# torch==2.13.0, with which the figures in the documents were measured.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

use_environment() {
    local folder="$1" extras="$2" wanted
    local base="${PYTHON_BASE:-python3}" torch="${TORCH:-torch==2.13.0}"
    PYTHON="$folder/bin/python"
    wanted="$torch [$extras] $(cat "$ROOT/pyproject.toml" "$ROOT/tools/pyproject.toml" | cksum)"
    if [ -x "$PYTHON" ] && [ "$(cat "$folder/made-from" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! "$base" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
        echo "$base is $("$base" --version 2>&1), expected Python 3.10 to 3.13; set PYTHON_BASE to its interpreter" >&2
        exit 1
    fi
    echo "creating $folder (takes a few minutes)" >&2
    rm -rf "$folder"
    "$base" -m venv "$folder"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$torch"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -e "$ROOT[$extras]" -e "$ROOT/tools"
    echo "$wanted" >"$folder/made-from"
}

show_help() {
    local module="$1" argument
    shift
    for argument in "$@"; do
        if [ "$argument" = -h ] || [ "$argument" = --help ]; then
            sed -n '2,${/^#/!q; s/^# \{0,1\}//; p}' "$0"
            [ -z "$module" ] && exit
            echo
            exec env PYTHONPATH="$ROOT/tools:$ROOT/contract" "${PYTHON_BASE:-python3}" -m "$module" "$@"
        fi
    done
}
