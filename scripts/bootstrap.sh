#!/bin/sh
# Set up everything that the Makefile's targets need, inside this checkout: uv in .tools/, the
# environment in .venv/. System packages are only installed when we are root; otherwise the one
# line to type is printed.
set -eu

cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# install_system PACKAGE...: as root with apt, else say what to type.
install_system() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing $* with apt-get"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
            >/dev/null 2>&1 || {
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
                >/dev/null
        }
    else
        say "this needs: apt-get install $*"
        return 1
    fi
}

# Print the path of a uv that works, or nothing.
find_uv() {
    for candidate in .tools/bin/uv "$(command -v uv 2>/dev/null || true)"; do
        if [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

get_uv() {
    [ -n "$(find_uv)" ] && return
    command -v python3 >/dev/null 2>&1 || install_system python3 python3-venv
    mkdir -p .tools/bin
    if python3 -m venv .tools/python >/dev/null 2>&1; then
        .tools/python/bin/python -m pip install --quiet uv
        ln -sf ../python/bin/uv .tools/bin/uv
    elif python3 -m pip --version >/dev/null 2>&1; then
        # --target leaves the system's Python alone, so "externally managed" does not apply.
        python3 -m pip install --quiet --target .tools/packages uv
        ln -sf ../packages/bin/uv .tools/bin/uv
    else
        rm -rf .tools/python
        install_system python3-venv || exit 1
        python3 -m venv .tools/python
        .tools/python/bin/python -m pip install --quiet uv
        ln -sf ../python/bin/uv .tools/bin/uv
    fi
}

get_uv
uv=$(find_uv)
[ -n "$uv" ] || { say "uv could not be installed"; exit 1; }
# Compiled at once: the first command of a user should not pay for it.
UV_COMPILE_BYTECODE=1 "$uv" sync --frozen --quiet
.venv/bin/python -m compileall -q src

if [ "${1:-}" = "--sandbox" ] && ! command -v bwrap >/dev/null 2>&1; then
    install_system bubblewrap || say "without it work is not isolated (tier none)"
fi
