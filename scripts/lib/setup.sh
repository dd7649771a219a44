# What a machine needs before anything can be built or run, and how to get it. Source common.sh first.

# Command that must exist : Debian package that has it.
build_needs=(cc:build-essential c++:build-essential make:build-essential cmake:cmake clang:clang pkg-config:pkg-config git:git)
run_needs=(losetup:mount mount:mount findmnt:util-linux blockdev:util-linux sfdisk:fdisk mkfs.ext4:e2fsprogs debugfs:e2fsprogs
  mkfs.fat:dosfstools mcopy:mtools fusermount3:fuse3 jq:jq cmp:diffutils python3:python3 mkfs.xfs:xfsprogs script:bsdutils man:man-db
  systemd-analyze:systemd openssl:openssl rsync:rsync setfattr:attr setfacl:acl bsdtar:libarchive-tools)

need_root() {
  [ "$(id -u)" = 0 ] || die "this needs root (loop devices, mounts): run it with sudo, or in a root shell"
}

# need_packages NEED...: installs the Debian packages of the commands that are missing, or names them.
need_packages() {
  local need missing=()
  for need in "$@"; do command -v "${need%%:*}" >/dev/null 2>&1 || missing+=("${need#*:}"); done
  install_packages "${missing[@]}"
}

# bindgen loads libclang when RocksDB is built.
need_libclang() {
  local dir
  for dir in /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib; do
    ! compgen -G "$dir/libclang.so*" >/dev/null && ! compgen -G "$dir/libclang-[0-9]*.so*" >/dev/null || return 0
  done
  install_packages libclang-dev
}

install_packages() {
  [ $# -gt 0 ] || return 0
  local packages
  packages=$(printf '%s\n' "$@" | sort -u | tr '\n' ' ')
  command -v apt-get >/dev/null || die "missing, and this is no Debian to install them on (names are Debian's): $packages"
  [ "$(id -u)" = 0 ] || die "missing packages, and only root can install them: apt-get install $packages"
  say "installing $packages"
  # shellcheck disable=SC2086 # a list of words
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } \
    >"${TMPDIR:-/tmp}/wherry-apt.log" 2>&1 || die "apt-get could not install $packages: see ${TMPDIR:-/tmp}/wherry-apt.log"
}

need_rust() {
  # Debian 13 and later have it as a package. Elsewhere it is a script from the network, which is for the user to run.
  if ! command -v cargo >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq >/dev/null 2>&1 || true # a fresh machine knows of no package yet
    [ -z "$(apt-cache madison rustup 2>/dev/null)" ] || install_packages rustup
  fi
  command -v cargo >/dev/null ||
    die "cargo is missing: install rustup (Debian 13: apt-get install rustup; elsewhere: rustup.rs), then run this again"
  cargo --version >/dev/null || die "the toolchain that rust-toolchain.toml names cannot be used: rustup toolchain install"
}

# The toolchain, the packages and every crate of the lock file: after this the build needs no network.
setup_build() {
  need_packages "${build_needs[@]}"
  need_libclang
  need_rust
  mkdir -p "$CARGO_TARGET_DIR"
  cargo fetch --locked --quiet || die "the crates of Cargo.lock could not be fetched"
}

# What compiling for aarch64 takes; fails where its standard library cannot be had.
setup_aarch64() {
  rustup target list --installed 2>/dev/null | grep -qx aarch64-unknown-linux-gnu ||
    timeout 120 rustup target add aarch64-unknown-linux-gnu >/dev/null 2>&1 || return 1
  command -v aarch64-linux-gnu-g++ >/dev/null ||
    install_packages gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross
}

setup_run() {
  need_packages "${run_needs[@]}"
}

# Loop devices and FUSE are the kernel's: nothing to install, so the message says what to do.
need_devices() {
  [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || true
  [ -e /dev/loop-control ] || modprobe loop 2>/dev/null || true
  [ -c /dev/fuse ] || die "/dev/fuse is missing: modprobe fuse, or give the container --device /dev/fuse"
  { : <>/dev/fuse; } 2>/dev/null || die "/dev/fuse cannot be opened: the container lacks the device permission or CAP_SYS_ADMIN"
  [ -c /dev/loop-control ] || die "/dev/loop-control is missing: modprobe loop, or run on a host with loop devices"
  losetup -f >/dev/null 2>&1 || die "no loop device can be had: losetup -f fails"
}

# need_space DIR GIB: checked before anything is written, so that a full disk is not found half-way.
need_space() {
  local free
  mkdir -p "$1"
  free=$(($(df --output=avail -k "$1" | tail -1) / 1048576))
  [ "$free" -ge "$2" ] || die "$1 has $free GiB free, $2 GiB are needed"
}

# Tools that are crates, each in one version, once per machine, in the cache.
deny_version=0.20.2
pjdfstest_version=0.2.2 # the mount suite runs its tests of read-only filesystems
setup_deny() { setup_tool cargo-deny "$deny_version"; }
setup_pjdfstest() { setup_tool pjdfstest "$pjdfstest_version"; }

# setup_tool NAME VERSION
setup_tool() {
  [ "$("$cache/tools/bin/$1" --version 2>/dev/null)" = "$1 $2" ] && return 0
  say "building $1 $2 into $cache/tools (once)"
  CARGO_TARGET_DIR=$cache/tools/build timeout 1800 cargo install --quiet --locked --root "$cache/tools" "$1@$2" ||
    die "$1 $2 could not be installed"
  rm -rf "$cache/tools/build"
}

# build_wherry [NAME...]: builds the executable, and those named, and has them, and the lists of their sources that cargo
# writes beside them, into the run directory: another build may replace the ones in the target directory meanwhile. $wherry
# is its path. Always the whole workspace: with `--package`, cargo picks other features for some dependencies and compiles
# RocksDB a second time.
build_wherry() {
  local bins=(wherry "$@") bin
  cargo build --release --locked --quiet --workspace "${bins[@]/#/--bin=}"
  mkdir -p "$run_dir/bin"
  wherry=$run_dir/bin/wherry
  for bin in "${bins[@]}"; do
    cp -pl "$CARGO_TARGET_DIR/release/$bin" "$run_dir/bin/" 2>/dev/null || cp -p "$CARGO_TARGET_DIR/release/$bin" "$run_dir/bin/"
    # Another build writes into this file as it is, so a link to it would change under who runs.
    cp -p "$CARGO_TARGET_DIR/release/$bin.d" "$run_dir/bin/"
  done
}
