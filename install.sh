#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu: system packages, .venv, this package with FFCV's library, which is built.
# install.sh --wheels: nothing that is built: it needs Python with venv, and neither a compiler nor root.
# install.sh --tests: also what `make test` needs: the optional libraries, chromium to look at TensorBoard with, Slurm.
# Prints one line a step. What apt-get and pip print goes to install.log, and to the screen where they fail.
set -euo pipefail
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
extras=ffcv,digits,dev
log=$PWD/install.log
: >"$log"

quietly() { # quietly COMMAND...: runs it with its output in the log; 1 where it fails
    echo "+ $*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}
must() { # must WHAT COMMAND...: quietly; ends the installation where the command fails, with all it has printed
    local what=$1 before
    before=$(wc -c <"$log")
    shift
    quietly "$@" || {
        tail -c "+$((before + 1))" "$log" >&2
        echo "error: $what failed; its output is above and in $log" >&2
        exit 2
    }
}

missing=()
need() { # need PACKAGE COMMAND...: the package is missing unless the command succeeds
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
need python3 "$PYTHON" --version
need python3-venv "$PYTHON" -c 'import ensurepip'
if [ "${1-}" = --wheels ]; then
    extras=digits
    what="from wheels alone (make install adds FFCV's library, which reads faster and needs a compiler)"
else
    what="(some minutes: FFCV is built from source)"
    need g++ g++ --version
    need pkg-config pkg-config --version
    need libopencv-dev pkg-config --exists opencv4
    need libturbojpeg0-dev pkg-config --exists libturbojpeg
    need python3-dev "$PYTHON" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)

if ((${#missing[@]})); then
    echo "Installing missing system packages: ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "error: there is no apt-get here: install the equivalents of ${missing[*]} and try again" >&2
        exit 2
    fi
    must "apt-get update" "${sudo[@]}" apt-get update -qq
    must "apt-get install ${missing[*]}" "${apt[@]}" "${missing[@]}"
fi

optional() { # optional TESTS COMMAND PACKAGE...: installs the packages where the command is missing
    local tests=$1 command=$2 policy=/usr/sbin/policy-rc.d own=no
    shift 2
    if PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null; then return; fi
    echo "Installing system packages for $tests: $*"
    if [ ! -e $policy ]; then # daemons that come along are not started: the tests start their own
        own=yes
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null && "${sudo[@]}" chmod 755 $policy || true
    fi
    { quietly "${sudo[@]}" apt-get update -qq && quietly "${apt[@]}" "$@"; } ||
        echo "note: $* could not be installed (see $log): $tests will be skipped" >&2
    if [ $own = yes ]; then "${sudo[@]}" rm -f $policy; fi
}

if [ "${1-}" = --tests ]; then
    extras+=,browser,imagenet,onnx,parquet,plots
    optional tests/log/test_browser.py chromium chromium
    optional tests/launch/test_slurm.py slurmctld slurmctld slurmd slurm-client munge
    optional "the tests of Slurm's accounting" slurmdbd slurmdbd mariadb-server
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$PYTHON" --version) is too old: Python 3.11 or newer is needed (make PYTHON=python3.12 ...)" >&2
    exit 2
}
echo "Installing the package and its dependencies into .venv $what"
pip=(.venv/bin/pip install --disable-pip-version-check)
must "making .venv" "$PYTHON" -m venv .venv
must "upgrading pip" "${pip[@]}" --upgrade pip
# pip would compile all 10,000 modules, one after another; Python compiles those that are imported, and keeps them
if [ -z "${PYTHONDONTWRITEBYTECODE-}" ]; then pip+=(--no-compile); fi
must "installing with pip" "${pip[@]}" --editable ".[$extras]"
