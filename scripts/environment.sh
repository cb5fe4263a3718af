# Sourced by the other scripts: sets ROOT, and creates virtual environments with the packages of pyproject.toml.
#
# use_environment FOLDER EXTRAS   creates FOLDER if it is missing or out of date, and sets PYTHON to its interpreter
# require_python                  exits with an error if the base interpreter is not a supported Python
# show_help MODULE ARGUMENTS...   if an argument is -h or --help, prints the comment at the top of the script and
#                                 MODULE's options, and exits; MODULE may be "" and imports only the standard library
#
# PYTHON_BASE: base interpreter of the environments, Python 3.10 to 3.13. Default: python3.
# TORCH: requirement of the torch to install. Default: torch==2.13.0, with which the documented figures were measured.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

require_python() {
    local base="${PYTHON_BASE:-python3}"
    if ! "$base" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
        echo "$base is $("$base" --version 2>&1), expected Python 3.10 to 3.13; set PYTHON_BASE to its interpreter" >&2
        exit 1
    fi
}

use_environment() {
    local folder="$1" extras="$2" wanted
    local base="${PYTHON_BASE:-python3}" torch="${TORCH:-torch==2.13.0}"
    PYTHON="$folder/bin/python"
    wanted="$torch [$extras] $(cat "$ROOT/pyproject.toml" "$ROOT/tools/pyproject.toml" | cksum)"
    if [ -x "$PYTHON" ] && [ "$(cat "$folder/made-from" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    require_python
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
            exec env PYTHONPATH="$ROOT/tools:$ROOT/contract:$ROOT/serving" "${PYTHON_BASE:-python3}" -m "$module" "$@"
        fi
    done
}
