#!/usr/bin/env bash
# Installs what the project needs from the distribution's own packages (Debian 12 or later and its
# relatives). Does nothing when all of it is there. docs/dependencies.md says what each is for.
#   scripts/install-deps.sh          to build, train and run the tests
#   scripts/install-deps.sh --dev    also the formatter, the linter and h5py
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config
  openmpi-bin libopenmpi-dev libhdf5-dev
  libdnnl-dev libeigen3-dev librandom123-dev libxxhash-dev
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libfmt-dev libzip-dev
  libgtest-dev libbenchmark-dev
)
dev_packages=(clang-format clang-tidy python3-h5py python3-numpy)
cmake_needed=3.25

case ${1:-} in
  '') ;;
  --dev) packages+=("${dev_packages[@]}") ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "install-deps.sh: unknown option '$1' (allowed: --dev)" >&2; exit 1 ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  cat >&2 <<END
install-deps.sh: no apt here; please install these by hand:
  a C++20 compiler (g++ >= 12 or clang >= 16), cmake >= $cmake_needed, ninja, pkg-config
  Open MPI >= 4.1, HDF5 >= 1.10 (C library, serial, thread-safe), oneDNN >= 2.6, Eigen >= 3.4
  Random123, xxHASH, yaml-cpp >= 0.7, CLI11 >= 2.1, nlohmann-json >= 3.11, fmt >= 9,
  libzip >= 1.7
  GoogleTest >= 1.12 (tests), Google Benchmark (benchmarks); optional: ccache
Under their Debian names: ${packages[*]}
END
  exit 1
fi

installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  # pkgconf took over the name pkg-config, so that either will do.
  [[ $package == pkg-config ]] && command -v pkg-config >/dev/null && continue
  grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done

if ((${#missing[@]})); then
  as_root=()
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || {
      echo "install-deps.sh: neither root nor sudo; ask for: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  echo "installing: ${missing[*]}"
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
fi

cmake_found=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
if [[ $(printf '%s\n' "$cmake_needed" "$cmake_found" | sort -V | head -n 1) != "$cmake_needed" ]]; then
  echo "install-deps.sh: cmake $cmake_found is too old: $cmake_needed or later is needed" >&2
  exit 1
fi
