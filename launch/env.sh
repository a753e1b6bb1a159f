# shellcheck shell=bash
# The environment of every command: `source launch/env.sh`, as often as you like.
# It puts .venv first on PATH, gives compiled programs a private cache, takes huge
# pages, and leaves out one slow path of XLA on the CPU. What you have set yourself
# stays as it is.

ldm_jax_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"

# ldm_jax_add_xla_flag --name=value
# Adds a flag to XLA_FLAGS, unless it is there already. An XLA that does not know a
# flag ends the process, so a process of its own tries it first.
ldm_jax_add_xla_flag() {
  local flag="$1"
  case "${XLA_FLAGS:-}" in
    '' | --*) ;;
    *)
      echo "env: XLA_FLAGS names a file; add $flag to it for speed on the CPU" >&2
      return 0
      ;;
  esac
  case " ${XLA_FLAGS:-} " in
    *" ${flag%%=*}="* | *" ${flag%%=*} "*) return 0 ;;
  esac
  if JAX_PLATFORMS=cpu XLA_FLAGS="$flag" \
    python -c 'import jax; jax.devices()' >/dev/null 2>&1; then
    export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$flag"
  else
    echo "env: left $flag out: this jax does not take it, or python has no jax" >&2
  fi
}

# ldm_jax_private_cache
# Compiled programs are code, so their folder is the user's alone.
ldm_jax_private_cache() {
  local folder="${XDG_CACHE_HOME:-${HOME:-}/.cache}/ldm_jax/jax"
  if (umask 077 && mkdir -p "$folder" && chmod 700 "$folder") 2>/dev/null; then
    export JAX_COMPILATION_CACHE_DIR="$folder"
  else
    echo "env: no compilation cache: cannot make $folder private; name another" \
      "folder in JAX_COMPILATION_CACHE_DIR" >&2
  fi
}

if [ -x "$ldm_jax_root/.venv/bin/python" ]; then
  case "$PATH" in
    "$ldm_jax_root/.venv/bin:"*) ;;
    *) export PATH="$ldm_jax_root/.venv/bin:$PATH" ;;
  esac
fi

[ -n "${JAX_COMPILATION_CACHE_DIR:-}" ] || ldm_jax_private_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-1}"

# glibc (2.35 on; others ignore it) asks Linux for huge pages: otherwise a sixth of the
# demo's training time on a CPU goes into small ones, given back and faulted in again.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# On the CPU, YNN makes convolutions slower, gradients by 1.7 (jaxlib 0.10.2). Without
# those it makes the demo's training step faster: by 1.1, with jaxlib 0.11.2 by 1.2.
case ",${JAX_PLATFORMS:-cpu}," in
  *,cpu,*) ldm_jax_add_xla_flag --xla_cpu_experimental_ynn_fusion_type=reduce,dot ;;
esac

unset ldm_jax_root
