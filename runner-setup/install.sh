#!/bin/sh
# Turns a plain Debian or Ubuntu GPU host into single-use GitHub runners: installs packages and a virtual environment, then
# runs `hub-runner install`. Run it again to update everything; running jobs go on.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh --config HOST.toml [--key APP-KEY.pem] [--root DIR] [--dry-run]

  --config   the host's settings; copy hub-runner.toml, which is beside this script, and change it
  --key      the GitHub App's private key; copied to /etc/hub-runner, owner root, mode 0400
  --root     install into this directory instead of /, to look at the files
  --dry-run  print what would be done, and do nothing
TEXT
}

die() {
    echo "install.sh: $1" >&2
    exit 2
}

config='' key='' root=/ dry=''
while [ $# -gt 0 ]; do
    case "$1" in
    --config) config="${2:?}" && shift 2 ;;
    --key) key="${2:?}" && shift 2 ;;
    --root) root="${2:?}" && shift 2 ;;
    --dry-run) dry=yes && shift ;;
    --help) usage && exit 0 ;;
    *) usage >&2 && die "unknown option: $1" ;;
    esac
done

here="$(cd "$(dirname "$0")" && pwd)"
[ -n "$config" ] || { usage >&2 && die "--config is missing: give the host's TOML file"; }
[ -r "$config" ] || die "$config cannot be read"
[ -z "$key" ] || [ -r "$key" ] || die "$key cannot be read"
root="${root%/}"
program="$root/opt/hub-runner"
packages="python3 python3-venv python3-dev nftables e2fsprogs openssl tar ca-certificates systemd bubblewrap git gcc g++ nodejs npm"

do_it() {
    echo "+ $*"
    [ -n "$dry" ] || "$@"
}

[ -n "$dry" ] || [ "$(id -u)" = 0 ] || die "this needs root: run sudo $0 …"
# The system's own Python: files below /root and /home are hidden from the units.
python=/usr/bin/python3
check_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "python3 is older than 3.11: use Debian 12, Ubuntu 24.04 or newer"
}
[ ! -x "$python" ] || check_python
if [ -z "$root" ]; then
    do_it apt-get update --quiet
    # shellcheck disable=SC2086 # one word a package
    do_it apt-get install --yes --no-install-recommends $packages
fi
[ -n "$dry" ] || check_python
# What fetches and unpacks container images, where the file says that some environments are ones.
wants_images() {
    "$python" -c 'import sys, tomllib
settings = tomllib.load(open(sys.argv[1], "rb"))
sys.exit(settings.get("environments", {}).get("images") is not True)' "$config" 2>/dev/null
}
if [ -z "$root" ] && [ -x "$python" ] && wants_images; then
    do_it apt-get install --yes --no-install-recommends skopeo umoci
fi
do_it "$python" -m venv "$program/venv"
do_it "$program/venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$here/..[runner]"
# The second engine of chat templates, by its lock. Without it the rest works: a report says that one engine judged alone.
do_it install -d -m 0755 "$program/node"
do_it install -m 0644 "$here/../ci/chat_templates/package.json" "$here/../ci/chat_templates/package-lock.json" "$program/node"
do_it npm ci --prefix "$program/node" --ignore-scripts --no-audit --no-fund --fetch-retries=1 ||
    echo "install.sh: no second engine for chat templates; hub-runner doctor tells what to do" >&2
do_it install -d -m 0755 "$root/etc/hub-runner" "$root/usr/local/bin"
[ -z "$key" ] || do_it install -m 0400 "$key" "$root/etc/hub-runner/app-key.pem"
do_it ln -sf /opt/hub-runner/venv/bin/hub-runner "$root/usr/local/bin/hub-runner"
if [ -n "$dry" ] && [ ! -x "$program/venv/bin/hub-runner" ]; then
    echo "+ hub-runner --root ${root:-/} --config $config install"
else
    "$program/venv/bin/hub-runner" --root "${root:-/}" --config "$config" install ${dry:+--dry-run}
fi
